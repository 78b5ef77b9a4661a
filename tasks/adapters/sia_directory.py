"""Makes a task folder of a SIA task directory.

The directory has the task in words (`data/public/task.md`), public files beside it, the true answers in `data/private`,
a reference agent, and mostly an evaluate.py. What lists the items and what holds their answers follows from names that
both have in common. In which form answers are handed in is asked of evaluate.py, in the sandbox: it is the one in which
true answers earn more than others.
"""

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from events.errors import Misconfigured, NotFound
from tasks.adapters import folder as folders
from tasks.adapters.sia import Entry, Form, Spec, case_of, evaluated, figure, text_of
from tasks.contract import Tools

PUBLIC, PRIVATE, LABELLED = "data/public", "data/private", "data/training_data"
TASK_MD, AGENT = f"{PUBLIC}/task.md", "reference/reference_target_agent.py"
SCRIPTS = (f"{PUBLIC}/evaluate.py", "evaluate.py")
FIGURES = ("accuracy", "score", "exact_match", "f1", "reward", "metric")
"""The names of the score that a results.json is read for, in this order."""
FORMS: tuple[Form, ...] = ("details", "responses", "csv")
TRIED = 12
"""Items of which true and other answers are handed in, to find the form."""
FEWEST = 8
"""Items that a task has at least."""


class Table(NamedTuple):
    """A CSV file with a head, or a JSON list of objects, or a JSON object whose keys are the names of items."""

    file: str
    columns: tuple[str, ...]
    """Empty for an object by names; its rows have `name` and `answer`."""
    rows: list[dict[str, Any]]

    def names(self, id: str) -> set[str]:
        """The values of a column; empty where a row has none, or two have the same."""
        values = {str(row[id]) for row in self.rows if row.get(id) not in (None, "")}
        return values if len(values) == len(self.rows) else set()


class Match(NamedTuple):
    """The table of items, that of their answers, and the column of names that they share."""

    items: Table
    truth: Table
    id: str


def adapt(source: Path, parent: Path, tools: Tools) -> Path:
    """Make a task folder of a SIA task directory, under `parent`; returns its path.

    Raises NotFound where there is no such directory, and Misconfigured for one that cannot be a task of evolog.
    """
    root = source.resolve()
    if not root.is_dir():
        raise NotFound(f"There is no directory {source}; --from sia takes the path of a SIA task directory.")
    for needed in (TASK_MD, AGENT):
        if not (root / needed).is_file():
            raise Misconfigured(f"{source} has no {needed}; a SIA task directory has one.")
    public, private = _files(root, PUBLIC), _files(root, PRIVATE)
    for path, content in public.items():
        if content.strip() and content in private.values():
            raise Misconfigured(
                f"{source}: {path} is the same as a file of {PRIVATE}, which nobody may see; remove it."
            )
    tables = _tables(public)
    match = _match(source, tables, _tables(private))
    names = match.items.names(match.id)
    if len(names) < FEWEST:
        raise Misconfigured(f"{source} has {len(names)} items; train, dev and test need {FEWEST} at least.")
    candidates = [column for column in match.truth.columns or ("answer",) if column not in match.items.columns]
    sample = next((table for table in tables if _is_sample(table, match, names)), None)
    labelled, known = _labelled([*tables, *_tables(_files(root, LABELLED))], match, candidates)
    if sample:
        known = known or next((column for column in sample.columns if column in candidates), "")
    if not candidates:
        raise Misconfigured(f"{source}: {match.truth.file} has no column beyond those of {match.items.file}.")
    truth = {str(row[match.id if match.truth.columns else "name"]): row for row in match.truth.rows}
    spec = Spec(
        name=folders.safe_name(f"sia-{root.name}"),
        source=str(root),
        description=public[TASK_MD].decode(errors="replace"),
        items=_inside(match.items.file),
        id=match.id,
        label=known or candidates[-1],
        truth=match.truth.file,
        truth_columns=match.truth.columns,
        train=_train_file(labelled, match.items, public),
        sample=_inside(sample.file) if sample else "",
        script=next((script for script in SCRIPTS if (root / script).is_file()), ""),
        json_values=False,
    )
    shown = {
        _inside(path): content
        for path, content in public.items()
        if path not in {table.file for table in tables if table is labelled or table.names(match.id) & names}
    }
    files = {f"shown/{path}": content for path, content in shown.items()}
    if spec.script:
        script = files["evaluate.py"] = (root / spec.script).read_bytes()
        spec = _tried(spec, [known] if known else candidates, match.items.rows, truth, script, shown, tools)
    entries, answers = [], {}
    for table in (match.items, labelled):
        for row in table.rows if table else ():
            name = str(row[spec.id])
            record = {column: row.get(column, "") for column in match.items.columns}
            entry = Entry(f"{Path(table.file).stem if table else ''}-{name}", name, record, table is labelled)
            entries.append(entry)
            answers[entry.id] = row[spec.label] if table is labelled else truth[name][spec.label]
    values = [text_of(answer) for answer in answers.values()]
    spec = msgspec.structs.replace(
        spec,
        json_values=any(not isinstance(answer, str) for answer in answers.values()),
        choices=_classes(public, values) or folders.choices_of(values),
    )
    files |= _modules(spec) | {
        "scaffold/agent.py": (root / AGENT).read_bytes(),
        "sia.json": msgspec.json.format(msgspec.json.encode(spec)),
        "items.json": msgspec.json.encode(entries),
        "answers.json": msgspec.json.encode(dict(zip(answers, values, strict=True))),
    }
    return folders.write(parent, spec.name, files)


