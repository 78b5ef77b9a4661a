"""What the runtime does for a verifier: a candidate's program is run in the sandbox, and a judge model is asked."""

import contextlib
import json
import os
import secrets
import select
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path, PurePosixPath

import msgspec

from events.errors import HostUnfit, Misconfigured, NotHere, hosts_own
from runtime.rollouts.host import SCAFFOLD_ENVIRONMENT, make_readable
from runtime.sandbox.choose import broken, provide
from runtime.sandbox.cuda import cuda_devices
from runtime.sandbox.launch import Command, Confined, Kind, seen_at
from runtime.sandbox.limits import ResourceLimits
from tasks.contract import ProgramRun

RUNNER = Path(__file__).with_name("tool_runner.py")
RUNNER_INSIDE, CODE_INSIDE, WORK_INSIDE = "/evolog/tool_runner.py", "/code", "/workdir"
STARTING = 1.0
"""Seconds beyond a program's own, in which its sandbox is made."""
GRACE = 10.0
"""Seconds beyond a program's own, in which its sandbox is made and its files are read."""
RESULT_LIMIT = 128 << 20
"""Bytes of what comes back of a program."""
AskModel = Callable[[str, int], str]
"""From a prompt and the most tokens to the judge model's answer."""


class _Result(msgspec.Struct):
    token: str
    exit_code: int
    output: str
    errors: str
    files: dict[str, bytes]


class SandboxTools:
    """`tasks.contract.Tools`: programs in this host's sandbox, and questions to whoever answers them."""

    def __init__(self, ask: AskModel, sandbox: str = "") -> None:
        self._ask, self._sandbox = ask, sandbox

    def ask(self, prompt: str, max_tokens: int = 1024) -> str:
        """The judge model's answer."""
        return self._ask(prompt, max_tokens)

    def run(
        self,
        files: Mapping[str, str | bytes],
        arguments: Sequence[str],
        *,
        seconds: float = 10.0,
        memory: int = 1 << 30,
        outputs: Sequence[str] = (),
        cuda: bool = False,
    ) -> ProgramRun:
        """Run `python ARGUMENTS` in the sandbox, in a folder that holds these files; `memory` is in bytes.

        Raises `NotHere` where this host cannot give the sandbox, `Misconfigured` for a file outside the folder.
        """
        with hosts_lack():
            kind = provide(self._sandbox).kind
            devices = cuda_devices(kind) if cuda else ()
        with tempfile.TemporaryDirectory(prefix="evolog-") as name:
            code, work = Path(name, "code"), Path(name, "work")
            work.mkdir()
            _write(code, files)
            make_readable(Path(name))
            with hosts_lack():
                return _run(kind, code, work, arguments, seconds, memory, outputs, devices)


@contextlib.contextmanager
def hosts_lack() -> Iterator[None]:
    """Whatever keeps this host from running a program is raised as `NotHere`, or as what is tried again."""
    with hosts_own():
        try:
            yield
        except HostUnfit as unfit:
            raise NotHere(str(unfit), code=unfit.code) from unfit


def _write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    folder.mkdir()
    for path, content in files.items():
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts:
            raise Misconfigured(f"The verifier gave a program the file {path!r:.80}; expected a path in its folder.")
        target = folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)


def _run(
    kind: Kind,
    code: Path,
    work: Path,
    arguments: Sequence[str],
    seconds: float,
    memory: int,
    outputs: Sequence[str],
    devices: Sequence[str] = (),
) -> ProgramRun:
    read, write = os.pipe()
    token = secrets.token_hex(16)
    order = {
        "code": seen_at(kind, CODE_INSIDE, code),
        "work": seen_at(kind, WORK_INSIDE, work),
        "arguments": list(arguments),
        "outputs": list(outputs),
    }
    argv = [sys.executable, "-s", "-P", seen_at(kind, RUNNER_INSIDE, RUNNER), str(write), json.dumps(order)]
    limits = ResourceLimits(memory=memory, wall_seconds=seconds + GRACE, address_space=not devices)
    binds = {RUNNER_INSIDE: RUNNER, CODE_INSIDE: code}
    try:
        confined = Confined(kind, Command(argv, binds, SCAFFOLD_ENVIRONMENT, work, limits, (write,), devices))
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    began = time.monotonic()
    try:
        with contextlib.suppress(BrokenPipeError), confined.stdin as stdin:
            stdin.write(f"{token}\n".encode())
        for stream in (confined.stdout, confined.stderr):
            threading.Thread(target=_discard, args=(stream,), daemon=True).start()
        sent, broken_limit = _read(read, seconds + STARTING)
        passed = time.monotonic() - began
        if broken_limit:
            return ProgramRun(-1, "", "", passed, failure=broken_limit.format(seconds=seconds))
        code_of_end = confined.wait(GRACE)
        if confined.violation:
            return ProgramRun(-1, "", "", passed, failure=confined.violation)
        if failure := confined.failure():
            raise broken(kind, failure)
        try:
            result = msgspec.json.decode(sent, type=_Result)
            if result.token != token:
                raise msgspec.DecodeError("it is somebody else's")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ProgramRun(-1, "", "", passed, failure=f"its sandbox ended with {code_of_end} and no result")
        return ProgramRun(result.exit_code, result.output, result.errors, passed, result.files)
    finally:
        confined.close()
        os.close(read)


def _read(pipe: int, seconds: float) -> tuple[bytes, str]:
    """What comes through a pipe up to its end, and the limit that it broke, in words; empty where it broke none."""
    sent, deadline = bytearray(), time.monotonic() + seconds
    while len(sent) <= RESULT_LIMIT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return b"", "it took longer than {seconds:g} s"
        chunk = os.read(pipe, 1 << 20)
        if not chunk:
            return bytes(sent), ""
        sent += chunk
    return b"", f"it left more than {RESULT_LIMIT >> 20} MiB"


def _discard(stream: BufferedReader) -> None:
    with stream:
        while stream.read1(65536):
            pass
