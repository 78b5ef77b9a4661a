"""The agents as language models, without a broker: what they are shown, how a conversation goes, and what becomes of a
proposal.
"""

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from algorithms.learning import NAMES
from events.change import ProposalFailed, ScaffoldProposed, WeightUpdateRequested
from events.choice import AgentCalled, ContextAssembled, LeverChosen, TrialFinished
from events.errors import Misconfigured, NotHere
from events.fact import Fact
from events.judgement import CandidateEvaluated
from events.kinds import AgentName, CallStatus
from events.population import CandidateRejected
from events.run import Budget, Items, RunStarted
from events.secret import MARKER, Scanner
from replay.archive.agent_copy import RunTables
from replay.archive.query import QueryResult
from runtime.agents import context, feedback, proposal
from runtime.agents.context import describe_briefly, prompt, select_attempts, tokens_of
from runtime.agents.conversation import ModelRequest, ModelTurn
from runtime.agents.endings import weight_update
from runtime.agents.meta import other_tasks
from runtime.agents.policy_text import policy_text
from runtime.agents.proposal import try_out, validate_source, with_changes
from runtime.agents.providers import LanguageModel
from runtime.agents.session import CALLS, READ_LIMIT, AgentSession, Halted, UnfitRequest
from runtime.agents.trials import Answers, TrialResult, Workbench
from runtime.blobs.directory import Blobs
from runtime.log.lineage import Span
from runtime.log.memory import MemoryLog, MemoryStream
from runtime.log.port import append_once
from runtime.rollouts.names import item_names
from runtime.status import StatusReporter
from services.host.agent_session import open_session, spent_until
from tasks.contract import Evidence, Public
from tests.harness.agents import ANSWER, KEY, PUBLIC, STOP, TOY, AgentHarness, model_turn, proposal_call, shown_attempt
from tests.harness.facts import agent_called, event_of, started

EDIT = {"path": "agent.py", "old": "return model", "new": "return  model"}
WHOLE = {"path": "agent.py", "text": ANSWER + "# whole\n"}


def evaluated(**more: Any) -> CandidateEvaluated:
    return CandidateEvaluated(
        **{
            "generation": 0,
            "candidate": "c",
            "scaffold": "s",
            "adapter": "",
            "lever": "start",
            "score": 0.5,
            "low": 0.4,
            "high": 0.6,
            "items": 4,
            "failed": 0,
            "pass_at_1": 0.25,
            "pass_at_k": 0.5,
            "tied_groups": 0.0,
            "rollouts": 4,
            "tokens": 4,
            "micro_usd": 0,
            **more,
        }
    )


def test_a_good_proposal_becomes_a_scaffold(tmp_path: Path) -> None:
    agent = AgentHarness(
        tmp_path, [model_turn(("read_scaffold", {"path": "agent.py"})), model_turn(proposal_call(), text="I see.")]
    )
    chosen, made = agent.feedback()
    assert isinstance(chosen, LeverChosen) and (chosen.lever, chosen.action, chosen.propensities) == (
        "scaffold",
        "propose_scaffold",
        {},
    )
    assert isinstance(made, ScaffoldProposed) and (made.parent, made.summary, made.reason) == ("parent", "s", "r")
    assert agent.blobs.get_tree(made.scaffold) == {"agent.py": (ANSWER + "# changed\n").encode()}


def test_each_call_is_recorded_before_it_is_acted_on_with_its_cost(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(("read_scaffold", {"path": "agent.py"})), model_turn(STOP)])
    agent.feedback()
    assert isinstance(agent.facts[0], ContextAssembled)
    first, second = agent.calls()
    assert (first.ordinal, first.prompt_tokens, first.completion_tokens, first.micro_usd, first.status) == (
        0,
        100,
        10,
        300,
        "answered",
    )
    assert msgspec.json.decode(agent.blobs.get(second.request), type=ModelRequest) == agent.requests[1]
    assert b"enough" in agent.blobs.get(second.response)


def test_after_a_crash_nothing_is_asked_again(tmp_path: Path) -> None:
    turns = [model_turn(("query", {"sql": "a"})), model_turn(("query", {"sql": "b"})), model_turn(STOP)]
    whole = AgentHarness(tmp_path, turns)
    ending = whole.feedback()
    for known in range(1, 4):
        again = AgentHarness(tmp_path, turns[known:], whole.calls()[:known])
        assert again.feedback() == ending
        assert len(again.calls()) == 3 - known and again.queries == whole.queries[max(0, known - 1) :]


def test_what_stood_in_the_log_before_is_what_is_acted_on(tmp_path: Path) -> None:
    """As when the request was handed to a second agent, to which the model said something else."""
    first, second = (
        AgentHarness(tmp_path, [model_turn(("stop", {"reason": reason}))]) for reason in ("enough", "too much")
    )
    ending = first.feedback()
    second.session = msgspec.structs.replace(second.session, record=lambda call: first.calls()[call.ordinal])
    assert second.feedback() == ending


def test_an_answer_that_was_not_recorded_is_asked_for_again(tmp_path: Path) -> None:
    turns = [model_turn(("query", {"sql": "a"})), model_turn(STOP)]
    whole = AgentHarness(tmp_path, turns)
    ending = whole.feedback()
    again = AgentHarness(tmp_path, turns[1:], whole.calls()[:1])  # killed between the second answer and its fact
    assert again.feedback() == ending and again.requests == whole.requests[1:]


