"""Runs as text: lines and a progress bar while a run goes on, tables of its generations and of the auditor's scores."""

import os
import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

from algorithms.statistics import mean_interval
from events.codec import Event
from events.gold import GoldFailed, GoldScored
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.run import RunStarted
from events.weights import AdapterPublished, WeightUpdateFailed
from replay.report import BEST_OF_K, START_OF_K, VOTE_OF_K, Generation, Report, Reporter, cell_label, sort_cells
from runtime.agents.providers import model_of, price_of_model
from services.host.visible import one_line, visible
from services.views.progress import VisibleConsole
from services.views.replayed import closing_lines

if TYPE_CHECKING:
    from services.host.sources import ListedRun

SIGNIFICANT = 0.05


def head_line(run: str, started: RunStarted) -> str:
    """The first lines of a run: its settings."""
    judge = f", judged by the language model {started.judge}" if started.judge else ""
    return (
        f"run {run}: task {started.task}, seed {started.seed}, levers {' and '.join(started.levers)}, policy "
        f"{started.policy}, agent {started.agent}{judge}\n"
        f"scaffolds run {confinement(started.sandbox)}"
    )


def confinement(profile: str) -> str:
    """How a run's scaffolds are confined, in words."""
    return "without a sandbox, under this account" if profile in ("none", "child-process") else f"confined: {profile}"


def generation_lines(row: Generation) -> list[str]:
    """A generation once it is judged: its change, score, cost and reason."""
    score = "not scored" if row.score is None else f"dev {row.score:.4f} [{row.low:.4f}, {row.high:.4f}]"
    failed = f", {row.failed} of {row.items} attempts failed" if row.failed else ""
    lines = [
        f"{row.generation:>3}  {row.lever:<8}  {score}  {row.standing}  {row.change}",
        f"      cost: {row.rollouts:,} rollouts, {row.tokens:,} tokens, ${row.micro_usd / 1e6:.2f}, "
        f"{row.seconds:.1f} s{failed}",
    ]
    if row.parents != (row.generation - 1,) and row.parents:
        lines.append(f"      made from generation {' and '.join(map(str, row.parents))}")
    lines += [f"      first items: {row.stage}"] if row.stage else []
    lines += [f"      second look: {row.recheck}"] if row.recheck else []
    if row.reason:
        lines.append(f"      why: {row.reason}")
    if not row.accepted:
        lines.append(f"      {row.standing}: {row.verdict}")
    return lines


def event_lines(event: Event, reporter: Reporter) -> list[str]:
    """An event as it comes in a run that is followed; most are not worth a line."""
    match event.data:
        case (
            CandidateAccepted(generation=generation)
            | CandidateKept(generation=generation)
            | CandidateRejected(generation=generation)
        ):
            return generation_lines(reporter.row(generation))
        case WeightUpdateFailed(round=number, reason=reason):
            return [f"      round {number} brought no improvement: {reason}"]
        case AdapterPublished(round=number, trained_on=trained_on) as made:
            trained = f"round {number}: adapter {made.adapter[:12]} trained on {trained_on:,} trajectories"
            return [f"      {line}" for line in (trained, *sampling_lines(made.masked_tokens, made.repeated))]
    return []


def sampling_lines(masked_tokens: int, repeated: int) -> list[str]:
    """What training found wrong with the samples that it was given, a sentence each."""
    lines = []
    if masked_tokens:
        lines.append(
            f"{masked_tokens:,} tokens were left out: the policy server's log-probabilities are far from the trainer's."
        )
    if repeated:
        lines.append(
            f"{repeated:,} completions repeat another token by token, for another seed, against all chance: look for a "
            "fixed seed or a cache at the policy server."
        )
    return lines


