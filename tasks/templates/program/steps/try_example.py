"""Ask up to four times for a program, and take the first that does what the prompt's example says."""

from typing import Any

TRIES = 4


def fits(program: str, example: str) -> bool:
    """Whether a program gives what the example says; this runs in the scaffold's sandbox."""
    x, _, y = example.partition(" gives ")
    try:
        return bool(eval(program, {"__builtins__": {}}, {"x": int(x)}) == int(y))
    except Exception:
        return False


def solve(item: Any, model: Any, data: Any) -> Any:
    """The model's program that fits, else its last."""
    asked, _, example = item.prompt.partition("\n")
    program = ""
    for number in range(TRIES):
        program = model.complete(f"{asked} {number}").text
        if fits(program, example):
            break
    return program