@pytest.mark.parametrize(
    ("budget", "spent", "calls", "words"),
    [
        (Budget(tokens=1_000), (780, 0), 2, "the run's budget of 1,000 tokens is spent (1,000 so far)"),
        (Budget(micro_usd=5_000_000), (0, 4_999_500), 2, "the run's budget of $5.0000 is spent ($5.0001 so far)"),
        (Budget(tokens=1_000, micro_usd=900), (0, 900), 0, "the run's budget of $0.0009 is spent"),
    ],
)
def test_a_conversation_ends_where_the_budget_does(
    tmp_path: Path, budget: Budget, spent: tuple[int, int], calls: int, words: str
) -> None:
    turns = [model_turn(("query", {"sql": "a"}))] * 5  # 110 tokens and 300 millionths of a dollar each
    agent = AgentHarness(tmp_path, turns, budget=budget, spent=spent)
    (failed,) = agent.feedback()
    assert isinstance(failed, ProposalFailed) and failed.reason.startswith(words) and len(agent.requests) == calls
    again = AgentHarness(tmp_path, turns, agent.calls()[:1], budget=budget, spent=spent)
    assert again.feedback() == [failed] and len(again.requests) == max(0, calls - 1)


def test_an_ending_that_took_the_last_of_the_budget_counts(tmp_path: Path) -> None:
    (chosen,) = AgentHarness(tmp_path, [model_turn(STOP)], budget=Budget(tokens=110)).feedback()
    assert isinstance(chosen, LeverChosen)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (proposal_call("def solve(:"), "does not parse"),
        (proposal_call("x = 1\n"), "unloadable"),
        (
            proposal_call("import nothing_of_the_kind\n" + ANSWER),
            "which the sandbox does not offer. There are Python's",
        ),
        (proposal_call(ANSWER, path="Agent.PY", edits=[]), "differ in case alone"),
        (("propose_scaffold", {"edits": [EDIT], "files": [WHOLE], "summary": "s", "report": "r"}), "do one of the two"),
        (
            ("propose_scaffold", {"edits": [{**EDIT, "old": "nowhere"}], "summary": "s", "report": "r"}),
            "does not stand",
        ),
        (("propose_scaffold", {"edits": [{**EDIT, "old": "e"}], "summary": "s", "report": "r"}), "stands 12 times"),
        (
            ("propose_scaffold", {"base": "generation-7", "summary": "s", "report": "r"}),
            "There is no base 'generation-7'",
        ),
        (proposal_call("def solve(item, model, data):\n    raise KeyError('oops')\n"), "crashed"),
        (proposal_call("def solve(item, model, data):\n    return None\n"), "None"),
        (proposal_call(ANSWER), "Nothing is changed"),
        (proposal_call("x" * 300_000, "notes.md"), "at most 64 files"),
        (proposal_call("x", "../agent.py"), "no path in a scaffold"),
        (proposal_call("x", "/etc/passwd"), "no path in a scaffold"),
        (proposal_call("x", ".hidden"), "no path in a scaffold"),
        (proposal_call("x\x00", "steps.py"), "does not parse"),
        (proposal_call("\ud800", "notes.md"), "cannot be read"),
        (proposal_call(remove=["none.py"]), "no 'none.py' to remove"),
        (proposal_call(remove=["agent.py"]), "'agent.py' is named more than once"),
        (proposal_call("x", "agent.py/x"), "'agent.py' would be a file and the folder of 'agent.py/x'"),
        (proposal_call("x", "Agent.py/steps/x"), "'agent.py' would be a file and the folder of 'Agent.py/steps/x'"),
        (proposal_call("x", "AGENT.py"), "'agent.py' and 'AGENT.py' differ in case alone"),
        (
            proposal_call(files=[{"path": path, "text": "x"} for path in ("steps/vote", "steps")]),
            "'steps' would be a file and the folder of 'steps/vote'",
        ),
        (
            proposal_call(files=[{"path": "notes", "text": text} for text in "ab"]),
            "'notes' is named more than once",
        ),
        (proposal_call("from tasks.lawbench import gold\n" + ANSWER), "imports tasks.lawbench"),
        (proposal_call(f"LABELS = open({str(TOY.folder / 'gold.py')!r})\n" + ANSWER), "names"),
        (("propose_scaffold", '{"files": oops'), "cannot be read"),
        (("propose_scaffold", {"files": [], "summary": "s"}), "missing required field"),
        (
            ("request_weight_update", {"algorithm": "magic", "rounds": 1, "reason": "r"}),
            "There is no algorithm 'magic'",
        ),
        (("request_weight_update", {"algorithm": "grpo", "rounds": 99, "reason": "r"}), "<= 10"),
        (
            ("request_weight_update", {"algorithm": "grpo", "rounds": 1, "reason": "r", "hyper": {"lrr": 1}}),
            "no hyper-parameter 'lrr'",
        ),
        (
            ("request_weight_update", {"algorithm": "grpo", "rounds": 1, "reason": "r", "hyper": {"dropout": 2}}),
            "dropout is 2",
        ),
        (("stop", {}), "missing required field"),
    ],
)
def test_an_ending_that_cannot_be_used_goes_back_once_with_the_reason(
    tmp_path: Path, wrong: tuple[str, Any], words: str
) -> None:
    pytest.importorskip("torch")
    mended = AgentHarness(tmp_path, [model_turn(wrong), model_turn(STOP)])
    (chosen,) = mended.feedback()
    assert isinstance(chosen, LeverChosen) and chosen.lever == "stop"
    (told,) = mended.tool_results()
    assert words in told and mended.requests[-1].messages[-1].results[0].failed
    lost = AgentHarness(tmp_path, [model_turn(wrong), model_turn(wrong)])
    *_, failed = lost.feedback()
    assert isinstance(failed, ProposalFailed) and words in failed.reason and len(lost.requests) == 2


