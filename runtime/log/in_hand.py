"""The deliveries that a worker has in hand, in a file that outlives it: whoever takes its place hands them back."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runtime.broker.credentials import write_private
from runtime.broker.streams import ACK_WAIT


class InHand:
    """The file of one worker. It promises nothing: without it, deliveries come again when their time is up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handles: list[str] | None = None

    def left(self) -> list[str]:
        """What the worker before this one had in hand when it died.

        Nothing where its last sign of life is so old that others may have been handed it since, or the file cannot be
        read.
        """
        try:
            if not 0 <= time.time() - self._path.stat().st_mtime < ACK_WAIT:
                return []
            return msgspec.json.decode(self._path.read_bytes(), type=list[str])
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return []

    def write(self, handles: Sequence[str]) -> None:
        """Write down what is in hand now, where there is room."""
        if self._handles == list(handles):
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self._path, msgspec.json.encode(handles).decode())
            self._handles = list(handles)

    def live(self) -> None:
        """Leave a sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self._path)
