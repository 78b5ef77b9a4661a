"""Mistakes that learning curves do not show, planted one at a time: the equations' tests must catch each.

A copy of the packages with one line changed runs the equations' tests in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.paths import ROOT, TESTS

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

OF_EQUATIONS = ("test_learning.py", "test_update.py")

MISTAKES = {
    "none": ("grpo", "", ""),
    "sign of the advantage": (
        "rloo",
        "-rho_BT * minibatch.advantages * minibatch.logp",
        "rho_BT * minibatch.advantages * minibatch.logp",
    ),
    "max for min in PPO's clip": ("terms", "-torch.minimum(rho_BT", "-torch.maximum(rho_BT"),
    "direction of KL": ("terms", "d = base_BT - logp_BT", "d = logp_BT - base_BT"),
    "denominator that leaves nobody out": (
        "credit",
        "total, others = sum(rewards_G), len(rewards_G) - 1",
        "total, others = sum(rewards_G), len(rewards_G)",
    ),
    "sign of KL in the reward": ("reinforce", '- hyper["kl"] * drift_N', '+ hyper["kl"] * drift_N'),
    "missing standardisation": ("credit", "[d / (std + eps) for d in deviations]", "[d for d in deviations]"),
    "sign of the critic in GAE": (
        "credit",
        "gamma * value_ahead - values_BT[:, t]",
        "gamma * value_ahead + values_BT[:, t]",
    ),
    "no importance weights in the loop": (
        "update",
        "sampled=torch.where(own & (mask > 0), recorded, old)",
        "sampled=old",
    ),
    "KL to the parent and not to the base": (
        "update",
        "model.outputs(part, base=True).logp",
        "model.outputs(part).logp",
    ),
    "critic forgotten between updates": ("update", 'parameter.copy_(state[f"critic.{number}"])', "pass"),
    "swapped preference": ("terms", "gain_B[0::2] - gain_B[1::2]", "gain_B[1::2] - gain_B[0::2]"),
}


ALWAYS = ("none", "sign of the advantage", "direction of KL", "swapped preference")
"""Those that `make test-slow` plants; `make test-long` plants all."""


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, "subprocess.CompletedProcess[str]"]:
    """What pytest said of each copy that is asked for."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    names = [str(item.callspec.params["mistake"]) for item in items]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda name: tried(tmp_path_factory.mktemp("planted"), *MISTAKES[name]), names)
        return dict(zip(names, said, strict=True))


def tried(folder: Path, module: str, right: str, wrong: str) -> "subprocess.CompletedProcess[str]":
    for package in ("events", "algorithms"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for test in OF_EQUATIONS:
        shutil.copy(TESTS / "algorithms" / "learning" / test, folder)
    file = folder / "algorithms" / "learning" / f"{module}.py"
    source = file.read_text(encoding="utf-8")
    assert source.count(right) == 1 or right == wrong, (
        f"{right!r} is no longer in {module}.py; plant the mistake where it belongs now"
    )
    file.write_text(source.replace(right, wrong), encoding="utf-8")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *OF_EQUATIONS], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "mistake", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.long) for name in MISTAKES]
)
def test_a_planted_mistake_is_caught(mistake: str, outcomes: dict[str, "subprocess.CompletedProcess[str]"]) -> None:
    done = outcomes[mistake]
    if mistake == "none":
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout + done.stderr
