"""What every service is given: its account on the log, the blobs, a folder to work in, and runs with their tasks."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from events.codec import Event
from events.errors import Unavailable, UserError, hosts_own
from events.rollouts import ModelCalled
from events.run import RunStarted
from events.secret import of_environment
from events.subjects import BLOBS, LOG
from runtime.broker.accounts import OPERATOR, status_subject
from runtime.broker.credentials import Credentials, Login, bundle_login, read_credentials, write_private
from runtime.log.in_hand import InHand
from runtime.log.jetstream import Connection, connect
from runtime.log.lineage import Span, ancestors, run_start
from runtime.log.lookup import facts_by_id
from runtime.log.port import Log
from runtime.log.service_log import ServiceLog
from runtime.log.worker import Wants, append_struck_out, retry_until_available
from runtime.run.loading import OWN, LoadedRun, load_run
from runtime.status import StatusReporter
from services.host.blobs import service_blobs
from services.host.node import Node, version
from services.host.settings import host_patience

T = TypeVar("T")
RECONNECT_SECONDS = 1.0
"""Seconds between two looks whether the connection by which a service answers is there."""
VERSION_SECONDS = 2.0
"""Seconds between two looks whether the host of the broker has this version by now."""
LACKING = "what its host lacks"


class Context:
    """One service's connections and folders. The blocking methods are for the threads that effects run in."""

    def __init__(self, name: str, index: int, node: Node, connection: Connection, work: Path) -> None:
        """The connection's scanner learns the node's secrets, and is the service's."""
        self.name, self.index, self.node, self.connection, self.work = name, index, node, connection, work
        self.log: Log = ServiceLog(connection.log(LOG), InHand(node.in_hand(name, index)))
        self._tending: asyncio.Task[None] | None = None
        self.policy_token()  # made before the secrets are gathered, so that it is one of them
        self.scanner = connection.scanner
        self.scanner.learn(node.secrets() + of_environment(os.environ))
        self.status = StatusReporter(name, index, version=version(), redact=self.scanner.redact)
        self.blobs = service_blobs(node.blobs, BLOBS, connection.credentials, connection.login)
        self.loop = asyncio.get_running_loop()
        self._loaded: dict[str, LoadedRun] = {}
        self._past: dict[str, tuple[Span, ...]] = {}

    async def answer_status(self) -> None:
        """Tell whoever asks over the broker what this process does, also after the broker was away."""
        subject = status_subject(self.name)
        await retry_until_available(
            lambda: self.connection.respond(subject, lambda: msgspec.json.encode(self.status.status()))
        )
        self._tending = asyncio.create_task(self._stay_connected())

    async def _stay_connected(self) -> None:
        while True:
            await asyncio.sleep(RECONNECT_SECONDS)
            with contextlib.suppress(UserError):
                await self.connection.client()

    async def wait_for_version(self) -> None:
        """Wait, and say so, while the host of the broker has another version of evolog than this one."""
        while wanted := await self._other_version():
            self.status.report(f"evolog {wanted}", _versions(wanted))
            await asyncio.sleep(VERSION_SECONDS)
        self.status.clear()

    async def watch_version(self) -> str:
        """Wait until the broker has come back with another version of evolog; why this process must end then."""
        looked_at: object = None
        while True:
            await asyncio.sleep(RECONNECT_SECONDS)
            with contextlib.suppress(UserError):
                if (client := await self.connection.client()) is not looked_at:
                    if wanted := await self._other_version():
                        return _versions(wanted)
                    looked_at = client

    async def _other_version(self) -> str:
        """The version that the host of the broker wants, where it is not this one."""
        wanted = await retry_until_available(self.connection.wanted_version)
        return "" if wanted == version() else wanted

    def open_log(self, stream: str) -> Log:
        """The log of that name, of which this service is handed nothing."""
        return ServiceLog(self.connection.log(stream))

    def capable_log(self, consumer: str) -> Log:
        """The log, of which this service is handed what that consumer of `CAPABLE_CONSUMERS` has."""
        return ServiceLog(self.connection.log(LOG, consumer), InHand(self.node.in_hand(consumer, self.index)))

    async def started(self, run: str) -> RunStarted:
        """The event that began the run."""
        return (await run_start(self.log, run))[1]

    async def past(self, run: str) -> tuple[Span, ...]:
        """Where the past of a forked run stands; nothing for one that is no fork."""
        if run not in self._past:
            self._past[run] = await ancestors(self.log, run)
        return self._past[run]

    async def load(self, run: str) -> LoadedRun:
        """The run's task and data; raises `NotHere` where this host lacks them, or has others than the run was started
        on.
        """
        if run not in self._loaded:
            self._loaded[run] = await asyncio.to_thread(self._load, run, await self.started(run))
        return self._loaded[run]

    def _load(self, run: str, started: RunStarted) -> LoadedRun:
        with hosts_own():
            return load_run(run, started, self.blobs, OWN, self.work)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """From a thread: the result of a coroutine that runs on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def record(self, events: Sequence[Event], log: Log | None = None) -> bool:
        """Append events, as often as it takes; whether some of them stood there already, and so may hold something
        else. A known secret is struck out.
        """
        return await retry_until_available(lambda: append_struck_out(log or self.log, events, self.scanner))

    async def recorded_calls(self, run: str, ids: Sequence[str], past: Sequence[Span] = ()) -> dict[str, ModelCalled]:
        """Those of these calls of the policy that stand in the log already, of the run or of this past."""
        return await retry_until_available(lambda: facts_by_id(self.log, run, ModelCalled, ids, past))

    def wants(self) -> Wants:
        """What to put work off by where this host lacks something; whoever follows the run is told."""

        def tell(run: str, lacking: str | None) -> None:
            if lacking:
                self.status.set_waiting((LACKING, run), run, LACKING, lacking, put_off=wants.count(run))
            else:
                self.status.end_waiting((LACKING, run))

        wants = Wants(host_patience(), tell)
        return wants

    def policy_token(self) -> str:
        """The secret between the policy's endpoint and those that ask it; made by whoever comes first."""
        path = self.node.credentials("policy_token").with_suffix("")
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mine = path.with_name(f".policy_token.{self.name}-{self.index}")
            write_private(mine, secrets.token_urlsafe(24))
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # unlike a rename, it leaves the one that came first
            mine.unlink()
        return path.read_text()


