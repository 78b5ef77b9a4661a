"""The embedded policies by kind: how a base model is made for a task, opened with an adapter, and trained."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from algorithms.learning.batch import Rollout
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import derive
from runtime.policies import text_scorer
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.uniform import Uniform
from tasks.contract import Public

if TYPE_CHECKING:
    from runtime.policies.text_scorer_torch import TrainResult

UNIFORM = "uniform"
"""In an adapter's place: the same vocabulary, with every label as probable as the next."""


class Policy(Protocol):
    """A model that can be asked, and that shows its log-probabilities for a canary."""

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""

    def log_probs(self, prompt: str) -> list[float]:
        """The log-probability of each completion of one token."""


def prepare_base(kind: str, public: Public) -> Path:
    """The folder of the base model of this kind for a task, made from label names and unlabelled texts, and kept in the cache."""
    if kind != text_scorer.KIND:
        raise Misconfigured(f"There is no embedded policy {kind!r}; expected {text_scorer.KIND!r}. Correct POLICY in the task's task.py.")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "models"
    target = cache / f"{kind}-{derive(kind, text_scorer.BITS, *public.labels, *(public.digests[name] for name in sorted(public.digests)))}"
    try:
        text_scorer.load_base(target)
    except (NotFound, CheckFailed):  # not made yet, or cut short
        shutil.rmtree(target, ignore_errors=True)
        base = text_scorer.build_base(public.labels, [example.prompt for example in public.train])
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        base.save(made)
        try:
            made.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(made)
        text_scorer.load_base(target)
    return target


def open_policy(base: Path, adapter: Path | None, *, uniform: bool = False) -> Policy:
    """The policy of a base folder, with the adapter of a peft folder if one is given."""
    if uniform:
        return Uniform(text_scorer.load_base(base).labels)
    return text_scorer.load(base, adapter)


def train(
    base: Path,
    parent: Path | None,
    rollouts: Sequence[Rollout],
    algorithm: str,
    hyper: Mapping[str, float],
    seed: int,
    out: Path,
) -> "TrainResult":
    """One round of training; see `text_scorer_torch.train`."""
    from runtime.policies import text_scorer_torch

    return text_scorer_torch.train(base, parent, rollouts, algorithm, hyper, seed, out)
