"""Tasks of Inspect: what becomes of dataset, solvers and scorer, and what is refused before anything starts."""

from pathlib import Path

import pytest

from events.errors import Misconfigured, NotFound, UsageError
from tasks.contract import Item
from tasks.loading import Task, load
from tests.harness.needs import needs
from tests.harness.paths import TESTS

pytestmark = [pytest.mark.slow, needs("inspect_ai")]

EVALS = TESTS / "harness" / "inspect_evals.py"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


def made(parent: Path, name: str) -> Task:
    from tasks.adapters.inspect_tasks import adapt

    return load(str(adapt(f"{EVALS}:{name}", parent)))


def first(task: Task) -> tuple[Item, str]:
    """The first dev item and its label."""
    item = task.public(0).dev[0]
    return item, task.labels(0)[item.id]


def rewards(task: Task, item: Item, label: str, *answers: str | None) -> list[tuple[float, str]]:
    return [(scored.reward, scored.outcome) for scored in (task.score(item, answer, label) for answer in answers)]


def test_a_greeting_is_judged_by_exact(parent: Path) -> None:
    task = made(parent, "hello")
    item, label = first(task)
    assert item.prompt == f"Just reply with {label}" and task.policy == "tiny-lm"
    assert task.verifier.startswith("inspect-hello/exact-")
    assert rewards(task, item, label, label, f"{label.lower()}!", f"{label} there", None) == [
        (1.0, "right"),
        (1.0, "right"),
        (0.0, "wrong"),
        (0.0, "unparsed"),
    ]


def test_a_choice_is_asked_and_read_by_multiple_choice(parent: Path) -> None:
    task = made(parent, "endings")
    item, label = first(task)
    assert (
        task.public(0).labels == ("ANSWER: A", "ANSWER: B", "ANSWER: C", "ANSWER: D") and task.policy == "text-scorer"
    )
    assert item.prompt.startswith("system: Choose.\nuser: Answer the following multiple choice question.")
    assert "\nA) " in item.prompt and item.prompt.endswith("\nassistant:")
    letter = label[-1]
    line = next(line for line in item.prompt.splitlines() if line.startswith(f"{letter}) "))
    assert line == f"{letter}) comes down"
    other = "B" if letter == "A" else "A"
    assert rewards(task, item, label, f"answer: {letter.lower()}.", f"ANSWER: {other}", letter) == [
        (1.0, "right"),
        (0.0, "wrong"),
        (0.0, "wrong"),
    ]


def test_a_sum_is_asked_by_a_template_and_judged_as_a_number(parent: Path) -> None:
    task = made(parent, "sums")
    item, label = first(task)
    question = f"What is {int(label) - 990} + 990?"
    assert item.prompt == f"Solve this, in apples.\n\n{question}\n\nEnd with ANSWER: and the number."
    amount = f"{int(label):,}"
    assert rewards(task, item, label, f"So it is {amount}.", "So it is 5.") == [(1.0, "right"), (0.0, "wrong")]


def test_the_seed_divides_samples_and_test_labels_are_golds(parent: Path) -> None:
    from tasks.adapters.inspect_scoring import labels

    task = made(parent, "sums")
    public = task.public(0)
    assert [len(split) for split in (public.train, public.dev, public.test)] == [12, 6, 6]
    assert set(task.labels(0)).isdisjoint(labels(task.folder, 0, "test")) and len(task.labels(0)) == 18
    assert task.public(1).digests != public.digests


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_solver", "its solver 'twice' is none of assistant_message, chain_of_thought"),
        ("own_scorer", "its scorer 'lenient' is none of answer, choice, exact"),
        ("two_scorers", "it has 2 scorers, where one is needed"),
        ("judge", "its scorer 'inspect_ai/model_graded_fact' is none of"),
        ("tools", "its solver 'inspect_ai/use_tools' is none of"),
        ("critique", "its solver 'inspect_ai/self_critique' is none of"),
        ("two_calls", "its solvers call the model 2 times"),
        ("sandbox", "it has a sandbox"),
        ("shuffled", "shuffles the choices"),
        ("files", "has files"),
        ("few", "has 3 samples; train, dev and test need 8"),
        ("broken", "gives a int; expected an Inspect task"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(parent: Path, name: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        made(parent, name)


def test_what_is_not_there_is_said_to_be_missing(parent: Path) -> None:
    from tasks.adapters.inspect_tasks import adapt

    for named, kind, says in (
        (f"{EVALS}:nothing", NotFound, "defines no 'nothing'"),
        (f"{EVALS.with_name('nowhere.py')}:a", NotFound, "There is no file"),
        ("no_such_module:a", NotFound, "There is no module 'no_such_module'"),
        (str(EVALS), UsageError, "takes MODULE:TASK"),
    ):
        with pytest.raises(kind, match=says):
            adapt(named, parent)


def test_a_module_is_found_by_its_name_too(parent: Path) -> None:
    from tasks.adapters.inspect_tasks import adapt

    assert adapt("tests.harness.inspect_evals:hello", parent) != adapt(f"{EVALS}:hello", parent)
