"""Looks at a proposed scaffold before it costs a rollout: its files, its syntax, and whether it answers two train items."""

import ast
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from events.rollouts import RolloutFailed, RolloutsRequested, TrajectoryRecorded
from events.secret import Scanner
from runtime.agents.session import Unfit
from runtime.blobs.directory import Blobs
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.host import Limits
from runtime.rollouts.runner import RolloutRunner
from tasks.contract import FOLDS, Public

FILES, FILE_SIZE, SIZE = 64, 128 * 1024, 256 * 1024
"""Most files; most bytes of one, and of all."""
OWN = ("algorithms", "events", "replay", "runtime", "services", "tasks")
"""evolog's packages, among them the labels of every task."""
TRIED = 2
"""Train items that a proposal must answer."""
SECONDS = 300
"""Processor time for that, and, for a program, time."""
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}\Z")


def changed(present: Mapping[str, str], files: Sequence[tuple[str, str]], remove: Sequence[str]) -> dict[str, str]:
    """The present folder with files written and taken away; raises `Unfit` for a path or a size that cannot be."""
    for path in (*(path for path, _ in files), *remove):
        parts = PurePosixPath(path).parts
        if not _PATH.match(path) or "/".join(parts) != path or any(part.startswith(".") for part in parts):
            raise Unfit(f"{path[:120]!r} is no path in a scaffold; use relative paths such as agent.py or steps/vote.py.")
    if missing := [path for path in remove if path not in present]:
        raise Unfit(f"There is no {missing[0]!r} to remove; the scaffold holds {', '.join(sorted(present))}.")
    found = {**{path: text for path, text in present.items() if path not in set(remove)}, **dict(files)}
    sizes = {path: _size(path, text) for path, text in found.items()}
    largest = max(sizes, key=lambda path: sizes[path], default="")
    if len(found) > FILES or sum(sizes.values()) > SIZE or sizes.get(largest, 0) > FILE_SIZE:
        raise Unfit(
            f"The scaffold would hold {len(found)} files of {sum(sizes.values()):,} bytes, {largest} alone {sizes[largest]:,}; "
            f"expected at most {FILES} files of {SIZE:,} bytes, {FILE_SIZE:,} each."
        )
    if "agent.py" not in found:
        raise Unfit("The scaffold has no agent.py, which must define solve(item, model, data).")
    return found


def redacted(files: Mapping[str, str], scanner: Scanner) -> dict[str, str]:
    """The files with a marker in the place of each known secret."""
    return {path: scanner.redact(text.encode()).decode() for path, text in files.items()}


def validate_source(files: Mapping[str, str], hidden: Sequence[Path]) -> None:
    """Raise `Unfit` for code that does not parse, that imports evolog's own packages, or that names a folder where labels may lie.

    The last two only spare an honest model a rollout; it is the sandbox that keeps labels from a cunning one.
    """
    for path, text in files.items():
        if not path.endswith(".py"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text, path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as wrong:
            raise Unfit(f"{path} does not parse: {wrong}.") from wrong
        for node in ast.walk(tree):
            for name in _named(node):
                if name.partition(".")[0] in OWN and f"{name.partition('.')[0]}.py" not in files and not _within(name, files):
                    raise Unfit(f"{path} imports {name}; a scaffold may not import evolog's packages, nor read a task's labels.")
            text_in = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if found := [folder for folder in hidden if str(folder) in text_in]:
                raise Unfit(f"{path} names {found[0]}; a scaffold has its items and its train data in hand, and may read nothing else.")


def try_out(files: Mapping[str, str], public: Public, work: Path, scanner: Scanner, limits: Limits = Limits(), sandbox: str = "") -> None:
    """Raise `Unfit` unless the scaffold loads and answers two train items, in the sandbox, where a stub answers its calls of the model."""
    folds = [[example for example in public.train if example.fold == fold] for fold in range(FOLDS)]
    fold = max(range(FOLDS), key=lambda number: min(TRIED, len(folds[number])))
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=work))
    blobs = Blobs(folder / "blobs")
    requested = RolloutsRequested(
        generation=0,
        purpose="try-out",
        round=0,
        shard=0,
        scaffold=blobs.put_tree({path: text.encode() for path, text in files.items()}),
        adapter="",
        split="train",
        fold=fold,
        items=tuple(example.id for example in folds[fold][:TRIED]),
        attempts=1,
        temperature=1.0,
        seed=0,
    )
    limits = limits._replace(cpu_seconds=min(limits.cpu_seconds, SECONDS))
    player = RolloutRunner(blobs, folder, _Stub(public), scanner, limits)
    try:
        facts = player.play("try-out", "try-out", requested, public, "stub", lambda ids: {}, lambda calls: None, sandbox=sandbox)
    finally:
        player.close()
        shutil.rmtree(folder, ignore_errors=True)
    for fact in facts:
        if isinstance(fact, RolloutFailed):
            what = "could not be started" if fact.kind == "unloadable" else "failed on a train item"
            raise Unfit(f"The scaffold {what} ({fact.kind}): {fact.reason}")
        if isinstance(fact, TrajectoryRecorded) and fact.answer is None:
            raise Unfit("The scaffold answered a train item with None; it must give its answer as a string.")


class _Stub:
    """Says the first choice, or the first label."""

    def __init__(self, public: Public) -> None:
        self._public = public

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        said = [request.choices[0] if request.choices else self._public.labels[0] for request in requests]
        return [
            Sampled((text,) * request.n, ((0,),) * request.n, ((0.0,),) * request.n) for text, request in zip(said, requests, strict=True)
        ]


def _size(path: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as wrong:
        raise Unfit(f"{path} is no UTF-8 text ({wrong.reason}).") from wrong


def _named(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def _within(name: str, files: Mapping[str, str]) -> bool:
    return any(path.startswith(f"{name.partition('.')[0]}/") for path in files)
