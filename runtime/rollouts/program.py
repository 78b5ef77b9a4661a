"""Runs scaffolds that are programs in SIA's style: `program.py --dataset_dir D --working_dir W` answers all items of a
shard in one run.

D holds what a scaffold may see, in the layout of SIA's LawBench, or in that of the task (`tasks.contract.Layout`). W
holds afterwards what the program answered, as `submission.csv` or as JSON in the shapes that SIA's evaluators read. How
a program is started is a function, `LaunchProgram`.
"""

import ast
import csv
import io
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple

import msgspec

from events.kinds import RolloutFailure
from runtime.rollouts.host import SCAFFOLD_ENVIRONMENT, AttemptOutcome, ScaffoldData, ScaffoldLimits, make_readable
from runtime.sandbox import descriptors
from runtime.sandbox import limits as sandbox
from runtime.sandbox.bwrap import WORK
from runtime.sandbox.choose import broken, provide_anew
from runtime.sandbox.launch import Command, Confined, Kind, seen_at
from tasks.contract import Example, Item, Layout

PROGRAM_NAMES = ("target_agent.py", "reference_target_agent.py", "agent.py", "main.py")
RELAY = Path(__file__).parent / "openai" / "relay.py"
RELAY_INSIDE, SOCKET_INSIDE = "/evolog/bridge_relay.py", "/evolog/bridge.sock"
CODE, DATASET, WORKING = "/code", "/data", "/workdir"
"""Where a program finds its code, its dataset and its working directory; a launcher binds them, or puts its own paths
in their place.
"""
ANSWER_LIMIT = 16 * 1024
"""Characters of an answer."""
OUTPUT_LIMIT = 4096
"""Bytes that are kept of what a program prints, the last ones."""
NO_HTTP = (
    "it reaches the model over HTTP, which Landlock's profile cannot give; run it on a host whose profile is "
    "bubblewrap's"
)
ROWS_LIMIT = 100_000
"""Rows of a file of answers."""
BLOCK = 512
PAX, PLAIN = b"x", (b"0", b"\0")
KINDS = (PAX, *PLAIN, *(b"%d" % number for number in range(1, 7)))
"""The kinds of entries in a tar that the relay may write: extended attributes, files; then links, devices, folders and
pipes, which are not read.
"""
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,8}) ([^=\n]{1,100})=")
GRACE = 10.0
"""Seconds beyond a program's time, in which the relay writes out its results."""


NOTHING: Mapping[str, bytes] = {}
"""The files of a program whose relay did not come to write them out."""


class OutputLimits(NamedTuple):
    """How much is read of the files that a program left."""

    files: int = 10_000
    file: int = 16 * 1024**2
    """Bytes; a larger file is left out."""
    total: int = 64 * 1024**2
    """Bytes of all files together."""


class OutputTooLarge(Exception):
    """A program left more files or bytes than `OutputLimits` allows."""


class ProgramResult(NamedTuple):
    """How a program ended, and what it left."""

    code: int
    """Its exit status."""
    files: Mapping[str, bytes]
    """The files of its working directory, by relative path."""
    output: str = ""
    """The last that it printed."""
    kind: RolloutFailure | Literal[""] = ""
    """The kind of failure; empty where it ended by itself."""
    reason: str = ""


LaunchProgram = Callable[[Sequence[str], Mapping[str, Path], Mapping[str, str]], ProgramResult]
"""Runs Python with these arguments, these read-only folders by the path at which they appear, and this environment,
beside a relay.
"""


def entry_of(files: Mapping[str, bytes], *, with_layout: bool = False) -> str | None:
    """The program of a scaffold's folder; None where `agent.py` defines `solve`, or where there is no program.

    A program names `--dataset_dir`, but for a task with a layout of its own, where it need not.
    """
    if "agent.py" in files and _binds_solve(files["agent.py"]):
        return None
    named = (name for name in PROGRAM_NAMES if b"--dataset_dir" in files.get(name, b""))
    return next(named, next((name for name in PROGRAM_NAMES if name in files), None) if with_layout else None)


