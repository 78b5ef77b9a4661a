"""`make gpu` as far as a CPU goes: what it says without a GPU, and its parts at small shapes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.capped import NO_TIME, Clock, rows_of
from tests.harness.paths import ROOT

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")


def program(text: str) -> list[str]:
    """A command that runs these lines."""
    return [sys.executable, "-c", f"import time\nfrom tests.bench.capped import print_rows\n{text}"]


FOREVER = """
def rows():
    print("noise")
    yield "a", "1"
    time.sleep(600)

print_rows(rows())
"""


def test_a_part_that_goes_on_is_stopped_with_what_it_started_and_those_after_it_are_not_run() -> None:
    from tests.bench import gpu

    made = list(gpu.tables(Clock(3.0), lambda name, seconds: program(FOREVER)))
    cells = [list(table.columns[0].cells) for table in made]
    assert len(made) == len(gpu.PARTS) and cells[0] == ["a", "not run: stopped after 3 s, when the time was over"]
    assert all(column == [NO_TIME] for column in cells[1:])


def test_a_part_that_fails_says_so_after_its_rows() -> None:
    rows = list(rows_of(program("print_rows([('a', '1'), ('b',)])\nraise SystemExit('no device')"), 60.0))
    assert rows == [("a", "1"), ("b",), ("failed with 1: no device",)]
    assert list(rows_of(program("print_rows([('a',)])"), 60.0)) == [("a",)]


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "tests.bench.gpu", "--out", str(tmp_path / "table")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 78 and done.stdout == "" and not (tmp_path / "table").exists()
    assert done.stderr.startswith("There is no GPU here") and done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_grpo_step_is_timed_by_both_back_ends() -> None:
    from tests.bench import gpu

    shape = gpu.Shape("small", 32, 2, 4, 2, 64, 100)
    rows = list(gpu.grpo_rows([shape], "cpu", lambda: 1.0))
    assert [row[:2] for row in rows] == [("small", "native"), ("small", "trl")]
    assert all(float(row[2]) > 0 for row in rows)
    assert next(iter(gpu.grpo_rows([shape], "cpu", lambda: -1.0)))[2] == "left out: no time was left"


@pytest.mark.long
def test_our_kernels_are_checked_and_timed() -> None:
    from tasks.trimul.sandboxed.workload import Workload
    from tests.bench import gpu

    shapes = (Workload(64, 1, 32),)
    rows = list(gpu.trimul_rows(gpu.OwnTools(), "cpu", shapes, shapes, lambda: 1.0))
    assert [row[0] for row in rows if not row[0].startswith(" ")] == list(gpu.KERNELS)
    assert all(float(row[1]) < 1 for row in rows), rows


@pytest.mark.long
def test_a_random_model_is_trained_and_served_where_vllm_is() -> None:
    from tests.bench import gpu, serving
    from tests.harness.vllm_server import vllm_python

    shape = serving.ModelShape(64, 2, 2, 1, 128, 200)

    def figures(python: Path | None, left: float) -> dict[str, str]:
        return {row[0]: row[1] for row in gpu.serving_rows(python, serving.ON_CPU, lambda: left, shape)}

    alone = figures(None, 1.0)
    assert float(alone["mean ratio of the first step, of what was sampled"]) == pytest.approx(1, abs=1e-3)
    assert alone["served"] == serving.NO_VLLM
    assert figures(Path("vllm"), -1.0)["served"] == "left out: no time was left"
    if python := vllm_python():
        served = figures(python, 1.0)
        assert float(served["canary, mean difference in nats"]) < 1e-3
        assert float(served["tokens a second, adapter, 32 at once"].split()[0].replace(",", "")) > 0
