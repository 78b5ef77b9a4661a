"""What every service has in its hands: its account on the log, the blobs, a place to work in, and what runs say of themselves."""

import asyncio
import contextlib
import importlib
import importlib.util
import math
import os
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from events import codec
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound
from events.play import ModelCalled
from events.run import RunStarted
from events.secret import Scanner, of_environment
from events.subjects import LOG
from runtime.blobs import Blobs
from runtime.jetstream import Connection, connect
from runtime.log import Log, append_once
from runtime.lookup import by_id
from runtime.scaffold_host import Limits
from runtime.server import OPERATOR, write_private
from runtime.wire import Credentials
from runtime.worker import insist
from services.node import Node
from tasks.contract import Public
from tasks.loading import Task, load

T = TypeVar("T")
SILENCE = "EVOLOG_SCAFFOLD_SILENCE"
TRAINER = "EVOLOG_TRAINER"
ACCELERATE = "EVOLOG_ACCELERATE"
DATA_PARALLEL = ("NO", "MULTI_CPU", "MULTI_GPU")
"""The ways of accelerate in which each process holds the whole model."""


class Loaded(NamedTuple):
    """A run, with its task as this host has it."""

    started: RunStarted
    task: Task
    public: Public


def trainer_back_end() -> Literal["native", "trl"]:
    """Whose trainer does the gradient work where both can, as EVOLOG_TRAINER says; raises Misconfigured for one that there is not."""
    match os.environ.get(TRAINER) or "native":
        case "native":
            return "native"
        case "trl":
            if importlib.util.find_spec("trl") is None:
                raise Misconfigured(f"{TRAINER} is trl, and trl is not installed: pip install 'evolog[train]'.")
            return "trl"
        case other:
            raise Misconfigured(f"{TRAINER} is {other!r}; expected native or trl.")


def accelerate_config() -> Path | None:
    """The accelerate configuration under which trl's gradient work is launched, as EVOLOG_ACCELERATE names it; None for none.

    Raises Misconfigured for one that cannot be used, and where the back end is not trl.
    """
    named = os.environ.get(ACCELERATE)
    if not named:
        return None
    if (back_end := trainer_back_end()) != "trl":
        raise Misconfigured(f"{ACCELERATE} is {named} and the trainer is {back_end}; set {TRAINER}=trl too, or unset {ACCELERATE}.")
    yaml = importlib.import_module("yaml")
    path = Path(named).resolve()
    try:
        said = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as wrong:
        why = " ".join(str(wrong).split())
        raise Misconfigured(f"{ACCELERATE} is {named}, which cannot be read ({why}); write one with `accelerate config`.") from wrong
    if not isinstance(said, dict):
        raise Misconfigured(f"{ACCELERATE} is {named}, which holds no YAML mapping; write one with `accelerate config`.")
    if (kind := said.get("distributed_type")) not in DATA_PARALLEL:
        raise Misconfigured(
            f"{named} has distributed_type {kind!r}; expected one of {', '.join(map(repr, DATA_PARALLEL))}, in which each process holds "
            "the whole model: write one with `accelerate config`."
        )
    if (machines := said.get("num_machines", 1)) != 1:
        raise Misconfigured(f"{named} has num_machines {machines!r}; expected 1, since training goes over the devices of one host.")
    return path


def scaffold_limits() -> Limits:
    """What scaffolds may use; EVOLOG_SCAFFOLD_SILENCE sets the longest, in seconds, that one may go without a word."""
    named = os.environ.get(SILENCE)
    if named is None:
        return Limits()
    try:
        seconds = float(named)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise Misconfigured(f"{SILENCE} is {named!r}; expected seconds above 0, such as {Limits().silence:g}: correct it, or unset it.")
    return Limits(silence=seconds)


class Context:
    """One service's connections and folders. The blocking methods are for the threads that effects run in."""

    def __init__(self, name: str, index: int, node: Node, connection: Connection) -> None:
        self.name, self.index, self.node, self.connection = name, index, node, connection
        self.log: Log = connection.log(LOG)
        self.policy_token()  # made before the secrets are gathered, so that it is one of them
        self.scanner = Scanner(connection.scanner.secrets + node.secrets() + of_environment(os.environ))
        self.blobs = Blobs(node.blobs)
        self.work = node.directory / "work" / f"{name}-{index}"
        self.loop = asyncio.get_running_loop()
        self._loaded: dict[str, Loaded] = {}

    async def started(self, run: str) -> RunStarted:
        """The event that began the run."""
        id = codec.event_id(run, RunStarted)
        found = (await by_id(self.log, run, RunStarted, [id])).get(id)
        if found is None:
            raise NotFound(f"There is no run {run!r} on this log; `evolog ls` shows those that there are.")
        return found

    async def load(self, run: str) -> Loaded:
        """The run's task and data; raises `CheckFailed` if this host's data is not what the run was started on."""
        if run not in self._loaded:
            started = await self.started(run)
            task = await asyncio.to_thread(load, started.task)
            public = await asyncio.to_thread(task.public, started.seed)
            if public.digests != started.splits:
                raise CheckFailed(
                    f"The data of task {started.task!r} on this host is not what run {run} was started on; "
                    f"run `evolog data get {started.task}` here."
                )
            self._loaded[run] = Loaded(started, task, public)
        return self._loaded[run]

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """From a thread: the result of a coroutine that runs on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def record(self, events: Sequence[Event], log: Log | None = None) -> bool:
        """Append events of which some may be recorded already, and insist; whether some were, and may say otherwise."""
        return await insist(lambda: append_once(log or self.log, events, self.scanner))

    async def recorded_calls(self, run: str, ids: Sequence[str]) -> dict[str, ModelCalled]:
        """Those of these calls of the policy that stand in the log already."""
        return await insist(lambda: by_id(self.log, run, ModelCalled, ids))

    def policy_token(self) -> str:
        """The secret between the policy's endpoint and those that ask it; made by whoever comes first."""
        path = self.node.credentials("policy_token").with_suffix("")
        if not path.exists():
            mine = path.with_name(f".policy_token.{self.name}-{self.index}")
            write_private(mine, secrets.token_urlsafe(24))
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # unlike a rename, it leaves the one that came first
            mine.unlink()
        return path.read_text()


def read_credentials(path: Path) -> Credentials:
    """The account's credentials in a file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError as wrong:
        raise NotFound(
            f"No credentials at {path}: start evolog with `evolog up`, or copy the account's file from the host that runs it."
        ) from wrong


@contextlib.asynccontextmanager
async def operator(node: Node) -> AsyncIterator[Connection]:
    """A connection as the command line's account."""
    connection = await connect(read_credentials(node.credentials(OPERATOR)))
    try:
        yield connection
    finally:
        await connection.close()


async def open_context(name: str, index: int, node: Node) -> Context:
    """Connect as one service, to the broker that EVOLOG_NATS_URL names or else the credentials do."""
    credentials = read_credentials(node.credentials(name))
    if url := os.environ.get("EVOLOG_NATS_URL"):
        credentials = msgspec.structs.replace(credentials, url=url)
    return Context(name, index, node, await connect(credentials))
