"""The policy's process: serves models over HTTP, and has each published adapter checked by
`runtime/effects/serve.py`.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

from events.codec import Event
from events.errors import TryAgain
from events.weights import AdapterPublished, Canary
from runtime.effects.serve import ServedModels, check_adapter
from runtime.log.lookup import events_of_types
from runtime.log.worker import answer, retry_until_available, work
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.server import PolicyServer
from services.host.context import Context


async def serve(context: Context) -> None:
    """Answer calls in a thread, and check adapters as they are published."""
    models = ServedModels(
        context.blobs,
        context.work,
        lambda adapter: context.wait_for(published_canaries(context, adapter)),
        context.status.logged,
    )

    def sample(name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        asked = sum(request.n for request in requests)
        with context.status.logged(f"samples {asked:,} completions", logging.DEBUG, model=name[:12]):
            return models.sample(name, requests)

    port = urlsplit(context.node.policy_url()).port or 0
    try:
        server = PolicyServer(port, context.policy_token(), sample, models.names)
    except OSError as wrong:
        raise TryAgain(
            f"The policy cannot listen on port {port} of 127.0.0.1 ({wrong.strerror}): end the program that has it, or "
            "`evolog down` and `evolog up`, which takes another port."
        ) from wrong
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        await check_adapters(context, models)
    finally:
        server.shutdown()
        models.close()


async def published_canaries(context: Context, adapter: str) -> tuple[Canary, ...]:
    """The canaries of an adapter, by whichever run published it; none where no run did."""
    for event in await retry_until_available(lambda: events_of_types(context.log, "*", [AdapterPublished])):
        if isinstance(event.data, AdapterPublished) and event.data.adapter == adapter:
            return event.data.canary
    return ()


async def check_adapters(context: Context, models: ServedModels) -> None:
    """Say of each published adapter whether it is served."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            assert isinstance(event.data, AdapterPublished)
            outputs.append(answer(await asyncio.to_thread(check_adapter, models, event.data), event, "policy"))
        return outputs

    await work(
        context.log, perform, source="policy", scanner=context.scanner, wants=context.wants(), status=context.status
    )