class LiveRun:
    """Shows a run as it goes on: lines on a console, and a bar of its rollouts on stderr where that is a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.counts_rollouts = sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rollouts"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=VisibleConsole(stderr=True), transient=True)
        self._bar = self._progress.add_task("", total=None)

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def begin(self, run: str, started: RunStarted) -> None:
        """Print the run's first lines, and start the bar."""
        self.console.print(head_line(run, started), soft_wrap=True, highlight=False)
        for name in filter(None, (started.agent, started.judge)):
            if (model := model_of(name)) and price_of_model(model, os.environ) is None:
                self.console.print(
                    f"no price is known for {name}: what it costs is not counted; EVOLOG_PRICES names a table",
                    soft_wrap=True,
                )
        if self.counts_rollouts:
            self._progress.start()

    def say(self, sentence: str) -> None:
        """Print a line."""
        # lines to a terminal go through the bar, which moves below them
        console = self._progress.console if self.counts_rollouts and self.console.stderr else self.console
        console.print(one_line(sentence), soft_wrap=True, highlight=False)

    def update(self, events: Sequence[Event], reporter: Reporter) -> None:
        """Print the lines of these events, and move the bar."""
        for event in events:
            for line in event_lines(event, reporter):
                self.say(line)
        if self.counts_rollouts:
            report = reporter.report
            row = report.generations[-1] if report.generations else None
            words = f"generation {row.generation}: {row.lever}" if row else ""
            words = "the auditor scores test" if report.state == "finished" else words
            self._progress.update(self._bar, completed=reporter.done, total=max(1, report.rollouts), description=words)


def why_failed(report: Report) -> str:
    """Why a run has no candidate, and where to look, in a sentence."""
    cause = f" ({report.generations[0].verdict})" if report.generations and report.generations[0].verdict else ""
    sql = (
        f"select outcome, failure, count(*) from trajectories where run = '{report.run}' and failure is not null "
        "group by all"
    )
    return f'{report.reason}{cause}; `evolog sql "{sql}"` shows what failed.'


def show_report(console: Console, report: Report) -> None:
    """Print a run: its generations, and the auditor's scores where there are some."""
    if report.owner:
        console.print(f"{report.run} belongs to run {report.owner}, and is ended with it.", soft_wrap=True)
    generations_table(console, report)
    if report.strategy not in ("", "chain", "best_of_k"):
        console.print(lineage_tree(report))
    for row in report.generations:
        for line in sampling_lines(row.masked_tokens, row.repeated):
            console.print(f"generation {row.generation}: {line}", soft_wrap=True, highlight=False)
    print_vote(console, report)
    if report.cells:
        final_table(console, report)
    elif report.closing:
        console.print("\n".join(closing_lines(report.closing)), soft_wrap=True, highlight=False)
    if report.set_aside:
        console.print(
            f'{report.set_aside} messages could not be read and were set aside: evolog sql "from event_set_aside"',
            soft_wrap=True,
        )


def runs_table(console: Console, runs: "Sequence[ListedRun]") -> None:
    """Print a row for each run of a directory."""
    table = Table()
    for column in (
        "run",
        "task",
        "seed",
        "levers",
        "search",
        "started",
        "state",
        "decisions",
        "dev",
        "why it ended",
    ):
        table.add_column(column, overflow="fold")
    for row in runs:
        score = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(
            f"{row.run}, of {row.owner}" if row.owner else row.run,
            row.task,
            str(row.seed),
            "+".join(row.levers),
            row.strategy if row.width == 1 else f"{row.strategy} x{row.width}",
            row.started,
            row.state,
            str(row.decisions),
            score,
            row.reason,
        )
    console.print(table)


