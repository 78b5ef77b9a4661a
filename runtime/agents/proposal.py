"""Checks a proposed scaffold before it costs a rollout: its files, its syntax, and whether it answers two train items,
as train gives them and as dev does.
"""

import ast
import functools
import importlib.metadata
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from events.fact import derive
from events.secret import Scanner
from runtime.agents.session import UnfitRequest
from runtime.blobs.directory import Blobs
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.calls import CallLog
from runtime.rollouts.host import ScaffoldLimits
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import AttemptResult, RolloutShard
from tasks.contract import FOLDS, Item, Public, visible_train

MAX_FILES, MAX_FILE_SIZE, MAX_SIZE = 64, 128 * 1024, 256 * 1024
"""Files of a scaffold; bytes of one, and of all together."""
OWN_PACKAGES = ("algorithms", "events", "replay", "runtime", "services", "tasks")
"""evolog's packages, among them the labels of every task."""
TRIAL_ITEMS = 2
"""Train items that a proposal must answer."""
TRIAL_SECONDS = 300
"""Processor time for that, and the time of a trial in all."""
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}\Z")


def with_changes(present: Mapping[str, str], files: Sequence[tuple[str, str]], remove: Sequence[str]) -> dict[str, str]:
    """The present folder with some files written and some removed; raises `UnfitRequest` for a path or a size that is
    not allowed.
    """
    for path in (*(path for path, _ in files), *remove):
        parts = PurePosixPath(path).parts
        if not _PATH.match(path) or "/".join(parts) != path or any(part.startswith(".") for part in parts):
            raise UnfitRequest(
                f"{path[:120]!r} is no path in a scaffold; use relative paths such as agent.py or steps/vote.py."
            )
    if missing := [path for path in remove if path not in present]:
        raise UnfitRequest(f"There is no {missing[0]!r} to remove; the scaffold holds {', '.join(sorted(present))}.")
    if twice := [path for path, count in Counter([*(path for path, _ in files), *remove]).items() if count > 1]:
        raise UnfitRequest(f"{twice[0]!r} is named more than once; write or remove each file once.")
    folder = {**{path: text for path, text in present.items() if path not in set(remove)}, **dict(files)}
    _require_apart(folder)
    sizes = {path: _size(path, text) for path, text in folder.items()}
    largest = max(sizes, key=lambda path: sizes[path], default="")
    if len(folder) > MAX_FILES or sum(sizes.values()) > MAX_SIZE or sizes.get(largest, 0) > MAX_FILE_SIZE:
        raise UnfitRequest(
            f"The scaffold would hold {len(folder)} files of {sum(sizes.values()):,} bytes, {largest} alone "
            f"{sizes[largest]:,}; "
            f"expected at most {MAX_FILES} files of {MAX_SIZE:,} bytes, {MAX_FILE_SIZE:,} each."
        )
    if "agent.py" not in folder:
        raise UnfitRequest("The scaffold has no agent.py, which must define solve(item, model, data).")
    return folder


def _require_apart(paths: Collection[str]) -> None:
    """Raise `UnfitRequest` for paths of which no folder can hold both, whether or not it tells case apart."""
    folded: dict[str, str] = {}
    for path in paths:
        if (other := folded.setdefault(path.lower(), path)) != path:
            raise UnfitRequest(f"{other!r} and {path!r} differ in case alone; name one of them otherwise.")
    for path in paths:
        for folder in PurePosixPath(path.lower()).parents:
            if file := folded.get(str(folder)):
                raise UnfitRequest(f"{file!r} would be a file and the folder of {path!r}; name one of them otherwise.")


