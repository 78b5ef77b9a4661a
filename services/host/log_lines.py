"""The lines of services' logs: written with names and values, struck of secrets, and read again for `evolog logs`.

A line is the time, the level, what happened, and two spaces before `name=value` pairs:
`2026-11-30 17:45:00,123 INFO done: scores 32 answers of generation 1  run=toy-s0 items=32 seconds=0.41`.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from events.errors import Misconfigured
from runtime.status import FIELDS

LEVEL_VARIABLE = "EVOLOG_LOG_LEVEL"
LEVELS = ("debug", "info", "warning", "error")
NOISY = ("nats", "httpx", "httpx2", "httpcore", "anthropic", "openai", "transformers")
"""Libraries that log what is no concern of a reader of these logs."""
_LINE = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d{3}) (?P<level>[A-Z]+) (?P<rest>.*)\Z", re.DOTALL)
_SERVER_LINE = re.compile(
    r"\[\d+\] (?P<date>\d{4}/\d\d/\d\d) (?P<clock>\d\d:\d\d:\d\d\.\d{3})\d* \[(?P<level>[A-Z]{3})\] (?P<rest>.*)\Z",
    re.DOTALL,
)
"""A line of the nats-server's, which tells of itself at length: what it calls information counts as `debug`."""
_SERVER_LEVELS = {"TRC": "debug", "DBG": "debug", "INF": "debug", "WRN": "warning", "ERR": "error", "FTL": "error"}
_PAIR = re.compile(r'(?P<name>[a-z_]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)')
_PAIRS = re.compile(rf"{_PAIR.pattern}(?: {_PAIR.pattern.replace('name', 'n').replace('value', 'v')})*\Z")
_BARE = re.compile(r'[^\s"=]+\Z')


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a process's log; `time` is local time to the millisecond, empty for a line of another form."""

    process: str
    time: str = ""
    level: str = ""
    text: str
    fields: dict[str, str] = {}


class Formatter(logging.Formatter):
    """Writes a record as one line, with its names and values behind it; a traceback takes lines of its own."""

    def __init__(self, redact: Callable[[str], str] = lambda text: text) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        record.message = record.message.replace("\n", " ")
        pairs = " ".join(
            f"{name}={in_pair(self.redact(str(value)))}" for name, value in getattr(record, FIELDS, {}).items()
        )
        return super().formatMessage(record) + (f"  {pairs}" if pairs else "")

    def format(self, record: logging.LogRecord) -> str:
        """All of it, struck of secrets."""
        return self.redact(super().format(record))


def in_pair(value: object) -> str:
    """A value as it stands behind its name: bare where that is clear, else as a string of JSON."""
    text = str(value)
    return text if _BARE.match(text) else json.dumps(text, ensure_ascii=False)


def level_of(name: str | None) -> int:
    """The level that EVOLOG_LOG_LEVEL names; raises `Misconfigured` for a word that is none."""
    word = (name or "info").strip().lower()
    if word not in LEVELS:
        raise Misconfigured(
            f"{LEVEL_VARIABLE} is {name!r}; expected one of {', '.join(LEVELS)}: correct it, or unset it."
        )
    return int(getattr(logging, word.upper()))


def begin_logging(level: int, redact: Callable[[str], str]) -> Formatter:
    """Log to stderr from here on. The formatter's `redact` may be replaced once more secrets are known."""
    formatter = Formatter(redact)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("evolog").setLevel(level)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return formatter


def parse(process: str, lines: Iterable[str]) -> Iterator[LogLine]:
    """The entries that lines of a process's log make up; lines of another form belong to the entry before them."""
    entry: LogLine | None = None
    for line in lines:
        line = line.rstrip("\n")
        if (begun := _entry(process, line)) is not None:
            if entry is not None:
                yield entry
            entry = begun
        elif entry is None:
            entry = LogLine(process=process, text=line)
        else:
            entry = msgspec.structs.replace(entry, text=f"{entry.text}\n{line}")
    if entry is not None:
        yield entry


def _entry(process: str, line: str) -> LogLine | None:
    """The entry that a line begins; None for one that begins none."""
    if server := _SERVER_LINE.match(line):
        time = f"{server['date'].replace('/', '-')} {server['clock'].replace('.', ',')}"
        return LogLine(
            process=process, time=time, level=_SERVER_LEVELS.get(server["level"], "info"), text=server["rest"]
        )
    if (match := _LINE.match(line)) is None:
        return None
    text, pairs = match["rest"], ""
    head, gap, tail = text.rpartition("  ")
    if gap and _PAIRS.match(tail):
        text, pairs = head, tail
    fields = {
        pair["name"]: json.loads(pair["value"]) if pair["value"].startswith('"') else pair["value"]
        for pair in _PAIR.finditer(pairs)
    }
    return LogLine(process=process, time=match["time"], level=match["level"].lower(), text=text, fields=fields)


class LogFollower:
    """Reads on in the logs of some processes, each from where it was last read to."""

    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files
        self._positions: dict[Path, int] = {}

    def read(self) -> list[LogLine]:
        """What has been written since the last call, by time; an unfinished line waits for its end."""
        found: list[LogLine] = []
        for path in self._files():
            begin = self._positions.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(begin)
                    data = file.read()
            except FileNotFoundError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._positions[path] = begin + len(whole)
            found += parse(path.stem, whole.decode(errors="replace").splitlines())
        return sorted(found, key=lambda entry: entry.time)  # stable: a process's entries keep their order
