"""Makes characters visible that a terminal would obey or not show: what models, users and other hosts wrote is printed.

Escapes are those of JSON, so JSON stays what it was. Line feeds and tabs are left as they are.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from services.host.hints import with_directory

CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 with ESC, DEL, C1
    "\u00ad\u034f\u061c\u070f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Controls, what changes the direction of writing, and what takes no room; lone surrogates, which cannot be encoded."""


def visible(text: str) -> str:
    r"""The text with each character of `CONTROL` written as an escape, such as \u001b or \u202e."""
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    r"""As `visible`, in one line: a line feed is written as \n."""
    return visible(text).replace("\n", "\\n")


def shortened(text: str, most: int) -> str:
    """The beginning of a text that is longer than `most`, and how much of it is left out."""
    return text if len(text) <= most else f"{text[:most]}... and {len(text) - most:,} more characters"


class VisibleStream:
    """A stream for text that writes all of it as `visible`; `raw` is the stream beneath, for who writes escapes.

    One of `sentences` for people repeats --dir in the commands that they name.
    """

    def __init__(self, raw: TextIO, *, sentences: bool = False) -> None:
        self.raw, self.sentences = raw, sentences

    def write(self, text: str) -> int:
        """Write a text."""
        return self.raw.write(visible(with_directory(text) if self.sentences else text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: "TextIO | VisibleStream") -> TextIO:
    """The stream beneath a `VisibleStream`, or the stream itself."""
    return stream.raw if isinstance(stream, VisibleStream) else stream


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Let all that this process prints meanwhile be visible."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = VisibleStream(sys.stdout), VisibleStream(sys.stderr, sentences=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
