"""What verifiers and gold may look like, and what is said of those that break the contract."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from events.errors import Misconfigured
from tasks.contract import Item, Scored, Submission
from tasks.loading import Task, load
from tests.harness.paths import TOY
from tests.harness.tasks.smaller import small_toy

HEAD = "from tasks.contract import Scored, Submission\nVERSION = '1'\n"
ITEM = Item("dev0", "a question", metadata={"key": "5"})


def verifier(text: str) -> Task:
    return load(str(TOY)).with_verifier(HEAD + text, "verifier.py")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("answer, label", "answer + label"),
        ("item, answer, label", "item.metadata['key']"),
        ("item, answer, label, tools", "tools"),
        ("answer, label, tools", "answer + label + str(tools)"),
        ("*given", "len(given)"),
    ],
)
def test_a_scoring_function_is_given_what_it_takes(arguments: str, value: str) -> None:
    task = verifier(f"def score({arguments}): return Scored(1, 'right', str({value}))")
    details = task.score(ITEM, "a", "b").details
    given = {"answer + label": "ab", "item.metadata['key']": "5", "tools": "None", "len(given)": "4"}
    assert details == {**given, "answer + label + str(tools)": "abNone"}[value]


def test_a_verifier_says_what_its_words_mean_and_what_it_needs() -> None:
    plain = verifier("def score(answer, label): ...")
    assert set(plain.outcomes) == {"right", "wrong", "unparsed"}
    assert (plain.repeats, plain.seconds, plain.needs, plain.judge_model) == (1, 120.0, (), "")
    own = verifier(
        "OUTCOMES, REPEATS, SECONDS, NEEDS, JUDGE = {'fast': 'it is fast'}, 3, 5, ['cuda'], 'openai:m'\n"
        "def score(answer, label): return Scored(-3.5, answer, 'x' * 9999, (-4, -3), 12)"
    )
    assert (own.repeats, own.seconds, own.needs, own.judge_model) == (3, 5.0, ("cuda",), "openai:m")
    scored = own.score(ITEM, "fast", None)
    assert (scored.reward, scored.interval, scored.micro_usd, len(scored.details)) == (-3.5, (-4, -3), 12, 4000)
    with pytest.raises(Misconfigured, match="the outcome is 'right'; expected one of fast"):
        own.score(ITEM, "right", None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must define one function of score and score_submission"),
        ("def score(a, l): ...\ndef score_submission(i, a, l): ...", "must define one function"),
        ("OUTCOMES = ['a']", "OUTCOMES is ['a']; expected a dict of sentences by word"),
        ("OUTCOMES = {}", "OUTCOMES is {}; expected"),
        ("OUTCOMES = {'a': ''}", "OUTCOMES is {'a': ''}; expected"),
        ("REPEATS = 0", "REPEATS is 0; expected a whole number, 1 or more"),
        ("REPEATS = True", "REPEATS is True; expected"),
        ("SECONDS = 0", "SECONDS is 0; expected a number above 0"),
        ("SECONDS = float('inf')", "SECONDS is inf; expected"),
        ("NEEDS = ('tpu',)", "NEEDS is ('tpu',); expected some of cuda"),
        ("JUDGE = 3", "JUDGE is 3; expected the name of a model"),
    ],
)
def test_a_verifier_that_breaks_the_contract_is_refused(text: str, why: str) -> None:
    score = "\ndef score(answer, label): ..." if "=" in text else ""
    with pytest.raises(Misconfigured, match=re.escape(why)):
        verifier(text + score)


@pytest.mark.parametrize(
    ("scored", "why"),
    [
        ("1.0, 'right', '', (2, 1)", "the interval is (2, 1); expected its lower end, then its upper"),
        ("1.0, 'right', '', (0, float('nan'))", "the interval is (0, nan)"),
        ("1.0, 'right', '', None, -1", "the cost is -1 millionths of a dollar; expected 0 or more"),
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(scored: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(why)):
        verifier(f"def score(answer, label): return Scored({scored})").score(ITEM, "a", "a")


SUBMISSIONS = """
def score_submission(items, answers, labels):
    right = {id: Scored(1.0, 'right') for id, answer in answers.items() if answer == labels.get(id)}
    return Submission(Scored(len(right) / len(items), 'wrong'), right)
