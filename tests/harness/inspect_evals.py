"""Three tasks of the kinds that Inspect's documentation shows, with made-up samples: a greeting (`exact`), a choice of
endings (`multiple_choice`), and sums with a prompt template (`match`, numeric). And some that evolog cannot run.
"""

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Scorer, Target, accuracy, choice, exact, match, model_graded_fact, scorer
from inspect_ai.solver import (
    Generate,
    Solver,
    TaskState,
    generate,
    multiple_choice,
    prompt_template,
    self_critique,
    solver,
    system_message,
    use_tools,
)

GREETINGS = [Sample(f"Just reply with Hello {name}", target=f"Hello {name}") for name in "ABCDEFGHIJKL"]
ENDINGS = [
    Sample(
        f"A person throws a ball {number} times. It",
        choices=["comes down", "sings", "reads", "sleeps"][number % 4 :]
        + ["comes down", "sings", "reads"][: number % 4],
        target="ADCB"[number % 4],
        id=f"ending-{number}",
    )
    for number in range(24)
]
SUMS = [
    Sample(f"What is {number} + 990?", target=f"{number + 990}", metadata={"unit": "apples"}) for number in range(24)
]


@task
def hello() -> Task:
    """The first task of Inspect's tutorial, a dozen times."""
    return Task(dataset=GREETINGS, solver=[generate()], scorer=exact())


@task
def endings() -> Task:
    """Which ending is the likeliest, as in HellaSwag."""
    return Task(dataset=ENDINGS, solver=[system_message("Choose."), multiple_choice()], scorer=choice())


@task
def sums() -> Task:
    """Sums in words, as in GSM8K."""
    template = "Solve this, in {unit}.\n\n{prompt}\n\nEnd with ANSWER: and the number."
    return Task(dataset=SUMS, solver=[prompt_template(template), generate()], scorer=match(numeric=True))


@solver
def twice() -> Solver:
    """A solver of one's own."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return await generate(await generate(state))

    return solve


@scorer(metrics=[accuracy()])
def lenient() -> Scorer:
    """A scorer of one's own."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=1)

    return score


REFUSED = {
    "own_solver": lambda: Task(dataset=SUMS, solver=twice(), scorer=exact()),
    "own_scorer": lambda: Task(dataset=SUMS, scorer=lenient()),
    "two_scorers": lambda: Task(dataset=SUMS, scorer=[exact(), match()]),
    "judge": lambda: Task(dataset=SUMS, scorer=model_graded_fact()),
    "tools": lambda: Task(dataset=SUMS, solver=[use_tools(), generate()], scorer=exact()),
    "critique": lambda: Task(dataset=SUMS, solver=[generate(), self_critique()], scorer=exact()),
    "two_calls": lambda: Task(dataset=SUMS, solver=[generate(), generate()], scorer=exact()),
    "sandbox": lambda: Task(dataset=SUMS, scorer=exact(), sandbox="local"),
    "shuffled": lambda: Task(dataset=ENDINGS, solver=multiple_choice(shuffle=True), scorer=choice()),
    "files": lambda: Task(dataset=[Sample("a", files={"a": "b"}, target="c")] * 9, scorer=exact()),
    "few": lambda: Task(dataset=SUMS[:3], scorer=exact()),
}
own_solver, own_scorer, two_scorers, judge, tools, critique, two_calls, sandbox, shuffled, files, few = REFUSED.values()
broken = 7
