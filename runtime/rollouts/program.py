"""Scaffolds that are programs in SIA's style: `program.py --dataset_dir D --working_dir W` answers all items of a shard in one go.

D holds what a scaffold may see, in the layout of SIA's LawBench (a task may add files of its own); W holds afterwards what the program
answered, as `submission.csv` or as JSON in the shapes that SIA's evaluators read. Whoever starts the program says how: `Launch`.
"""

import ast
import csv
import io
import os
import re
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple, cast

import msgspec

from events.kinds import RolloutFailure
from runtime.rollouts.host import ENVIRONMENT, Data, Limits, Outcome, open_to_all
from runtime.sandbox import limits as sandbox
from runtime.sandbox.bwrap import WORK
from runtime.sandbox.launch import Command, Confined, Kind, seen_at
from tasks.contract import Item

ENTRIES = ("target_agent.py", "reference_target_agent.py", "agent.py", "main.py")
RELAY = Path(__file__).with_name("openai") / "relay.py"
RELAY_INSIDE, SOCKET_INSIDE = "/evolog/bridge_relay.py", "/evolog/bridge.sock"
CODE, DATASET, WORKING = "/code", "/data", "/workdir"
"""Where a program finds things; a launcher binds them, or puts its own paths in their place."""
ANSWER_LIMIT = 16 * 1024
SAID_LIMIT = 4096
NO_HTTP = "it reaches the model over HTTP, which Landlock's profile cannot give; run it on a host whose profile is bubblewrap's"
GRACE = 10.0
"""Seconds over a program's time for its results to be handed out."""


class Caps(NamedTuple):
    """How much of what a program left is read; a file that is larger than `file` bytes is left out."""

    files: int = 10_000
    file: int = 16 * 1024**2
    total: int = 64 * 1024**2


class TooMuch(Exception):
    """A program left more than is read."""


class Ended(NamedTuple):
    """What became of a program. `kind` is empty where it ended by itself, else that of a failure, and `reason` says what happened."""

    code: int
    files: Mapping[str, bytes]
    said: str = ""
    kind: RolloutFailure | Literal[""] = ""
    reason: str = ""


Launch = Callable[[Sequence[str], Mapping[str, Path], Mapping[str, str]], Ended]
"""Runs Python with these arguments, these read-only folders by the path at which they appear, and this environment, beside a relay."""


def entry_of(files: Mapping[str, bytes]) -> str | None:
    """The program of a scaffold's folder; None where `agent.py` defines `solve`, or where there is no program."""
    if "agent.py" in files and _binds_solve(files["agent.py"]):
        return None
    return next((name for name in ENTRIES if b"--dataset_dir" in files.get(name, b"")), None)


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
    """The program with its constants `..._BASE_URL`, `..._MODEL` and `MODEL_NAME` taken from the environment: the model that it calls."""
    for name, variable in ((r"\w*BASE_URL", "OPENAI_BASE_URL"), (r"(?:\w*_)?MODEL(?:_NAME)?", "OPENAI_MODEL")):
        source = re.sub(rf"^({name}\s*=\s*)([\"']).*?\2", rf'\1__import__("os").environ["{variable}"]', source, flags=re.MULTILINE)
    return source


def write_code(folder: Path, files: Mapping[str, bytes]) -> str:
    """Write a program's folder with its model replaced; all of its Python, for `environment`."""
    sources = []
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".py"):
            sources.append(retarget(data.decode(errors="surrogateescape")))
            data = sources[-1].encode(errors="surrogateescape")
        (folder / path).write_bytes(data)
    return "\n".join(sources)


def environment(source: str, token: str, model: str) -> dict[str, str]:
    """What a program is given: the bridge's token as every `..._API_KEY` that it names, and the model's alias."""
    keys = {"OPENAI_API_KEY", *re.findall(r"\b[A-Z][A-Z0-9_]*_API_KEY\b", source)}
    return {**ENVIRONMENT, "OPENAI_MODEL": model, **dict.fromkeys(sorted(keys), token)}


