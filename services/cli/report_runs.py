"""Reads a finished run for `evolog report`: its report, its audit and its pictures."""

from contextlib import suppress
from pathlib import Path

from events.errors import UsageError, UserError
from events.time import rfc3339
from runtime.run.loading import TaskAccess
from services.cli.audit_runs import load_audit
from services.cli.reading import read_run
from services.host.node import version
from services.host.reports import load_report
from services.views.audit_pictures import pictures
from services.views.progress import working
from services.views.report import ReportSubject


def report_subject(directory: Path, name: str, access: TaskAccess) -> ReportSubject:
    """What the page of a run is made of. Raises `UsageError` for a run that has not ended."""
    history = read_run(directory, name)
    with working(f"reading {history.run}"):
        report = load_report(directory, name)
    if not report.ended:
        raise UsageError(
            f"Run {history.run} is {report.state}, and a report is about a finished run: wait for its end."
        )
    audit = load_audit(directory, name, access)
    description = ""
    with suppress(UserError):
        description = access._replace(exported=history.exported).load_task(history.started.task).description
    with working("drawing"):
        drawn = pictures(audit.audit)
    began = rfc3339(history.messages[0].time)[:19] + "Z"
    return ReportSubject(report, history.started, description, began, audit, drawn, version())
