"""The direction of imports: events <- algorithms, tasks <- runtime <- replay <- services; and who may know what."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "events": {"events"},
    "algorithms": {"events", "algorithms"},
    "tasks": {"events", "tasks"},
    "runtime": {"events", "algorithms", "tasks", "runtime"},
    "replay": {"events", "algorithms", "tasks", "runtime", "replay"},
    "services": {"events", "algorithms", "tasks", "runtime", "replay", "services"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def files(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "scaffold" not in path.parent.name and path.parent.name != "steps"]


def test_imports_go_one_way() -> None:
    for package, allowed in MAY_IMPORT.items():
        for path in files(package):
            wrong = {name for name in imports(path) if name.split(".")[0] in MAY_IMPORT and name.split(".")[0] not in allowed}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_the_auditor_asks_for_gold() -> None:
    for package in MAY_IMPORT:
        for path in files(package):
            if path.name == "gold.py" or path == ROOT / "services" / "auditor.py":
                continue
            wrong = {name for name in imports(path) if name.startswith("tasks.") and name.split(".")[-1] == "gold"}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
            if package == "services":
                text = path.read_text(encoding="utf-8")
                assert not any(
                    call in text for call in (".gold()", ".perturbations(", ".perturbed(", ".worth(", ".beside(", ".canaries(", ".ceiling(")
                ), path


def test_nats_is_known_in_two_modules() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in files(package)
        if any(name.split(".")[0] == "nats" for name in imports(path))
    }
    assert knowing == {"runtime/jetstream.py", "runtime/server.py"}


def test_torch_is_known_where_weights_are() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix()
        for package in MAY_IMPORT
        for path in files(package)
        if any(name.split(".")[0] in ("torch", "peft") for name in imports(path))
    }
    assert all(name.startswith(("algorithms/learning/", "runtime/policies/")) for name in knowing), knowing


def test_the_command_line_starts_light() -> None:
    code = (
        "import sys, services.cli.main; print([name for name in ('nats', 'duckdb', 'torch', 'rich', 'msgspec', 'numpy') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_no_service_needs_torch_to_start_but_the_trainer() -> None:
    names = ("controller", "executor", "verifier", "archivist", "meta_agent", "feedback_agent", "auditor", "policy")
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module('services.' + name)\nprint('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
