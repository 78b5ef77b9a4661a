"""The kinds of base model: how one is built for a task, and how it is opened with an adapter as a policy."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from algorithms.models.cache import build_cached, cache_folder
from events.errors import CheckFailed, Misconfigured, NotHere
from events.fact import derive
from runtime.policies import published, text_scorer
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.uniform import Uniform
from tasks.contract import Public

UNIFORM = "uniform"
"""In place of an adapter's digest: the same vocabulary, with every label as probable as the next."""
HF = "hf"
KINDS = (text_scorer.KIND, "tiny-lm", HF)
CLOSED = (text_scorer.KIND,)
"""The kinds whose answer is one of a closed set of labels, in one token."""
Traces = Sequence[tuple[str, str]]
"""(prompt, completion) pairs."""
BuildProgress = Callable[[int, int, float], None]
"""Called with the steps done, the steps in all, and the loss in nats a token."""


class EmbeddedPolicy(Protocol):
    """A policy in this process. Its log-probabilities are compared with a canary's."""

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """The completions of each request. Equal requests get equal completions, whatever else is asked with them."""

    def log_probs(self, prompt: str) -> list[float]:
        """The natural log-probability (vocabulary,) of each token as the first after a prompt."""


def prepare_base(
    kind: str, public: Public, traces: Callable[[], Traces], progress: BuildProgress = lambda done, total, loss: None
) -> Path:
    """The folder of a task's base model of this kind, built unless it is cached by the digest of all that it is built
    from.

    The text scorer is built from label names and unlabelled texts. tiny-lm is pre-trained on the task's traces, which
    takes half a minute. hf:PATH names a model of transformers by its folder, its GGUF file or its id on the hub, and
    `smollm2` is the one that `evolog model get` fetches. Raises Misconfigured
    for an unknown kind, a text scorer without labels or a tiny-lm without traces, and NotFound for a named model that
    cannot be had.
    """
    match kind:
        case text_scorer.KIND if not public.labels:
            raise Misconfigured(
                f"The policy {kind} picks one of a task's labels, and {public.name} has none; take tiny-lm, smollm2 or "
                "hf:PATH as POLICY in task.py, or by --policy."
            )
        case text_scorer.KIND:
            digest = derive(
                kind, text_scorer.BITS, *public.labels, *(public.digests[name] for name in sorted(public.digests))
            )
            build: Callable[[Path], None] = text_scorer.build_base(
                public.labels, [example.prompt for example in public.train]
            ).save
            return build_cached(cache_folder() / f"{kind}-{digest}", text_scorer.load_base, build)
        case "tiny-lm":
            from algorithms.models import tiny_lm

            return tiny_lm.pretrain_cached(traces(), cache_folder(), progress)
        case _ if kind.startswith("hf:") or kind in published.MODELS:
            from runtime.policies import hf

            with tempfile.TemporaryDirectory() as folder:
                new = Path(folder) / "base"
                hf.write_base(kind.removeprefix("hf:"), new)
                target = cache_folder() / f"hf-{hashlib.sha256((new / 'base.json').read_bytes()).hexdigest()[:16]}"
                return build_cached(target, kind_of, lambda into: shutil.copytree(new, into))
        case _:
            advice = "expected text-scorer, tiny-lm, smollm2, or hf:PATH; correct POLICY in task.py, or --policy"
            raise Misconfigured(f"There is no embedded policy {kind!r}; {advice}.")


def kind_of(base: Path) -> str:
    """The kind of the base model in a folder; raises NotFound for a folder without base.json, CheckFailed for a damaged
    or unknown one.
    """
    try:
        kind = json.loads((base / "base.json").read_text(encoding="utf-8"))["kind"]
    except FileNotFoundError:
        raise NotHere(f"The base model folder {base} lacks base.json; build the base again.") from None
    except (ValueError, KeyError, TypeError) as wrong:
        raise CheckFailed(
            f"The base model in {base} is damaged ({type(wrong).__name__}: {wrong}); build it again."
        ) from wrong
    if kind not in KINDS:
        raise CheckFailed(f"The base model in {base} is of the kind {kind!r}; expected {' or '.join(KINDS)}.")
    return str(kind)


def open_policy(base: Path, adapter: Path | None, *, uniform: bool = False) -> EmbeddedPolicy:
    """Open the policy of a base folder, with the adapter of a peft folder if one is given. Of any kind but `hf`, which
    has a server.

    With `uniform`, it is the policy that knows nothing, over the same vocabulary. Raises NotFound, CheckFailed or
    Misconfigured for a folder that is missing, damaged or of another base.
    """
    if kind_of(base) == text_scorer.KIND:
        return Uniform(text_scorer.load_base(base).labels) if uniform else text_scorer.load(base, adapter)
    from runtime.policies import causal

    return causal.open_policy(base, adapter, uniform=uniform)
