"""A scaffold that is a verifier: each item asks for a judgement, and what it answers is the judgement.

`runtime/run/confined_verifier.py` puts it into the sandbox with `verifier.json`; it imports nothing of evolog itself.
"""

import inspect
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

TEXT_LIMIT = 4000
"""Characters of what an error says."""

order = json.loads(Path(__file__).with_name("verifier.json").read_text())
verifier: Any = ModuleType(f"{order['package']}.recorded_verifier")
verifier.__file__, verifier.__package__ = order["file"], order["package"]
exec(compile(order["source"], order["file"], "exec"), verifier.__dict__)
NAMES = ("VERSION", "OUTCOMES", "REPEATS", "SECONDS", "NEEDS", "JUDGE")


def solve(item: Any, model: object, data: object) -> str:
    """What the verifier defines, or its judgement, as JSON."""
    question = json.loads(item.prompt)
    if question == "NAMES":
        names = {name: getattr(verifier, name) for name in NAMES if hasattr(verifier, name)}
        functions = [name for name in ("score", "score_submission") if callable(getattr(verifier, name, None))]
        tools = [name for name in functions if len(parameters(name)) > 3]
        return json.dumps({"names": names, "functions": functions, "tools": tools})
    try:
        judged = judge(*question)
    except (Exception, SystemExit) as error:
        return json.dumps({"raised": [type(error).__name__, str(error)[:TEXT_LIMIT]]})
    try:
        return json.dumps({"judged": as_plain(judged)})
    except (AttributeError, TypeError, ValueError, OverflowError):
        return json.dumps({"gave": f"{judged!r:.100}"})


def parameters(name: str) -> list[str]:
    """The names of what a function of the verifier takes."""
    return [*inspect.signature(getattr(verifier, name)).parameters]


def judge(name: str, of: Any, answer: Any, label: Any) -> Any:
    """The judgement of one answer, or of a submission. It has no tools here."""
    function = getattr(verifier, name)
    if name == "score_submission":
        return function([SimpleNamespace(**item) for item in of], answer, label)
    return function(answer, label) if len(parameters(name)) == 2 else function(SimpleNamespace(**of), answer, label)


def as_plain(judged: Any) -> Any:
    """A judgement as it goes into JSON, its reward in Python's own digits; raises where it is none."""
    if hasattr(judged, "total"):
        return {
            "total": as_plain(judged.total),
            "items": {str(id): as_plain(scored) for id, scored in judged.items.items()},
        }
    interval = getattr(judged, "interval", None)
    return {
        "reward": repr(float(judged.reward)),
        "outcome": str(judged.outcome),
        "details": str(getattr(judged, "details", "")),
        "interval": interval and [repr(float(end)) for end in interval],
        "micro_usd": int(getattr(judged, "micro_usd", 0)),
    }
