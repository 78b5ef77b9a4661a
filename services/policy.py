"""Serves the embedded policy over HTTP, and says of each published adapter whether it is loaded as it was trained."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from events.codec import Event
from events.errors import TryAgain, UserError
from events.fact import Fact
from events.weights import AdapterPublished, AdapterRejected, AdapterServed
from runtime.blobs import Blobs
from runtime.policies.bases import UNIFORM, Policy, open_policy
from runtime.policies.client import model_name
from runtime.policies.server import PolicyServer
from runtime.worker import answer, work
from services.context import Context

KEPT = 8
"""Models held in memory."""
TOLERANCE = 1e-3
"""Nats by which a canary's log-probabilities may differ from the trainer's: torch sums in another order than numpy."""


class Models:
    """Models by name, loaded from blobs when they are first asked for."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._blobs, self._folder = blobs, folder
        self._loaded: OrderedDict[str, Policy] = OrderedDict()
        self._loading = threading.RLock()

    def find(self, name: str) -> Policy:
        """The model of that name; raises `UserError` if its blobs are missing, damaged or do not belong together."""
        with self._loading:
            if name not in self._loaded:
                base, _, adapter = name.partition("@")
                uniform, adapter = adapter == UNIFORM, "" if adapter == UNIFORM else adapter
                base_folder = self._blobs.unpack(base, self._folder / base)
                adapter_folder = self._blobs.unpack(adapter, self._folder / adapter) if adapter else None
                self._loaded[name] = open_policy(base_folder, adapter_folder, uniform=uniform)
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def names(self) -> list[str]:
        """The models that are loaded."""
        return list(self._loaded)


def judge(models: Models, published: AdapterPublished) -> Fact:
    """Load the adapter and compare its canary: served, or rejected with the reason."""
    place = {
        "generation": published.generation,
        "round": published.round,
        "adapter": published.adapter,
        "batch": published.batch,
    }
    try:
        policy = models.find(model_name(published.base_model, published.adapter))
        error = max(
            (
                abs(mine - theirs)
                for canary in published.canary
                for mine, theirs in zip(policy.log_probs(canary.prompt), canary.logprobs, strict=True)
            ),
            default=0.0,
        )
    except TryAgain:
        raise  # this is handed out again
    except Exception as wrong:  # whatever a folder of any content makes a loader raise
        why = str(wrong) if isinstance(wrong, UserError) else f"{type(wrong).__name__}: {wrong}"
        return AdapterRejected(**place, reason=why)  # type: ignore[arg-type]
    if error > TOLERANCE:
        return AdapterRejected(**place, reason=f"its canary differs from the trainer's by {error:.2g} nats, at most {TOLERANCE:g}")  # type: ignore[arg-type]
    return AdapterServed(**place, error=error)  # type: ignore[arg-type]


async def serve(context: Context) -> None:
    """Answer calls in a thread, and vouch for adapters as they are published."""
    models = Models(context.blobs, context.work)
    port = urlsplit(context.node.policy_url()).port or 0
    server = PolicyServer(port, context.policy_token(), models.find, models.names)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            assert isinstance(event.data, AdapterPublished)
            outputs.append(answer(await asyncio.to_thread(judge, models, event.data), event, "policy"))
        return outputs

    try:
        await work(context.log, perform, source="policy", scanner=context.scanner)
    finally:
        server.shutdown()
