"""Makes a task folder of a task of Inspect (inspect_ai): its dataset, its prompts, and its scorer.

The module that the user names is imported and its task made, once and here, with all rights of the user. What comes of
it is written down: samples, prompts, and which of Inspect's own solvers and scorers it uses. The module is not needed
again. A task that does more than to ask the model once is refused.
"""

import asyncio
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Misconfigured, NotFound, NotHere, UsageError, UserError
from tasks.adapters import folder as folders
from tasks.adapters.inspect_scoring import (
    ANSWER,
    MISSING,
    Entry,
    Part,
    Spec,
    Target,
    asked,
    label_of,
    rendered,
    scorer_of,
    solver_of,
)

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample

SCORERS = ("answer", "choice", "exact", "f1", "includes", "match", "pattern")
SOLVERS = (
    "assistant_message",
    "chain_of_thought",
    "generate",
    "multiple_choice",
    "prompt_template",
    "system_message",
    "user_message",
)
FEWEST = 8
"""Samples that a task has at least."""
PACKAGE = "inspect_ai"


def adapt(named: str, parent: Path) -> Path:
    """Make a task folder of the Inspect task MODULE:TASK, under `parent`; returns its path.

    MODULE is a file or the name of a module. Raises UsageError for another form, NotFound where there is none, and
    Misconfigured for a task that evolog cannot run.
    """
    module, _, name = named.rpartition(":")
    if not module or not name:
        raise UsageError(
            f"{named!r} names no Inspect task; --from inspect takes MODULE:TASK, such as my_evals.py:mine."
        )
    if importlib.util.find_spec(PACKAGE) is None:
        raise Misconfigured(MISSING)
    task = _made(named, module, name)
    solvers, scorer = _solvers(named, task), _scorer(named, task)
    samples = _samples(named, task)
    spec = Spec(
        name=folders.safe_name(f"inspect-{name}"),
        source=named,
        description=(getattr(task, "description", None) or "").strip() or f"The Inspect task {name}: answer each item.",
        solvers=solvers,
        scorer=scorer,
    )
    entries, targets = _entries(named, samples)
    labels = [label_of(spec, targets[entry.id]) for entry in entries]
    spec = msgspec.structs.replace(spec, choices=_choices(spec, entries) or folders.choices_of(labels))
    entries = [msgspec.structs.replace(entry, prompt=_prompt(named, spec, entry)) for entry in entries]
    return folders.write(
        parent,
        spec.name,
        _modules(spec)
        | {
            "inspect.json": msgspec.json.format(msgspec.json.encode(spec)),
            "items.json": msgspec.json.encode(entries),
            "targets.json": msgspec.json.encode(targets),
        },
    )


def _made(named: str, module: str, name: str) -> "Task":
    from inspect_ai import Task

    try:
        with _beside(module):
            function = getattr(_imported(module), name, None)
            task = function() if callable(function) else function
    except UserError:
        raise
    except (Exception, SystemExit) as wrong:
        raise Misconfigured(
            f"{named} cannot be made ({type(wrong).__name__}: {wrong}); mend it and try again."
        ) from wrong
    if function is None:
        raise NotFound(f"{module} defines no {name!r}; name a function of it that returns an Inspect task.")
    if not isinstance(task, Task):
        raise Misconfigured(f"{named} gives a {type(task).__name__}; expected an Inspect task.")
    return task


