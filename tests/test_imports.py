"""The direction of imports: events <- algorithms, tasks <- runtime <- replay <- services; and who may know what."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec

import pytest

from services.host.main import MODULES
from tests.harness.gold_access import PATHS, gold_methods, reaches
from tests.harness.import_graph import (
    PACKAGES,
    cycles,
    import_graph,
    imports_of,
    names_imported,
    public_types,
    source_files,
)
from tests.harness.paths import ROOT, TESTS

BELOW = {
    "events": (),
    "algorithms": ("events", "tasks.contract"),
    "tasks": ("events",),
    "runtime": ("events", "algorithms", "tasks"),
    "replay": ("events", "algorithms", "tasks", "runtime"),
}
"""What each package may import besides itself; services may import them all."""
CHILDREN = ("runtime/rollouts/child.py", "runtime/rollouts/openai/child.py", "runtime/rollouts/openai/relay.py")
"""Scripts that run in the sandbox, where nothing of this program is: they define again what they share with it."""
FIELDS_OF = (
    "self",
    "row",
    "rows[0]",
    "one",
    "first",
    "last",
    "start",
    "before",
    "after",
    "now",
    "answers",
    "pair.answers",
    "fresh[id]",
    "reference",
    "audit",
    "table",
    "run",
    "history",
    "manifest",
    "closing",
    "signed.closing",
    "closed",
)
"""Expressions whose fields of gold's name are figures: an audit's rows and tables, a run's events on the stream
GOLD, and the digest that closes it.
"""
HAVE_SUCH_FIELDS = (
    "replay/",
    "services/views/",
    "services/cli/",
    "services/host/sources.py",
    "services/host/signing.py",
)
MAY_NAME_PATHS = {
    "services/host/node.py": ("gold_blobs", "gold.duckdb"),
    "replay/exports/folder.py": ("gold_blobs",),
    "replay/audit/provenance": ("gold.py",),
    "services/host/task_sources.py": ("gold.py",),
    "tasks/loading.py": ("gold.py",),
}
"""Who may write where gold is, by how a file's path begins.

They are the node's layout, the export's, the checks that no scaffold and no other module of a task names it, and the
contract of a task folder.
"""
MAY_READ_GOLD = ("services/host/task_check.py",)
"""Who may read gold besides the auditor: `evolog task check`, the operator's command, which holds a task's gold against
its splits before there is a run. No service and no agent can import it.
"""
MAY_USE_PATHS = ("replay/", "services/cli/", "services/dashboard/source.py", "services/host/")
"""Who may use the node's path of the auditor's blobs and archive: what an operator exports, audits or examines."""
MAY_WRITE = {
    "events/catalogue.py": ("gold",),
    "replay/exports/folder.py": ("sha256/*/*",),
    "algorithms/learning/__init__.py": ("import_module",),
    "algorithms/models/kernels.py": ("import_module",),
    "runtime/agents/providers.py": ("import_module",),
    "services/host/main.py": ("import_module",),
    "tasks/denoise/scaffold/agent.py": ("import_module",),
    "tasks/feeling/scaffold/agent.py": ("import_module",),
    "tasks/gpqa/scaffold/agent.py": ("import_module",),
    "tasks/lawbench/scaffold/agent.py": ("import_module",),
    "tasks/longcot_chess/scaffold/agent.py": ("import_module",),
    "tasks/spaceship_titanic/scaffold/agent.py": ("import_module",),
    "tasks/adapters/sia.py": ("*",),
    "tasks/adapters/folder.py": ("gold.py",),
    "tasks/adapters/sia_directory.py": ("*",),
    "tasks/adapters/inspect_tasks.py": ("import_module",),
    "tasks/optimum/scaffold/agent.py": ("import_module",),
    "runtime/blobs/directory.py": ("*",),
    "runtime/policies/published.py": ("*",),
    "runtime/rollouts/host.py": ("*",),
    "runtime/run/confined_verifier.py": ("*.py", "gold.py"),
    "services/host/imports.py": ("*",),
    "services/host/kept_files.py": ("*.py",),
    "services/host/node.py": ("*",),
    "services/host/sources.py": ("*",),
    "services/host/supervisor.py": ("*",),
    "services/host/task_sources.py": ("*.py",),
    "tasks/templates/__init__.py": ("*",),
}
"""Which files import modules by names that they make up, which go through all files of a folder, and which name the
stream GOLD.
"""
ROOMS = ("services.cli", "services.dashboard", "services.host", "services.views")
"""The packages of services that are no process."""

IN_SANDBOX = ("tasks/trimul/sandboxed/", "tasks/trimul/kernels/")
"""Programs of a task that run in the sandbox alone, and kernels that it runs there."""


def within(module: str, *names: str) -> bool:
    """Whether a module is one of these or inside one of these."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def wrong_imports(of: Callable[[str], bool], forbidden: Callable[[str], bool]) -> list[str]:
    """The imports that must not be, of the modules in question, of which there must be some."""
    graph = import_graph()
    assert any(map(of, graph)) and any(map(forbidden, graph))
    return [
        f"{module} imports {other}"
        for module in graph
        if of(module)
        for other in sorted(graph[module])
        if forbidden(other)
    ]