def final_table(console: Console, report: Report) -> None:
    """Print the auditor's scores by cell, the model's part in them, and the run's cost."""
    table = Table(title=f"{report.run}: {report.reason}", title_justify="left", caption_justify="left")
    table.add_column("what", overflow="fold")
    for column in ("dev", "dev 95 %", "test", "test 95 %", "rollouts"):
        table.add_column(column, justify="right", no_wrap=True)
    names: dict[str, dict[str, GoldScored]] = {}
    for cell in sort_cells(report.cells):
        names.setdefault(cell.cell, {})[cell.split] = cell
    spent = rollouts_spent(report)
    for name, splits in names.items():
        row = [cell_label(name, report)]
        for split in ("dev", "test"):
            scored = splits.get(split)
            row += [f"{scored.score:.4f}", f"[{scored.low:.4f}, {scored.high:.4f}]"] if scored else ["-", "-"]
        table.add_row(*row, f"{spent[name]:,}" if name in spent else "-")
    console.print(table)
    print_vote(console, report)
    audit = sum(cell.rollouts for cell in report.cells)
    console.print(
        "rollouts: what the run played to arrive there, or the auditor for a vote and a best of k; the auditor's own, "
        f"with one an item for each other row with a policy, are {audit:,} more.",
        soft_wrap=True,
        highlight=False,
    )
    if unbought := more_attempts(report):
        console.print(unbought, soft_wrap=True, highlight=False)
    for failed in report.cells_failed:
        console.print(_failed_line(report, failed), soft_wrap=True)
    if report.score is not None:
        console.print(verdict_on_the_model(report), soft_wrap=True, highlight=False)
    console.print(
        f"{report.rollouts:,} rollouts, {report.tokens:,} tokens, ${report.micro_usd / 1e6:.2f}, "
        f"{report.seconds:.0f} s; "
        f"scaffolds ran {confinement(report.sandbox)}.",
        soft_wrap=True,
        highlight=False,
    )
    if report.closing:
        console.print("\n".join(closing_lines(report.closing)), soft_wrap=True, highlight=False)


def rollouts_spent(report: Report) -> dict[str, int]:
    """The rollouts that led to each cell, by the cell's name; baselines need none.

    For one lever they are the start's and those of its generations up to the last that was accepted.
    """

    def rollouts_of_lever(lever: str) -> int:
        last = max((row.generation for row in report.generations if row.accepted and row.lever == lever), default=0)
        return sum(
            row.rollouts for row in report.generations if row.lever in ("start", lever) and row.generation <= last
        )

    return {
        "start": rollouts_of_lever("start"),
        "scaffold": rollouts_of_lever("scaffold"),
        "weights": rollouts_of_lever("weights"),
        "final": report.rollouts,
        "uniform_policy": rollouts_of_lever("scaffold"),
        **{cell.cell: cell.items * cell.attempts for cell in report.cells if cell.cell in (VOTE_OF_K, BEST_OF_K)},
    }


def _failed_line(report: Report, failed: GoldFailed) -> str:
    return f"{cell_label(failed.cell, report)} on {failed.split} could not be scored: {failed.reason}"


