"""A task that came from a SIA task directory: its items, its answers, and how a submission is judged.

The task's folder was made by `sia_directory.py`; its modules call the functions below. The directory's evaluate.py runs
in the sandbox alone (`evaluation.py`).
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from events.errors import Misconfigured
from tasks.adapters import folder as folders
from tasks.contract import Example, Item, Layout, Public, Scored, Submission, Tools
from tasks.kit import digest

EVALUATION = Path(__file__).with_name("evaluation.py")
OUTCOMES = {
    "right": "evaluate.py gives the answer all that one can earn",
    "wrong": "evaluate.py gives the answer less",
    "unparsed": "the item has no answer",
    "scored": "the answer is part of a submission whose score is no mean over its items",
}
SECONDS = 600.0
"""The longest that an evaluation takes."""
MEMORY = 2 << 30
"""Bytes of an evaluation."""
TEXT_COLUMNS = ("prompt", "question", "text", "input", "problem_statement", "problem")
"""The columns that may hold what is asked, in this order."""
CHOICE_COLUMNS = ("options", "choices")

Form = Literal["csv", "details", "responses", "exact"]
"""How answers are handed in: as submission.csv, as results/submission.json with `details`, as responses.json, or, where
there is no evaluate.py, not at all.
"""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a SIA directory."""

    name: str
    source: str
    """Where the directory was, for people."""
    description: str
    items: str
    """The table of items, by its path in data/public."""
    id: str
    label: str
    truth: str
    """The file of true answers, by its path in the directory."""
    truth_columns: tuple[str, ...]
    """Its columns; empty where it is an object by the items' names."""
    train: str
    """The table of train examples in a program's folder."""
    sample: str = ""
    """The sample submission in a program's folder, if there is one."""
    script: str = ""
    """evaluate.py, by its path in the directory; empty where there is none."""
    form: Form = "exact"
    figure: tuple[str, ...] = ()
    """Where results.json has the score."""
    best: float = 1.0
    """The score of true answers."""
    json_values: bool = False
    """Whether some answers are no texts, but lists or numbers."""
    choices: tuple[str, ...] = ()
    """The labels, where an answer is a choice among some."""


class Entry(msgspec.Struct, frozen=True):
    """A row of the table of items, or of a table that has labels in it."""

    id: str
    name: str
    """What the directory calls it."""
    record: dict[str, Any]
    """Its columns, but for the label."""
    labelled: bool = False
    """Whether it is from a table that has labels in it."""


class Case(msgspec.Struct, frozen=True):
    """What evaluate.py is called on."""

    truth: str
    """The file of true answers."""
    files: dict[str, str]
    """The files that are handed in."""


def load(folder: Path, seed: int) -> Public:
    """The task as the loop may see it: labels of train alone."""
    task = _task(folder)
    spec = task.spec
    train, others, spare = [], {"dev": list[Item](), "test": list[Item]()}, list[dict[str, Any]]()
    for entry, split in zip(task.entries, _splits(task, seed), strict=True):
        prompt, files = prompt_of(entry.record, spec.id), {spec.items: table_of(spec.items, [entry.record])}
        if split.name == "train":
            label = task.answers[entry.id]
            train.append(Example(entry.id, prompt, label, split.fold, folders.group_of(prompt), files, name=entry.name))
        elif split.name == "spare":
            spare.append({**entry.record, spec.label: value_of(spec, task.answers[entry.id])})
        else:
            others[split.name].append(Item(entry.id, prompt, folders.group_of(prompt), files, name=entry.name))
    examples = table_of(spec.train, spare) if spare else ""
    layout = Layout(spec.items, spec.train, spec.id, spec.label, shown_files(folder), spec.sample, examples)
    dev, test = tuple(others["dev"]), tuple(others["test"])
    digests = {"train": digest((tuple(train), layout)), "dev": digest(dev), "test": digest(test)}
    return Public(spec.name, spec.choices, tuple(train), dev, test, digests, layout)


def labels(folder: Path, seed: int, *splits: str) -> dict[str, str]:
    """The labels of these splits, by item id."""
    task = _task(folder)
    placed = zip(task.entries, _splits(task, seed), strict=True)
    return {entry.id: task.answers[entry.id] for entry, split in placed if split.name in splits}


def traces(folder: Path, seed: int) -> list[tuple[str, str]]:
    """What the policy tiny-lm is pre-trained on."""
    train = load(folder, seed).train
    return folders.traces([example.prompt for example in train], [example.label or "" for example in train], seed)


