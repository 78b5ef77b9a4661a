"""GPQA as a task: who sees which answer, what counts as one, the holes of the published evaluator, and the wish that no
question be shown in plain text.
"""

from pathlib import Path

import pytest

from events.errors import CheckFailed, NotFound
from tasks import loading
from tasks.contract import EvaluationSet, Item, Public, Reply
from tasks.gpqa import baselines, data, gold
from tasks.gpqa.steps import letter_parser, rotations
from tasks.gpqa.verifier import score
from tests.harness import sia_standins

pytest.importorskip("scipy")

ITEM = Item("i", data.compose("Why?", ("one", "two", "three", "four")))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return sia_standins.install_gpqa(tmp_path / "gpqa", monkeypatch)


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_each_question_is_in_one_split_and_each_domain_keeps_its_shares(public: Public) -> None:
    ids = [item.id for item in sia_standins.everything(public)]
    assert len(ids) == len(set(ids)) == 30
    for domain in sia_standins.DOMAINS:
        assert 4 <= sum(item.metadata["domain"] == domain for item in public.test) <= 5  # of 10
        assert 2 <= sum(item.metadata["domain"] == domain for item in public.dev) <= 4
    assert {example.fold for example in public.train} <= set(range(5))


def test_another_seed_divides_the_questions_otherwise(root: Path, public: Public) -> None:
    assert data.load(root, 0) == public
    assert {item.id for item in data.load(root, 1).test} != {item.id for item in public.test}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_verifier_has_the_answers_of_train_and_dev_and_gold_those_of_test(root: Path, seed: int) -> None:
    task = loading.load("gpqa")
    public, known, hidden = task.public(seed), task.labels(seed), task.gold(seed)
    assert set(known) == {*(example.id for example in public.train), *(item.id for item in public.dev)}
    assert set(hidden) == {item.id for item in public.test}
    assert all(known[example.id] == example.label for example in public.train)
    assert known | hidden == data.answers(root)


def test_an_id_tells_nothing_of_its_question(public: Public) -> None:
    for item in sia_standins.everything(public):
        assert item.id.startswith("gpqa-") and len(item.id) == len("gpqa-") + 12
        assert not set(item.id.removeprefix("gpqa-")) - set("0123456789abcdef")


@pytest.mark.parametrize(
    "answer, outcome",
    [
        ("C", "right"),
        (" C\n", "right"),
        ("A", "wrong"),
        ("Answer: C", "unparsed"),  # the published evaluator reads an A here
        ("c", "unparsed"),
        ("CC", "unparsed"),
        ("ABCD", "unparsed"),
        ("", "unparsed"),
        (None, "unparsed"),
        ('{"accuracy": 1.0, "correct": 198, "incorrect": 0}', "unparsed"),
        ('{"details": [{"model_answer": "C", "is_correct": true}]}', "unparsed"),
    ],
)
def test_one_letter_is_an_answer_and_nothing_else(answer: str | None, outcome: str) -> None:
    scored = score(ITEM, answer, "C")
    assert (scored.outcome, scored.reward) == (outcome, float(outcome == "right"))


def test_the_letter_of_an_option_that_was_moved_is_that_of_where_it_stands(root: Path, public: Public) -> None:
    questions = EvaluationSet(public.labels, public.test)
    truth = gold.labels(root, 0)
    changed = loading.load("gpqa").perturbed("option_order", questions, truth, 3)
    assert changed == loading.load("gpqa").perturbed("option_order", questions, truth, 3)
    for before, after in zip(public.test, changed.items, strict=True):
        (question, options), (same, moved) = data.parts(before.prompt) or ("", ()), data.parts(after.prompt) or ("", ())
        assert question == same and sorted(options) == sorted(moved)
        assert all(one != other for one, other in zip(options, moved, strict=True))
        letter = truth[before.id]
        where = data.LETTERS[moved.index(options[data.LETTERS.index(letter)])]
        assert where != letter
        assert (score(after, where, letter).reward, score(after, letter, letter).reward) == (1, 0)