def test_a_proposal_may_be_edits_and_may_start_from_an_earlier_candidate(tmp_path: Path) -> None:
    edits = [{"path": "agent.py", "old": "return model", "new": "# edited\n    return model"}]
    wanted = {"edits": edits, "summary": "s", "report": "r", "base": "generation-0"}
    agent = AgentHarness(tmp_path, [model_turn(("propose_scaffold", wanted))])
    earlier = {"agent.py": ANSWER.encode(), "notes.txt": b"of generation 0"}
    agent.library = {"candidates": {0: agent.blobs.put_tree(earlier)}}
    _, made = agent.feedback()
    assert isinstance(made, ScaffoldProposed)
    files = agent.blobs.get_tree(made.scaffold)
    assert files["notes.txt"] == earlier["notes.txt"] and b"    # edited\n    return model" in files["agent.py"]


def test_a_scaffold_that_was_rejected_before_is_recognised_and_goes_back_with_its_score(tmp_path: Path) -> None:
    source = ANSWER.replace("item.prompt", "item.prompt.lower()")
    agent = AgentHarness(tmp_path, [model_turn(proposal_call(source + "# as new\n")), model_turn(STOP)])
    before, after = (agent.blobs.put_tree({"agent.py": text.encode()}) for text in (ANSWER, source))
    fact = ScaffoldProposed(generation=0, scaffold=after, parent=before, summary="Lower case.", reason="r")
    agent.history = [
        event_of(fact),
        event_of(evaluated(scaffold=after, score=0.125)),
        event_of(CandidateRejected(generation=0, candidate="c", reason="below the best")),
    ]
    assert isinstance(agent.feedback()[0], LeverChosen)
    (told,) = agent.tool_results()
    assert "generation 0 judged the same code" in told and "dev 0.1250" in told and "below the best" in told
    opening = agent.requests[0].messages[0].text
    assert "+    return model.complete(item.prompt.lower()" in opening and "rejected: below the best" in opening
    other = AgentHarness(tmp_path / "other", [model_turn(proposal_call(source))])
    other.blobs.put_tree({"agent.py": ANSWER.encode()}), other.blobs.put_tree({"agent.py": source.encode()})
    other.history, other.requested = agent.history, {"adapter": "trained since"}
    assert isinstance(other.feedback()[1], ScaffoldProposed)  # other weights may make another score of it


class Bench:
    """A workbench whose scaffolds earn 1 on the first item and crash on the others, and whose policy says one word."""

    def __init__(self, rollouts_left: int | None = None) -> None:
        self.played: list[tuple[Any, ...]] = []
        self.asked: list[Any] = []
        items = tuple(example.id for example in PUBLIC.train[:20])
        self.workbench = Workbench(self.play, self.ask, items, "adapter", 8, rollouts_left)

    def play(self, scaffold: str, items: Any, attempts: int, seed: int) -> TrialResult:
        self.played.append((scaffold, items, attempts))
        shown = [shown_attempt(0, "right", item=items[0])]
        shown += [shown_attempt(1, "crashed", item=item, reward=None, reason="KeyError: oops") for item in items[1:]]
        return TrialResult(shown, 300, 30, 1.5)

    def ask(self, request: Any) -> Answers:
        self.asked.append(request)
        return Answers(("baker",) * request.n, ((-0.5, -0.25),) * request.n, 7, 2 * request.n, 0.5)


def try_call(source: str = ANSWER + "# tried\n", **more: Any) -> tuple[str, Any]:
    return ("try_scaffold", {"files": [{"path": "agent.py", "text": source}], **more})


def test_a_scaffold_is_tried_recorded_and_may_be_proposed_by_its_name(tmp_path: Path) -> None:
    first = AgentHarness(tmp_path, [model_turn(try_call()), model_turn(STOP)])
    first.workbench = (bench := Bench()).workbench
    first.feedback()
    (trial,) = [fact for fact in first.facts if isinstance(fact, TrialFinished)]
    assert (trial.rollouts, trial.prompt_tokens, trial.completion_tokens, trial.mean_reward) == (8, 300, 30, 1.0)
    (told,) = first.tool_results()
    assert told.startswith(f"{trial.trial}: 8 attempts at 8 train items, mean reward 1.0000 of 1 scored")
    assert "KeyError: oops" in told and told.index("crashed") < told.index("right")
    proposed = ("propose_scaffold", {"base": trial.trial, "summary": "s", "report": "r"})
    again = AgentHarness(tmp_path, [model_turn(try_call()), model_turn(proposed)], trials={trial.trial: trial})
    again.workbench = (unused := Bench()).workbench
    made = again.feedback()[-1]
    assert isinstance(made, ScaffoldProposed) and made.scaffold == trial.scaffold == bench.played[0][0]
    assert unused.played == [] and again.tool_results() == [told]  # what is recorded is not tried twice


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (try_call(items=["dev0"]), "There is no train item 'dev0'"),
        (try_call(attempts=8, items=[example.id for example in PUBLIC.train[:5]]), "a trial has at most 32"),
        (try_call("import nothing_of_the_kind\n"), "does not offer"),
        (try_call(), "would take 8 rollouts, and the budget leaves 5"),
        (("ask_policy", {"prompt": "p", "choices": ["a"], "bias": [1, 2]}), "2 biases for 1 choices"),
    ],
)
def test_a_trial_that_cannot_be_made_says_why(tmp_path: Path, wanted: tuple[str, Any], words: str) -> None:
    agent = AgentHarness(tmp_path, [model_turn(wanted), model_turn(STOP)])
    agent.workbench = (bench := Bench(rollouts_left=5)).workbench
    agent.feedback()
    assert words in agent.tool_results()[0] and bench.played == [] == bench.asked