def validate_source(files: Mapping[str, str], hidden: Sequence[Path]) -> None:
    """Raise `UnfitRequest` for code that does not parse, that imports evolog's own packages, or that names a folder
    where labels may lie.

    The last two checks save an honest model a rollout. What keeps labels from a dishonest one is the sandbox.
    """
    for path, text in files.items():
        if not path.endswith(".py"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text, path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as wrong:
            raise UnfitRequest(f"{path} does not parse: {wrong}.") from wrong
        for node in ast.walk(tree):
            for name in _imports(node):
                if (
                    name.partition(".")[0] in OWN_PACKAGES
                    and f"{name.partition('.')[0]}.py" not in files
                    and not _has_package(name, files)
                ):
                    raise UnfitRequest(
                        f"{path} imports {name}; a scaffold may not import evolog's packages, nor read a task's labels."
                    )
            literal = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if named := [folder for folder in hidden if str(folder) in literal]:
                raise UnfitRequest(
                    f"{path} names {named[0]}; a scaffold has its items and its train data in hand, and may read "
                    "nothing else."
                )
        _require_importable(path, tree, files)


def _require_importable(path: str, tree: ast.Module, files: Mapping[str, str]) -> None:
    """Raise `UnfitRequest` for a module that neither the folder has nor the sandbox; one whose lack is caught may
    lack.
    """
    own = {PurePosixPath(each).parts[0].removesuffix(".py") for each in files}
    tried = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(map(_catches_import, node.handlers))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for name in _imports(node) if id(node) not in tried else []:
            top = name.partition(".")[0]
            if top not in own and top not in sys.stdlib_module_names and top not in offered_packages():
                offered = ", ".join(offered_packages())
                raise UnfitRequest(
                    f"{path} imports {name}, which the sandbox does not offer. There are Python's standard library, "
                    f"the folder's own modules, and {offered}."
                )


def _catches_import(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {node.id for node in caught if isinstance(node, ast.Name)}
    return handler.type is None or bool(names & {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@functools.cache
def offered_packages() -> tuple[str, ...]:
    """The modules besides Python's own that a scaffold can import here, without evolog's and those with a leading
    underscore.
    """
    installed = importlib.metadata.packages_distributions()
    return tuple(
        sorted(
            (
                name
                for name in installed
                if name.isidentifier() and not name.startswith("_") and name not in OWN_PACKAGES
            ),
            key=str.lower,
        )
    )


def fingerprint(files: Mapping[str, str]) -> str:
    """A digest of a scaffold that its comments and its layout leave as it is, for files that parse."""

    def essence(path: str, text: str) -> str:
        if not path.endswith(".py"):
            return text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.dump(ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return text

    return derive(*(part for path in sorted(files) for part in (path, essence(path, files[path]))))


def try_out(
    files: Mapping[str, str],
    public: Public,
    work: Path,
    scanner: Scanner,
    limits: ScaffoldLimits = ScaffoldLimits(),
    sandbox: str = "",
) -> None:
    """Raise `UnfitRequest` unless the scaffold loads and answers two train items in the sandbox.

    It is given them once as items of train, and once as dev gives items: under ids of dev's, from no fold, and without
    a label anywhere. A stub answers its calls of the model. Where the task has no
    labels, it says what means nothing, and a scaffold may answer None.
    """
    folds = [[example for example in public.train if example.fold == fold] for fold in range(FOLDS)]
    fold = max(range(FOLDS), key=lambda number: min(TRIAL_ITEMS, len(folds[number])))
    tried = folds[fold][:TRIAL_ITEMS]
    unlabelled = tuple(
        Item(item.id, example.prompt, files=example.files, name=example.name)
        for item, example in zip(public.dev, tried, strict=False)
    )
    like_dev = msgspec.structs.replace(public, train=visible_train(public, fold), dev=unlabelled)
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=work))
    blobs = Blobs(folder / "blobs")
    shard = RolloutShard(
        run="try-out",
        id="try-out",
        scaffold=blobs.put_tree({path: text.encode() for path, text in files.items()}),
        model="stub",
        items=tuple(example.id for example in tried),
        fold=fold,
        temperature=1.0,
        seed=0,
        sandbox=sandbox,
    )
    shard_of_dev = msgspec.structs.replace(shard, items=tuple(item.id for item in unlabelled), fold=None)
    limits = limits._replace(cpu_seconds=min(limits.cpu_seconds, TRIAL_SECONDS), shard_timeout=TRIAL_SECONDS)
    runner = RolloutRunner(blobs, folder, _StubPolicy(public), scanner, limits)
    log = CallLog(find=lambda ids: {}, record=lambda calls: None)
    try:
        stated = bool(_known_answer(public))
        _require_answers(runner.run(shard, public, log), "a train item", stated)
        _require_answers(runner.run(shard_of_dev, like_dev, log), "an item as dev gives it, which has no label", stated)
    finally:
        runner.close()
        shutil.rmtree(folder, ignore_errors=True)


def _require_answers(results: Sequence[AttemptResult], item: str, stated: bool) -> None:
    """Raise `UnfitRequest` for an attempt that failed, and for one without an answer if the model stated something."""
    for result in results:
        if result.kind:
            failure = "could not be started" if result.kind == "unloadable" else f"failed on {item}"
            raise UnfitRequest(f"The scaffold {failure} ({result.kind}): {result.reason}")
        if result.answer is None and stated:
            raise UnfitRequest(f"The scaffold answered {item} with None; it must give its answer as a string.")


class _StubPolicy:
    """A policy that answers each call with the first choice, else with a known answer, else with a word."""

    def __init__(self, public: Public) -> None:
        self._text = _known_answer(public) or "stub"

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        texts = [request.choices[0] if request.choices else self._text for request in requests]
        return [
            Sampled((text,) * request.n, ((0,),) * request.n, ((0.0,),) * request.n)
            for text, request in zip(texts, requests, strict=True)
        ]


def _known_answer(public: Public) -> str:
    """The first label, else the true answer of a train item; empty where the task has neither."""
    return next(iter((*public.labels, *(example.label for example in public.train if example.label))), "")


def _size(path: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as wrong:
        raise UnfitRequest(f"{path} is no UTF-8 text ({wrong.reason}).") from wrong


def _imports(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Call(
            func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def _has_package(name: str, files: Mapping[str, str]) -> bool:
    return any(path.startswith(f"{name.partition('.')[0]}/") for path in files)
