"""Runs the nats-server and every service for `evolog up`: starts them as processes, starts again those that die, and
stops all together.
"""

import asyncio
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from events.catalogue import SERVICES
from events.errors import CheckFailed, Misconfigured, NotFound, TryAgain, UserError
from runtime.agents.providers import providers_with_key
from runtime.broker import accounts, children, credentials, server, store, streams
from runtime.broker.client import open_client
from runtime.broker.credentials import read_bundle
from runtime.broker.server import EmbeddedServer
from runtime.policies.client import engine_url
from runtime.sandbox.choose import UNSANDBOXED
from services.host.blobs import cache_limit, choose_back_end, move_into_streams
from services.host.main import READY_FD
from services.host.node import Node, Running, owner_alone, version
from services.host.settings import (
    accelerate_config,
    host_patience,
    replicas,
    scaffold_limits,
    scoring_limit,
    start_attempts,
    trainer_back_end,
)
from services.host.signals import handled_by
from services.host.work_folder import remove_left_over

UNFIT = (Misconfigured.code, 77)
"""The exit codes of a service that cannot work on this host until somebody mends that: it is misconfigured, or its key
is refused.
"""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before a process that died is started again; the pause doubles each time."""
UNFIT_PAUSE, LONGEST_UNFIT_PAUSE = 2.0, 30.0
"""The same for one that this host keeps from its work, until that is mended."""
RECOVERED = 6.0
"""Seconds that a process must live for the pause to begin anew, and for its earlier ends to trouble nobody any more."""
GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL."""
START_LIMIT = 20.0
STOP_LIMIT = 15.0
HALT_LIMIT = 4.0
"""Seconds after which a supervisor that was told to stop is killed, by `halt`."""
READY_LIMIT = 5.0
"""Seconds that a service may take to be ready before the next one is started beside it."""

_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "VIRTUAL_ENV",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "VLLM_API_KEY",
)
_PASSED_ON_PREFIXES = ("XDG_", "EVOLOG_", "PYTHON", "HF_", "ANTHROPIC_", "OPENAI_", "COVERAGE_")
"""The last one is set by `make coverage` alone."""
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ROOT = Path(__file__).resolve().parents[2]

Announce = Callable[[str], None]
"""Hears a sentence for everything that happens."""
_LOGGED = re.compile(r"^[0-9-]+ [0-9:,]+ ERROR ")
"""What stands before an error's sentence in a service's log."""
Tell = Callable[[str, str | None], None]
"""Hears of a process, by its name, what keeps it from working, and None when it works or is tried again."""


class _Service(NamedTuple):
    """One process to keep alive."""

    name: str
    number: int
    log: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]


def to_stderr(sentence: str) -> None:
    """Print a sentence on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def to_log(sentence: str) -> None:
    """Write a sentence to stderr as a line of a log."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S,%f}"[:-3], "INFO", sentence, file=sys.stderr, flush=True)


