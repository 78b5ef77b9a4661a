"""Where a run starts: ask for the label, with every one allowed."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> Any:
    """The label that the model names."""
    return model.complete(item.prompt, choices=data.labels).text
