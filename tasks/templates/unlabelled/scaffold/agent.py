"""Where a run starts: ask once."""

from typing import Any


def solve(item: Any, model: Any, data: Any) -> Any:
    """The model's answer."""
    return model.complete(item.prompt).text
