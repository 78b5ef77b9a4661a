"""The scaffold that a run starts from: ask the policy for a schedule, and answer with the kernel that it stands for.

A schedule is four words (`schedule.py`). The policy is asked with the item's shape and the number of the try.
"""

from typing import Any

from schedule import source

TRIES = 1


def solve(item: Any, model: Any, data: Any) -> str:
    """The source of a kernel, or what the policy wrote where that is no schedule."""
    text = ""
    for number in range(TRIES):
        text = str(model.complete(f"{item.prompt} {number}").text)
        kernel = source(text)
        if kernel:
            return str(kernel)
    return text