def _binds_solve(source: bytes) -> bool:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return False
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return "solve" in names


def retarget(source: str) -> str:
    """A program's source with `..._BASE_URL`, `..._MODEL` and `MODEL_NAME` read from the environment, so that it calls
    the policy.
    """
    for name, variable in ((r"\w*BASE_URL", "OPENAI_BASE_URL"), (r"(?:\w*_)?MODEL(?:_NAME)?", "OPENAI_MODEL")):
        source = re.sub(
            rf"^({name}\s*=\s*)([\"']).*?\2", rf'\1__import__("os").environ["{variable}"]', source, flags=re.MULTILINE
        )
    return source


def write_code(folder: Path, files: Mapping[str, bytes]) -> str:
    """Write a program's folder, each Python file as `retarget` changes it.

    Returns all of its Python as one text, for `environment`.
    """
    sources = []
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".py"):
            sources.append(retarget(data.decode(errors="surrogateescape")))
            data = sources[-1].encode(errors="surrogateescape")
        (folder / path).write_bytes(data)
    return "\n".join(sources)


def environment(source: str, token: str, model: str) -> dict[str, str]:
    """A program's environment variables: the bridge's token as every `..._API_KEY` that its source names, and the
    model's alias.
    """
    keys = {
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "GEMINI_API_KEY",
        *re.findall(r"\b[A-Z][A-Z0-9_]*_API_KEY\b", source),
    }
    return {**SCAFFOLD_ENVIRONMENT, "OPENAI_MODEL": model, **dict.fromkeys(sorted(keys), token)}


def write_dataset(folder: Path, data: ScaffoldData, items: Sequence[Item], description: str) -> None:
    """Write a dataset folder, with no answer to an item in it.

    It holds `train.csv` with labels, `test.csv` with the items to answer, `classes.json`, `sample_submission.csv` and
    `task.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = [(number, *example[:2]) for number, example in enumerate(data.train)]
    first = data.labels[0] if data.labels else ""
    files = {
        "train.csv": _csv(("id", "text", "label"), train),
        "test.csv": _csv(("id", "text"), [(item.id, item.prompt) for item in items]),
        "sample_submission.csv": _csv(("id", "label"), [(item.id, first) for item in items]),
        "classes.json": msgspec.json.format(msgspec.json.encode(data.labels)),
        "task.md": TASK.format(
            description=description, train=len(train), items=len(items), labels=len(data.labels)
        ).encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_layout(
    folder: Path, layout: Layout, train: Sequence[Example], items: Sequence[Item], labels: Sequence[str]
) -> None:
    """Write the dataset folder of a task with a layout of its own, with no answer to an item in it."""
    shown = [(example.files[layout.items], example.label) for example in train if example.label is not None]
    learnt = _table(layout.train, [table for table, _ in shown], layout.label, [label for _, label in shown])
    examples = [*([learnt.decode()] if shown else []), *([layout.examples] if layout.examples else [])]
    files = {
        **layout.files,
        layout.items: _table(layout.items, [item.files[layout.items] for item in items]),
        layout.train: _table(layout.train, examples),
    }
    if layout.sample:
        first = labels[0] if labels else ""
        files[layout.sample] = _csv((layout.id, layout.label), [(item.name, first) for item in items])
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _table(name: str, tables: Sequence[str], column: str = "", values: Sequence[str] = ()) -> bytes:
    """The rows of some tables in one, with a further column if one is named."""
    if name.endswith(".csv"):
        read = [list(csv.reader(io.StringIO(table, newline=""))) for table in tables]
        head = (*read[0][0], column) if read and column else read[0][0] if read else ()
        rows = [row for _, *rows in read for row in rows]
        return _csv(head, [(*row, value) for row, value in zip(rows, values, strict=True)] if column else rows)
    records = [record for table in tables for record in msgspec.json.decode(table, type=list[dict[str, Any]])]
    if column:
        records = [{**record, column: _value(value)} for record, value in zip(records, values, strict=True)]
    return msgspec.json.format(msgspec.json.encode(records))


def _value(label: str) -> Any:
    """A label as JSON has it: a list or an object that is written as JSON, else the text."""
    if label.startswith(("[", "{")):
        try:
            return msgspec.json.decode(label)
        except msgspec.DecodeError:
            return label
    return label


TASK = """{description}

