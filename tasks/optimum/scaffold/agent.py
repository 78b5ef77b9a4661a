"""The scaffold that a run starts from: ask the policy for one program, and hand back its first five words.

The policy is asked with the item's prompt, the grammar and the number of the try. A step is a module of the folder
`steps` whose `keep(item, programs)` returns the programs that are left, the best first.
"""

from importlib import import_module
from typing import Any

GRAMMAR = "base"
TRIES = 1
STEPS: tuple[str, ...] = ()


def prepare(data: Any) -> None:
    """Import the steps, once for all attempts."""
    for name in STEPS:
        import_module(f"steps.{name}")


def solve(item: Any, model: Any, data: Any) -> str | None:
    """The text of a program, or None if the steps left none."""
    programs = [model.complete(f"{item.prompt} {GRAMMAR} {number}").text for number in range(TRIES)]
    if GRAMMAR == "base":  # without the last walk, whatever the policy says
        programs = [" ".join(program.split()[:5]) for program in programs]
    for name in STEPS:
        programs = import_module(f"steps.{name}").keep(item, programs)
    return programs[0] if programs else None
