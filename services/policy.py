"""The policy's process: serves models to those that ask over the broker (`runtime/policies/questions.py`), and over
HTTP to clients from outside; and has each published adapter checked by `runtime/effects/serve.py`.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from urllib.parse import urlsplit

from events.codec import Event
from events.errors import TryAgain, Unavailable, why
from events.subjects import LOG, subject
from events.weights import AdapterPublished, AdapterServed, Canary
from runtime.effects.serve import ServedModels, check_adapter
from runtime.log.lookup import events_of_types
from runtime.log.port import Log, readable
from runtime.log.questions import Answering
from runtime.log.worker import answer, first_ended, retry_until_available, work
from runtime.policies.client import model_name
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.questions import ANY_BASE, SERVICE, ModelHost
from runtime.policies.server import PolicyServer
from runtime.status import StatusReporter
from services.host.context import Context

logger = logging.getLogger("evolog")
PUBLISHED = subject(LOG, "*", "*", AdapterPublished.tag())
PAGE_SIZE = 100
POLL_SECONDS = 2.0
"""Seconds between two looks for adapters that other hosts check."""


async def serve(context: Context) -> None:
    """Answer calls in threads, check adapters as they are published, and load those that other hosts have checked."""
    models = ServedModels(
        context.blobs,
        context.work,
        lambda adapter: context.wait_for(published_canaries(context, adapter)),
        context.status.logged,
    )

    def listen(subjects: Collection[str]) -> None:
        context.wait_for(retry_until_available(lambda: answering.listen(subjects)))

    reported = ReportedModels(models, context.status)
    host = ModelHost(reported, context.blobs, listen)
    answering = Answering(context.connection, SERVICE, host.answer)
    server = _endpoint(context, reported)
    try:
        await retry_until_available(lambda: answering.listen([ANY_BASE]))
        await first_ended(
            answering.serve(), load_served(context.log, host.load), check_adapters(context, models, host.load)
        )
    finally:
        if server is not None:
            server.shutdown()
        models.close()


class ReportedModels:
    """A policy's models; what is sampled is said in the status of the process and in its log."""

    def __init__(self, models: ServedModels, status: StatusReporter) -> None:
        self._models, self._status = models, status
        self.require_agreed, self.names = models.require_agreed, models.names

    def sample(self, name: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `ServedModels.sample`."""
        asked = sum(request.n for request in requests)
        with self._status.logged(f"samples {asked:,} completions", logging.DEBUG, model=name[:12]):
            return self._models.sample(name, requests)


def _endpoint(context: Context, models: ReportedModels) -> PolicyServer | None:
    """The HTTP endpoint, where a supervisor has kept a port for it."""
    try:
        port = urlsplit(context.node.policy_url()).port or 0
    except Unavailable:
        return None
    try:
        server = PolicyServer(port, context.policy_token(), models.sample, models.names)
    except OSError as wrong:
        raise TryAgain(
            f"The policy cannot listen on port {port} of 127.0.0.1 ({wrong.strerror}): end the program that has it, or "
            "`evolog down` and `evolog up`, which takes another port."
        ) from wrong
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


async def published_canaries(context: Context, adapter: str) -> tuple[Canary, ...]:
    """The canaries of an adapter, by whichever run published it; none where no run did."""
    for event in await retry_until_available(lambda: events_of_types(context.log, "*", [AdapterPublished])):
        if isinstance(event.data, AdapterPublished) and event.data.adapter == adapter:
            return event.data.canary
    return ()


async def check_adapters(
    context: Context, models: ServedModels, load: Callable[[str], object] = lambda model: None
) -> None:
    """Say of each published adapter whether it is served; `load`, in a thread, has it served before that is said."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            published = event.data
            assert isinstance(published, AdapterPublished)
            checked = await asyncio.to_thread(check_adapter, models, published)
            if isinstance(checked, AdapterServed):
                await asyncio.to_thread(load, model_name(published.base_model, published.adapter))
            outputs.append(answer(checked, event, "policy"))
        return outputs

    await work(
        context.log, perform, source="policy", scanner=context.scanner, wants=context.wants(), status=context.status
    )


async def load_served(log: Log, load: Callable[[str], object]) -> None:
    """Have each adapter that is published from now on loaded here too, whichever host checks it, so that several hosts
    share its calls. One that this host cannot load is left to the others.
    """
    position = await log.end()
    while True:
        page = await log.read(position + 1, PAGE_SIZE, PUBLISHED)
        for stored in page:
            position = stored.sequence
            for event in readable([stored]):
                if isinstance(event.data, AdapterPublished):
                    try:
                        await asyncio.to_thread(load, model_name(event.data.base_model, event.data.adapter))
                    except Exception as wrong:  # whatever a folder of any content makes a loader raise
                        logger.warning("adapter %s is not loaded here: %s", event.data.adapter, why(wrong))
        if not page:
            await asyncio.sleep(POLL_SECONDS)