async def supervise(
    directory: Path,
    *,
    executors: int = 2,
    verifiers: int = 1,
    embedded: bool = True,
    nats_url: str | None = None,
    listen: str | None = None,
    leaf: str | None = None,
    only: Sequence[str] = (),
    bundle: Path | None = None,
    blobs: str | None = None,
    on_event: Announce = to_stderr,
    module: str = "services.host.main",
) -> None:
    """Run everything, or `only` some services, until SIGTERM or SIGINT.

    The embedded server listens for other hosts at `listen`, HOST:PORT, and for leaf nodes at `leaf`. Without
    `embedded`, the server at `nats_url` is used, and the credentials files of its accounts must be in the directory.
    With a `bundle`, the broker is another host's, and `only` is by default all that the bundle has keys for. `blobs` is
    `directory` or `stream`; None leaves them where they are. Each service runs as `python -m MODULE NAME --dir
    DIRECTORY --index I`. `on_event` hears a sentence for everything that happens.

    Raises `TryAgain` if another supervisor holds the directory, or the disk is, or becomes, nearly full; `Unavailable`
    without a server; `Misconfigured` for a setting of a service that cannot be used; `CheckFailed` for a log that has
    lost its end; and for a bundle what `open_client` and `read_bundle` raise.
    """
    owner_alone()
    node = Node(directory)
    stop = asyncio.Event()
    scaffold_limits()  # said here, once, rather than by every executor
    trainer_back_end()
    accelerate_config()
    engine_url()
    host_patience()
    scoring_limit()
    start_attempts()
    cache_limit()
    if bundle is None:
        replicas(nats_url)
    names = only or (tuple(read_bundle(bundle).accounts) if bundle else SERVICES)
    with node.hold(), children.reserve_port() as reserved:
        node.node_json.unlink(missing_ok=True)
        node.log_folder.mkdir(exist_ok=True)
        remove_left_over(node.work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        broker = EmbeddedServer(node.directory, listen=listen, leaf=leaf) if embedded and bundle is None else None
        try:
            choose_back_end(node, blobs)
            if broker is not None:
                _require_undamaged(node)
                await _copy_store(node, on_event)
            url = await (_require_let_in(bundle, names) if bundle else _prepare(node, broker, nats_url))
            if broker is not None:
                _require_same_length(node)
            if bundle is None:
                await asyncio.to_thread(move_into_streams, node, on_event)
            if bundle is None and (node.archive.exists() or node.gold_archive.exists()):
                from services.host.integrity import require_end  # with duckdb

                await require_end(node)
            policy_url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
            if "policy" not in names:
                policy_url = os.environ.get("EVOLOG_POLICY_URL", policy_url)
            environment = service_environment(os.environ) | {"EVOLOG_POLICY_URL": policy_url}
            counts = {"executor": executors, "verifier": verifiers}
            counts = {name: counts.get(name, 1) for name in SERVICES if name in names}
            services = _services(node, module, counts, environment, bundle)
            started = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            running = Running(
                pid=os.getpid(),
                url=url,
                policy_url=policy_url,
                started=started,
                version=version(),
                processes=tuple(f"{service.name}-{service.number}" for service in services),
                unsandboxed=os.environ.get(UNSANDBOXED) == "1",
                providers=providers_with_key(environment),
            )
            full = await _keep_all(node, broker, services, running, stop, on_event)
        finally:
            node.node_json.unlink(missing_ok=True)
            if broker is not None:
                await broker.stop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    if full is not None:
        raise full


def _store_before_start(node: Node) -> Path:
    # a copy of the streams' files from before a start, until it is known that the start cut nothing
    return node.directory / "nats.before"


def _damaged_store(node: Node) -> Path:
    # that copy, of a start that did cut something
    return node.directory / "nats.damaged"


def _require_undamaged(node: Node) -> None:
    if _damaged_store(node).exists():
        raise CheckFailed(
            f"The log in {node.directory} lost events: a part of its files is damaged, and the nats-server that was "
            "started on them cut "
            f"it off with what stood behind it. {_damaged_store(node)} has the files as they were. Put back "
            f"{node.nats_dir} from a copy of "
            f"before the damage, or go on from what is left: then delete {_damaged_store(node)}."
        )


async def _copy_store(node: Node, announce: Announce) -> None:
    # after an end that was not in good order the server reads all files anew, and what it cuts from damaged ones would
    # be gone
    if _store_before_start(node).exists() or not node.nats_dir.exists() or store.ended_well(node.directory):
        return
    await server.end_left_over(node.directory)
    partial = _store_before_start(node).with_name(f"{_store_before_start(node).name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in node.nats_dir.rglob("*"))
    if store.free_bytes(node.directory) < store.FREE_AT_START + size:
        announce(
            f"The log is opened after an end that was not in good order, without a copy of it: {size / 1e6:.0f} MB "
            "are not to spare."
        )
        return
    await asyncio.to_thread(shutil.copytree, node.nats_dir, partial)
    partial.rename(_store_before_start(node))


def _require_same_length(node: Node) -> None:
    if not _store_before_start(node).exists():
        return
    if store.bytes_lost(_store_before_start(node), node.nats_dir):
        _store_before_start(node).rename(_damaged_store(node))
        _require_undamaged(node)
    shutil.rmtree(_store_before_start(node))


async def _prepare(node: Node, broker: EmbeddedServer | None, nats_url: str | None) -> str:
    if broker is not None:
        await broker.start()
        await streams.bootstrap(broker.credentials(accounts.BOOTSTRAP), version())
        return broker.url
    if nats_url is None:
        raise Misconfigured(
            "Without the embedded server, evolog must be told which nats-server to use: give its address with --nats."
        )
    if missing := [user for user in accounts.USERS if not node.credentials(user).exists()]:
        raise Misconfigured(
            f"There are no credentials for {', '.join(missing)} in {node.directory / 'credentials'}: copy the files "
            "that were made with "
            f"the configuration of the nats-server at {nats_url}."
        )
    credentials.require_encrypted(nats_url)
    for user in accounts.USERS:
        login = credentials.read_credentials(node.credentials(user))
        login = msgspec.structs.replace(login, url=nats_url, blobs=store.back_end(node.directory))
        credentials.write_private(node.credentials(user), msgspec.json.encode(login).decode())
    await streams.bootstrap(
        credentials.read_credentials(node.credentials(accounts.BOOTSTRAP)), version(), replicas(nats_url)
    )
    return nats_url


async def _require_let_in(bundle: Path, names: Sequence[str]) -> str:
    # whoever starts services with a bundle reads at once what is wrong with it, and not in the log of each
    from services.host.context import with_url

    for name in names:
        login = with_url(credentials.bundle_login(bundle, name))()
        await (await open_client(login, _ignore)).close()
    return login.url


async def _ignore(_: Exception) -> None:
    pass


def _services(
    node: Node, module: str, counts: Mapping[str, int], environment: Mapping[str, str], bundle: Path | None = None
) -> list[_Service]:
    key = ("--credentials", str(bundle.resolve())) if bundle else ()
    return [
        _Service(
            name,
            index,
            node.logs(name, index),
            # -P: the user's folder may hold a `tasks` or `services` of its own
            (sys.executable, "-P", "-m", module, name, "--dir", str(node.directory), "--index", str(index), *key),
            environment,
        )
        for name, count in counts.items()
        for index in range(count)
    ]


def service_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that services get, with one thread for each numerical library."""
    passed_on = {
        name: value
        for name, value in environment.items()
        if name in _PASSED_ON or name.upper() in _NETWORK or name.startswith(_PASSED_ON_PREFIXES)
    }
    return with_root(passed_on) | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONUNBUFFERED": "1"}


def with_root(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with a PYTHONPATH that finds this program's own packages first."""
    path = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT)}


