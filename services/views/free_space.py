"""What can be freed, and what goes with it, as text for `evolog gc`."""

from services.host.free_space import FreeableRun, Freeing

MEGABYTE = 1e6
SHOWN = 12
"""Most rounds or parts of a log that a line names; all of them are in the JSON."""
STAYS = (
    "What stays: every event; state at any point, deciding again, swaps, diff, audit, SQL and the integrity check; "
    "performing all else again; the running runs, and forks of every end."
)


def freeing_lines(freeing: Freeing) -> list[str]:
    """A few lines for each run that has optimiser states, then the sum and what stays."""
    lines = [line for run in freeing.runs if run.states for line in _run_lines(run, deleted=freeing.deleted)]
    verb = "freed" if freeing.deleted else "can be freed"
    lines.append(f"{len(freeing.blobs):,} optimiser states {verb}, {freeing.bytes / MEGABYTE:,.1f} MB.")
    if freeing.blobs:
        lines.append(STAYS)
    if freeing.blobs and not freeing.deleted:
        lines.append("Nothing was deleted: --delete frees them for good, while nothing is up.")
    return lines


def _run_lines(run: FreeableRun, *, deleted: bool) -> list[str]:
    before = f", {run.freed:,} freed before" if run.freed else ""
    verb = "freed now" if deleted else "can be freed"
    lines = [
        f"{run.run}: {run.states:,} optimiser states, {run.needed:,} needed to go on, {run.freeable:,} {verb} "
        f"({run.bytes / MEGABYTE:,.1f} MB){before}"
    ]
    if run.rounds:
        named = _shown([f"{generation}.{number}" for generation, number in run.rounds])
        lines.append(
            f"  goes: performing {len(run.rounds):,} of {run.of_rounds:,} rounds of training again that start from a "
            f"state (generation.round {named})"
        )
    if run.forks:
        named = _shown([f"{first} to {last}" for first, last in run.forks])
        lines.append(f"  goes: forks that may train, at sequences {named}")
    return lines


def _shown(parts: list[str]) -> str:
    more = len(parts) - SHOWN
    return ", ".join(parts[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
