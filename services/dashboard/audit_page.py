"""An audit as the dashboard shows it: the words, tables and pictures of `evolog audit --html`."""

import base64
from typing import Any

from replay.audit.audit import AuditReport
from services.views import audit as words
from services.views.audit_pictures import pictures


def audit_content(report: AuditReport) -> dict[str, Any]:
    """What the template of the audit takes."""
    audit = report.audit
    return {
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