def version(folder: Path) -> str:
    """The verifier's version."""
    script = folder / "evaluate.py"
    return f"evaluate-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}-1" if script.is_file() else "exact-1"


def judge(
    folder: Path, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str], tools: Tools
) -> Submission:
    """What evaluate.py says of a submission; where there is none, the share of answers that are the label.

    Where the score of a submission is the mean of those of its items, each handed in alone, the reward is their mean
    over all items: one that is left out counts as wrong. Otherwise it is the score of the submission as it is. Raises
    Misconfigured where evaluate.py fails.
    """
    spec = spec_of(folder)
    given = {item.id: answer for item in items if (answer := answers.get(item.id))}
    judged = {id: Scored(0.0, "unparsed") for id in answers if id not in given}
    if not given:
        return Submission(Scored(0.0, "unparsed"), judged)
    if spec.form == "exact":
        rewards = [float(given[item.id].strip() == labels[item.id].strip()) for item in items if item.id in given]
        return _by_item(items, dict(zip(given, rewards, strict=True)), judged)
    records = {item.id: _record(spec, item) for item in items}
    true = {id: (record, value_of(spec, labels[id])) for id, record in records.items()}
    handed_in = {id: (records[id], value_of(spec, answer)) for id, answer in given.items()}
    answers_given = [*handed_in.values()]
    cases = [case_of(spec, [*true.values()], answers_given), case_of(spec, [true[id] for id in given], answers_given)]
    cases += [case_of(spec, [true[id]], [handed_in[id]]) for id in given]
    whole, answered, *each = evaluated(spec, (folder / "evaluate.py").read_bytes(), shown_files(folder), cases, tools)
    if isinstance(whole, str):
        raise Misconfigured(f"evaluate.py of {spec.source} failed on a submission: {whole}.")
    alone = [one for one in each if not isinstance(one, str) and has_figure(one, spec.figure)]
    if not isinstance(answered, str) and has_figure(answered, spec.figure) and len(alone) == len(each):
        rewards = [figure(one, spec.figure) / spec.best for one in alone]
        if math.isclose(sum(rewards) / len(rewards), figure(answered, spec.figure) / spec.best, abs_tol=1e-6):
            return _by_item(items, dict(zip(given, rewards, strict=True)), judged)
    return Submission(Scored(figure(whole, spec.figure) / spec.best, "scored"), judged)


def _by_item(items: Sequence[Item], rewards: Mapping[str, float], judged: Mapping[str, Scored]) -> Submission:
    total = sum(rewards.values()) / len(items)
    own = {id: Scored(reward, "right" if reward >= 1 - 1e-9 else "wrong") for id, reward in rewards.items()}
    return Submission(Scored(total, "right" if total >= 1 - 1e-9 else "wrong"), {**own, **judged})


def evaluated(
    spec: Spec, script: bytes, shown: Mapping[str, bytes], cases: Sequence[Case], tools: Tools
) -> list[dict[str, Any] | str]:
    """What evaluate.py leaves as results.json for each case, in the sandbox, or why it leaves nothing.

    Raises Misconfigured where it does not end.
    """
    order = {"script": spec.script, "truth": spec.truth, "cases": cases}
    files: dict[str, str | bytes] = {f"data/public/{path}": content for path, content in shown.items()}
    files |= {spec.script: script, "evaluation.py": EVALUATION.read_bytes(), "cases.json": msgspec.json.encode(order)}
    seconds = 0.9 * SECONDS
    ended = tools.run(files, ["evaluation.py"], seconds=seconds, memory=MEMORY, outputs=["figures.json"])
    try:
        figures = msgspec.json.decode(ended.files["figures.json"], type=list[dict[str, Any]])
    except (KeyError, msgspec.DecodeError):
        why = ended.failure or ended.errors.strip()[-300:] or f"it exited with {ended.exit_code}"
        raise Misconfigured(f"evaluate.py of {spec.source} did not come to an end in the sandbox: {why}.") from None
    results = [one.get("results", one.get("error", "it said nothing")) for one in figures]
    return [one if isinstance(one, dict | str) else "its results.json is no object" for one in results]


def case_of(
    spec: Spec, true: Sequence[tuple[dict[str, Any], Any]], handed_in: Sequence[tuple[dict[str, Any], Any]]
) -> Case:
    """A case, from rows with their true answers, and from rows with the answers that are handed in."""
    return Case(_truth(spec, true), _handed_in(spec, handed_in))


