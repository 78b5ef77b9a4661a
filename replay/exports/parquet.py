"""Writes the tables of an archive as Parquet: of all of its runs in folders, or of one run as a data set with a card.

A data set of one run is what `datasets.load_dataset(FOLDER, TABLE)` loads: a file for each table, and a `README.md`
whose header names them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec

from events.errors import UsageError
from events.judgement import TrajectoryScored
from events.subjects import GOLD
from replay.archive.projection import Archive
from replay.archive.query import text_literal
from replay.archive.rebuild import rebuild_from_history
from replay.closing import closing
from replay.exports.attempts import exported_attempts, prompts
from replay.exports.target import new_folder
from replay.history import History
from runtime.log.port import Stored

BOOKKEEPING = ("cursor", "made")
"""Tables of an archive that describe the file and hold no events."""
CONVERSATIONS = "conversations"
CARD = "README.md"
TABLES = {
    "trajectories": "each attempt at an item: answer, reward, outcome, or how it failed",
    CONVERSATIONS: "each completion that an attempt was given: prompt, text, token ids and log-probabilities",
    "generations": "each generation: its lever, the reason for it, dev score with its interval, and the verdict",
    "candidates": "each candidate: scaffold, adapter, parents and scores",
    "levers": "each choice of a lever, with its propensity, the figures it went by, and what it gained",
    "lineage": "each candidate with each of its ancestors",
    "runs": "the run as a whole",
    "adapters": "each adapter that was trained",
    "cost": "what the parts of the run used",
}
"""What of an archive's views a data set holds first, and what a row is; the types of events follow, by their tags."""
_CONVERSATION = {
    "trajectory": "VARCHAR",
    "generation": "BIGINT",
    "purpose": "VARCHAR",
    "split": "VARCHAR",
    "item": "VARCHAR",
    "attempt": "BIGINT",
    "ordinal": "BIGINT",
    "model": "VARCHAR",
    "adapter": "VARCHAR",
    "temperature": "DOUBLE",
    "prompt": "VARCHAR",
    "hint": "VARCHAR",
    "choices": "VARCHAR[]",
    "completion": "VARCHAR",
    "tokens": "BIGINT[]",
    "logprobs": "DOUBLE[]",
    "answer": "VARCHAR",
    "reward": "DOUBLE",
    "outcome": "VARCHAR",
}


class DataSetTable(msgspec.Struct, kw_only=True):
    """One table of a data set: its name, what a row is, and how many there are."""

    name: str
    row: str
    rows: int


class DataSetExport(msgspec.Struct, kw_only=True):
    """A data set that was written."""

    version: int = 1
    run: str
    folder: str
    tables: list[DataSetTable]


class _Source(NamedTuple):
    """A table or view to be written: its name in the data set, the SQL of its rows, and what a row is."""

    name: str
    sql: str
    row: str


