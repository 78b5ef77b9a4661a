"""The parts of a bench, each in a process of its own that ends when its time does.

What runs in this process cannot be stopped where it hangs in a compiler or a driver. A process can, with all that it
has started.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence

Row = tuple[str, ...]
NO_TIME = "not run: no time was left"


class Clock:
    """How much of a time is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative once it is over."""
        return self._end - time.monotonic()


def print_rows(rows: Iterable[Row]) -> None:
    """Print rows as they come, as `rows_of` reads them; what else is printed meanwhile goes to standard error."""
    out = os.dup(1)
    os.dup2(2, 1)
    with open(out, "w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row), file=file, flush=True)


def rows_of(command: Sequence[str], seconds: float) -> Iterator[Row]:
    """The rows that a command prints by `print_rows`, as they come.

    One that goes on for longer than `seconds` is killed with all that it started, and a last row says so. So does one
    that failed.
    """
    if seconds <= 0:
        yield (NO_TIME,)
        return
    clock, rest = Clock(seconds), b""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        assert process.stdout
        try:
            while select.select([process.stdout], [], [], max(0.0, clock.left))[0]:
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    break
                *lines, rest = (rest + read).split(b"\n")
                yield from (tuple(json.loads(line)) for line in lines)
            code = process.wait(max(0.0, clock.left))
        except subprocess.TimeoutExpired:
            yield (f"not run: stopped after {seconds:.0f} s, when the time was over",)
        else:
            if code:
                errors.seek(0)
                last = (errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                yield (f"failed with {code}: {last:.100}",)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