async def _keep_all(
    node: Node,
    broker: EmbeddedServer | None,
    services: Sequence[_Service],
    running: Running,
    stop: asyncio.Event,
    announce: Announce,
) -> TryAgain | None:
    # why all was stopped, unless it was asked for
    troubles: dict[str, str] = {}
    unfit: dict[str, str] = {}

    def note(sentences: dict[str, str], name: str, sentence: str | None) -> None:
        nonlocal running
        sentences.pop(name, None)
        if sentence:
            sentences[name] = sentence
        url = running.url if broker is None else broker.url
        before = running
        running = msgspec.structs.replace(running, url=url, troubles=tuple(troubles.values()), unfit=dict(unfit))
        if running != before:
            node.write(running)

    tell, tell_unfit = functools.partial(note, troubles), functools.partial(note, unfit)
    async with asyncio.TaskGroup() as group:
        starting = asyncio.Semaphore(len(os.sched_getaffinity(0)))  # all at once would hold up the first, and the user
        keepers = [group.create_task(_keep(service, starting, announce, tell, tell_unfit)) for service in services]
        if broker is not None:
            keepers.append(group.create_task(_keep_server(broker, announce, tell)))
        node.write(running)
        count = f"{len(services)} service{'s' if len(services) != 1 else ''}"
        announce(f"evolog is up in {node.directory}: {count}, the log at {running.url}.")
        full: TryAgain | None = None
        while full is None and not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await stop.wait()
            try:
                store.require_room(node.directory, store.FREE_TO_GO_ON)
            except TryAgain as wrong:
                full = wrong
        node.node_json.unlink(missing_ok=True)
        announce(f"evolog is stopping in {node.directory}" + (" because the disk is nearly full." if full else "."))
        for keeper in keepers:
            keeper.cancel()
    return full