def test_without_its_question_an_item_has_its_options_still(root: Path, public: Public) -> None:
    questions = EvaluationSet(public.labels, public.test)
    changed = loading.load("gpqa").perturbed("no_question", questions, gold.labels(root, 0), 0)
    for before, after in zip(public.test, changed.items, strict=True):
        assert after.prompt == data.compose("", (data.parts(before.prompt) or ("", ()))[1])


def test_all_questions_are_counted_whatever_is_answered(root: Path) -> None:
    truth = data.answers(root)
    sure, *others = truth
    # the published evaluator gives 1 for this: it leaves out what is missing
    with pytest.raises(CheckFailed, match="29 ids have no answer"):
        gold.accuracy(root, [(sure, truth[sure])])
    assert gold.accuracy(root, [(sure, truth[sure]), *((id, None) for id in others)]) == 1 / 30
    with pytest.raises(CheckFailed, match=rf"1 ids are answered more than once, such as '{sure}' 30 times"):
        gold.accuracy(root, [(sure, truth[sure])] * 30)
    with pytest.raises(CheckFailed, match="1 ids are none of those asked, such as 'gpqa-forged'"):
        gold.accuracy(root, [*truth.items(), ("gpqa-forged", "A")])
    assert gold.accuracy(root, truth.items()) == 1


def test_canaries_are_one_letter_for_all_and_what_is_no_letter() -> None:
    task = loading.load("gpqa")
    found = task.canaries(ITEM, "B")
    assert found["always B"] == (1, 1) and found["always A"] == found["every letter"] == found["empty"] == (0, 0)


def test_baselines_answer_each_question_by_a_letter(public: Public) -> None:
    items = public.test
    for predict in baselines.BASELINES.values():
        assert set(predict(public, items)) == {item.id for item in items}
    assert baselines.longest(public, [ITEM]) == {"i": "C"}
    assert baselines.first(public, [ITEM]) == {"i": "A"}


@pytest.mark.parametrize(
    "text, letter",
    [
        ("C", "C"),
        ("The answer is (B).", "B"),
        ("A is wrong, so the answer: d", "D"),
        ("**C**", "C"),
        ("Both A and B, but I say B)", "B"),
        ("none", ""),
        ("Beans", ""),
    ],
)
def test_a_letter_is_found_among_words(text: str, letter: str) -> None:
    assert letter_parser.after(text) == letter


class Leaning:
    """A model that knows one option, and says B where it does not see it."""

    def __init__(self, knows: str) -> None:
        self.knows = knows
        self.prompts: list[str] = []

    def complete(self, prompt: str, choices: tuple[str, ...] = (), bias: tuple[float, ...] = ()) -> Reply:
        self.prompts.append(prompt)
        lines = prompt.split("\n")
        return Reply(next((line[0] for line in lines if line.endswith(f") {self.knows}")), "B"))


def test_the_four_orders_give_each_option_each_letter() -> None:
    model = Leaning("three")
    assert rotations.ask(ITEM, model) == "C"
    shown = [[line for line in prompt.split("\n") if line.endswith(" one")] for prompt in model.prompts]
    assert sorted(line[0][0] for line in shown) == ["A", "B", "C", "D"]
    assert rotations.ask(ITEM, Leaning("unheard of")) == "A"  # it always said B: one vote each, and the first option


def test_gpqa_keeps_the_contract() -> None:
    task = loading.load("gpqa")
    assert (task.name, task.verifier, task.private_prompts) == ("gpqa", "gpqa/letter-1", True)
    names = [edit.name for edit in task.edits()]
    assert names == ["letter_parser", "rotations"]
    files = task.scaffold()
    for edit in task.edits():
        files = edit.apply(files)
    assert 'STEPS: tuple[str, ...] = ("letter_parser", "rotations")' in files["agent.py"]
    assert {"steps/__init__.py", "steps/letter_parser.py", "steps/rotations.py"} <= set(files)


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `evolog data get gpqa`"):
        data.load(tmp_path, 0)
