"""Finds runs that are here as files: imported ones and exports; and what the beginning of a name means."""

from collections.abc import Callable, Collection
from pathlib import Path

from replay.exports import folder
from services.host.node import Node


def matching_runs(name: str, runs: Collection[str], owner_of: Callable[[str], str]) -> list[str]:
    """The runs that a name may mean: the one of that name, else those whose names begin so.

    A run that is among them stands for all runs that belong to it, whose names begin as its own does.
    """
    if name in runs:
        return [name]
    matching = [run for run in runs if run.startswith(name)]
    if len(matching) == 1:
        return matching
    return [run for run in matching if owner_of(run) not in matching]


def imported_runs(node: Node) -> list[str]:
    """The names of the runs that were imported."""
    return sorted(path.name for path in node.imports.glob("*") if folder.is_export(path))


def find_export(node: Node, name: str) -> Path | None:
    """The folder of a run that is here as files; None where it is not.

    That is an imported run by its name, or the only one whose name begins so; or else an export, whose path `name` is.
    """
    runs = imported_runs(node)
    matching = matching_runs(name, runs, lambda run: folder.read_manifest(node.imports / run).started.owner)
    if len(matching) == 1:
        return node.imports / matching[0]
    path = Path(name)
    return path if folder.is_export(path) and ("/" in name or not node.nats_dir.is_dir()) else None
