"""The scaffold that a run starts from: ask for the solution, and hand back what the model said.

A step is a module of the folder
`steps`, whose `before(item)` returns an answer without the model, or None; `after(item, text)` mends what it said.
"""

import re
from importlib import import_module
from typing import Any

STEPS: tuple[str, ...] = ()
WHOLE = False
"""Whether the model is asked with the whole problem. A knight's is too long for tiny-lm, which is asked in fewer words,
without the squares.
"""


def ask(item: Any, model: Any) -> str:
    """What the model says of the problem."""
    text: str = model.complete(item.prompt if WHOLE else brief(item.prompt)).text
    return text


def brief(prompt: str) -> str:
    """The kind of problem, and the position if it has one."""
    fen = re.search(r"FEN: ([^\n]+)", prompt)
    return f"moves {fen[1]}" if fen else f"knight {prompt.count('(') - 1} squares"


def solve(item: Any, model: Any, data: Any) -> str:
    """The answer, by the first step that has one, else by the model and the steps that mend."""
    steps = [import_module(f"steps.{name}") for name in STEPS]
    for step in steps:
        if hasattr(step, "before") and (answer := step.before(item)) is not None:
            return str(answer)
    text = ask(item, model)
    for step in steps:
        if hasattr(step, "after"):
            text = step.after(item, text)
    return text
