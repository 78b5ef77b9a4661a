"""The scaffold that a run starts from: ask the policy for one program, and hand back its first six words.

The first line of an item's prompt says what kind of data set it is, and the policy is asked with that line, the grammar
and the number of the try. The rest is the data set's train counts. A step is a module of the folder `steps` whose
`keep(item, programs)` returns the programs that are left, the best first.
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
    kind = item.prompt.partition("\n")[0]
    programs = [model.complete(f"{kind} {GRAMMAR} {number}").text for number in range(TRIES)]
    if GRAMMAR == "base":  # without post-processing, whatever the policy says
        programs = [" ".join(program.split()[:6]) for program in programs]
    for name in STEPS:
        programs = import_module(f"steps.{name}").keep(item, programs)
    return programs[0] if programs else None