def more_attempts(report: Report) -> str:
    """How often the run's rollouts would have asked the start, in a sentence, where that is more than was played."""
    for cell in report.cells:
        if cell.cell == VOTE_OF_K and (bought := report.rollouts // max(1, cell.items)) > cell.attempts:
            return (
                f"The run's rollouts would have bought {bought:,} attempts of the start at each test item; "
                f"{cell.attempts} were played."
            )
    return ""


def verdict_on_the_model(report: Report) -> str:
    """A sentence on the model's part in the score: it against a uniformly random policy in the final
    scaffold, on test.
    """
    test = next((compared for compared in report.compared if compared.split == "test"), None)
    if test is None:
        return "Whether the model did anything is not known: a cell is missing."
    result = f"better on {test.wins} test items, worse on {test.losses} (McNemar's exact test, p = {test.p_value:.2g})"
    if test.p_value < SIGNIFICANT and test.wins > test.losses:
        return f"The model against a uniformly random policy in the same scaffold: {result}."
    if test.p_value < SIGNIFICANT:
        return (
            f"A uniformly random policy in the same scaffold does better: the model is {result}. The model made "
            "it worse."
        )
    return (
        f"A uniformly random policy in the same scaffold ties: the model is {result}. It did nothing that can be "
        "told from chance."
    )


def generations_table(console: Console, report: Report) -> None:
    """One row a generation, as `evolog show` prints it."""
    table = Table(title=f"{report.run}: {report.task}, seed {report.seed}, {report.state}", title_justify="left")
    numbers = ("gen", "from", "dev", "rollouts", "seconds")
    for column in ("gen", "from", "lever", "change", "dev", "95 %", "accepted", "rollouts", "seconds"):
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in report.generations:
        score = ("", "") if row.score is None else (f"{row.score:.4f}", f"[{row.low:.4f}, {row.high:.4f}]")
        accepted = "yes" if row.accepted else "kept" if row.standing == "kept" else row.verdict or "..."
        table.add_row(
            str(row.generation),
            "+".join(map(str, row.parents)),
            row.lever,
            row.change,
            *score,
            accepted,
            f"{row.rollouts:,}",
            f"{row.seconds:.1f}",
        )
    console.print(table)


def lineage_tree(report: Report) -> Tree:
    """The candidates below their first parents, each with its score and what became of it."""
    root = Tree("who was made from whom")
    branches: dict[int, Tree] = {}
    for row in report.generations:
        score = "not scored" if row.score is None else f"{row.score:.4f}"
        second = f", with generation {row.parents[1]}" if len(row.parents) > 1 else ""
        above = branches.get(row.parents[0], root) if row.parents else root
        branches[row.generation] = above.add(
            visible(f"{row.generation} {row.lever}, {score}, {row.standing or 'not judged'}{second}")
        )
    return root


def print_vote(console: Console, report: Report) -> None:
    """Print both answers of a run that asks its start again: the vote, and the attempts that scored best on train."""
    vote, rows = report.vote, []
    if vote is None:
        return
    rows.append(("vote", vote.score, vote.low, vote.high, f"over {vote.attempts:,} attempts at {vote.items} items"))
    best = next((row for row in reversed(report.generations) if row.accepted), None)
    if best and best.score is not None:
        attempts = f"the attempts of generation {best.generation}"
        rows.append(("train-selected", best.score, best.low or 0.0, best.high or 0.0, attempts))
    for name, score, low, high, what in rows:
        console.print(f"{name}: dev {score:.4f} [{low:.4f}, {high:.4f}], {what}", soft_wrap=True, highlight=False)


def ablation_table(console: Console, reports: Sequence[Report]) -> None:
    """Print the scores of each choice of levers over the same seeds, of the start asked again, and of what needs no
    agent.
    """
    table = Table(title=f"{reports[0].task}: mean and 95 % t interval over seeds", title_justify="left")
    for column in ("what", "dev", "test", "rollouts", "seeds"):
        table.add_column(column, justify="left" if column == "what" else "right")
    both = [report for report in reports if len(report.levers) > 1 and report.strategy != "best_of_k"]
    rows: dict[str, dict[str, list[float]]] = {}

    def add(label: str, column: str, value: float | None) -> None:
        if value is not None:
            rows.setdefault(label, {}).setdefault(column, []).append(value)

    for report in reports:
        if report.strategy == "best_of_k":
            for label, score in again_scores(report):
                add(label, "dev", score)
                add(label, "rollouts", report.rollouts)
            continue
        levers = "both levers" if len(report.levers) > 1 else f"{report.levers[0]} only"
        for cell in sort_cells(report.cells):
            if cell.cell == "final":
                add(levers, cell.split, cell.score)
            elif report in both and cell.cell not in ("scaffold", "weights"):
                label = cell_label(cell.cell, *both)
                add(label, cell.split, cell.score)
                if cell.cell in (VOTE_OF_K, BEST_OF_K):
                    add(label, "rollouts", cell.items * cell.attempts)
        add(levers, "rollouts", report.rollouts)
    for label, values in rows.items():
        cells = [
            "{:.4f} ± {:.4f}".format(*mean_interval(values[split])) if split in values else "-"
            for split in ("dev", "test")
        ]
        rollouts = f"{statistics.fmean(values['rollouts']):,.0f}" if "rollouts" in values else "-"
        table.add_row(label, *cells, rollouts, str(max(len(values.get(split, [])) for split in ("dev", "test"))))
    console.print(table)
    for report in both:
        unplayed = [_failed_line(report, failed) for failed in report.cells_failed if failed.cell == START_OF_K]
        for line in (more_attempts(report), *unplayed):
            if line:
                console.print(f"{report.run}: {line}", soft_wrap=True, highlight=False)


def again_scores(report: Report) -> list[tuple[str, float | None]]:
    """What a run scores on dev that asks its start again: by the vote, and by the attempts that train chose."""
    vote = report.vote.score if report.vote else None
    return [
        ("start asked again by a run (best_of_k): vote", vote),
        ("start asked again by a run (best_of_k): best on train", report.score),
    ]