@pytest.mark.parametrize("package", BELOW)
def test_imports_go_one_way(package: str) -> None:
    allowed = (package, *BELOW[package])
    assert wrong_imports(lambda module: within(module, package), lambda other: not within(other, *allowed)) == []


def is_process(module: str) -> bool:
    """A service: each module that stands in `services` itself, the auditor's room, and the program that runs them."""
    return (module.count(".") == 1 and module.startswith("services.")) or within(
        module, "services.auditor", "services.host.main"
    )


def test_nobody_imports_the_command_line_but_itself() -> None:
    assert (
        wrong_imports(lambda module: not within(module, "services.cli"), lambda other: within(other, "services.cli"))
        == []
    )


def test_a_process_and_its_host_know_nothing_of_what_a_user_sees() -> None:
    def of(module: str) -> bool:
        return (is_process(module) and not within(module, *ROOMS)) or within(module, "services.host")

    assert wrong_imports(of, lambda other: within(other, "services.views", "services.cli")) == []


def test_the_command_line_alone_knows_the_doctor() -> None:
    assert (
        wrong_imports(lambda module: not within(module, "services.cli"), lambda other: other == "services.host.doctor")
        == []
    )


def process_of(module: str) -> str:
    """The service that a module is or is a part of; "" of others."""
    return ".".join(module.split(".")[:2]) if is_process(module) and not within(module, *ROOMS) else ""


def test_the_command_line_alone_knows_what_checks_tasks() -> None:
    checks = ("services.host.task_check", "services.host.task_sources")
    outside = wrong_imports(lambda module: not within(module, "services.cli", *checks), lambda other: other in checks)
    assert outside == []


def test_no_process_imports_another() -> None:
    graph = import_graph()
    assert {"services.auditor", "services.controller", "services.trainer"} <= set(map(process_of, graph))
    wrong = [
        (one, other)
        for one in graph
        for other in graph[one]
        if process_of(one) and process_of(other) not in ("", process_of(one))
    ]
    assert wrong == []


def test_effects_know_neither_log_nor_replay_nor_service() -> None:
    assert (
        wrong_imports(lambda module: within(module, "runtime.effects"), lambda other: within(other, "runtime.log"))
        == []
    )


def test_no_two_modules_import_each_other() -> None:
    """Imports inside functions count too."""
    graph = import_graph()
    pairs = {
        tuple(sorted((module, other))) for module, others in graph.items() for other in others if module in graph[other]
    }
    assert pairs == set()


def test_no_import_goes_round_in_a_circle() -> None:
    assert cycles(import_graph(lazy=False)) == []


def test_a_circle_of_imports_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "d"}, "e": {"d"}}) == [["a", "b", "c"], ["d"]]


