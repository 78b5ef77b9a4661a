"""An audit as the dashboard shows it: the words, tables and pictures of `evolog audit --html`."""

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from replay.audit.audit import AuditReport
from services.views import audit as words

FRESH_SECONDS = 10.0
"""Seconds for which a comparison of a kept audit with what it was computed from counts."""
PATIENCE = 0.4
"""Seconds that a page waits for that comparison, before it is shown without."""
MOST_AUDITS = 4
"""Audits that are held ready."""

AuditContent = dict[str, Any]


class _Made(NamedTuple):
    content: AuditContent | None
    ended: float


class KeptAudits:
    """Kept audits, as their template takes them. Each is compared with the log's files apart from the pages, which may
    take seconds the first time; a page says so meanwhile, or shows what was found before.
    """

    def __init__(self, find: Callable[[str], AuditReport | None]) -> None:
        self._find = find
        self._made: dict[str, _Made] = {}
        self._making: dict[str, asyncio.Task[None]] = {}

    async def content(self, run: str) -> tuple[AuditContent | None, bool]:
        """What the template of an audit takes, None where none is kept; and whether that is still being found out."""
        made = self._made.get(run)
        if made is None or time.monotonic() - made.ended > FRESH_SECONDS:
            if run not in self._making:
                self._making[run] = asyncio.create_task(self._make(run))
            done, _ = await asyncio.wait([self._making[run]], timeout=PATIENCE)
            for task in done:
                task.result()
            made = self._made.get(run)
        return (made.content, False) if made else (None, True)

    async def _make(self, run: str) -> None:
        try:
            content = await asyncio.to_thread(self._prepare, run)
            self._made.pop(run, None)
            while len(self._made) >= MOST_AUDITS:
                self._made.pop(next(iter(self._made)))
            self._made[run] = _Made(content, time.monotonic())
        finally:
            del self._making[run]

    def _prepare(self, run: str) -> AuditContent | None:
        report = self._find(run)
        before = self._made.get(run)
        if report and before and before.content and before.content["report"] == report:
            return before.content  # the pictures stay as they are
        return audit_content(report) if report else None


def audit_content(report: AuditReport) -> AuditContent:
    """What the template of the audit takes."""
    from services.views.audit_pictures import pictures  # with matplotlib

    audit = report.audit
    return {
        "report": report,
        "state": audit.state,
        "headline": words.headline(audit),
        "opening": words.opening(report),
        "families": audit.families,
        "tables": words.tables(audit),
        "words": words.WORDS,
        "closing": words.closing(report),
        "pictures": [
            {"title": one.title, "alt": one.alt, "data": base64.b64encode(one.png).decode()} for one in pictures(audit)
        ],
    }
