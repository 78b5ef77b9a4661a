"""Checks that an export is whole: every blob is as its digest says, and every blob that an event names is there."""

from collections.abc import Sequence

from events.errors import CheckFailed, UserError
from replay.exports import folder
from replay.history import History, second_events
from replay.integrity import blobs_of, may_be_freed
from replay.soundness import require_decided
from runtime.blobs.directory import Blobs
from runtime.log.port import Stored, readable


def check_contents(history: History) -> int:
    """Read every blob of an export, decide the run again, and return the number of blobs.

    Raises `CheckFailed` for a blob that is damaged, or that an event names and the export does not hold, for a second
    event on a place that was taken, and for a run that does not come out the same.
    """
    require_decided(history)
    if second := second_events(history.messages) + second_events(history.gold):
        raise CheckFailed(second[0])
    count = folder.check_blobs(history)
    private = history.started.private_prompts
    _require_named(history.everything, history.blobs, private)
    _require_named(history.gold, history.gold_blobs, private)
    return count


def _require_named(messages: Sequence[Stored], blobs: Blobs, private: bool) -> None:
    seen: set[str] = set()
    for stored in messages:
        for event in readable([stored]):
            for digest, is_folder in blobs_of(event.data):
                if digest not in seen:
                    seen.add(digest)
                    if may_be_freed(event.tag, is_folder, private=private) and blobs.freed(digest):
                        continue
                    if why := _missing(blobs, digest, is_folder):
                        raise CheckFailed(
                            f"Sequence {stored.sequence} ({event.tag}) names a blob that the export does not hold as "
                            f"it was: {why} Export the run again where all its blobs are."
                        )


def _missing(blobs: Blobs, digest: str, is_folder: bool) -> str:
    try:
        for member in (digest, *(blobs.members(digest).values() if is_folder else ())):
            if not blobs.path(member).exists():
                return f"blob {member} is not in {blobs.root}."
    except UserError as wrong:
        return str(wrong)
    return ""