def test_no_type_has_the_name_of_another() -> None:
    """Tasks may share names among themselves: the contract prescribes some."""
    where = defaultdict(list)
    for package in PACKAGES:
        for path in source_files(package):
            relative = path.relative_to(ROOT).as_posix()
            if relative in CHILDREN or (package == "tasks" and len(path.relative_to(ROOT).parts) > 2):
                continue
            for name in public_types(path.read_text(encoding="utf-8")):
                where[name].append(relative)
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def knowing(*libraries: str) -> set[str]:
    """The files that import one of these libraries, at once or later."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in source_files(package)
        if any(within(name, *libraries) for name in imports_of(path, True))
    }


def test_nats_is_known_in_few_modules() -> None:
    broker = {f"runtime/broker/{name}.py" for name in ("client", "streams", "without_websockets")}
    assert knowing("nats") == {"runtime/log/jetstream.py", *broker}


def test_torch_is_known_where_weights_are() -> None:
    rooms = ("algorithms/learning/", "algorithms/models/", "algorithms/demos/", "runtime/policies/", *IN_SANDBOX)
    assert [file for file in knowing("torch", "peft") if not file.startswith(rooms)] == []


def loaded_by(code: str, *modules: str) -> list[str]:
    """Which of these modules a new process has loaded after this code."""
    tell = f"{code}\nimport sys\nprint([name for name in {modules!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", tell], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names: list[str] = ast.literal_eval(out)
    return names


@pytest.mark.parametrize(
    "module",
    [
        "runtime.run.decide",
        "runtime.run.evolve",
        "runtime.run.fork",
        "events.catalogue",
        "algorithms.search.chain",
        "algorithms.statistics",
    ],
)
def test_the_pure_core_touches_no_socket(module: str) -> None:
    """`_socket` is no sign of one: typing_extensions, which msgspec needs, imports that C module for a type."""
    assert loaded_by(f"import {module}", "socket", "ssl", "select", "asyncio", "nats", "subprocess") == []


def test_the_command_line_starts_light() -> None:
    assert loaded_by("import services.cli.main", "nats", "duckdb", "torch", "rich", "msgspec", "numpy") == []


def test_the_text_scorer_is_trained_without_peft_and_transformers() -> None:
    code = """