def lay_out(folder: Path, data: Data, items: Sequence[Item], description: str, extra: Mapping[str, bytes] | None = None) -> None:
    """Write a dataset folder: `train.csv` with labels, `test.csv` with the items to answer, `classes.json`, `sample_submission.csv`,
    `task.md`, and the task's own files. It holds nothing but what it is given: no answer to an item."""
    folder.mkdir(parents=True, exist_ok=True)
    train = [(number, prompt, label) for number, (prompt, label) in enumerate(data.train)]
    first = data.labels[0] if data.labels else ""
    files = {
        "train.csv": _csv(("id", "text", "label"), train),
        "test.csv": _csv(("id", "text"), [(item.id, item.prompt) for item in items]),
        "sample_submission.csv": _csv(("id", "label"), [(item.id, first) for item in items]),
        "classes.json": msgspec.json.format(msgspec.json.encode(data.labels)),
        "task.md": TASK.format(description=description, train=len(train), items=len(items), labels=len(data.labels)).encode(),
        **(extra or {}),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


TASK = """{description}

- `train.csv`: {train} examples, `id,text,label`
- `test.csv`: {items} items to answer, `id,text`
- `classes.json`: the {labels} labels that there are

Write `submission.csv` into the working directory, with the columns `id` and `label` and a row for every item of `test.csv`.
The model is reached by OpenAI's API at `OPENAI_BASE_URL`, as `OPENAI_MODEL`.
"""


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue().encode()


def run(launch: Launch, code: Path, entry: str, dataset: Path, env: Mapping[str, str]) -> Ended:
    """Run a program over a dataset folder."""
    return launch([f"{CODE}/{entry}", "--dataset_dir", DATASET, "--working_dir", WORKING], {CODE: code, DATASET: dataset}, env)


def outcomes(items: Sequence[Item], ended: Ended, attempt: int = 0, seconds: float = 0.0) -> list[Outcome]:
    """An outcome for each item. Answers count however the program ended; an item left out by one that ended well was answered with
    nothing, and by one that did not failed as it did."""
    try:
        answers, twice = answers_in(ended.files)
        kind, reason = ended.kind, ended.reason
    except ValueError as wrong:
        answers, twice, kind, reason = {}, set(), "nonsense", str(wrong)
    if not kind and ended.code:
        words = ended.said.strip().splitlines()
        kind, reason = "crashed", f"the program exited with {ended.code}{': ' + words[-1][:300] if words else ''}"
    each = seconds / max(1, len(items))
    found = []
    for item in items:
        answer = answers.get(item.id)
        if item.id in twice:
            found.append(Outcome(item.id, attempt, kind="nonsense", reason="the program answered this item more than once"))
        elif answer is not None and len(answer) > ANSWER_LIMIT:
            found.append(
                Outcome(item.id, attempt, kind="nonsense", reason=f"an answer of {len(answer)} characters, at most {ANSWER_LIMIT}")
            )
        elif answer is None and kind:
            found.append(Outcome(item.id, attempt, kind=kind, reason=reason))
        else:
            found.append(Outcome(item.id, attempt, answer=answer, seconds=each))
    return found


def answers_in(files: Mapping[str, bytes]) -> tuple[dict[str, str], set[str]]:
    """The answers by item, and the items answered more than once, from the first file that holds any; raises ValueError for one that
    cannot be read. Looked at in this order: submission.csv, predictions.csv, the last of results/*.json by name, responses.json, and
    results*.json, submission*.json and output*.json."""
    names = [name for name in ("submission.csv", "predictions.csv") if name in files]
    names += sorted((name for name in files if re.fullmatch(r"results/[^/]+\.json", name)), reverse=True)
    names += [name for name in sorted(files) if re.fullmatch(r"responses\.json|(results|submission|output)[^/]*\.json", name)]
    for name in names:
        try:
            rows = list(_csv_rows(files[name]) if name.endswith(".csv") else _json_rows(files[name]))
        except (csv.Error, ValueError, msgspec.DecodeError, RecursionError) as wrong:
            raise ValueError(f"{name} cannot be read: {wrong}; expected rows of an id and an answer") from wrong
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
    found = msgspec.json.decode(data)
    rows = found.get("details") if isinstance(found, dict) else found
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            id = _first(row, "question_id", "id")
            answer = _first(row, "model_answer", "solution", "answer", "label")
            if id is not None and answer not in (None, ""):
                yield str(id), answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def owner(prompt: str, items: Sequence[Item]) -> str:
    """The item that a program's call is about: the one with the longest prompt that occurs in the call's; empty where none does."""
    inside = [item for item in items if item.prompt and item.prompt in prompt]
    return max(inside, key=lambda item: len(item.prompt)).id if inside else ""


def read_tar(stream: IO[bytes], caps: Caps = Caps()) -> dict[str, bytes]:
    """The regular files of a tar by relative path, and nothing else of it: no link, device or hole, no path that leads out.

    Stops reading at the caps; raises TooMuch there, and ValueError for what is no tar.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Capped(stream, caps.total)), mode="r|") as tar:
            for count, member in enumerate(tar):
                if count >= caps.files:
                    raise TooMuch(f"the program left more than {caps.files} files")
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None
                path = PurePosixPath(member.name)
                if plain and member.size <= caps.file and not path.is_absolute() and ".." not in path.parts:
                    file = tar.extractfile(member)
                    assert file
                    files[str(path)] = file.read()
    except (tarfile.TarError, ValueError, OSError, OverflowError, RecursionError) as wrong:
        raise ValueError(f"what the program left cannot be read: {wrong}") from wrong
    return files


class _Capped:
    """A stream that may be read so far and no further."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream, self._left = stream, left

    def read(self, size: int) -> bytes:
        if not self._left and self._stream.read(1):
            raise TooMuch("the program left more than is read")
        chunk = self._stream.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk


def launcher(kind: Kind, scratch: Path, socket: Path, seconds: float, limits: Limits = Limits(), caps: Caps = Caps()) -> Launch:
    """Programs in a sandbox of this kind, over the bridge at `socket`. What they leave comes out through a pipe, however they ended."""

    def launch(arguments: Sequence[str], folders: Mapping[str, Path], env: Mapping[str, str]) -> Ended:
        if kind == "landlock":
            return Ended(1, {}, kind="unloadable", reason=NO_HTTP)
        for folder in folders.values():
            open_to_all(folder)
        with tempfile.TemporaryDirectory(dir=scratch) as working:
            binds = {**folders, RELAY_INSIDE: RELAY, SOCKET_INSIDE: socket}
            places = {inside: seen_at(kind, inside, source) for inside, source in binds.items()}
            places[WORKING] = WORK if kind == "bwrap" else working
            read, write = os.pipe()
            relay = [places[RELAY_INSIDE], places[SOCKET_INSIDE], "0", f"{seconds:g}", str(write), places[WORKING]]
            argv = [sys.executable, "-I", *relay, sys.executable, "-s", "-u", *(_placed(argument, places) for argument in arguments)]
            environment = {**env, "HOME": places[WORKING]}
            resources = sandbox.ResourceLimits(memory=limits.memory, cpu_seconds=limits.cpu_seconds, file_size=limits.file_size)
            child = Confined(kind, Command(argv, binds, environment, Path(working), resources, (write,)))
            os.close(write)
            try:
                return _ended(child, read, seconds, caps)
            finally:
                child.close()

    return launch


def _ended(child: Confined, read: int, seconds: float, caps: Caps) -> Ended:
    """Wait for a program, for what it printed last, and for what it left."""
    began = time.monotonic()
    late = threading.Timer(seconds + GRACE, child.kill)  # a relay that is stopped, too
    words: deque[bytes] = deque(maxlen=SAID_LIMIT // 256)
    listeners = [threading.Thread(target=_listen, args=(stream, words), daemon=True) for stream in (child.stdout, child.stderr)]
    for each in (late, *listeners):
        each.start()
    child.stdin.close()
    kind: RolloutFailure | Literal[""] = ""
    reason, files = "", {}
    try:
        with os.fdopen(read, "rb") as stream:
            files = read_tar(stream, caps)
    except TooMuch as wrong:
        child.kill()
        kind, reason = "flooded", str(wrong)
    except ValueError:
        pass  # it was stopped before it was written
    code = child.wait()
    late.cancel()
    for each in listeners:
        each.join(1.0)
    if child.violation:
        kind, reason = "crashed", f"the program was stopped: {child.violation}"
    elif not kind and code and time.monotonic() - began >= seconds:
        kind, reason = "hung", f"the program had not ended after {seconds:g} s"
    return Ended(code, files, b"".join(words).decode(errors="replace"), kind, reason)


def _listen(stream: IO[bytes], words: "deque[bytes]") -> None:
    with stream:
        while chunk := os.read(stream.fileno(), 256):
            words.append(chunk)


def _placed(argument: str, places: Mapping[str, str]) -> str:
    for inside, host in places.items():
        if argument == inside or argument.startswith(inside + "/"):
            return host + argument[len(inside) :]
    return argument
