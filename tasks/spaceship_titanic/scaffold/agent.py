"""The scaffold that a run starts from: ask of a passenger's record as it stands.

A step is a module of the folder `steps`. `fit(data)` learns from the train items, once for all attempts;
`odds(item, data)` returns the log-odds that it would give to True.
"""

from importlib import import_module
from typing import Any

STEPS: tuple[str, ...] = ()


def prepare(data: Any) -> None:
    """Import the steps, and let them learn what they need."""
    for name in STEPS:
        import_module(f"steps.{name}").fit(data)


def solve(item: Any, model: Any, data: Any) -> str:
    """True or False, by the model, to whose odds the steps add theirs."""
    odds = sum(import_module(f"steps.{name}").odds(item, data) for name in STEPS)
    text: str = model.complete(item.prompt, choices=("False", "True"), bias=(0.0, odds)).text
    return text