async def _keep(
    service: _Service, starting: asyncio.Semaphore, announce: Announce, tell: Tell, tell_unfit: Tell
) -> None:
    name, said, pause = f"{service.name} {service.number}", "", UNFIT_PAUSE

    async def live() -> str:
        nonlocal said, pause
        began = time.monotonic()
        while (code := await _run(service, starting)) in UNFIT:
            if time.monotonic() - began > RECOVERED:
                said = ""
            sentence = _LOGGED.sub("", children.last_line(service.log)).removesuffix(".") + "."
            tell_unfit(name, sentence)
            if sentence != said:
                announce(f"{name} cannot work here: {sentence} It is tried again until that is put right.")
                said, pause = sentence, UNFIT_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_UNFIT_PAUSE)
            tell_unfit(name, None)
            began = time.monotonic()
        return f"{name} ended with exit code {code} (its log: {children.last_line(service.log)})"

    await _restart_for_ever(name, live, announce, tell)


async def _keep_server(broker: EmbeddedServer, announce: Announce, tell: Tell) -> None:
    async def live() -> str:
        if broker.pid is None:
            url = broker.url
            await broker.start()
            if broker.url != url:
                announce(f"Another program has taken the port of {url}: the log is at {broker.url} now.")
            tell("nats-server", None)
        return f"nats-server ended with exit code {await broker.wait()}"

    await _restart_for_ever("nats-server", live, announce, tell)


async def _restart_for_ever(name: str, live: Callable[[], Awaitable[str]], announce: Announce, tell: Tell) -> None:
    # `live` gives why the process ended
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        recovered = asyncio.get_running_loop().call_later(RECOVERED, tell, name, None)
        try:
            ended = await live()
        except (UserError, OSError) as wrong:
            ended = str(wrong)
        finally:
            recovered.cancel()
        if time.monotonic() - began > RECOVERED:
            pause = FIRST_PAUSE
        announce(f"{ended.removesuffix('.')}; it is started again in {pause:.1f} s.")
        if pause > FIRST_PAUSE:  # not the first time
            tell(name, f"{ended.removesuffix('.')}; it is started again until it lives.")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _run(service: _Service, starting: asyncio.Semaphore) -> int:
    async with contextlib.AsyncExitStack() as at_end:
        async with starting:
            read_end, write_end = os.pipe()
            with open(read_end, "rb", buffering=0) as ready:
                with open(write_end, "wb", buffering=0), service.log.open("ab") as output:
                    process = await asyncio.create_subprocess_exec(
                        *service.command,
                        env={**service.environment, READY_FD: str(write_end)},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        process_group=0,
                        pass_fds=(write_end,),
                        preexec_fn=children.die_with_parent(),
                    )
                at_end.push_async_callback(children.end, process, GRACE)
                await _wait_ready(ready)
        return await process.wait()


async def _wait_ready(pipe: IO[bytes]) -> None:
    # until the process at the other end is ready, has ended, or has taken too long
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, ready.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_LIMIT):  # not `wait_for`, which may swallow a cancellation (Python 3.11)
                await ready.wait()
    finally:
        loop.remove_reader(pipe)