def require_empty(folder: Path) -> None:
    """Raise `UsageError` for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not an empty folder, and Parquet files of another time would be mixed with these: name "
            "another."
        )


def write_parquet(archive: Path, folder: Path) -> None:
    """Write each table that has rows to FOLDER/TABLE/run=RUN/*.parquet, compressed by zstd, in the order of the log.

    Raises `UsageError` where the folder holds something.
    """
    require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # a connection of its own: an archive's own reaches no files
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {_quoted(archive)} AS archive (READ_ONLY)").fetchall()
        for table in filled_tables(archive):
            run = ", split_part(subject, '.', 2) AS run" if table == "unreadable" else ""
            target = _quoted(folder / table)
            rows = f'SELECT *{run} FROM archive."{table}" ORDER BY seq'
            connection.execute(
                f"COPY ({rows}) TO {target} (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (run))"
            ).fetchall()


def write_data_set(history: History, folder: Path, *, gold: bool = False) -> DataSetExport:
    """Write one run as a data set into a new folder; with `gold`, the auditor's tables too.

    Raises `UsageError` for a folder that holds something.
    """
    with new_folder(folder) as target, tempfile.TemporaryDirectory(prefix="evolog-") as work:
        archive, auditors = Path(work) / "log.duckdb", Path(work) / "auditor.duckdb"
        rebuild_from_history(history, archive)
        _write_conversations(history, Path(work) / f"{CONVERSATIONS}.ndjson")
        if gold and history.gold:
            _project(history.gold, auditors, history.run)
        (target / "data").mkdir()
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.execute("SET TimeZone = 'UTC'").fetchall()
            connection.execute(f"ATTACH {_quoted(archive)} AS log (READ_ONLY)").fetchall()
            connection.execute("USE log").fetchall()
            sources = [_view(name, row, Path(work)) for name, row in TABLES.items()]
            sources += [_events("log", name) for name in filled_tables(archive)]
            if auditors.exists():
                connection.execute(f"ATTACH {_quoted(auditors)} AS auditor (READ_ONLY)").fetchall()
                sources += [_events("auditor", name) for name in filled_tables(auditors) if name != "events"]
            tables = [table for source in sources if (table := _write(connection, source, history.run, target))]
        (target / CARD).write_text(_card(history, tables, gold=gold), encoding="utf-8")
    return DataSetExport(run=history.run, folder=str(folder), tables=tables)


def filled_tables(archive: Path) -> list[str]:
    """The names of an archive's tables that have rows, in alphabetical order, without `BOOKKEEPING`."""
    with duckdb.connect(str(archive), read_only=True) as connection:
        names = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' ORDER BY table_name"
        ).fetchall()
        tables = [name for (name,) in names if name not in BOOKKEEPING]
        return [name for name in tables if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]


def _project(messages: Sequence[Stored], file: Path, run: str) -> None:
    archive = Archive(file, GOLD, run)
    try:
        archive.add(archive.read(messages))
        archive.commit()
    finally:
        archive.close()


def _view(name: str, row: str, work: Path) -> _Source:
    if name != CONVERSATIONS:
        return _Source(name, f'SELECT * FROM log."{name}" WHERE run = $run', row)
    columns = ", ".join(f"{column}: '{kind}'" for column, kind in _CONVERSATION.items())
    file = _quoted(work / f"{CONVERSATIONS}.ndjson")
    limit = "maximum_object_size = 1073741824"
    return _Source(
        name, f"SELECT * FROM read_json({file}, format = 'newline_delimited', columns = {{{columns}}}, {limit})", row
    )


def _events(database: str, name: str) -> _Source:
    run = "split_part(subject, '.', 2)" if name == "unreadable" else "run"
    row = {"events": "each event of any type, without its data", "unreadable": "each message that cannot be read"}
    return _Source(name, f'SELECT * FROM {database}."{name}" WHERE {run} = $run', row.get(name, f"each `{name}`"))


def _write(connection: duckdb.DuckDBPyConnection, source: _Source, run: str, target: Path) -> DataSetTable | None:
    """Write a table, in the order of the log where it has one; None where it has no rows.

    Maps become lists of keys and values, which every reader of Parquet knows.
    """
    sql = source.sql.replace("$run", text_literal(run))
    columns = connection.execute(f"DESCRIBE {sql}").fetchall()
    if not (counted := connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()) or not counted[0]:
        return None
    values = ", ".join(
        f'map_entries("{name}") AS "{name}"' if str(kind).startswith("MAP(") else f'"{name}"'
        for name, kind, *_ in columns
    )
    order = " ORDER BY seq" if columns[0][0] == "seq" else "" if source.name == CONVERSATIONS else " ORDER BY ALL"
    path = _quoted(target / "data" / f"{source.name}.parquet")
    connection.execute(
        f"COPY (SELECT {values} FROM ({sql}){order}) TO {path} (FORMAT parquet, COMPRESSION zstd)"
    ).fetchall()
    return DataSetTable(name=source.name, row=source.row, rows=counted[0])


def _write_conversations(history: History, path: Path) -> None:
    asked = prompts(history)
    with path.open("wb") as file:
        for attempt in exported_attempts(history):
            requested, judgement = attempt.requested, attempt.judgement
            for ordinal, call in enumerate(attempt.calls):
                request, called, index = asked(call.called), call.called, call.completion
                values = (
                    attempt.id,
                    requested.generation,
                    requested.purpose,
                    requested.split,
                    attempt.recorded.item,
                    attempt.recorded.attempt,
                    ordinal,
                    called.model,
                    called.adapter,
                    called.temperature,
                    request.prompt,
                    request.hint,
                    request.choices,
                    call.text,
                    called.tokens[index] if index < len(called.tokens) else (),
                    called.logprobs[index] if index < len(called.logprobs) else (),
                    attempt.answer,
                    attempt.reward,
                    judgement.outcome if isinstance(judgement, TrajectoryScored) else None,
                )
                row = dict(zip(_CONVERSATION, values, strict=True))
                file.write(msgspec.json.encode(row) + b"\n")


def _card(history: History, tables: Sequence[DataSetTable], *, gold: bool) -> str:
    """The card: a header that says which files are which table, then what the data are and where they come from."""
    started = history.started
    lines = ["---", f"pretty_name: {_yaml(f'evolog run {history.run}')}", "tags:", "- evolog", "configs:"]
    for number, table in enumerate(tables):
        lines += [f"- config_name: {table.name}", f"  data_files: data/{table.name}.parquet"]
        lines += ["  default: true"] if not number else []
    lines += ["---", "", f"# Run {history.run}", ""]
    lines += [
        f"A run of evolog on the task `{_plain(Path(started.task).name)}`: seed {started.seed}, levers "
        f"{' and '.join(started.levers)}, policy `{_plain(started.policy)}`, agent `{_plain(started.agent)}`, verifier "
        f"`{_plain(started.verifier)}`.",
        "",
        "| table | rows | a row is |",
        "|---|---|---|",
        *(f"| `{table.name}` | {table.rows:,} | {table.row} |" for table in tables),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'load_dataset("FOLDER", "{tables[0].name if tables else "runs"}")["train"]',
        "```",
        "",
        "Columns have the names of the archive's tables and of the events' fields. A split of the data set is always",
        "called `train`, as `datasets` has it for files without one; the task's own split is the column `split`.",
        "",
        "Scores of the auditor's gold verifier are in these tables."
        if gold
        else "Nothing of the auditor's gold verifier is in these tables.",
    ]
    if started.private_prompts:
        lines += ["", "The task wants its prompts not to be shown. They are left out."]
    if history.finished:
        lines += ["", f"The log of the run closes with `{closing(history).log}`."]
    return "\n".join(lines) + "\n"


def _yaml(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON string is one of YAML


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable() and character not in "`|<>")


def _quoted(path: Path) -> str:
    return text_literal(str(path))
