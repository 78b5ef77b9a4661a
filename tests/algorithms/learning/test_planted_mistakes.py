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
        "sampled=torch.where(known, recorded, old)",
        "sampled=old",
    ),
    "a single token that is off stays in the loss": ("update", "~(off | cut)", "~cut"),
    "a cut answer is left out before the baseline": (
        "update",
        "selected = algorithm.select(fresh, hyper)",
        'selected = algorithm.select([r for r in fresh if not (hyper["mask_cut"] and r.cut)], hyper)',
    ),
    "record compared at the answer's temperature": (
        "update",
        "if any(r.temperature != 1 for r in rollouts)",
        "if False",
    ),
    "KL to the parent and not to the base": (
        "update",
        "_look(model, rollouts, hyper, base=True).logp",
        "_look(model, rollouts, hyper, base=False).logp",
    ),
    "parts of a minibatch that weigh the same": (
        "update",
        "weight * algorithm.loss(",
        "algorithm.loss(",
    ),
    "rows for tokens in a part's weight": (
        "update",
        "return counts[0] / max(counts[1], 1)",
        "return len(part) / len(whole)",
    ),
    "critic forgotten between updates": ("update", 'parameter.copy_(state[f"critic.{number}"])', "pass"),
    "ratios of tokens and not of answers": (
        "gspo",
        "ratio_B1 = terms.sequence_ratio(minibatch.logp, minibatch.old, mask_BT)",
        "ratio_B1 = terms.ratio(minibatch.logp, minibatch.old)",
    ),
    "length left out of the ratio of an answer": (
        "terms",
        "gain_B1 / mask_BT.sum(1, keepdim=True).clamp(min=1)",
        "gain_B1",
    ),
    "missing division by the mean": ("credit", "[d / mean for d in centred(rewards_G)]", "centred(rewards_G)"),
    "swapped student and teacher": ("opsd", "initial.teacher - initial.old", "initial.old - initial.teacher"),
    "teacher without the hint": ("update", "prompt=r.prompt + r.hint", "prompt=r.prompt"),
    "KL without its ratio": (
        "terms",
        "weight_BT = truncated(now_BT, sampled_BT, most)",
        "weight_BT = now_BT.exp() ** 0",
    ),
    "the drift of whoever sampled": ("reinforce", "initial.old - initial.base", "initial.sampled - initial.base"),
    "one rate for all widths": ("update", "rate * REFERENCE_WIDTH / width", "rate"),
    "a critic that begins at 0": ("update", "model.critic[-1].fill_(value)", "value = 0.0"),
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