- `train.csv`: {train} examples, `id,text,label`
- `test.csv`: {items} items to answer, `id,text`
- `classes.json`: the {labels} labels that there are

Write `submission.csv` into the working directory, with the columns `id` and `label` and a row for every item of
`test.csv`. The model is reached by OpenAI's API at `OPENAI_BASE_URL`, as `OPENAI_MODEL`.
"""


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue().encode()


def run(launch: LaunchProgram, code: Path, entry: str, dataset: Path, env: Mapping[str, str]) -> ProgramResult:
    """Run a program over a dataset folder."""
    return launch(
        [f"{CODE}/{entry}", "--dataset_dir", DATASET, "--working_dir", WORKING], {CODE: code, DATASET: dataset}, env
    )


def outcomes(
    items: Sequence[Item], ended: ProgramResult, attempt: int = 0, seconds: float = 0.0
) -> list[AttemptOutcome]:
    """An outcome for each item. Answers count however the program ended. They are given by the item's name in its
    files, or by its id where it has none.

    An item that a program left out was answered with None where the program ended well, and else failed as the program
    did.
    """
    try:
        answers, twice = answers_in(ended.files)
        kind, reason = ended.kind, ended.reason
    except ValueError as wrong:
        answers, twice, kind, reason = {}, set(), "nonsense", str(wrong)
    if not kind and ended.code:
        lines = ended.output.strip().splitlines()
        kind, reason = "crashed", f"the program exited with {ended.code}{': ' + lines[-1][:300] if lines else ''}"
    each = seconds / max(1, len(items))
    results = []
    for item in items:
        answer = answers.get(item.name or item.id)
        if (item.name or item.id) in twice:
            results.append(
                AttemptOutcome(
                    item.id, attempt, kind="nonsense", reason="the program answered this item more than once"
                )
            )
        elif answer is not None and len(answer) > ANSWER_LIMIT:
            results.append(
                AttemptOutcome(
                    item.id,
                    attempt,
                    kind="nonsense",
                    reason=f"an answer of {len(answer)} characters, at most {ANSWER_LIMIT}",
                )
            )
        elif answer is None and kind:
            results.append(AttemptOutcome(item.id, attempt, kind=kind, reason=reason))
        else:
            results.append(AttemptOutcome(item.id, attempt, answer=answer, seconds=each))
    return results


def answers_in(files: Mapping[str, bytes]) -> tuple[dict[str, str], set[str]]:
    """The answers by item, and the items answered more than once, from the first file that holds any.

    The order is: submission.csv, predictions.csv, the last of results/*.json by name, then responses.json,
    results*.json, submission*.json and output*.json by name. Raises ValueError for a file that cannot be read.
    """
    names = [name for name in ("submission.csv", "predictions.csv") if name in files]
    names += sorted((name for name in files if re.fullmatch(r"results/[^/]+\.json", name)), reverse=True)
    names += [
        name for name in sorted(files) if re.fullmatch(r"responses\.json|(results|submission|output)[^/]*\.json", name)
    ]
    for name in names:
        try:
            found = _csv_rows(files[name]) if name.endswith(".csv") else _json_rows(files[name])
            rows = list(islice(found, ROWS_LIMIT + 1))
        except (csv.Error, ValueError, msgspec.DecodeError, RecursionError) as wrong:
            raise ValueError(f"{name[:100]} cannot be read: {wrong}; expected rows of an id and an answer") from wrong
        if len(rows) > ROWS_LIMIT:
            raise ValueError(f"{name[:100]} holds more than {ROWS_LIMIT} rows; expected one for each item")
        if rows:
            counts = Counter(id for id, _ in rows)
            return dict(rows), {id for id, count in counts.items() if count > 1}
    return {}, set()


def _csv_rows(data: bytes) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    head = reader.fieldnames or ()
    if len(head) < 2:
        return
    key, value = ("id" if "id" in head else head[0]), ("label" if "label" in head else head[-1])
    for row in reader:
        if row[key] and row[value]:
            yield row[key], row[value]


def _json_rows(data: bytes) -> Iterator[tuple[str, str]]:
    decoded = msgspec.json.decode(data)
    rows = decoded.get("details") if isinstance(decoded, dict) else decoded
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            id = _first(row, "question_id", "id")
            answer = _first(row, "model_answer", "solution", "answer", "label")
            if id is not None and answer not in (None, ""):
                yield str(id), answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def item_of_call(prompt: str, items: Sequence[Item]) -> str:
    """The item that a program's call is about: the one with the longest prompt that occurs in the call's, or else the
    one with the longest first paragraph that does and is no other's; empty where there is none.
    """
    inside = [item for item in items if item.prompt and item.prompt in prompt]
    if inside:
        return max(inside, key=lambda item: len(item.prompt)).id
    starts = [item.prompt.split("\n\n")[0].strip() for item in items]
    times = Counter(starts)
    begun = {start: item.id for start, item in zip(starts, items, strict=True) if start in prompt and times[start] == 1}
    return begun[max(begun, key=len)] if begun and max(map(len, begun)) else ""


def read_tar(stream: IO[bytes], limits: OutputLimits = OutputLimits()) -> dict[str, bytes]:
    """The regular files of a tar by relative path, and nothing else of it: no link, device or hole, no path that leads
    out.

    Reads of the format what the relay writes, and not by `tarfile`, which trusts what a header says. Raises
    OutputTooLarge beyond the limits, where it stops reading, and ValueError for what is no tar.
    """
    data = stream.read(limits.total + 1)
    if len(data) > limits.total:
        raise OutputTooLarge("the program left more than is read")
    try:
        return _files(data, limits)
    except ValueError as wrong:
        raise ValueError(f"what the program left cannot be read: {wrong}") from wrong


def _files(tar: bytes, limits: OutputLimits) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    at, members, long_name = 0, 0, ""
    while any(block := tar[at : at + BLOCK]):
        kind, name, size = _header(block)
        start, at = at + BLOCK, at + BLOCK + size + -size % BLOCK
        if at > len(tar):
            raise ValueError(f"an entry of {size} bytes is longer than what is left")
        if kind == PAX:
            long_name = _pax_path(tar[start : start + size])
            continue
        members += 1
        if members > limits.files:
            raise OutputTooLarge(f"the program left more than {limits.files} files")
        path, long_name = PurePosixPath(long_name or name), ""
        if kind in PLAIN and size <= limits.file and not path.is_absolute() and ".." not in path.parts:
            files[str(path)] = tar[start : start + size]
    if len(block) < BLOCK:
        raise ValueError("it has no end")
    return files


def _header(block: bytes) -> tuple[bytes, str, int]:
    """The kind of a member, its name and its bytes; raises ValueError for a block that is no header (POSIX.1-1988)."""
    if _octal(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise ValueError("a header's checksum is wrong")
    kind, name, prefix = block[156:157], _text(block[:100]), _text(block[345:500])
    if kind not in KINDS:
        raise ValueError(f"there is an entry of the kind {kind!r}")
    return kind, f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name, _octal(block[124:136])


def _octal(field: bytes) -> int:
    if not re.fullmatch(rb" *[0-7]+[ \0]*", field):
        raise ValueError(f"{field!r} is no number")
    return int(field.strip(b" \0"), 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode(errors="replace")


def _pax_path(records: bytes) -> str:
    """The path among a member's extended attributes, or nothing (POSIX.1-2001).

    Raises ValueError for an attribute that would change the member's size.
    """
    at, path = 0, ""
    while at < len(records):
        head = _PAX_RECORD.match(records, at)
        end = at + int(head[1]) if head else 0
        if head is None or not head.end() < end <= len(records) or records[end - 1 : end] != b"\n":
            raise ValueError("an extended attribute is malformed")
        if head[2] == b"size" or head[2].startswith(b"GNU.sparse"):
            raise ValueError("a file's size is given twice")
        if head[2] == b"path":
            path = _text(records[head.end() : end - 1])
        at = end
    return path


def launcher(
    kind: Kind,
    scratch: Path,
    socket: Path,
    seconds: float,
    limits: ScaffoldLimits = ScaffoldLimits(),
    output_limits: OutputLimits = OutputLimits(),
) -> LaunchProgram:
    """Runs programs in a sandbox of this kind, over the bridge at `socket`, for so many seconds at most.

    What they leave comes out through a pipe, however they ended. Raises HostUnfit or TryAgain where the sandbox has
    failed.
    """

    def launch(arguments: Sequence[str], folders: Mapping[str, Path], env: Mapping[str, str]) -> ProgramResult:
        if kind == "landlock":
            return ProgramResult(1, {}, kind="unloadable", reason=NO_HTTP)
        for folder in folders.values():
            make_readable(folder)
        with tempfile.TemporaryDirectory(dir=scratch) as working:
            binds = {**folders, RELAY_INSIDE: RELAY, SOCKET_INSIDE: socket}
            paths = {inside: seen_at(kind, inside, source) for inside, source in binds.items()}
            paths[WORKING] = WORK if kind == "bwrap" else working
            read, write = descriptors.pipe()
            relay_command = [paths[RELAY_INSIDE], paths[SOCKET_INSIDE], "0", f"{seconds:g}", str(write), paths[WORKING]]
            argv = [
                sys.executable,
                "-I",
                *relay_command,
                sys.executable,
                "-s",
                "-u",
                *(_with_path(argument, paths) for argument in arguments),
            ]
            environment = {**env, "HOME": paths[WORKING]}
            resources = sandbox.ResourceLimits(
                memory=limits.memory, cpu_seconds=limits.cpu_seconds, file_size=limits.file_size
            )
            child = Confined(kind, Command(argv, binds, environment, Path(working), resources, (write,)))
            os.close(write)
            try:
                ended = _result(child, read, seconds, output_limits)
                if failure := child.failure():
                    raise broken(kind, failure)
            finally:
                child.close()
            if ended.files is NOTHING and ended.kind in ("", "hung"):
                provide_anew(kind)  # a host that can confine nothing any more must not look like this
            return ended

    return launch


def _result(child: Confined, read: int, seconds: float, limits: OutputLimits) -> ProgramResult:
    """Wait for a program, for what it printed last, and for what it left."""
    began = time.monotonic()
    kill_timer = threading.Timer(seconds + GRACE, child.kill)  # for a relay that was stopped, too
    output: deque[bytes] = deque(maxlen=OUTPUT_LIMIT // 256)
    readers = [
        threading.Thread(target=_read_output, args=(stream, output), daemon=True)
        for stream in (child.stdout, child.stderr)
    ]
    for each in (kill_timer, *readers):
        each.start()
    child.stdin.close()
    kind: RolloutFailure | Literal[""] = ""
    reason, files = "", NOTHING
    try:
        with os.fdopen(read, "rb") as stream:
            files = read_tar(stream, limits)
    except OutputTooLarge as wrong:
        child.kill()
        kind, reason = "flooded", str(wrong)
    except ValueError:
        pass  # it was stopped before it was written
    code = child.wait()
    kill_timer.cancel()
    for each in readers:
        each.join(1.0)
    if child.violation:
        kind, reason = "crashed", f"the program was stopped: {child.violation}"
    elif not kind and code and time.monotonic() - began >= seconds:
        kind, reason = "hung", f"the program had not ended after {seconds:g} s"
    return ProgramResult(code, files, b"".join(output).decode(errors="replace"), kind, reason)


def _read_output(stream: IO[bytes], output: "deque[bytes]") -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 256):
            output.append(chunk)


def _with_path(argument: str, paths: Mapping[str, str]) -> str:
    """An argument as the program sees it: a path that is bound, by its path there."""
    for inside, path in paths.items():
        if argument == inside or argument.startswith(inside + "/"):
            return path + argument[len(inside) :]
    return argument
