"""Leaves out what is no program."""

from typing import Any

from denoising.program import parse


def keep(item: Any, programs: list[str]) -> list[str]:
    """Those that can be read."""
    found = []
    for program in programs:
        try:
            parse(program)
        except ValueError:
            continue
        found.append(program)
    return found
