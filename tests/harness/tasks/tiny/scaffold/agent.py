"""Ask which way, then ask again about the answer."""

from typing import Any

LOOKS = 1


def solve(item: Any, model: Any, data: Any) -> Any:
    """What the model said last; it falls over one answer that it does not expect."""
    said = model.complete(item.prompt, choices=data.labels).text
    for _ in range(LOOKS - 1):
        said = model.complete(f"{item.prompt} and not {said}?", choices=data.labels).text
    if said == "unspeakable":
        raise ValueError("the model said something unspeakable")
    return said
