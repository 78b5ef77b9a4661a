"""What the dashboard's pages are made of: rows of the archive, blobs, and, for the operator alone, facts of GOLD.

Every answer is bounded by its query, so that neither memory nor pages grow with the log.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from events import codec, subjects
from events.codec import Event
from events.errors import UserError
from events.fact import Fact
from events.gold import DriftFlagged
from events.subjects import GOLD
from replay.archive.query import QueryResult, query, query_file, text_literal
from replay.audit.audit import AuditReport
from runtime.blobs.directory import Blobs
from runtime.log.port import Log, Stored
from runtime.run.loading import TaskAccess
from runtime.status import Status
from services.dashboard.audit_page import KeptAudits
from services.dashboard.broker import Broker
from services.host.blobs import reading_blobs
from services.host.context import operator
from services.host.kept_audits import BlockMemory, kept_audit
from services.host.node import Node
from services.host.statuses import read_statuses

LONGEST_FILE = 200_000
"""Characters of one file, prompt or answer that a page shows; of a longer one it says what is left out."""

HEAD_SECONDS = 1.0
"""Seconds for which what was asked of the log's head counts."""
MOST_GOLD = 5000
"""Facts of GOLD that a page reads at most, and small ones that are remembered."""
SMALL_FACT = 2000
"""Bytes of a fact of GOLD that is remembered."""

Row = Mapping[str, Any]
T = TypeVar("T")


class Clipped(NamedTuple):
    """A text as a page shows it, and how many characters of it are left out."""

    text: str
    left_out: int


