"""The embedded policies by kind: how a base model is made for a task, and opened with an adapter."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from algorithms.models.cache import build_cached, cache_folder
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import derive
from runtime.policies import text_scorer
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.uniform import Uniform
from tasks.contract import Public

UNIFORM = "uniform"
"""In an adapter's place: the same vocabulary, with every label as probable as the next."""


HF = "hf"
KINDS = (text_scorer.KIND, "tiny-lm", HF)
CLOSED = (text_scorer.KIND,)
"""Those whose answer is one of a closed set of labels, in one token."""
Traces = Sequence[tuple[str, str]]
"""(prompt, completion) pairs."""
BuildProgress = Callable[[int, int, float], None]


class EmbeddedPolicy(Protocol):
    """A model that can be asked, and that shows its log-probabilities for a canary."""

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request."""

    def log_probs(self, prompt: str) -> list[float]:
        """The log-probability of each completion of one token."""


def prepare_base(kind: str, public: Public, traces: Callable[[], Traces], progress: BuildProgress = lambda done, total, loss: None) -> Path:
    """The folder of the base model of this kind for a task, kept in the cache by the digest of what it is made from.

    The text scorer is made from label names and unlabelled texts; tiny-lm is pre-trained on the task's traces, for half a minute, of which
    `progress` is told (steps done, steps in all, loss); hf:PATH names a model of transformers, by folder or id. Raises Misconfigured
    where the kind is unknown or the task has no traces, NotFound where a named model is not to be had.
    """
    match kind:
        case text_scorer.KIND:
            of = derive(kind, text_scorer.BITS, *public.labels, *(public.digests[name] for name in sorted(public.digests)))
            build: Callable[[Path], None] = text_scorer.build_base(public.labels, [example.prompt for example in public.train]).save
            return build_cached(cache_folder() / f"{kind}-{of}", text_scorer.load_base, build)
        case "tiny-lm":
            from algorithms.models import tiny_lm

            return tiny_lm.pretrain_cached(traces(), cache_folder(), progress)
        case _ if kind.startswith("hf:"):
            from runtime.policies import hf

            with tempfile.TemporaryDirectory() as room:
                made = Path(room) / "base"
                hf.describe(kind.removeprefix("hf:"), made)
                target = cache_folder() / f"hf-{hashlib.sha256((made / 'base.json').read_bytes()).hexdigest()[:16]}"
                return build_cached(target, kind_of, lambda into: shutil.copytree(made, into))
        case _:
            what = "expected text-scorer, tiny-lm, or hf:PATH; correct POLICY in task.py, or --policy"
            raise Misconfigured(f"There is no embedded policy {kind!r}; {what}.")


def kind_of(base: Path) -> str:
    """Which kind of base model a folder holds; raises NotFound or CheckFailed."""
    try:
        kind = json.loads((base / "base.json").read_text(encoding="utf-8"))["kind"]
    except FileNotFoundError:
        raise NotFound(f"The base model folder {base} lacks base.json; build the base again.") from None
    except (ValueError, KeyError, TypeError) as wrong:
        raise CheckFailed(f"The base model in {base} is damaged ({type(wrong).__name__}: {wrong}); build it again.") from wrong
    if kind not in KINDS:
        raise CheckFailed(f"The base model in {base} is of the kind {kind!r}; expected {' or '.join(KINDS)}.")
    return str(kind)


def open_policy(base: Path, adapter: Path | None, *, uniform: bool = False) -> EmbeddedPolicy:
    """The embedded policy of a base folder, with the adapter of a peft folder if one is given; of any kind but `hf`, which has a server."""
    if kind_of(base) == text_scorer.KIND:
        return Uniform(text_scorer.load_base(base).labels) if uniform else text_scorer.load(base, adapter)
    from runtime.policies import causal

    return causal.open_policy(base, adapter, uniform=uniform)
