"""The messages of the log as lines, for `evolog watch`."""

import msgspec

from events import codec
from events.time import rfc3339
from runtime.log.port import Stored
from services.host.visible import one_line, shortened

WIDTH = 160
"""Characters of an event that are shown; --json has all of it."""


def message_line(stored: Stored, count: int = 0) -> str:
    """One message: its sequence, the time of day when it was stored, its run and tag, and the beginning of
    its event; with a count, how many of its kind it is the last of.
    """
    try:
        event = codec.decode_at(stored.subject, stored.data)
    except codec.Unreadable as wrong:
        reason = one_line(str(wrong))
        return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {stored.subject}  UNREADABLE: {reason}"
    text = msgspec.json.encode(event.data).decode()
    kind = f"{event.tag:<22}" + (f"  {f'x{count:,}' if count > 1 else '':<6}" if count else "")
    return f"{stored.sequence:>8}  {rfc3339(stored.time)[11:23]}  {event.run}  {kind}  {shortened(text, WIDTH)}"


def message_json(stored: Stored) -> str:
    """One message as an object: sequence, time, subject, and the event as it was written, or why it cannot be read."""
    envelope = {"sequence": stored.sequence, "stored": rfc3339(stored.time), "subject": stored.subject}
    try:
        codec.decode_at(stored.subject, stored.data)
        return msgspec.json.encode(envelope | {"event": msgspec.Raw(stored.data)}).decode()
    except codec.Unreadable as wrong:
        return msgspec.json.encode(envelope | {"unreadable": str(wrong)}).decode()