class Source:
    """Reads one project directory for the pages, whether it is up or not; or, with a `broker`, another host's."""

    def __init__(self, directory: Path, *, with_gold: bool, broker: Broker | None = None) -> None:
        self.node = Node(directory)
        self.broker = broker
        self._login = broker.login if broker else None
        self.with_gold = with_gold and (broker is None or broker.reads_gold)
        """Whether facts of GOLD may be shown: the operator asked for them."""
        self._asking = asyncio.Lock()
        self._head, self._looked = 0, -math.inf
        self._blocks = BlockMemory()
        self._small_gold: dict[tuple[str, int], tuple[int, Event]] = {}
        self.audits = KeptAudits(self.kept_audit)

    async def result(self, sql: str) -> QueryResult:
        """The answer of the archive to a query, as `evolog sql` gives it; raises what that raises."""
        ask = self.broker.query if self.broker else partial(query, self.node.directory)
        return await asyncio.to_thread(ask, sql)

    async def rows(self, sql: str) -> list[Row]:
        """The rows of an answer, each by its columns' names."""
        return _rows(await self.result(sql))

    async def together(self, **questions: str) -> dict[str, list[Row]]:
        """The rows of several answers, by name, which the archive is asked for at once: opening it, or a process that
        reads it, takes longer than most answers do. Times are texts in the form that DuckDB gives them.
        """
        parts = (f'ARRAY(SELECT answered FROM (\n{sql}\n) answered) AS "{name}"' for name, sql in questions.items())
        (answers,) = await self.rows(f"SELECT {', '.join(parts)}")
        return {name: answers[name] or [] for name in questions}

    async def head(self) -> int:
        """The sequence of the last event that the archive holds, at most `HEAD_SECONDS` old; 0 without an archive.

        However many pages are open, the archive is asked once in that time.
        """
        async with self._asking:
            if time.monotonic() - self._looked >= HEAD_SECONDS:
                try:
                    rows = await self.rows("SELECT coalesce(max(seq), 0) AS head FROM events")
                    self._head = int(rows[0]["head"])
                except UserError:  # there is none yet, or it is busy
                    pass
                self._looked = time.monotonic()
            return self._head

    async def statuses(self) -> list[Status]:
        """What each process of a service does and waits for now, as it says itself; nothing where none is up."""
        return await asyncio.to_thread(read_statuses, self.node, self._login)

    async def files(self, tree: str) -> dict[str, Clipped]:
        """The files of a scaffold by path, as text."""
        try:
            found = await asyncio.to_thread(self._read_blobs, lambda blobs: blobs.get_tree(tree))
        except UserError as wrong:  # it is missing or damaged, or stands in the stream of a broker that is not up
            return {"missing": Clipped(str(wrong), 0)}
        return {path: clip(content.decode("utf-8", "replace")) for path, content in sorted(found.items())}

    async def text(self, digest: str) -> Clipped:
        """A blob as text, cut where it is long."""
        try:
            content = await asyncio.to_thread(self._read_blobs, lambda blobs: blobs.get(digest))
        except UserError as wrong:
            return Clipped(str(wrong), 0)
        return clip(content.decode("utf-8", "replace"))

    def _read_blobs(self, read: Callable[[Blobs], T]) -> T:
        with self.broker.blobs() if self.broker else reading_blobs(self.node) as blobs:
            return read(blobs)

    def kept_audit(self, run: str) -> AuditReport | None:
        """The audit of a finished run that `evolog audit` has kept, if all is as it was then; it is never made here.

        Beyond the broker's host there is none.
        """
        if self.broker:
            return None
        access = TaskAccess(folder="", trusted=False, exported=False)
        return kept_audit(self.node, run, access, self._blocks.read)

    async def gold_facts(self, run: str, *kinds: type[Fact]) -> list[Fact]:
        """The facts of GOLD of these types about a run, in the order in which they were stored; none without gold."""
        return [fact for _, fact in await self._gold([run], kinds)]

    async def verdicts(self, runs: Sequence[str]) -> dict[str, DriftFlagged]:
        """What the auditor said last of each of these runs; nothing without gold."""
        said = await self._gold(runs, (DriftFlagged,), newest=True)
        return {run: fact for run, fact in said if isinstance(fact, DriftFlagged)}

    async def _gold(
        self, runs: Sequence[str], kinds: Sequence[type[Fact]], *, newest: bool = False
    ) -> list[tuple[str, Fact]]:
        """The facts with their runs, or the `newest` of each run: from the stream GOLD while its broker is up, and from
        its archive while nobody holds that.
        """
        if not (self.with_gold and runs):
            return []
        if self.broker or self.node.alive():
            return await self._gold_log(runs, kinds, newest)
        if self.node.gold_archive.exists():
            return await asyncio.to_thread(_gold_archive, self.node.gold_archive, runs, kinds, newest)
        return []

    async def _gold_log(self, runs: Sequence[str], kinds: Sequence[type[Fact]], newest: bool) -> list[tuple[str, Fact]]:
        async with operator(self.node, self._login) as connection:
            log = connection.log(GOLD)
            found = await log.last([subjects.subject(GOLD, run, "*", kind.tag()) for run in runs for kind in kinds])
            places = sorted(found, key=lambda place: found[place].sequence)
            if newest:
                places = list({subjects.run_of(place): place for place in places}.values())
            read = [await self._first(log, found[place]) for place in places[:MOST_GOLD]]
        return [(event.run, event.data) for _, event in sorted((one for one in read if one), key=lambda one: one[0])]

    async def _first(self, log: Log, last: Stored) -> tuple[int, Event] | None:
        """The first event at a place of GOLD, not what was appended there later, with its sequence. A small one is
        remembered for the next page.
        """
        key = (last.subject, last.sequence)
        if key in self._small_gold:
            return self._small_gold[key]
        for one in await log.read(1, 1, last.subject):
            event = one.sequence, codec.decode_at(one.subject, one.data)
            if len(one.data) <= SMALL_FACT:
                if len(self._small_gold) >= MOST_GOLD:
                    self._small_gold.clear()
                self._small_gold[key] = event
            return event
        return None


def _gold_archive(path: Path, runs: Sequence[str], kinds: Sequence[type[Fact]], newest: bool) -> list[tuple[str, Fact]]:
    of = f"run IN ({', '.join(map(text_literal, runs))})"
    if newest:
        of += " QUALIFY row_number() OVER (PARTITION BY run ORDER BY seq DESC) = 1"
    parts = [
        f"SELECT seq, run, '{kind.tag()}' AS tag, to_json(t) AS fields FROM \"{kind.tag()}\" t WHERE {of}"
        for kind in kinds
    ]
    by_tag = {kind.tag(): kind for kind in kinds}
    result = query_file(path, " UNION ALL ".join(parts) + f" ORDER BY seq LIMIT {MOST_GOLD}")
    facts = []
    for _, run, tag, fields in result.rows:
        values = msgspec.json.decode(fields)
        named = {name: values[name] for name in by_tag[tag].__struct_fields__ if values.get(name) is not None}
        facts.append((run, msgspec.convert(named, by_tag[tag])))
    return facts


def clip(text: str, longest: int = LONGEST_FILE) -> Clipped:
    """The text, cut where it is longer than a page should hold."""
    return Clipped(text[:longest], max(0, len(text) - longest))


def _rows(result: QueryResult) -> list[Row]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]
