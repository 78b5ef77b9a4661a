"""`make gpu` as far as a CPU goes: what it says without a GPU, and its parts at small shapes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.paths import ROOT

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")


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