def test_the_policy_may_be_asked_and_its_tokens_count(tmp_path: Path) -> None:
    question = ("ask_policy", {"prompt": "What now?", "choices": ["baker", "miner"], "n": 2})
    agent = AgentHarness(tmp_path, [model_turn(question), model_turn(STOP)], budget=Budget(tokens=231))
    agent.workbench = (bench := Bench()).workbench
    agent.first()
    assert "'baker': log-probability -0.750, 2 tokens" in agent.requests[1].messages[-1].results[0].text
    assert bench.asked[0].choices == ("baker", "miner") and agent.session.exhausted()  # 220 of the model, 11 of this


def test_an_agent_is_told_the_policy_the_figures_and_its_limits(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(STOP)])
    agent.workbench = Bench(rollouts_left=77).workbench
    agent.feedback()
    system, opening = agent.requests[0].system, agent.requests[0].messages[0].text
    assert [name for name in Evidence.__struct_fields__ if f"`{name}`" not in system] == []
    for words in ("24 answers", "16,000 tokens in each", "120 s without a word", "numpy", "Trials: 77 rollouts in all"):
        assert words in opening, words


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("text-scorer", ["is no language model", "`bias`", "one token", "cost no money"]),
        ("tiny-lm", ["0.8 million parameters", "512 tokens", "follows no instructions", "at most 64 tokens"]),
        ("smollm2", ["is trained to follow instructions", "first token"]),
        ("hf:org/Base", ["does not say that it follows instructions", "chat template"]),
    ],
)
def test_the_policy_is_described_by_its_kind(policy: str, words: list[str]) -> None:
    text = policy_text(msgspec.structs.replace(started(), policy=policy))
    assert [word for word in words if word not in text] == []


def test_a_policy_of_a_folder_is_described_by_its_configuration(tmp_path: Path) -> None:
    shape = {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152, "intermediate_size": 1536}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 8192}))
    text = policy_text(msgspec.structs.replace(started(), policy=f"hf:{tmp_path}"))
    assert "about 148 million parameters" in text and "8,192 tokens" in text


@pytest.mark.parametrize("status", ["unauthenticated", "not_found"])
def test_a_model_that_cannot_be_asked_halts_the_run_and_is_not_recorded(tmp_path: Path, status: CallStatus) -> None:
    agent = AgentHarness(tmp_path, [model_turn(text="HTTP 40x: no", status=status)])
    with pytest.raises(Halted, match=r"openai:m .*HTTP 40x: no.*Fix .*OPENAI_"):
        agent.feedback()
    assert agent.calls() == []


def test_what_is_too_long_is_asked_again_with_less(tmp_path: Path) -> None:
    too_long = model_turn(text="prompt is too long", status="too_long")
    agent = AgentHarness(tmp_path, [too_long, too_long, model_turn(("query", {"sql": "a"})), model_turn(STOP)])
    agent.feedback()
    lengths = [len(request.messages[0].text) for request in agent.requests]
    assert lengths[0] > lengths[1] > lengths[2] == lengths[3] > lengths[0] * 0.4
    assert [request.max_tokens for request in agent.requests] == [16_000, 8_000, 4_000, 4_000]
    assert "characters are left out]" in agent.requests[2].messages[0].text
    (first, second) = agent.calls()
    assert (first.attempts, first.status, first.prompt_tokens) == (3, "answered", 300)
    assert len(agent.requests[3].messages) == 3 and second.attempts == 1


def test_what_never_fits_loses_the_generation(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(text="prompt is too long", status="too_long")] * 6)
    (failed,) = agent.feedback()
    assert isinstance(failed, ProposalFailed) and "too_long" in failed.reason
    assert [call.status for call in agent.calls()] == ["too_long"]


def unreported(*calls: tuple[str, Any]) -> ModelTurn:
    return msgspec.structs.replace(model_turn(*calls), usage=None)


def test_tokens_that_are_not_reported_are_null_and_a_budget_that_needs_them_halts_the_run(tmp_path: Path) -> None:
    turns = [unreported(("query", {"sql": "a"})), unreported(STOP)]
    agent = AgentHarness(tmp_path, turns)
    agent.feedback()
    assert [(call.prompt_tokens, call.completion_tokens, call.micro_usd) for call in agent.calls()] == [
        (None, None, None)
    ] * 2
    for budget in (Budget(tokens=10**9), Budget(micro_usd=10**9)):
        limited = AgentHarness(tmp_path, turns, budget=budget)
        with pytest.raises(Halted, match="does not say how many tokens"):
            limited.feedback()
        assert len(limited.calls()) == 1
        later = AgentHarness(tmp_path, turns, budget=budget, unreported=True)
        with pytest.raises(Halted):
            later.feedback()
        assert later.calls() == []


def test_the_lever_that_failed_is_recorded(tmp_path: Path) -> None:
    wrong = proposal_call("def solve(:")
    chosen, failed = AgentHarness(tmp_path, [model_turn(wrong), model_turn(wrong)]).feedback()
    assert isinstance(chosen, LeverChosen) and chosen.lever == "scaffold" and isinstance(failed, ProposalFailed)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (model_turn(text="I would rather talk."), "You called no tool"),
        (model_turn(text="So long that", status="length"), "no room left"),
        (model_turn(STOP, STOP), "stands alone"),
        (model_turn(("query", {"sql": "a"}), STOP), "stands alone"),
    ],
)
def test_an_answer_without_one_ending_goes_back_once(tmp_path: Path, turn: ModelTurn, words: str) -> None:
    agent = AgentHarness(tmp_path, [turn, model_turn(STOP)])
    assert isinstance(agent.feedback()[0], LeverChosen)
    last = agent.requests[-1].messages[-1]
    assert words in last.text + "".join(result.text for result in last.results)
    (failed,) = AgentHarness(tmp_path, [turn, turn]).feedback()
    assert isinstance(failed, ProposalFailed) and words in failed.reason


