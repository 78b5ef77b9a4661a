"""One service as a process: `python -m services.main executor --dir .evolog --index 0`."""

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
from pathlib import Path

from events.catalogue import SERVICES
from events.errors import UserError


async def _serve(name: str, index: int, directory: Path) -> None:
    from services.context import open_context
    from services.node import Node

    context = await open_context(name, index, Node(directory))
    service = importlib.import_module(f"services.{name}")
    serving = asyncio.ensure_future(service.serve(context))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        pass


def main() -> None:
    """Run until told to stop; a user's error is one line in the log and its exit code."""
    parser = argparse.ArgumentParser(prog="evolog service")
    parser.add_argument("name", choices=SERVICES)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("nats", "httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    code = 0
    try:
        asyncio.run(_serve(options.name, options.index, options.dir.resolve()))
    except UserError as wrong:
        logging.getLogger("evolog").error("%s", wrong)
        code = wrong.code
    # work that a thread still does is not waited for: what is not recorded will be handed out again
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
