"""Says what each run does next."""

from runtime.controller import Controller
from runtime.run_decider import DECIDER
from services.context import Context


async def serve(context: Context) -> None:
    """Drive all unfinished runs of the log."""
    await Controller(context.log, DECIDER, context.scanner).serve()
