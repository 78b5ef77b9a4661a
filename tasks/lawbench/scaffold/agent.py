"""The scaffold that a run starts from: ask for the charge, with every label allowed, and hand back what the model said.

A step is a module of the folder `steps`. `fit(data)` learns from the train items, once for all attempts.
`before(item, data, offers)` returns the labels to offer with their bias in log-odds (none: all labels, no bias);
`after(text, data)` turns what the model said into a label.
"""

from importlib import import_module
from typing import Any

STEPS: tuple[str, ...] = ()


def prepare(data: Any) -> None:
    """Import the steps, and let them learn what they need."""
    for step in map(load, STEPS):
        if hasattr(step, "fit"):
            step.fit(data)


def load(name: str) -> Any:
    """The step of this name."""
    return import_module(f"steps.{name}")


def solve(item: Any, model: Any, data: Any) -> str:
    """The label of `item`, by the steps in order, then the model."""
    steps = [load(name) for name in STEPS]
    offers: dict[str, float] = {}
    for step in steps:
        if hasattr(step, "before"):
            offers = step.before(item, data, offers)
    text: str = model.complete(item.prompt, choices=tuple(offers), bias=tuple(offers.values())).text
    for step in steps:
        if hasattr(step, "after"):
            text = step.after(text, data)
    return text
