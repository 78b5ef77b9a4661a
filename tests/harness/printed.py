"""What a view prints on a console, as text."""

from collections.abc import Callable
from io import StringIO

from rich.console import Console


def printed(table: Callable[..., None], *given: object) -> str:
    """The text of a table or list of 160 columns."""
    text = StringIO()
    table(Console(file=text, width=160), *given)
    return text.getvalue()
