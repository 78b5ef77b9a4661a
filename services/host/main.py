"""Runs one service as a process: `python -m services.host.main executor --dir .evolog --index 0`."""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.catalogue import SERVICES
from events.errors import HostUnfit, Misconfigured, TryAgain, UserError, no_room, says_disk_is_full
from events.secret import Scanner, of_environment
from runtime.status import log_line
from services.host.log_lines import LEVEL_VARIABLE, Formatter, begin_logging, level_of
from services.host.node import owner_alone, version
from services.host.visible import visible_output

if TYPE_CHECKING:
    from services.host.context import Context

logger = logging.getLogger("evolog")
READY_FD = "EVOLOG_READY_FD"
"""The variable that names the file descriptor on which a service notifies the supervisor that it is ready."""
SAID_FOR = 30.0
"""Seconds for which a process on a host of its own says what it lacks there, before it ends."""
MODULES = {name: f"services.{name}" for name in SERVICES} | {"auditor": "services.auditor.service"}
"""The module of each service, which has `serve(context)`."""


async def _serve(name: str, index: int, directory: Path, formatter: Formatter, bundle: Path | None) -> None:
    from services.host.context import open_context
    from services.host.node import Node
    from services.host.work_folder import work_folder

    node = Node(directory)
    if bundle:
        node.make()
    with work_folder(node.work) as folder:
        context = await open_context(name, index, node, folder, bundle)
        formatter.redact = context.scanner.redact
        with context.status.doing("starts"):
            service = importlib.import_module(MODULES[name])
        notify_ready()
        log_line(logging.INFO, f"{name} is up", pid=os.getpid(), version=version())
        serving = asyncio.ensure_future(_work(context, service.serve, SAID_FOR if bundle else 0.0))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        await serving


async def _work(context: "Context", serve: Callable[["Context"], Coroutine[Any, Any, None]], said_for: float) -> None:
    """Serve, as soon and as long as this host has the version that is wanted.

    What this host lacks for it is said for some seconds before it is raised: the operator cannot see what a supervisor
    elsewhere knows.
    """
    from services.host.context import LACKING

    await context.wait_for_version()
    serving = asyncio.ensure_future(serve(context))
    watching = asyncio.ensure_future(context.watch_version())
    watching.add_done_callback(lambda _: serving.cancel())
    try:
        await serving
    except asyncio.CancelledError:
        if not watching.done():
            raise
        raise Misconfigured(watching.result()) from None
    except HostUnfit as unfit:
        context.status.report(LACKING, str(unfit))
        await asyncio.sleep(said_for)
        raise
    finally:
        watching.cancel()


def notify_ready() -> None:
    """Tell the supervisor, where one still waits, that this process is ready, so that it starts the next."""
    if descriptor := os.environ.pop(READY_FD, ""):
        with contextlib.suppress(BrokenPipeError), open(int(descriptor), "wb", buffering=0) as pipe:
            pipe.write(b".")


async def _run(name: str, index: int, directory: Path, formatter: Formatter, bundle: Path | None) -> None:
    """Serve, and end the process without waiting for its threads, such as one that trains, as `asyncio.run` would."""
    code = 0
    try:
        await _serve(name, index, directory, formatter, bundle)
    except asyncio.CancelledError:
        log_line(logging.INFO, f"{name} stops: it was told to")
    except UserError as wrong:
        logger.error("%s", wrong)
        code = wrong.code
    except Exception as wrong:
        if says_disk_is_full(wrong):
            logger.error("%s", no_room(str(wrong)))
            code = TryAgain.code
        else:
            logger.exception("%s ended", name)
            code = 1
    sys.stderr.flush()
    os._exit(code)  # work that a thread has not recorded will be delivered again


def main() -> None:
    """Run one service until SIGTERM or SIGINT. A user's error is one line in its log, and its exit code."""
    parser = argparse.ArgumentParser(prog="evolog service")
    parser.add_argument("name", choices=SERVICES)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--credentials", type=Path)
    options = parser.parse_args()
    owner_alone()
    with visible_output():  # its log is read in a terminal
        formatter = begin_logging(logging.INFO, Scanner(of_environment(os.environ)).redact)
        try:
            logger.setLevel(level_of(os.environ.get(LEVEL_VARIABLE)))
        except UserError as wrong:
            logger.error("%s", wrong)
            sys.exit(wrong.code)
        asyncio.run(_run(options.name, options.index, options.dir.resolve(), formatter, options.credentials))


if __name__ == "__main__":
    main()
