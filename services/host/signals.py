"""Handlers of signals for a while."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled_by(handler: Callable[[int, object], None], *numbers: signal.Signals) -> Iterator[None]:
    """Let a handler hear these signals in the context. One that is ignored, as SIGHUP under `nohup`, stays so.

    In another thread than the main one, in which no handler is called, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
