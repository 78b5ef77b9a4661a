"""A scaffold that is a verifier: each item asks for the score of an answer, and what it answers is the score.

`runtime/run/confined_verifier.py` puts it into the sandbox with `verifier.json`; it imports nothing of evolog itself.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

TEXT_LIMIT = 4000
"""Characters of what an error says."""

order = json.loads(Path(__file__).with_name("verifier.json").read_text())
verifier: Any = ModuleType(f"{order['package']}.recorded_verifier")
verifier.__file__, verifier.__package__ = order["file"], order["package"]
exec(compile(order["source"], order["file"], "exec"), verifier.__dict__)
VERSION, score = verifier.VERSION, verifier.score


def solve(item: Any, model: object, data: object) -> str:
    """The verifier's version, or its judgement of an answer to an item with this label, as JSON."""
    question = json.loads(item.prompt)
    if question == "VERSION":
        return json.dumps({"version": VERSION})
    try:
        scored = score(*question)
    except (Exception, SystemExit) as error:
        return json.dumps({"raised": [type(error).__name__, str(error)[:TEXT_LIMIT]]})
    try:
        return json.dumps({"reward": repr(float(scored.reward)), "outcome": str(scored.outcome)})
    except (AttributeError, TypeError, ValueError, OverflowError):
        return json.dumps({"gave": f"{scored!r:.100}"})