def test_a_refusal_and_a_server_that_is_gone_are_told_apart(tmp_path: Path) -> None:
    (refused,) = AgentHarness(tmp_path, [model_turn(text="I cannot help.", status="refused")]).feedback()
    assert isinstance(refused, ProposalFailed) and refused.reason == "the model refused: I cannot help."
    agent = AgentHarness(tmp_path, [model_turn(text="HTTP 429: slow down", status="rate_limited")])
    (limited,) = agent.feedback()
    assert isinstance(limited, ProposalFailed) and "could not be asked (rate_limited): HTTP 429" in limited.reason
    assert agent.calls()[0].status == "rate_limited"


def test_a_conversation_has_an_end(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(("list_trajectories", {}))] * (CALLS + 5))
    (failed,) = agent.feedback()
    assert (
        isinstance(failed, ProposalFailed) and f"within {CALLS} calls" in failed.reason and len(agent.requests) == CALLS
    )
    assert "1 answers are left" in agent.requests[-1].messages[-1].text


def test_reading_is_bounded(tmp_path: Path) -> None:
    agent = AgentHarness(
        tmp_path, [*[model_turn(("query", {"sql": "a"}), ("query", {"sql": "b"}))] * 12, model_turn(STOP)]
    )
    agent.feedback()
    found = agent.tool_results()
    assert max(map(len, found)) < 17_000 and sum(map(len, found)) < READ_LIMIT + 40_000
    assert "end now" in found[-1]


def test_reading_is_bounded_within_one_answer(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(*[("query", {"sql": "a"})] * 200, ("x" * 10_000, {})), model_turn(STOP)])
    agent.feedback()
    assert (
        READ_LIMIT < sum(map(len, agent.tool_results())) < READ_LIMIT + 40_000 and "end now" in agent.tool_results()[-1]
    )
    assert len(agent.queries) < 20


def test_tools_that_read(tmp_path: Path) -> None:
    reads = [
        ("list_trajectories", {"outcome": "right"}),
        ("read_trajectory", {"id": "t0"}),
        ("read_trajectory", {"id": "far"}),
        ("read_trajectory", {"id": "nowhere"}),
        ("query", {"sql": "FROM trajectories"}),
        ("query", {"sql": "FROM dev"}),
        ("read_scaffold", {"path": "other.py"}),
    ]
    agent = AgentHarness(tmp_path, [model_turn(*reads), model_turn(STOP)])
    agent.feedback()
    listed, read, far, nowhere, rows, refused, file = agent.tool_results()
    assert "1 attempts" in listed and "t1 train1 right 1 'miner'" in listed
    assert "truth: baker" in read and "completion:\nminer" in read and "### t99" in far
    assert "no attempt 'nowhere'" in nowhere and "no such column" in refused and "holds agent.py" in file
    assert rows.startswith('["n"]\n[0,"xxx') and "more characters" in rows


def test_levers_that_a_run_does_not_have_are_not_on_offer(tmp_path: Path) -> None:
    agent = AgentHarness(
        tmp_path,
        [model_turn(("request_weight_update", {"algorithm": "grpo", "rounds": 1, "reason": "r"})), model_turn(STOP)],
    )
    agent.levers = ("scaffold",)
    agent.feedback()
    assert [tool.name for tool in agent.requests[0].tools][-2:] == ["propose_scaffold", "stop"]
    assert "no tool 'request_weight_update'" in agent.tool_results()[0] and "grpo" not in agent.requests[0].system


def test_an_order_for_weights_becomes_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    order = {"algorithm": "grpo", "rounds": 2, "reason": "they compete", "hyper": {"lr": 0.01}, "resample": "unsolved"}
    chosen, wanted = AgentHarness(tmp_path, [model_turn(("request_weight_update", order))]).feedback()
    assert isinstance(chosen, LeverChosen) and (chosen.lever, chosen.action) == ("weights", "grpo")
    assert isinstance(wanted, WeightUpdateRequested) and wanted.hyper == {"lr": 0.01} and wanted.resample == "unsolved"


def test_keys_are_struck_out_of_all_that_is_kept_and_said(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(proposal_call(ANSWER + f"# {KEY}\n# {KEY[::-1]}\n"), text=KEY)])
    agent.attempts = [shown_attempt(0, answer=KEY, prompt=KEY.encode().hex())]
    _, made = agent.feedback()
    assert isinstance(made, ScaffoldProposed)
    kept = b"".join(
        path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()
    ) + msgspec.json.encode(agent.requests)
    agent.scanner.check(kept)
    assert agent.blobs.get_tree(made.scaffold)["agent.py"].decode().count(MARKER) == 2


