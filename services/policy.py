"""The policy's process: serves models over HTTP, and has each published adapter checked by
`runtime/effects/serve.py`.
"""

import asyncio
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from events.codec import Event
from events.weights import AdapterPublished
from runtime.effects.serve import ServedModels, check_adapter
from runtime.log.worker import answer, work
from runtime.policies.server import PolicyServer
from services.host.context import Context


async def serve(context: Context) -> None:
    """Answer calls in a thread, and check adapters as they are published."""
    models = ServedModels(context.blobs, context.work)
    port = urlsplit(context.node.policy_url()).port or 0
    server = PolicyServer(port, context.policy_token(), models.sample, models.names)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        await check_adapters(context, models)
    finally:
        server.shutdown()
        models.close()


async def check_adapters(context: Context, models: ServedModels) -> None:
    """Say of each published adapter whether it is served."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            assert isinstance(event.data, AdapterPublished)
            outputs.append(answer(await asyncio.to_thread(check_adapter, models, event.data), event, "policy"))
        return outputs

    await work(context.log, perform, source="policy", scanner=context.scanner, wants=context.wants())
