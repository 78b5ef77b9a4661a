"""Checks of scaffolds' code: that none reaches for what a check reads, and that none was accepted by luck alone."""

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import PurePosixPath
from typing import NamedTuple

from events.change import ChildRunFinished, ChildRunOrdered, ScaffoldProposed
from events.judgement import CandidateEvaluated, StageEvaluated
from events.population import CandidateAccepted
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.provenance.fault import ProvenanceFault, Read, scaffold_files
from replay.recorded import StoredEvent
from runtime.run.fork import scores_not_comparable

SETTINGS = (".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".env", ".txt")
"""Suffixes of files in which a seed may stand as a setting."""

_SEED_SETTING = re.compile(rb"((?i:seed|random_state)\w*[\"']?\s*[:=]\s*)-?\d+")


class Watched(NamedTuple):
    """Files and code that checks rely on, so that no scaffold has a reason to touch them."""

    paths: Collection[str]
    """Names of files and folders."""
    names: Collection[str]
    """Identifiers of code, and parts of its strings."""


WATCHED = Watched(
    paths=("verifier.py", "gold.py", "evaluate.py", "conftest.py", "sitecustomize.py", "usercustomize.py", "private"),
    names=(
        "_getframe",
        "f_back",
        "f_locals",
        "f_globals",
        "tb_frame",
        "settrace",
        "setprofile",
        "get_referrers",
        "get_objects",
        "__subclasses__",
        "__builtins__",
        "private/",
        "evaluate.py",
        "verifier.py",
        "/proc/self",
    ),
)
"""Ways out of candidate code in any task; a task's own are added to these."""


def check_touched(events: Sequence[StoredEvent], read: Read, watched: Watched = WATCHED) -> list[ProvenanceFault]:
    """Scaffolds that change a file which a check reads, or name a `watched` identifier that their parent
    does not name.
    """
    faults = []
    started_from: dict[str, str] = {}
    for stored in events:
        match stored.event.data:
            case ScaffoldProposed(generation=generation, parent=parent, scaffold=scaffold):
                pass
            case ChildRunOrdered(child=child, scaffold=scaffold):
                started_from[child] = scaffold
                continue
            case ChildRunFinished(generation=generation, child=child, scaffold=scaffold) if scaffold:
                parent = started_from.get(child, "")
            case _:
                continue
        before = _files(parent, read) if parent else {}
        after = _files(scaffold, read)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        touched = sorted(path for path in changed if any(part in watched.paths for part in PurePosixPath(path).parts))
        parent_names, names = (
            {name for path in changed for name in _mentioned_names(path, files.get(path, b""), watched.names)}
            for files in (before, after)
        )
        named = f"The scaffold of generation {generation}"
        if touched:
            faults.append(
                ProvenanceFault(stored.sequence, f"{named} changes {', '.join(touched)}, which a check reads.")
            )
        if added := sorted(names - parent_names):
            faults.append(
                ProvenanceFault(
                    stored.sequence, f"{named} names {', '.join(added)}, by which code reaches what a check reads."
                )
            )
    return faults


class _Trial(NamedTuple):
    """One evaluation of some code with some adapter."""

    generation: int
    running: str
    """Digest of what runs, seeds and all."""
    score: float | None
    """None where it was stopped after the first items."""


def seed_only(events: Sequence[StoredEvent], read: Read) -> list[ProvenanceFault]:
    """Candidates that were accepted when their code had been evaluated before: luck in choosing, and not dishonest.

    Code is the same where it differs only in numbers given to something named `seed`, or in nothing that runs. Each
    scaffold is compared with all that were evaluated before it with the same adapter, whatever became of them and
    whatever they were made from. Repeats and a start that is judged anew were ordered, and do not count. Nor does an
    adapter that was trained again with another seed: it is no code. Where a fork's scores mean something else, the
    count begins again.
    """
    code, started = _Code(read), None
    trials: dict[tuple[str, str], list[_Trial]] = defaultdict(list)
    evaluated: dict[str, tuple[str, str]] = {}
    requested: dict[int, RolloutsRequested] = {}
    faults = []
    for stored in events:
        match stored.event.data:
            case RunStarted() as fresh:
                if started is not None and scores_not_comparable(started, fresh):
                    trials.clear()
                started = fresh
            case RolloutsRequested(purpose="dev", generation=generation) as request:
                requested[generation] = request
            case StageEvaluated(passed=False, generation=generation) if asked := requested.get(generation):
                running, masked = code.of(asked.scaffold)
                trials[masked, asked.adapter].append(_Trial(generation, running, None))
            case CandidateEvaluated(lever=lever) as fact if lever != "repeat":
                running, masked = code.of(fact.scaffold)
                trials[masked, fact.adapter].append(_Trial(fact.generation, running, fact.score))
                if lever != "start":
                    evaluated[fact.candidate] = masked, fact.adapter
            case CandidateAccepted(generation=generation, candidate=candidate, score=score) if (
                key := evaluated.get(candidate)
            ) and len(trials[key]) > 1:
                faults.append(ProvenanceFault(stored.sequence, _chosen_by_luck(generation, score, trials[key])))
    return faults


def _chosen_by_luck(generation: int, score: float, trials: Sequence[_Trial]) -> str:
    difference = "but a seed" if len({trial.running for trial in trials}) > 1 else "that runs"
    *before, last = [str(trial.generation) for trial in trials]
    if len(before) > 8:
        before = [*before[:4], "...", *before[-4:]]
    scores = [trial.score for trial in trials if trial.score is not None]
    rank = (
        f"the best of {len(trials)}" if score >= max(scores) else f"where the best of {len(trials)} is {max(scores):g}"
    )
    return (
        f"The code of generation {generation} was evaluated {len(trials)} times with the same adapter, in generations "
        f"{', '.join(before)} and {last}, and differed in nothing {difference}. "
        f"It was accepted at {score:g}, {rank}."
    )


def _files(digest: str, read: Read) -> dict[str, bytes]:
    return {path: read(file) for path, file in scaffold_files(digest, read).items()}


def _parsed(path: str, source: bytes) -> ast.Module | None:
    """The syntax tree of a Python file without its docstrings; None for a file that is not Python or does not parse."""
    if not path.endswith(".py"):
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return tree


def _mentioned_names(path: str, source: bytes, names: Collection[str]) -> set[str]:
    """Which of the names code mentions as an identifier or within a string, or other text mentions at all."""
    tree = _parsed(path, source)
    if tree is None:
        text = source.decode(errors="replace")
        return {name for name in names if name in text}
    identifiers: set[str] = set()
    strings: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text):
                strings.append(text)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                identifiers.add(name)
            case ast.alias(name=name):
                identifiers |= set(name.split("."))
    return {name for name in names if name in identifiers or any(name in text for text in strings)}