def start_detached(
    directory: Path, *, arguments: Sequence[str] = (), module: str = "services.cli", limit: float = START_LIMIT
) -> None:
    """Start `evolog up --dir DIRECTORY ARGUMENTS` in a session of its own and return when runs can be ordered; at once
    if it is up already. Services may still be starting.

    Raises the child's own last words with its exit code if it fails, `TryAgain` if it is not up within `limit` seconds.
    """
    node = Node(directory)
    if node.alive():
        return
    node.make()
    node.log_folder.mkdir(exist_ok=True)
    log = node.log_folder / "up.log"
    log.touch()
    log_size = log.stat().st_size
    child: int | None = None
    try:
        with _held_back(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # until `child` is known
            child = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", module, "up", "--dir", str(node.directory), *arguments],
                with_root(os.environ),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_APPEND, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        _wait_until_up(node, child, limit, log, log_size)
    except (KeyboardInterrupt, SystemExit):
        if child is not None:
            _end_child(child)
        raise


@contextlib.contextmanager
def _held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Let the handlers of these signals be called at the end of the context, and not before.

    Not by a mask: a signal goes to any thread that takes it, and its handler is called in the main one all the same.
    """
    came: list[int] = []
    try:
        with handled_by(lambda number, frame: came.append(number), *numbers):
            yield
    finally:
        for number in came:
            signal.raise_signal(signal.Signals(number))


def _end_child(child: int) -> None:
    """End a supervisor that is starting: in good order, and by force where that takes long or is interrupted."""
    limit, ended = time.monotonic() + HALT_LIMIT, False
    try:
        os.kill(child, signal.SIGTERM)
        while not (ended := bool(os.waitpid(child, os.WNOHANG)[0])) and time.monotonic() < limit:
            time.sleep(0.02)
    except (ChildProcessError, ProcessLookupError):  # it was found to have ended before
        ended = True
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _wait_until_up(node: Node, child: int, limit: float, log: Path, log_size: int) -> None:
    end = time.monotonic() + limit
    code: int | None = None
    while not node.alive():
        if code is None:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        if code is not None and not (
            code == TryAgain.code and node.holder()
        ):  # else another `up` came first and is starting
            raise UserError(children.last_line(log, log_size).removeprefix("evolog: "), code=code if code > 0 else 1)
        if time.monotonic() > end:
            if code is None:
                os.kill(child, signal.SIGTERM)
            raise TryAgain(f"evolog was not up in {node.directory} within {limit:.0f} s: see {log}, then start again.")
        time.sleep(0.02)
    if code is None and node.holder() != child:  # another came first; this one must not take over when that one ends
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def halt(directory: Path) -> None:
    """Stop what runs in a directory within `HALT_LIMIT` seconds, by force where it takes longer or Ctrl-C comes
    meanwhile; nothing where nothing runs. What was recorded is safe.
    """
    node = Node(directory)
    if (pid := node.holder()) is None:
        return
    try:
        stop(directory, limit=HALT_LIMIT)
    except NotFound:
        return  # it has just ended
    except (TryAgain, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the services and the broker end with it
        while node.holder() == pid:
            time.sleep(0.02)


def stop(directory: Path, *, limit: float = STOP_LIMIT) -> None:
    """Ask the supervisor of a directory to stop and wait until it has; raises `NotFound` where none is running."""
    node = Node(directory)
    pid = node.holder()
    if pid is None:
        raise NotFound(f"No evolog is running in {node.directory}: there is nothing to stop.")
    end = time.monotonic() + limit
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while node.holder() == pid:
        if time.monotonic() > end:
            raise TryAgain(
                f"evolog (process {pid}) has not stopped within {limit:.0f} s: see {node.log_folder}, and ask again."
            )
        time.sleep(0.02)
