"""A run that is not started, for people."""

from rich.console import Console
from rich.table import Table

from runtime.run.estimate import RolloutEstimate
from services.host.planned import PlannedRun


def show_planned(console: Console, planned: PlannedRun) -> None:
    """Print what would be started."""
    table = Table(title=f"a run of {planned.task}, which is not started", title_justify="left")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for setting in planned.settings:
        table.add_row(setting.name.replace("_", "-"), str(setting.value), setting.source)
    console.print(table)
    services = "are up" if planned.up else "would be started"
    for line in (
        *rollout_lines(planned.rollouts),
        f"Scaffolds would run in: {planned.sandbox}.",
        f"The services in {planned.directory} {services}.",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def rollout_lines(rollouts: RolloutEstimate) -> list[str]:
    """The estimate, in sentences."""
    parts = [f"{rollouts.start:,} rollouts for the start"]
    if rollouts.scaffold is not None:
        parts.append(f"{rollouts.scaffold:,} for a change of the scaffold")
    if rollouts.weights is not None:
        parts.append(f"{rollouts.weights:,} for a weight update of {rollouts.rounds} rounds")
    span = f"{rollouts.least:,}" if rollouts.least == rollouts.most else f"{rollouts.least:,} to {rollouts.most:,}"
    limit = "" if rollouts.limit is None else f" The budget allows {rollouts.limit:,}."
    return [
        f"Estimated: {', '.join(parts)}; {span} for up to {rollouts.generations:,} generations.{limit}",
        "Not counted: longer updates, second looks, refills, child runs, and the auditor's own rollouts.",
    ]