@pytest.mark.parametrize("form", ["\\u{0:04x}", "\\u{0:04X}", "\\\\u{0:04x}", "%{0:02X}", "%{0:02x}"])
@pytest.mark.parametrize("which", ["meta_agent", "feedback_agent"])
def test_a_key_that_is_echoed_in_escapes_is_struck_out_of_a_proposal(tmp_path: Path, which: str, form: str) -> None:
    name, arguments = proposal_call(ANSWER + f"# {KEY}\n", summary=f"s {KEY}", report=f"Because of {KEY}.\nAnd on.")
    escaped = json.dumps(arguments).replace(KEY, "".join(form.format(ord(letter)) for letter in KEY))
    agent = AgentHarness(tmp_path, [model_turn((name, escaped))])
    made = agent.first(must_change=True) if which == "meta_agent" else agent.feedback()
    proposed = made[-1]
    assert isinstance(proposed, ScaffoldProposed)
    assert (proposed.summary, proposed.reason) == (f"s {MARKER}", f"Because of {MARKER}.\nAnd on.")
    assert agent.blobs.get_tree(proposed.scaffold)["agent.py"].decode() == ANSWER + f"# {MARKER}\n"
    kept = [path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    for payload in (*kept, *map(msgspec.json.encode, (*made, *agent.facts))):
        agent.scanner.check(payload)


def test_a_key_in_what_a_failing_scaffold_says_is_not_recorded(tmp_path: Path) -> None:
    wrong = proposal_call(f"def solve(item, model, data):\n    raise KeyError(''.join({list(KEY)}))\n")
    *_, failed = AgentHarness(tmp_path, [model_turn(wrong), model_turn(wrong)]).feedback()
    assert isinstance(failed, ProposalFailed) and "held a known secret" in failed.reason and KEY not in failed.reason


def test_the_history_says_what_was_tried_and_what_came_of_it(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(STOP)])
    agent.history = [event_of(evaluated()), event_of(CandidateRejected(generation=0, candidate="c", reason="too slow"))]
    agent.history.append(event_of(CandidateRejected(generation=1, candidate="d", reason="not yet known")))
    agent.feedback()
    opening = agent.requests[0].messages[0].text
    assert (
        "dev 0.5000 [0.4000, 0.6000], probe: mean reward 0.250" in opening
        and "rejected: too slow" in opening
        and "not yet known" not in opening
    )
    assert "1 right, 1 wrong" in opening and "pass_at_1 0.5" in opening and "3 generations left." in opening


def test_trajectories_are_chosen_by_how_they_failed() -> None:
    attempts = [shown_attempt(number, "right", "miner") for number in range(500)]
    attempts += [
        shown_attempt(number, "wrong", label)
        for number, label in zip(range(500, 560), ["baker"] * 57 + ["smith", "weaver", "mason"], strict=True)
    ]
    attempts += [shown_attempt(600, "crashed", "baker", reward=None, reason="KeyError")]
    chosen = select_attempts(attempts, 1_500, seed=1)
    assert chosen[0].outcome == "crashed"
    assert {one.label for one in chosen if one.outcome == "wrong"} == {"baker", "smith", "weaver", "mason"}
    assert any(one.outcome == "right" for one in chosen)
    assert sum(tokens_of(describe_briefly(one)) for one in chosen) <= 1_500
    assert (
        chosen == select_attempts(list(reversed(attempts)), 1_500, seed=1) != select_attempts(attempts, 1_500, seed=2)
    )


def test_what_fails_alike_is_shown_a_few_times_however_much_room_there_is() -> None:
    attempts = [shown_attempt(number, "wrong", label) for number, label in enumerate(["baker", "smith"] * 50)]
    assert len(select_attempts(attempts, 10**6, seed=1)) == 2 * context.ALIKE


def test_one_item_is_not_shown_twice() -> None:
    attempts = [shown_attempt(number, "wrong", item="train0") for number in range(50)] + [
        shown_attempt(60),
        shown_attempt(61),
    ]
    chosen = select_attempts(attempts, 10**6, seed=0)
    assert sorted(one.item for one in chosen) == ["train0", "train60", "train61"]


def test_what_an_agent_is_shown_at_the_start_is_bounded(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(STOP)])
    agent.attempts = [shown_attempt(number, prompt="x" * 100_000, answer="y" * 10_000) for number in range(500)]
    agent.feedback()
    assert len(agent.requests[0].messages[0].text) < 60_000


def test_the_meta_agent_writes_the_first_scaffold_from_several_tasks(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(proposal_call())])
    (made,) = agent.first()
    assert isinstance(made, ScaffoldProposed) and made.parent == ""
    opening = agent.requests[0].messages[0].text
    assert (
        opening.count("### ") >= 4
        and "Name the trade." in opening
        and "label: baker" in opening
        and "agent.py" in opening
    )
    assert [tool.name for tool in agent.requests[0].tools] == [
        "query",
        "read_scaffold",
        "publish_artefact",
        "propose_scaffold",
    ]


def test_other_tasks_are_bounded_and_may_be_left_out(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.md").write_text(f"### Task {number}\n" + "x" * 10_000)
    assert len(other_tasks(4, tmp_path)) < context.OTHERS + 200 and other_tasks(4, tmp_path).count("###") == 4
    assert other_tasks(2, tmp_path).count("###") == 2 and len(other_tasks(9)) < context.OTHERS
    agent = AgentHarness(tmp_path, [model_turn(proposal_call())])
    agent.first(examples=0)
    assert "Other tasks" not in agent.requests[0].messages[0].text


def test_the_meta_agent_may_take_the_reference_as_it_is(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(("propose_scaffold", {"files": [], "summary": "s", "report": "r"}))])
    (made,) = agent.first()
    assert isinstance(made, ScaffoldProposed)


def test_samples_hold_train_items_alone() -> None:
    text = context.sample_items(PUBLIC, 2_000, seed=3)
    hidden = {item.prompt for split in (PUBLIC.dev, PUBLIC.test) for item in split}
    assert text.count("label: ") == 8 and len(text) < 2_100 and not any(prompt in text for prompt in hidden)


def without_labels() -> Public:
    train = tuple(msgspec.structs.replace(example, label=None) for example in PUBLIC.train)
    return msgspec.structs.replace(PUBLIC, labels=(), train=train)


