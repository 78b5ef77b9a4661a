"""The scaffold that a run starts from: ask for the letter of the right option, and hand back what the model said.

A step is a module of the folder `steps`. `ask(item, model)` returns what the model says; `after(text)` turns it into a
letter.
"""

from importlib import import_module
from typing import Any

STEPS: tuple[str, ...] = ()
INSTRUCTION = "\n\nAnswer with the letter of the right option, A, B, C or D, and nothing else."


def ask(item: Any, model: Any) -> str:
    """What the model says of the question as it stands."""
    text: str = model.complete(item.prompt + INSTRUCTION).text
    return text


def solve(item: Any, model: Any, data: Any) -> str:
    """The letter, by the steps in order."""
    steps = [import_module(f"steps.{name}") for name in STEPS]
    asking = [step.ask for step in steps if hasattr(step, "ask")] or [ask]
    text: str = asking[-1](item, model)
    for step in steps:
        if hasattr(step, "after"):
            text = step.after(text)
    return text
