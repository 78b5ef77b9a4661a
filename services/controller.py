"""The controller's process: runs `runtime/run/controller.py` with the rules of `runtime/run/decide.py`."""

from runtime.run.controller import Controller
from runtime.run.decide import DECIDER
from services.host.context import Context


async def serve(context: Context) -> None:
    """Drive all unfinished runs of the log."""
    await Controller(context.log, DECIDER, context.scanner, status=context.status).serve()