def _imported(module: str) -> Any:
    if not module.endswith(".py"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as wrong:
            if not module.startswith(wrong.name or "\0"):
                raise
            raise NotFound(f"There is no module {module!r}; --from inspect takes a file or a module's name.") from wrong
    path = Path(module).name
    if not Path(path).is_file():
        raise NotFound(f"There is no file {module}; --from inspect takes a file or a module's name.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(path).resolve())
    assert spec is not None and spec.loader is not None
    made = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@contextlib.contextmanager
def _beside(module: str) -> Iterator[None]:
    """In the folder of a file, as Inspect makes a task; its modules, or those of this folder, can be imported."""
    folder = Path(module).resolve().parent if module.endswith(".py") else Path.cwd()
    if not folder.is_dir():
        raise NotFound(f"There is no file {module}; --from inspect takes a file or a module's name.")
    sys.path.insert(0, str(folder))
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path.remove(str(folder))


def _solvers(named: str, task: "Task") -> tuple[Part, ...]:
    from inspect_ai.solver._chain import unroll

    for what, is_there in (
        ("a sandbox", task.sandbox),
        ("a setup step", task.setup),
        ("samples that are made while it runs", getattr(task, "sample_source", None)),
        ("an approval policy", task.approval),
    ):
        if is_there:
            raise _refused(named, f"it has {what}")
    parts = tuple(_part(named, "solver", solver, SOLVERS) for solver in unroll(task.solver))
    if any(part.parameters.get("shuffle") for part in parts):
        raise _refused(named, "its multiple_choice shuffles the choices anew each time")
    return parts


def _scorer(named: str, task: "Task") -> Part:
    scorers = task.scorer or []
    if len(scorers) != 1:
        raise _refused(named, f"it has {len(scorers)} scorers, where one is needed")
    return _part(named, "scorer", scorers[0], SCORERS)


def _part(named: str, kind: str, made: object, known: Sequence[str]) -> Part:
    """A solver or scorer by its name and parameters, if it is Inspect's own."""
    from inspect_ai._util.registry import is_registry_object, registry_info, registry_params

    full = registry_info(made).name if is_registry_object(made) else getattr(made, "__name__", type(made).__name__)
    package, _, name = full.rpartition("/")
    if package != PACKAGE or name not in known:
        raise _refused(named, f"its {kind} {full!r} is none of {', '.join(known)}")
    parameters = {key: value for key, value in registry_params(made).items() if value is not None}
    try:
        part = msgspec.json.decode(msgspec.json.encode(Part(name, parameters)), type=Part)
        (solver_of if kind == "solver" else scorer_of)(part)
    except (TypeError, ValueError, msgspec.MsgspecError) as wrong:
        raise _refused(named, f"its {kind} {name} has parameters that cannot be written down ({wrong})") from wrong
    return part


def _samples(named: str, task: "Task") -> "list[Sample]":
    samples = list(task.dataset)
    if len(samples) < FEWEST:
        raise Misconfigured(f"{named} has {len(samples)} samples; train, dev and test need {FEWEST} at least.")
    for sample in samples:
        for what, is_there in (("a sandbox", sample.sandbox), ("files", sample.files), ("a setup", sample.setup)):
            if is_there:
                raise _refused(named, f"its sample {sample.id!r} has {what}")
    return samples


def _entries(named: str, samples: "Sequence[Sample]") -> tuple[list[Entry], dict[str, Target]]:
    entries, targets = [], dict[str, Target]()
    for number, sample in enumerate(samples, 1):
        id = str(sample.id if sample.id is not None else number)
        if id in targets:
            raise Misconfigured(f"{named} has two samples of the id {id!r}; give each its own.")
        if isinstance(sample.input, str):
            given: str | list[dict[str, str]] = sample.input
        else:
            given = [{"role": message.role, "content": message.text} for message in sample.input]
            if any(part.type != "text" for m in sample.input if not isinstance(m.content, str) for part in m.content):
                raise _refused(named, f"its sample {id!r} asks with more than text")
        try:
            metadata = msgspec.json.decode(msgspec.json.encode(sample.metadata or {}))
        except (TypeError, ValueError) as wrong:
            raise _refused(named, f"the metadata of its sample {id!r} cannot be written down ({wrong})") from wrong
        entries.append(Entry(id, given, "", list(sample.choices or []), metadata))
        targets[id] = sample.target
    return entries, targets


def _choices(spec: Spec, entries: Sequence[Entry]) -> tuple[str, ...]:
    """What the model may answer to a multiple choice; empty for other tasks."""
    if spec.scorer.name != "choice":
        return ()
    most = max(len(entry.choices) for entry in entries)
    return tuple(f"{ANSWER}{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:most])


def _prompt(named: str, spec: Spec, entry: Entry) -> str:
    """What the model is asked for a sample."""
    try:
        calls = asyncio.run(asked(spec, entry))
    except NotHere:
        raise
    except Exception as wrong:
        raise Misconfigured(
            f"The solvers of {named} fail on its sample {entry.id!r} ({type(wrong).__name__}: {wrong}); mend it and "
            "try again."
        ) from wrong
    if len(calls) != 1:
        raise _refused(named, f"its solvers call the model {len(calls)} times, where once is needed")
    return rendered(calls[0])


def _refused(named: str, why: str) -> Misconfigured:
    return Misconfigured(
        f"{named} cannot be run by evolog: {why}. It runs tasks that ask the model once and score the text; write "
        "it as a task folder of its own (tasks/README.md)."
    )


def _modules(spec: Spec) -> dict[str, bytes]:
    texts = {
        **folders.shared_modules(
            spec.name, spec.description, spec.choices, "inspect_scoring", "The samples of a task of Inspect."
        ),
        "verifier.py": '''"""The task's scorer, which is Inspect's own."""

from pathlib import Path

from tasks.adapters import inspect_scoring

HERE = Path(__file__).parent
VERSION, OUTCOMES = inspect_scoring.version(HERE), inspect_scoring.OUTCOMES


def score(item, answer, label):
    """The judgement of an answer."""
    return inspect_scoring.score(HERE, item, answer, label)
''',
        "scaffold/agent.py": '''"""Ask the model once, with the prompt that Inspect makes."""


def solve(item, model, data):
    """What the model says."""
    return model.complete(item.prompt).text
''',
        "README.md": f"# {spec.name}\n\nMade by `evolog run --from inspect` of {spec.source}.\n",
    }
    return {path: text.encode() for path, text in texts.items()}