def test_a_task_without_labels_is_shown_without_any() -> None:
    bare = without_labels()
    text = context.sample_items(bare, 2_000, seed=3)
    assert text.count("\n- ") > 2 and "label" not in text
    assert f"{len(PUBLIC.train)} train items without labels" in context.task_text("t", bare, "tiny-lm")
    assert "with labels" in context.task_text("t", PUBLIC, "tiny-lm") and "8 labels" in context.task_text(
        "t", PUBLIC, "p"
    )
    shown = msgspec.structs.replace(shown_attempt(1), label="")
    assert "truth" not in describe_briefly(shown) and "truth: " in describe_briefly(shown_attempt(1))


def test_outcomes_of_a_tasks_own_are_shown_from_the_worst_on() -> None:
    attempts = [shown_attempt(number, "lower", "", reward=2.5) for number in range(3)]
    attempts += [shown_attempt(number, "higher", "", reward=-4.0) for number in range(3, 6)]
    attempts += [shown_attempt(9, "crashed", "", reward=None)]
    assert [one.outcome for one in select_attempts(attempts, 5_000, seed=0)][:3] == ["crashed", "higher", "lower"]


def test_a_proposal_for_a_task_without_labels_may_find_no_answer_in_what_the_trial_says(tmp_path: Path) -> None:
    source = "def solve(item, model, data): return model.complete(item.prompt).text or None\n"
    try_out({"agent.py": source}, without_labels(), tmp_path / "work", Scanner([]))
    with pytest.raises(UnfitRequest, match="crashed"):
        try_out(
            {"agent.py": "def solve(item, model, data): return data.labels[0]\n"},
            without_labels(),
            tmp_path,
            Scanner([]),
        )


def test_the_prompts_name_every_algorithm_with_its_defaults() -> None:
    pytest.importorskip("torch")
    from algorithms.learning import algorithm
    from algorithms.learning.batch import COMMON

    text = prompt("learning")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert set(rows) - {"algorithm"} == set(NAMES)
    shared = text[text.index("All have") :]
    for name in NAMES:
        for hyper, value in algorithm(name).defaults.items():
            said_of = rows[name] if value != COMMON.get(hyper) else shared
            stated = re.search(rf"\b{hyper}\s\(?([\d.e-]*\d)", said_of)
            assert stated and float(stated[1]) == value, (name, hyper, value)
    assert other_tasks(4).count("###") == 4 and set(feedback.LEVERS) <= {
        word.strip("`,.") for word in prompt("feedback_agent").split()
    }


def test_an_order_without_torch_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr("runtime.agents.endings.algorithm", none)
    assert weight_update('{"algorithm": "grpo", "rounds": 1, "reason": "r", "hyper": {"odd": 1}}').hyper == {"odd": 1.0}


def test_files_are_changed_and_taken_away() -> None:
    assert with_changes({"agent.py": "a", "b.py": "b"}, [("c/d.py", "d")], ["b.py"]) == {"agent.py": "a", "c/d.py": "d"}
    with pytest.raises(UnfitRequest, match=r"no agent\.py"):
        with_changes({"agent.py": "a"}, [], ["agent.py"])


def test_a_folder_may_have_modules_of_its_own() -> None:
    own = {"tasks.py": "x = 1\n", "steps/vote.py": ""}
    validate_source({"agent.py": "from steps import vote\nimport tasks, numpy, json\n", **own}, ())
    validate_source({"agent.py": "try:\n    import cupy\nexcept ImportError:\n    import numpy as cupy\n"}, ())
    with pytest.raises(UnfitRequest, match=r"imports cupy, which the sandbox does not offer.*numpy"):
        validate_source({"agent.py": "try:\n    import cupy\nexcept KeyError:\n    pass\n"}, ())
    with pytest.raises(UnfitRequest, match="imports services"):
        validate_source({"agent.py": "__import__('services.auditor.service')\n"}, ())


CUNNING = """
import os
def solve(item, model, data):
    found = []
    for folder in (%r, "/"):
        for at, _, names in os.walk(folder):
            found += [os.path.join(at, name) for name in names if name == "gold.py"]
    if found or "A_KEY_OF_THE_SERVICE" in os.environ:
        return "seen"
    raise LookupError("nothing to read")
"""
OVER_HTTP = """
import openai
def solve(item, model, data):
    said = openai.OpenAI().chat.completions.create(model="policy", messages=[{"role": "user", "content": item.prompt}])
    return said.choices[0].message.content
"""
PROGRAM = """
import argparse, csv, os
flags = argparse.ArgumentParser()
flags.add_argument("--dataset_dir"), flags.add_argument("--working_dir")
where = flags.parse_args()
submission = os.path.join(where.working_dir, "submission.csv")
with open(os.path.join(where.dataset_dir, "test.csv")) as asked, open(submission, "w") as out:
    rows = csv.writer(out)
    rows.writerow(["id", "label"])
    for row in csv.DictReader(asked):
        rows.writerow([row["id"], "baker"])
"""


def test_a_proposal_that_would_read_labels_finds_nothing_and_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY_OF_THE_SERVICE", "secret")
    halves = " + ".join(repr(half) for half in (str(TOY.folder)[:3], str(TOY.folder)[3:]))
    cunning = CUNNING.replace("%r", halves)  # put together, so that no constant names it
    with pytest.raises(UnfitRequest, match="nothing to read"):
        try_out({"agent.py": cunning}, PUBLIC, tmp_path / "work", Scanner([]))


