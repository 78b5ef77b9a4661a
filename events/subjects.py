"""The subjects that events stand on: `evolog.<run>.<entity>.<tag>` and `gold.<run>.<entity>.<tag>`, four
tokens always.
"""

import re

from events.errors import UsageError

LOG = "EVOLOG"
GOLD = "GOLD"
PREFIX = {LOG: "evolog", GOLD: "gold"}
BLOBS, GOLD_BLOBS = "BLOBS", "GOLD_BLOBS"
"""The streams of blobs, where they stand in streams: those that every service may read, and the auditor's."""
BLOB_PREFIX = {BLOBS: "blob", GOLD_BLOBS: "gold_blob"}
"""How the subjects of a blob's chunks begin: `blob.<sha256>.<n>`."""
HEAD = "head"
"""The entity of a run's chain of decisions, on the one subject that is used more than once."""

RUN_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""The names that a run can have, as a regular expression."""


def subject(stream: str, run: str, entity: str, tag: str) -> str:
    """The subject of one event; the entity is the event's derived id."""
    return f"{PREFIX[stream]}.{run}.{entity}.{tag}"


def head(run: str) -> str:
    """The subject on which a run's decisions fence each other."""
    return f"evolog.{run}.{HEAD}.decision_made"


def run_of(subject: str) -> str:
    """The run's name in a subject, or an empty string where the subject has not four tokens."""
    parts = subject.split(".")
    return parts[1] if len(parts) == 4 else ""


def entity_of(subject: str) -> str:
    """The entity in a subject, of four tokens: the id of its event, or `HEAD`."""
    return subject.split(".", 3)[2]


def tag_of(subject: str) -> str:
    """The tag in a subject."""
    return subject.rsplit(".", 1)[-1]


def check_run_name(name: str) -> str:
    """The name itself, if it can be one token of a subject and a file's name."""
    if not re.fullmatch(RUN_NAME, name):
        raise UsageError(
            f"{name!r} cannot name a run: use 1 to 64 letters, digits, '-' and '_', beginning with a letter or digit."
        )
    return name