import runtime.effects.train, runtime.policies.text_scorer_torch
from runtime.policies.training import back_end_for
assert back_end_for("native", None, None, ()) == "native"
"""
    assert loaded_by(code, "torch", "peft", "transformers") == ["torch"]


def test_no_service_needs_torch_or_what_nats_takes_for_websockets_to_start() -> None:
    assert loaded_by("\n".join(f"import {module}" for module in MODULES.values()), "torch", "aiohttp") == []
    if find_spec("aiohttp"):  # who needs it later finds it
        assert loaded_by("import runtime.log.jetstream, nats\nimport aiohttp", "aiohttp") == ["aiohttp"]


def test_no_test_imports_another() -> None:
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in imports_of(path, True)
            if within(name, "tests") and ".test_" in f".{name}"
        ]
    assert wrong == []


METHODS = gold_methods((ROOT / "tasks/loading.py").read_text(encoding="utf-8"))


def test_what_reads_gold_is_known() -> None:
    assert len(METHODS) == 14 and {"gold", "gold_submission", "perturbations", "perturbed", "canaries"} <= METHODS


def ways_to_gold(may_write: Mapping[str, Sequence[str]], only: Collection[str] = ()) -> dict[str, list[str]]:
    """Where the code, or these files alone, reaches for gold, by file, but for the auditor's and what a task's folder
    is read with.
    """
    found = {}
    for package in PACKAGES:
        for path in source_files(package, data=True):
            relative = path.relative_to(ROOT).as_posix()
            if (
                relative.startswith("services/auditor/")
                or relative in ("tasks/loading.py", *MAY_READ_GOLD)
                or path.match("tasks/*/gold.py")
                or (only and relative not in only)
            ):
                continue
            fields = FIELDS_OF if relative.startswith(HAVE_SUCH_FIELDS) else ()
            may = {word for start, words in MAY_NAME_PATHS.items() if relative.startswith(start) for word in words}
            may |= {*may_write.get(relative, ())} | (PATHS if relative.startswith(MAY_USE_PATHS) else set())
            if lines := reaches(path.read_text(encoding="utf-8"), METHODS, fields, may):
                found[relative] = lines
    return found


def test_gold_is_reached_by_the_auditor_alone() -> None:
    assert ways_to_gold(MAY_WRITE) == {}


def test_who_may_read_gold_does() -> None:
    for file in MAY_READ_GOLD:
        assert "task.gold" in str(reaches((ROOT / file).read_text(encoding="utf-8"), METHODS))


def test_no_file_may_write_more_than_it_does() -> None:
    assert set(ways_to_gold({}, MAY_WRITE)) == set(MAY_WRITE)


@pytest.mark.parametrize(
    "source",
    [
        "task.gold(0)",
        "load('lawbench').gold()",
        "labels = context.loaded.task.gold\nlabels()",
        "getattr(load(name), 'gold')(0)",
        "operator.methodcaller('ceiling', label)(task)",
        "from tasks.lawbench import gold",
        "from tasks.lawbench.gold import labels",
        "def later():\n    import tasks.lawbench.gold as answers",
        "from . import gold",
        "importlib.import_module('tasks.lawbench.gold')",
        "importlib.import_module(f'{task.package}.gold')",
        "__import__(package + '.gold')",
        "loading._module(folder, package, 'gold')",
        "(task.folder / 'gold.py').read_text()",
        "(task.folder / 'gold').with_suffix('.py')",
        "open(f'{folder}/gold.py')",
        "open(folder + '/go' + 'ld.py')",
        "duckdb.connect('.evolog/gold.duckdb')",
        "Blobs(node.directory / 'gold_blobs')",
        "Blobs(node.gold_blobs)",
        "task.perturbed('renamed', asked, truth, 0)",
        "{name: measure for name, measure in task.canaries(label).items()}",
        "load(x).__class__.__dict__['gold']",
        "vars(type(task))['ceiling'](task)",
        "type(task).__dict__.get('gold')",
        "folder.joinpath('gold').with_suffix('.py')",
        "Path(folder, 'gold').with_suffix('.py')",
        "os.path.join(folder, 'gold') + '.py'",
        "folder.with_name(name='gold')",
        "folder.glob('g*.py')",
        "next(folder.rglob('[f-h]old.??'))",
        "glob.glob(f'{folder}/*.py')",
        "list(folder.iglob(prefix + '*.duckdb'))",
        "pkgutil.resolve_name('tasks.lawbench:gold')",
        "pkgutil.resolve_name('tasks.lawbench.gold:labels')",
        "import_module(f'{package}.{part}')",
        "importlib.import_module(name)",
        "from importlib import import_module as get",
    ],
)
def test_each_way_to_gold_is_found(source: str) -> None:
    assert reaches(source, METHODS)


@pytest.mark.parametrize(
    "source",
    [
        "from events.gold import GOLD, GoldScored",
        "import events.gold",
        "from events.subjects import GOLD, LOG\nsubject(GOLD, run, id, tag)",
        "'''What gold.py says is for the auditor.'''",
        "headings = ('of', 'score', 'gold')",
        "history = History(run, past, messages, gold, blobs, gold_blobs)",
        "task.labels(0)",
        "golden = task.golden",
        "wheels = folder.glob('*.whl')",
        "yaml = importlib.import_module('yaml')",
    ],
)
def test_what_only_sounds_like_gold_is_not(source: str) -> None:
    assert reaches(source, METHODS) == []


def test_a_figure_named_gold_is_no_way_to_it_where_figures_are() -> None:
    assert reaches("_share(row.gold)", METHODS, FIELDS_OF) == []
    assert (
        reaches("_share(row.gold)", METHODS)
        and reaches("row.gold()", METHODS, FIELDS_OF)
        and reaches("task.gold", METHODS, FIELDS_OF)
    )


@pytest.mark.parametrize(
    "source",
    [
        "first = load(x); labels = first.gold; labels(0)",
        "first, last = loading.load(x), 1; labels = first.gold",
        "if (one := context.task): labels = one.gold",
        "task = load(x); run = task; labels = run.gold",
        "task = access.load_task(x); labels = task.gold",
        "def later(table: Task | None):\n    return table.gold",
    ],
)
def test_no_task_is_taken_for_a_figure(source: str) -> None:
    assert reaches(source, METHODS, FIELDS_OF)


def test_files_may_write_what_is_said_of_them() -> None:
    for source, word in (
        ("import_module(name)", "import_module"),
        ("folder.rglob('*')", "*"),
        ("count('gold')", "gold"),
    ):
        assert reaches(source, METHODS) and reaches(source, METHODS, may=[word]) == []


def test_names_are_found_however_they_are_imported() -> None:
    lines = ("import a.b", "from c import d", "from .. import e", "from .f import g", "def later():", "    import h")
    source = "\n".join([*lines, "if __name__ == '__main__':", "    import i"])
    everything = {"a.b", "c", "c.d", "x", "x.e", "x.y.f", "x.y.f.g", "h"}
    assert names_imported(source, "x.y.z") == everything and names_imported(
        source, "x.y.z", lazy=False
    ) == everything - {"h"}


def test_types_are_classes_and_aliases_in_camel_case() -> None:
    source = (
        "class A: ...\nclass _B: ...\nFoo = int\nFOO = 1\nfoo = 2\nbar: Foo = 3\nBar: object = 4\nState = "
        "TypeVar('State')\n"
    )
    assert public_types(source) == {"A", "Foo", "Bar"}