def has_figure(results: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a results.json holds the score."""
    try:
        figure(results, path)
    except Misconfigured:
        return False
    return True


def figure(results: Mapping[str, Any], path: Sequence[str]) -> float:
    """The score in a results.json; raises Misconfigured where there is none."""
    value: Any = results
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Misconfigured(f"results.json has no number at {'.'.join(path)}, where evaluate.py used to leave one.")
    return float(value)


def _truth(spec: Spec, true: Sequence[tuple[dict[str, Any], Any]]) -> str:
    if not spec.truth_columns:
        return msgspec.json.encode({str(record[spec.id]): answer for record, answer in true}).decode()
    rows = [{**record, spec.label: answer} for record, answer in true]
    return table_of(spec.truth, rows, spec.truth_columns)


def _handed_in(spec: Spec, answers: Sequence[tuple[dict[str, Any], Any]]) -> dict[str, str]:
    match spec.form:
        case "csv":
            rows = [{spec.id: record[spec.id], spec.label: answer} for record, answer in answers]
            return {"submission.csv": table_of("submission.csv", rows, (spec.id, spec.label))}
        case "details":
            details = [{"question_id": record[spec.id], "model_answer": answer} for record, answer in answers]
            return {"results/submission.json": msgspec.json.encode({"details": details}).decode()}
        case _:
            responses = [
                {"question_id": record[spec.id], "prompt": prompt_of(record, spec.id), "solution": answer}
                for record, answer in answers
            ]
            return {"responses.json": msgspec.json.encode(responses).decode()}


def table_of(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as a CSV file with a head, or as a JSON list, as the name ends."""
    if not name.endswith(".csv"):
        return msgspec.json.encode(rows).decode()
    out = io.StringIO()
    writer = csv.DictWriter(out, columns or list(rows[0]), extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def rows_of(name: str, text: str) -> list[dict[str, Any]]:
    """The rows of a table; raises ValueError for what is none."""
    if name.endswith(".csv"):
        return [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    return msgspec.json.decode(text, type=list[dict[str, Any]])


def text_of(value: Any) -> str:
    """An answer as a label: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def value_of(spec: Spec, text: str) -> Any:
    """A label, or an answer, as evaluate.py is given it."""
    if not spec.json_values:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def prompt_of(record: Mapping[str, Any], id: str) -> str:
    """What a row asks: its column of text, with its options below; or all its columns where it has none."""
    lower = {str(key).lower(): value for key, value in record.items()}
    text = next((lower[name] for name in TEXT_COLUMNS if isinstance(lower.get(name), str)), None)
    if text is None:
        return "\n".join(f"{key}: {text_of(value)}" for key, value in record.items() if key != id)
    choices = next((lower[name] for name in CHOICE_COLUMNS if isinstance(lower.get(name), dict | list)), None)
    if not choices:
        return str(text)
    named = choices.items() if isinstance(choices, dict) else zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False)
    return f"{text}\n\n" + "\n".join(f"{name}) {text_of(choice)}" for name, choice in named)


def shown_files(folder: Path) -> dict[str, bytes]:
    """The files of data/public that every program finds as they are, by their path there."""
    return {path.relative_to(folder / "shown").as_posix(): path.read_bytes() for path in _files(folder / "shown")}


def spec_of(folder: Path) -> Spec:
    """What was found out about the directory; raises NotFound where the folder holds nothing of it."""
    return folders.read(folder, "sia.json", Spec)


Contents = folders.Contents[Spec, Entry, str]


@lru_cache(maxsize=8)
def _task(folder: Path) -> Contents:
    """A task's folder never changes: it is named by its digest."""
    entries, answers = (
        folders.read(folder, "items.json", list[Entry]),
        folders.read(folder, "answers.json", dict[str, str]),
    )
    return Contents(spec_of(folder), entries, answers)


def _splits(task: Contents, seed: int) -> list[folders.Split]:
    """Where each entry lies. If there is a table with labels, its rows are train and dev, and the items are test;
    otherwise the items are all three. Rows that ask the same stay together.
    """
    groups = [folders.group_of(prompt_of(entry.record, task.spec.id)) for entry in task.entries]
    labelled = [index for index, entry in enumerate(task.entries) if entry.labelled]
    if not labelled:
        return folders.split(groups, seed, folders.DEV_SHARE, folders.TEST_SHARE)
    found = [folders.Split("test", -1)] * len(groups)
    divided = folders.split([groups[index] for index in labelled], seed, folders.LABELLED_DEV_SHARE, 0.0)
    for index, split in zip(labelled, divided, strict=True):
        found[index] = split
    return found


def _record(spec: Spec, item: Item) -> dict[str, Any]:
    (record,) = rows_of(spec.items, item.files[spec.items])
    return record


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
