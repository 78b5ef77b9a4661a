"""A project directory: its paths, and the supervisor that runs in it.

Every path that services and the command line share is named here.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from events.errors import Misconfigured, NotFound, TryAgain, Unavailable
from events.run import RunStarted
from events.secret import Secret
from runtime.broker import credentials, issuing, store

_LOCK_WAIT = 0.5
"""Seconds that `Node.hold` waits for the lock."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor's description of itself, written once runs can be ordered. `started` is RFC 3339 in UTC."""

    pid: int
    url: str
    policy_url: str
    started: str
    version: str
    processes: tuple[str, ...] = ()
    """The names of the processes of services that it keeps running, such as executor-1."""
    unsandboxed: bool = False
    """Whether its executors may run scaffolds without a sandbox."""
    providers: tuple[str, ...] = ()
    """The providers of language models that the services have a key for."""
    unfit: dict[str, str] = {}
    """What keeps processes of services from their work on this host, in a sentence each, by the process's name."""
    troubles: tuple[str, ...] = ()
    """What keeps ending, or stays away, in a sentence each."""


def is_on_this_host(running: Running) -> bool:
    """Whether its services are taken to be here: a broker elsewhere may have its trainer and its agents elsewhere."""
    return urlsplit(running.url).hostname == "127.0.0.1"


def version() -> str:
    """The installed version of evolog."""
    try:
        return metadata.version("evolog")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


def owner_alone() -> None:
    """Let what this process writes from here on be its owner's alone: a project directory holds labels and gold."""
    os.umask(0o077)


class Node:
    """A project directory. Naming a path creates nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives; its text is the supervisor's process id."""
        return self.directory / "lock"

    @property
    def node_json(self) -> Path:
        """The supervisor's `Running`; the file exists while runs can be ordered."""
        return self.directory / "node.json"

    @property
    def nats_dir(self) -> Path:
        """The streams and the server's configuration."""
        return store.store(self.directory)

    @property
    def blobs(self) -> Path:
        """Blobs that every service may read."""
        return self.directory / "blobs"

    @property
    def gold_blobs(self) -> Path:
        """The auditor's blobs."""
        return self.directory / "gold_blobs"

    @property
    def archive(self) -> Path:
        """The log as DuckDB tables; the archivist owns it."""
        return self.directory / "archive.duckdb"

    @property
    def gold_archive(self) -> Path:
        """The stream GOLD as DuckDB tables."""
        return self.directory / "gold.duckdb"

    @property
    def audits(self) -> Path:
        """The audits of finished runs, as they were computed last."""
        return self.directory / "audits"

    @property
    def closings(self) -> Path:
        """The digests that close finished runs, as they were computed last."""
        return self.directory / "closings"

    @property
    def reports(self) -> Path:
        """The reports of audited runs, and the list of runs, as they were read last."""
        return self.directory / "reports"

    @property
    def imports(self) -> Path:
        """Runs of other directories, each as it was exported."""
        return self.directory / "imports"

    @property
    def tasks(self) -> Path:
        """The task folders that were made of tasks from elsewhere."""
        return self.directory / "tasks"

    @property
    def work(self) -> Path:
        """The folders that services work in, one for each process, by `services.host.work_folder`."""
        return self.directory / "work"

    @property
    def log_folder(self) -> Path:
        """The folder of the processes' output."""
        return self.directory / "logs"

    def logs(self, service: str, index: int = 0) -> Path:
        """The output of one process of a service."""
        return self.log_folder / f"{service}-{index}.log"

    def log_files(self, service: str = "") -> list[Path]:
        """The outputs that there are of all processes, or of a service or process of that name."""
        return sorted(
            path for path in self.log_folder.glob("*.log") if service in ("", path.stem, path.stem.rpartition("-")[0])
        )

    def require_logs(self, service: str = "") -> None:
        """Raise `NotFound` where there is no output of that name."""
        if not self.log_files(service):
            names = sorted({path.stem for path in self.log_files()})
            there = f"there are {', '.join(names)}" if names else "`evolog up` and `evolog run` write them"
            raise NotFound(f"There is no log{f' of {service!r}' if service else ''} in {self.log_folder}: {there}.")

    def in_hand(self, service: str, index: int) -> Path:
        """What one process of a service was handed and has not done yet, for the process that takes its place."""
        return self.directory / "in_hand" / f"{service}-{index}"

    def credentials(self, user: str) -> Path:
        """The file with an account's address and password. The password is new at each start of the embedded server."""
        return credentials.credentials_file(self.directory, user)

    def secrets(self) -> list[Secret]:
        """The passwords, keys and tokens of this directory that this user can read. They must never be appended."""
        secrets = issuing.held_secrets(self.directory)
        for path in sorted((self.directory / "credentials").glob("*")):
            with contextlib.suppress(OSError, UnicodeDecodeError, NotFound):
                if path.suffix == ".json":
                    secrets += credentials.read_credentials(path).secrets()
                else:
                    secrets.append(Secret(path.read_text()))
        return secrets

    def policy_url(self) -> str:
        """The address of the policy's endpoint: EVOLOG_POLICY_URL, else the supervisor's; raises `Unavailable` where
        none is up.
        """
        return os.environ.get("EVOLOG_POLICY_URL") or self.require_up().policy_url

    def require_fit(self, run: str, started: RunStarted) -> None:
        """Raise `Misconfigured` where a run waits for a service that cannot work on this host."""
        running = self.running()
        for process, sentence in (running.unfit if running else {}).items():
            if "weights" in started.levers or not process.startswith("trainer"):
                raise Misconfigured(
                    f"Run {run} waits, since {process} cannot work here: {sentence} The run goes on by itself soon "
                    f"after that is put right; `evolog watch {run}` follows it."
                )

    def make(self) -> None:
        """Make the directory, for its owner alone: passwords and gold lie in it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Make the directory and hold its lock; raises `TryAgain` while another process does."""
        self.make()
        with self.lock.open("a+") as file:
            limit = time.monotonic() + _LOCK_WAIT  # `holder` takes the lock for an instant when it looks
            while not _try_lock(file.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > limit:
                    raise TryAgain(
                        f"evolog is already running in {self.directory} (process {self.holder() or 'unknown'}): use "
                        "it as it is, "
                        f"or stop it with `evolog down --dir {self.directory}` and start again."
                    )
                time.sleep(0.02)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def holder(self) -> int | None:
        """The process id of the supervisor that holds the lock, even before everything is up; None for no
        supervisor.
        """
        try:
            with self.lock.open() as file:
                if _try_lock(file.fileno(), fcntl.LOCK_SH):
                    return None
                return int(file.read() or 0) or None
        except FileNotFoundError:
            return None

    def write(self, running: Running) -> None:
        """Write the description of a supervisor that has everything up."""
        credentials.write_private(self.node_json, msgspec.json.encode(running).decode())

    def running(self) -> Running | None:
        """The description of the supervisor that is up; None where there is none, or only the file of one that was
        killed.
        """
        try:
            running = msgspec.json.decode(self.node_json.read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return running if self.holder() == running.pid else None

    def alive(self) -> bool:
        """Whether runs can be ordered here. Services may still be starting."""
        return self.running() is not None

    def require_up(self) -> Running:
        """The description of the supervisor that is up; raises `Unavailable` where there is none."""
        if (running := self.running()) is None:
            raise Unavailable(
                f"No evolog is running in {self.directory}: start it with `evolog up --dir {self.directory}`."
            )
        return running


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
