"""evolog in a notebook: open what was recorded, look at it as tables, events, trajectories and audits, and start runs.

    import evolog

    project = evolog.open()                       # ./.evolog, another project directory, or the folder of an export
    project.view("generations").df()              # a view of the archive, as pandas; .arrow() for Arrow
    first = project.run("first")                  # a run, by its name or the beginning of its name
    first.report.score                            # what `evolog show` prints
    for row in first.events(RunStarted): ...      # events as typed structs, in the order of the log
    for attempt in first.trajectories("dev"): ... # what was asked, with tokens and log-probabilities, and answered
    first.audit().figures.state                   # what `evolog audit` computes
    second = evolog.run("lawbench", seed=1)       # as `evolog run` does, to its end

Reading changes nothing, and tells no more than the command line does: gold comes in by reports and audits alone. All
of it may be called where an event loop is running, as in Jupyter. What goes wrong is a `UserError` with one sentence.
"""

from events.codec import Event
from events.errors import UserError
from replay.audit.audit import Audit
from replay.recorded import StoredEvent
from replay.report import Report

from .ordering import run
from .reading import AuditResult, ChatTurn, PolicyCall, Project, RecordedRun, Trajectory, open

__all__ = [
    "Audit",
    "AuditResult",
    "ChatTurn",
    "Event",
    "PolicyCall",
    "Project",
    "RecordedRun",
    "Report",
    "StoredEvent",
    "Trajectory",
    "UserError",
    "open",
    "run",
]