def _files(root: Path, under: str) -> dict[str, bytes]:
    """The files of a folder, by their path in the directory; raises Misconfigured for a link that leads out of it."""
    found = {}
    for path in sorted((root / under).rglob("*")):
        if not path.resolve().is_relative_to(root / under):
            raise Misconfigured(f"{path} leads out of {root / under}; put the file itself there.")
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def _tables(files: Mapping[str, bytes]) -> list[Table]:
    """Those of these files that are tables."""
    return [table for path, content in files.items() if (table := _table(path, content))]


def _table(path: str, content: bytes) -> Table | None:
    try:
        if path.endswith(".csv"):
            reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
            rows = [dict(row) for row in reader]
            return Table(path, tuple(reader.fieldnames or ()), rows) if rows and None not in rows[0] else None
        if path.endswith(".json"):
            value = msgspec.json.decode(content)
            if isinstance(value, dict) and value:
                return Table(path, (), [{"name": name, "answer": answer} for name, answer in value.items()])
            if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
                return Table(path, tuple(dict.fromkeys(key for row in value for key in row)), value)
    except (csv.Error, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        pass
    return None


def _match(source: Path, public: Sequence[Table], private: Sequence[Table]) -> Match:
    """The public table whose rows have the names of a private one's: the one with most columns that the private one
    lacks, or else with most columns.
    """
    found = [
        Match(items, truth, id)
        for truth in private
        for items in public
        for id in items.columns
        if ((truth.columns and id in truth.columns) or not truth.columns)
        and (names := items.names(id))
        and names == truth.names(id if truth.columns else "name")
    ]
    if not found:
        raise Misconfigured(
            f"{source}: no table of {PUBLIC} lists the items that a file of {PRIVATE} answers; expected a CSV or JSON "
            "file in each, with the same names in a column that both have."
        )
    return max(found, key=lambda one: (len({*one.items.columns} - {*one.truth.columns}), len(one.items.columns)))


def _is_sample(table: Table, match: Match, names: set[str]) -> bool:
    return table is not match.items and table.file.endswith(".csv") and table.names(match.id) == names


def _labelled(tables: Sequence[Table], match: Match, candidates: Sequence[str]) -> tuple[Table | None, str]:
    """The table that has the items' names and a label for other items than those, and the column of the label."""
    for table in tables:
        for column in candidates:
            if match.id in table.columns and column in table.columns:
                names = table.names(match.id)
                if names and names != match.items.names(match.id) and set(match.items.columns) <= set(table.columns):
                    return table, column
    return None, ""


def _train_file(labelled: Table | None, items: Table, public: Mapping[str, bytes]) -> str:
    """The name of the table of train examples in a program's folder."""
    if labelled:
        return _inside(labelled.file)
    name = f"train{Path(items.file).suffix}"
    return name if f"{PUBLIC}/{name}" not in public else f"evolog_{name}"


def _inside(path: str) -> str:
    """The path of a public file, or of one of labelled examples, in a program's folder."""
    return path.removeprefix(f"{PUBLIC}/").removeprefix(f"{LABELLED}/")


def _classes(public: Mapping[str, bytes], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that classes.json lists, if it does and they hold all that occur."""
    try:
        classes = msgspec.json.decode(public.get(f"{PUBLIC}/classes.json", b""), type=tuple[str, ...])
    except msgspec.DecodeError:
        return ()
    return classes if set(labels) <= set(classes) and len(set(classes)) == len(classes) else ()


def _tried(
    spec: Spec,
    candidates: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Mapping[str, Any]],
    script: bytes,
    shown: Mapping[str, bytes],
    tools: Tools,
) -> Spec:
    """The spec with the column of labels, the form, and the score's place, with which evaluate.py tells true answers
    from others; raises Misconfigured where it does so in none.
    """
    tried, cases = [], []
    for label in candidates:
        true = [(dict(row), truth[str(row[spec.id])][label]) for row in _chosen(label, rows, spec.id, truth)]
        other = [(row, _other(answer, [one for _, one in true])) for row, answer in true]
        for form in FORMS:
            tried.append(msgspec.structs.replace(spec, label=label, form=form))
            cases += [case_of(tried[-1], true, true), case_of(tried[-1], true, other)]
    results, said = iter(evaluated(spec, script, shown, cases, tools)), ""
    for one in tried:
        best, worse = next(results), next(results)
        if isinstance(best, str) or isinstance(worse, str):
            said = best if isinstance(best, str) else str(worse)
            continue
        for path in _figure_paths(best):
            with contextlib.suppress(Misconfigured):
                if figure(best, path) > max(0.0, figure(worse, path)):
                    return msgspec.structs.replace(one, figure=path, best=figure(best, path))
    raise Misconfigured(
        f"evaluate.py of {spec.source} does not tell true answers from others, whether they are handed in as "
        f"submission.csv, as results/*.json or as responses.json{f' ({said})' if said else ''}; see tasks/adapters/"
        "README.md for what it has to do."
    )


def _chosen(
    label: str, rows: Sequence[Mapping[str, Any]], id: str, truth: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Some rows, of which not all have the same answer if that can be."""
    first = rows[:TRIED]
    answers = [truth[str(row[id])][label] for row in first]
    if all(answer == answers[0] for answer in answers):
        first = [*first[:-1], *[row for row in rows if truth[str(row[id])][label] != answers[0]][:1]]
    return list(first)


def _other(answer: Any, answers: Sequence[Any]) -> Any:
    """Another answer of the same kind than this one."""
    return next((one for one in answers if one != answer and type(one) is type(answer)), "none")


def _figure_paths(results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Where a results.json has numbers of the names of a score, by name; outer ones first."""
    for name in FIGURES:
        if name in results:
            yield (name,)
        for outer, inner in results.items():
            if isinstance(inner, dict) and name in inner:
                yield (outer, name)


def _modules(spec: Spec) -> dict[str, bytes]:
    texts = {
        **folders.shared_modules(
            spec.name, spec.description, spec.choices, "sia", "The items of a SIA task directory."
        ),
        "verifier.py": '''"""The directory's evaluate.py, in the sandbox."""

from pathlib import Path

from tasks.adapters import sia

HERE = Path(__file__).parent
VERSION, OUTCOMES, SECONDS = sia.version(HERE), sia.OUTCOMES, sia.SECONDS


def score_submission(items, answers, labels, tools):
    """The judgement of a submission."""
    return sia.judge(HERE, items, answers, labels, tools)
''',
        "README.md": f"# {spec.name}\n\nMade by `evolog run --from sia` of {spec.source}.\n",
    }
    return {path: text.encode() for path, text in texts.items()}