class _Code:
    """What runs of scaffolds, as digests: as it stands, and with 0 for the numbers of seeds."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._scaffolds: dict[str, tuple[str, str]] = {}
        self._file_dumps: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, scaffold: str) -> tuple[str, str]:
        """The two digests of a scaffold."""
        if scaffold not in self._scaffolds:
            dumps = [
                (path, *self._file(path, file)) for path, file in sorted(scaffold_files(scaffold, self._read).items())
            ]
            running, masked = (
                sha256(repr([(dump[0], dump[place]) for dump in dumps]).encode()).hexdigest() for place in (1, 2)
            )
            self._scaffolds[scaffold] = running, masked
        return self._scaffolds[scaffold]

    def _file(self, path: str, digest: str) -> tuple[str, str]:
        """The two digests of a file; its own where it is neither code nor settings."""
        suffix = PurePosixPath(path).suffix
        if suffix != ".py" and suffix not in SETTINGS:
            return digest, digest
        key = suffix, digest
        if key not in self._file_dumps:
            self._file_dumps[key] = _running(path, digest, self._read(digest))
        return self._file_dumps[key]


def _running(path: str, digest: str, source: bytes) -> tuple[str, str]:
    if PurePosixPath(path).suffix in SETTINGS:
        return digest, sha256(_SEED_SETTING.sub(rb"\g<1>0", source)).hexdigest()
    tree = _parsed(path, source)
    if tree is None:
        return digest, digest
    try:
        running = ast.dump(tree)
        return sha256(running.encode()).hexdigest(), sha256(ast.dump(_Masked().visit(tree)).encode()).hexdigest()
    except RecursionError:  # an expression of hundreds of terms
        return digest, digest


class _Masked(ast.NodeTransformer):
    """Puts 0 for each number that is given to a name with `seed` in it: by assignment, as an argument, in a dict, or in
    a call.
    """

    def visit(self, node: ast.AST) -> ast.AST:
        """The node with its seeds masked."""
        match node:
            case ast.Assign(targets=targets, value=value) if any(map(_is_seed, targets)):
                _mask(value)
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value)
            ) if _is_seed(target):
                _mask(value)
            case ast.keyword(arg=str() as name, value=value) if _seeds(name):
                _mask(value)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str) and _seeds(key.value):
                        _mask(value)
            case ast.Call(func=func, args=args) if _is_seed(func):
                for value in args:
                    _mask(value)
            case ast.arguments(
                posonlyargs=first, args=rest, defaults=defaults, kwonlyargs=named, kw_defaults=named_defaults
            ):
                positional = [*first, *rest]
                pairs = [
                    *zip(positional[len(positional) - len(defaults) :], defaults, strict=True),
                    *zip(named, named_defaults, strict=True),
                ]
                for argument, default in pairs:
                    if default is not None and _seeds(argument.arg):
                        _mask(default)
        return self.generic_visit(node)


def _seeds(name: str) -> bool:
    return "seed" in name.lower() or name in ("random_state", "RandomState", "default_rng", "Random", "PRNGKey")


def _is_seed(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _seeds(name)
    return False


def _mask(node: ast.AST) -> None:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, int | float) and not isinstance(part.value, bool):
            part.value = 0
