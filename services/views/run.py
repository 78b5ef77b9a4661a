"""How runs are shown to a person: lines as a generation ends, tables at the end."""

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from events.gold import GoldScored
from events.run import RunStarted
from replay.report import CELL_NAMES, Generation, Report, sort_cells

SIGNIFICANT = 0.05
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""


def head_line(run: str, started: RunStarted) -> str:
    """The first line of a run."""
    return (
        f"run {run}: task {started.task}, seed {started.seed}, levers {' and '.join(started.levers)}, policy {started.policy}, "
        f"agent {started.agent}\n"
        f"scaffolds run {confinement(started.sandbox)}"
    )


def confinement(profile: str) -> str:
    """What is said of a run's profile."""
    return "without a sandbox, under this account" if profile in ("none", "child-process") else f"confined: {profile}"


def generation_lines(row: Generation) -> list[str]:
    """What is said of a generation when it is judged."""
    score = "not scored" if row.score is None else f"dev {row.score:.4f} [{row.low:.4f}, {row.high:.4f}]"
    failed = f", {row.failed} of {row.items} attempts failed" if row.failed else ""
    lines = [
        f"{row.generation:>3}  {row.lever:<8}  {score}  {'kept' if row.accepted else 'dropped'}  {row.change}",
        f"      cost: {row.rollouts:,} rollouts, {row.tokens:,} tokens, ${row.micro_usd / 1e6:.2f}, {row.seconds:.1f} s{failed}",
    ]
    if row.reason:
        lines.append(f"      why: {row.reason}")
    if not row.accepted:
        lines.append(f"      dropped: {row.verdict}")
    return lines


def final_table(console: Console, report: Report) -> None:
    """The auditor's table, and what the run cost."""
    table = Table(title=f"{report.run}: {report.reason}", title_justify="left", caption_justify="left")
    table.add_column("what", overflow="fold")
    for column in ("dev", "dev 95 %", "test", "test 95 %", "rollouts"):
        table.add_column(column, justify="right", no_wrap=True)
    names: dict[str, dict[str, GoldScored]] = {}
    for cell in sort_cells(report.cells):
        names.setdefault(cell.cell, {})[cell.split] = cell
    spent = rollouts_spent(report)
    for name, splits in names.items():
        what = CELL_NAMES.get(name, f"no agent: {name.removeprefix('baseline:')}")
        row = [what]
        for split in ("dev", "test"):
            scored = splits.get(split)
            row += [f"{scored.score:.4f}", f"[{scored.low:.4f}, {scored.high:.4f}]"] if scored else ["-", "-"]
        table.add_row(*row, f"{spent[name]:,}" if name in spent else "-")
    console.print(table)
    audit = sum(cell.rollouts for cell in report.cells)
    console.print(
        f"rollouts: what the run played to arrive there; the auditor's own, one an item for each row with a policy, are {audit:,} more.",
        soft_wrap=True,
        highlight=False,
    )
    for failed in report.cells_failed:
        console.print(f"{CELL_NAMES.get(failed.cell, failed.cell)} on {failed.split} could not be scored: {failed.reason}", soft_wrap=True)
    if report.score is not None:
        console.print(verdict_on_the_model(report), soft_wrap=True, highlight=False)
    console.print(
        f"{report.rollouts:,} rollouts, {report.tokens:,} tokens, ${report.micro_usd / 1e6:.2f}, {report.seconds:.0f} s; "
        f"scaffolds ran {confinement(report.sandbox)}.",
        soft_wrap=True,
        highlight=False,
    )


def rollouts_spent(report: Report) -> dict[str, int]:
    """What was played to arrive at each cell: the start, and of one lever the generations up to the last that was kept. Baselines: none."""

    def upto(lever: str) -> int:
        kept = max((row.generation for row in report.generations if row.accepted and row.lever == lever), default=0)
        return sum(row.rollouts for row in report.generations if row.lever in ("start", lever) and row.generation <= kept)

    return {
        "start": upto("start"),
        "scaffold": upto("scaffold"),
        "weights": upto("weights"),
        "final": report.rollouts,
        "uniform_policy": upto("scaffold"),
    }


def verdict_on_the_model(report: Report) -> str:
    """What the final scaffold with a uniformly random policy says of the model's part in the score."""
    test = next((compared for compared in report.compared if compared.split == "test"), None)
    if test is None:
        return "Whether the model did anything is not known: a cell is missing."
    found = f"better on {test.wins} test items, worse on {test.losses} (McNemar's exact test, p = {test.p_value:.2g})"
    if test.p_value < SIGNIFICANT and test.wins > test.losses:
        return f"The model against a uniformly random policy in the same scaffold: {found}."
    if test.p_value < SIGNIFICANT:
        return f"A uniformly random policy in the same scaffold does better: the model is {found}. The model made it worse."
    return f"A uniformly random policy in the same scaffold ties: the model is {found}. It did nothing that can be told from chance."


def generations_table(console: Console, report: Report) -> None:
    """One row a generation, as `evolog show` prints it."""
    table = Table(title=f"{report.run}: {report.task}, seed {report.seed}, {report.state}", title_justify="left")
    for column in ("gen", "lever", "change", "dev", "95 %", "kept", "rollouts", "seconds"):
        table.add_column(column, justify="right" if column in ("gen", "dev", "rollouts", "seconds") else "left", overflow="fold")
    for row in report.generations:
        score = ("", "") if row.score is None else (f"{row.score:.4f}", f"[{row.low:.4f}, {row.high:.4f}]")
        kept = "yes" if row.accepted else row.verdict or "..."
        table.add_row(str(row.generation), row.lever, row.change, *score, kept, f"{row.rollouts:,}", f"{row.seconds:.1f}")
    console.print(table)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """The mean of some seeds, and the half-width of its 95 % t interval (0 for a single one)."""
    if len(values) < 2:
        return values[0], 0.0
    quantile = T975[min(len(values) - 1, len(T975)) - 1]
    return statistics.fmean(values), quantile * statistics.stdev(values) / len(values) ** 0.5


def ablation_table(console: Console, reports: Sequence[Report]) -> None:
    """Levers against each other over the same seeds, and what needs no agent."""
    table = Table(title=f"{reports[0].task}: mean and 95 % t interval over seeds", title_justify="left")
    for column in ("what", "dev", "test", "rollouts", "seeds"):
        table.add_column(column, justify="left" if column == "what" else "right")
    rows: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        levers = "both levers" if len(report.levers) > 1 else f"{report.levers[0]} only"
        for cell in report.cells:
            if cell.cell == "final":
                rows.setdefault(levers, {}).setdefault(cell.split, []).append(cell.score)
            elif len(report.levers) > 1 and (cell.cell in ("start", "uniform_policy") or cell.cell.startswith("baseline:")):
                rows.setdefault(CELL_NAMES.get(cell.cell, f"no agent: {cell.cell.removeprefix('baseline:')}"), {}).setdefault(
                    cell.split, []
                ).append(cell.score)
        rows.setdefault(levers, {}).setdefault("rollouts", []).append(report.rollouts)
    for what, found in rows.items():
        cells = ["{:.4f} ± {:.4f}".format(*mean_and_half_width(found[split])) if split in found else "-" for split in ("dev", "test")]
        rollouts = f"{statistics.fmean(found['rollouts']):,.0f}" if "rollouts" in found else "-"
        table.add_row(what, *cells, rollouts, str(len(found.get("test", []))))
    console.print(table)
