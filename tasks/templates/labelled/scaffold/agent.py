"""Where a run starts: ask for the desk, with every label allowed."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> Any:
    """The desk that the model names."""
    return model.complete(item.prompt, choices=data.labels).text
