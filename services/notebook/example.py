# %% [markdown]
# A run, looked at in a notebook. Open this file in an editor that knows cells (`# %%`), or run it from end to end, in a
# folder with an `.evolog`: `python services/notebook/example.py`. EVOLOG_DIR names another project directory.

# %%
import os

import evolog
from events.choice import LeverChosen

project = evolog.open(os.environ.get("EVOLOG_DIR", ".evolog"))
print(project.runs())

# %% A view of the archive, as DuckDB prints it; `.df()` is pandas, `.to_arrow_table()` is Arrow.
generations = project.view("generations")
print(generations.select("run, generation, lever, score, accepted"))
print(generations.df().groupby("run")["score"].max())

# %% A run in figures.
run = project.runs()[0]
print(run.name, run.report.state, run.report.score, run.started.seed, run.report.tokens)

# %% Its events, typed, in the order of the log.
for row in run.events(LeverChosen):
    assert isinstance(row.event.data, LeverChosen)
    print(row.sequence, row.event.data.lever, row.event.data.reason)

# %% An attempt: what the policy was asked and said, token by token, and what that earned.
attempt = next(run.trajectories("dev", generation=0))
for turn in attempt.messages:
    print(f"{turn.role}: {turn.content}")
print(attempt.tokens, [round(call.logprobs[0], 3) for call in attempt.calls], attempt.answer, attempt.reward)

# %% The mean reward on dev by generation, from the attempts themselves.
rewards: dict[int, list[float]] = {}
for attempt in run.trajectories("dev"):
    if attempt.reward is not None:
        rewards.setdefault(attempt.generation, []).append(attempt.reward)
print({generation: round(sum(earned) / len(earned), 4) for generation, earned in rewards.items()})

# %% The audit: its verdict, its figures, and, as the last line of a cell, its page with pictures.
audit = run.audit()
print(audit.state, audit.sentence)
print([(row.generation, row.score) for row in audit.figures.rows])
audit  # noqa: B018