def _versions(wanted: str) -> str:
    return (
        f"This host has evolog {version()}, and the broker was started by {wanted}, so nothing is done here: install "
        "the same on both."
    )


@contextlib.asynccontextmanager
async def operator(node: Node, login: Login | None = None) -> AsyncIterator[Connection]:
    """A connection as the command line's account, or with another login."""
    connection = await connect(login or (lambda: read_credentials(node.credentials(OPERATOR))))
    try:
        yield connection
    finally:
        await connection.close()


async def open_context(name: str, index: int, node: Node, work: Path, bundle: Path | None = None) -> Context:
    """Connect as one service that works in a folder of its own, to the broker that EVOLOG_NATS_URL names or else the
    credentials do, as soon as it is there. The credentials are a bundle's, or those of this directory.
    """
    login = with_url(bundle_login(bundle, name) if bundle else _service_login(name, node))
    context = Context(name, index, node, await retry_until_available(lambda: connect(login)), work)
    await context.answer_status()
    return context


def _service_login(name: str, node: Node) -> Login:
    path = node.credentials(name)
    password = read_credentials(path).password

    def login() -> Credentials:
        credentials = read_credentials(path)
        if credentials.password != password:  # and so have the other secrets that this process must not append
            raise UserError(
                f"evolog was started anew in {node.directory} since this service was: start the service again.",
                code=Unavailable.code,
            )
        return credentials

    return login


def with_url(login: Login) -> Login:
    """The login at the address that EVOLOG_NATS_URL names, such as a tunnel's; the broker must show the same
    certificate there.
    """

    def elsewhere() -> Credentials:
        credentials = login()
        url = os.environ.get("EVOLOG_NATS_URL")
        name = credentials.server_name or (urlsplit(credentials.url).hostname or "" if credentials.ca else "")
        return msgspec.structs.replace(credentials, url=url, server_name=name) if url else credentials

    return elsewhere