"""


def judged(text: str, answers: Mapping[str, str | None]) -> Submission:
    items = [Item("a", ""), Item("b", ""), Item("c", ""), Item("d", "")]
    return verifier(text).score_submission(items, answers, {"a": "x", "b": "y"})


def test_a_submission_credits_the_items_that_it_can() -> None:
    submission = judged(SUBMISSIONS, {"a": "x", "b": "x"})
    assert submission == Submission(Scored(0.25, "wrong"), {"a": Scored(1.0, "right")})
    assert verifier(SUBMISSIONS).submissions and not load(str(TOY)).submissions


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (SUBMISSIONS.replace("answers.items()", "labels.items()"), "judged 'b', which is none of the answered items"),
        (SUBMISSIONS.replace("return Submission", "return list; Submission"), "expected a Submission"),
        (SUBMISSIONS.replace("len(right) / len(items)", "float('nan')"), "the reward is nan"),
    ],
)
def test_a_submission_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(why)):
        judged(text, {"a": "x"})


def test_gold_may_score_by_item_and_have_labels_by_seed(tmp_path: Path) -> None:
    folder = small_toy(tmp_path / "task")
    (folder / "gold.py").write_text(
        "def labels(root, seed): return {f'test{n}': str(seed) for n in range(8)}\n"
        "def score(item, answer, label): return float(item.id + answer + label == 'dev0x3')\n"
        "EXTRA_METRICS = {'id': lambda item, answer, label: len(item.id)}"
    )
    task = load(str(folder))
    assert set(task.gold(3).values()) == {"3"} and not task.gold_is_verifier
    assert [task.gold_score(ITEM, "x", label) for label in ("3", "4")] == [1.0, 0.0]
    assert task.extra_metrics()["id"](ITEM, "x", "3") == 4.0


@pytest.mark.parametrize("gold", ["{}", "{'test0': 'a'}"])
def test_a_task_without_labels_gives_none(tmp_path: Path, gold: str) -> None:
    folder = small_toy(tmp_path / "task")
    text = (folder / "data.py").read_text()
    text = text.replace("Example(id, text, label,", "Example(id, text, None,").replace(
        "    return {id: label for split", "    return {}\n    {id: label for split"
    )
    (folder / "data.py").write_text(text.replace('Public("toy", LABELS,', 'Public("toy", (),'))
    (folder / "gold.py").write_text(f"def labels(root, seed): return {gold}\n")
    task = load(str(folder))
    assert (task.public(0).labels, task.labels(0)) == ((), {})
    if gold == "{}":
        assert task.gold(0) == {}
    else:
        with pytest.raises(Misconfigured, match="labels gave no label for 7 items"):
            task.gold(0)


def test_what_a_tasks_own_code_raises_is_said_with_its_line(tmp_path: Path) -> None:
    own = small_toy(tmp_path / "own")
    text = (own / "data.py").read_text() + "\n\ndef labels(root, seed):\n    return len(None)\n"
    (own / "data.py").write_text(text)
    line = len(text.splitlines())
    with pytest.raises(Misconfigured, match=rf"has no len\(\) \(data\.py, line {line}\); mend it and try again\.$"):
        load(str(own)).labels(0)


@pytest.mark.parametrize(
    ("edits", "fault"),
    [
        ("object()", "EDITS is <object object at "),
        ("['shorter']", "the edit 'shorter' has no name; expected an object with the strings name and summary"),
        ("[type('Mine', (), {'name': 'mine', 'summary': 'Shorter.', 'apply': dict})()]", "has no applies; expected"),
    ],
)
def test_a_catalogue_that_holds_no_edits_is_refused_in_a_sentence(edits: str, fault: str, tmp_path: Path) -> None:
    own = small_toy(tmp_path / "own")
    (own / "catalogue.py").write_text(f"EDITS = {edits}\n")
    with pytest.raises(Misconfigured, match=re.escape(fault)):
        load(str(own)).edits()