@pytest.mark.parametrize("source", [OVER_HTTP, PROGRAM], ids=["openai", "program"])
def test_a_proposal_may_call_the_model_over_http_or_be_a_program(tmp_path: Path, source: str) -> None:
    try_out({"agent.py": source}, PUBLIC, tmp_path / "work", Scanner([]))
    with pytest.raises(UnfitRequest, match=r"failed on a train item|answered a train item with None"):
        try_out(
            {"agent.py": source.replace("item.prompt", "item.nothing").replace('"baker"', '""')},
            PUBLIC,
            tmp_path,
            Scanner([]),
        )


@pytest.mark.parametrize(
    "source",
    ["import time\ntime.sleep(60)\n" + PROGRAM, "def solve(item, model, data):\n    while True:\n        pass\n"],
    ids=["program", "solve"],
)
def test_a_proposal_that_takes_too_long_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(proposal, "TRIAL_SECONDS", 1)
    with pytest.raises(UnfitRequest):
        try_out({"agent.py": source}, PUBLIC, tmp_path, Scanner([]))


@pytest.mark.parametrize(
    "solve",
    [
        "raise KeyError(item.id)",
        "return next((label for prompt, label in SEEN.items() if prompt == item.prompt), None)",
    ],
)
def test_a_proposal_is_tried_on_items_as_dev_gives_them(tmp_path: Path, solve: str) -> None:
    names = [*item_names(PUBLIC.digests, "", [example.id for example in PUBLIC.train]).values()]
    source = (
        f"SEEN = {dict.fromkeys((example.prompt for example in PUBLIC.train), 'baker')!r}\n"
        f"def solve(item, model, data):\n  if item.id in {names!r}: return 'baker'\n"
        f"  SEEN.pop(item.prompt)\n  {solve}\n"
    )
    with pytest.raises(UnfitRequest, match="an item as dev gives it"):
        try_out({"agent.py": source}, PUBLIC, tmp_path, Scanner([]))


def test_no_prompt_of_dev_is_in_a_trial(tmp_path: Path) -> None:
    prompts = [item.prompt for item in PUBLIC.dev]
    source = f"def solve(item, model, data): assert item.prompt not in {prompts!r}; return 'baker'\n"
    try_out({"agent.py": source}, PUBLIC, tmp_path, Scanner([]))


def test_of_a_query_no_more_rows_are_read_than_are_shown() -> None:
    tables = RunTables(lambda sql: QueryResult(("n",), ("BIGINT",), [(1,)]), "r", (), "e", (), 1)
    found = tables.query("SELECT a.range AS n FROM range(100000) a, range(100000) b")
    assert len(found.rows) == feedback.ROWS + 1
    assert feedback.table_text(found).splitlines()[-1] == "[more rows]"
    few = tables.query("SELECT range AS n FROM range(200)")
    assert list(few.columns) == ["n"] and len(few.rows) == 200 and "more" not in feedback.table_text(few)
    assert tables.query("SELECT 1 WHERE false").rows == []
    with pytest.raises(UnfitRequest, match="nowhere"):
        tables.query("FROM nowhere")
    tables.close()


def opened(folder: Path, budget: Budget, *facts: Fact) -> AgentSession:
    """The session for generation 2 of a run in which these facts came."""
    started = RunStarted(
        task="toy",
        seed=7,
        levers=("scaffold",),
        generations=3,
        budget=budget,
        items=Items(dev=(), folds=(), probe=()),
        splits={},
        verifier="v",
        policy="p",
        base_model="b",
    )
    log, scanner = MemoryLog(MemoryStream()), Scanner([])

    async def opening() -> AgentSession:
        for fact in facts:
            await append_once(log, [event_of(fact)], scanner)

        async def past(run: str) -> tuple[Span, ...]:
            return ()

        around: Any = SimpleNamespace(
            log=log, blobs=Blobs(folder), scanner=scanner, past=past, status=StatusReporter("feedback_agent")
        )
        return await open_session(
            around, event_of(evaluated()), "feedback_agent", 2, LanguageModel("openai", "odd"), started, known=1
        )

    return asyncio.run(opening())


def called(generation: int, ordinal: int, agent: AgentName = "feedback_agent") -> AgentCalled:
    return agent_called(generation, agent=agent, ordinal=ordinal, model="odd", micro_usd=7)


def test_a_desk_knows_what_the_run_spent_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    told = [called(0, 0, "meta_agent"), evaluated(tokens=5_000, micro_usd=50), called(1, 0), called(1, 1), called(2, 0)]
    session = opened(tmp_path, Budget(tokens=5_330), *told)
    assert session.spent == (5_220, 64) and set(session.recorded_calls) == {0}
    assert session.exhausted() == "the run's budget of 5,330 tokens is spent (5,330 so far)"
    assert opened(tmp_path, Budget(tokens=5_331), *told).exhausted() == ""


def test_what_later_generations_spend_meanwhile_is_not_counted() -> None:
    """Whichever of them comes to its end first, and wherever its calls stand in the log."""
    told = [called(0, 0, "meta_agent"), evaluated(tokens=5_000, micro_usd=50), called(2, 0), called(1, 0), called(3, 0)]
    told += [evaluated(generation=1, tokens=6_000, micro_usd=60), evaluated(generation=3, tokens=9_000, micro_usd=90)]
    events = [event_of(fact) for fact in told]
    known = [spent_until(events, generation) for generation in (-1, 0, 1, 2, 3)]
    assert known == [(0, 0), (5_000, 50), (6_000, 60), (6_110, 67), (9_000, 90)]


def test_services_that_know_no_price_ask_nothing_where_dollars_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://x.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(
        NotHere, match=r"know no price for openai:odd, so the run's budget in usd.*EVOLOG_PRICES.*evolog up"
    ) as wrong:
        opened(tmp_path, Budget(micro_usd=1))
    assert wrong.value.code == Misconfigured.code
    assert opened(tmp_path, Budget()).price is None
