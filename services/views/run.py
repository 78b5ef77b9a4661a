"""Runs as text: lines and a progress bar while a run goes on, tables of its generations and of the auditor's scores."""

import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from algorithms.statistics import mean_interval
from events.codec import Event
from events.gold import GoldFailed, GoldScored
from events.population import CandidateAccepted, CandidateKept, CandidateRejected
from events.run import RunPaused, RunResumed, RunStarted
from events.weights import AdapterPublished, WeightUpdateFailed
from replay.best_answer import BestAnswer
from replay.report import (
    BEST_OF_K,
    START_OF_K,
    VOTE_OF_K,
    Generation,
    Report,
    Reporter,
    Spent,
    cell_label,
    sort_cells,
)
from replay.run_state import state_in_words
from runtime.agents.providers import model_of, price_of_model
from runtime.status import Status
from services.host.hints import with_directory
from services.host.visible import one_line, visible
from services.views.progress import VisibleConsole
from services.views.replayed import closing_lines
from services.views.spent import bounds, money, scored, tokens
from services.views.tables import Column, print_table
from services.views.waiting import QUIET, QuietLines, quiet_line

if TYPE_CHECKING:
    from replay.run_state import ListedRun

SIGNIFICANT = 0.05
FAILURE_SHOWN = 300
"""Characters of what an attempt failed of."""


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
    score = "not scored" if row.score is None else f"dev {scored(row.score, row.low, row.high)}"
    failed = f", {row.failed} of {row.items} attempts failed" if row.failed else ""
    lines = [
        f"{row.generation:>3}  {row.lever:<8}  {score}  {row.standing}  {row.change}",
        f"      cost: {row.rollouts:,} rollouts, {tokens(row)}, {money(row)}, {row.seconds:.1f} s{failed}",
    ]
    if row.parents != (row.generation - 1,) and row.parents:
        lines.append(f"      made from generation {' and '.join(map(str, row.parents))}")
    lines += [f"      first items: {row.stage}"] if row.stage else []
    lines += [f"      second look: {row.recheck}"] if row.recheck else []
    if row.reason:
        lines.append(f"      why: {row.reason}")
    if not row.accepted:
        lines.append(f"      {row.standing}: {row.verdict}")
    if row.failure:
        lines.append(f"      such as: {row.failure:.{FAILURE_SHOWN}}")
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


class RunBar(Progress):
    """The bar of a run, with a line below it that says what the run waits for."""

    waiting = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the line where there is one."""
        yield self.make_tasks_table(self.tasks)
        if self.waiting:
            yield Text(visible(self.waiting))


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
        self._progress = RunBar(*columns, console=VisibleConsole(stderr=True), transient=True)
        self._quiet: QuietLines | None = None
        self._run, self._paused = "", False
        self._bar = self._progress.add_task("", total=None)

    def __enter__(self) -> "LiveRun":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def begin(self, run: str, started: RunStarted) -> None:
        """Print the run's first lines, and start the bar."""
        self._run, self._quiet = run, QuietLines(run, replaced=self.counts_rollouts)
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
        console.print(one_line(with_directory(sentence)), soft_wrap=True, highlight=False)

    def wait(self, seconds: float, statuses: Sequence[Status]) -> None:
        """Say on stderr what the run waits for: below the bar, or in lines of their own."""
        now = time.time()
        for line in self._quiet.lines(seconds, statuses, now, paused=self._paused) if self._quiet else ():
            self._progress.console.print(one_line(line), soft_wrap=True, highlight=False)
        if self.counts_rollouts:
            line = quiet_line(self._run, seconds, statuses, now, paused=self._paused)
            self._progress.waiting = line if seconds >= QUIET else ""

    def update(self, events: Sequence[Event], reporter: Reporter) -> None:
        """Print the lines of these events, and move the bar."""
        for event in events:
            if isinstance(event.data, RunPaused | RunResumed):
                self._paused = isinstance(event.data, RunPaused)
            for line in event_lines(event, reporter):
                self.say(line)
        if self.counts_rollouts:
            report = reporter.report
            row = report.generations[-1] if report.generations else None
            words = f"generation {row.generation}: {row.lever}" if row else ""
            words = "the auditor scores test" if report.audit == "under way" else words
            self._progress.update(self._bar, completed=reporter.done, total=max(1, report.rollouts), description=words)


def why_failed(report: Report) -> str:
    """Why a run has no candidate, and where to look, in a sentence."""
    start = report.generations[0] if report.generations else Generation(generation=0)
    such_as = f", such as: {one_line(start.failure).rstrip('.'):.{FAILURE_SHOWN}}" if start.failure else ""
    cause = f" ({start.verdict}{such_as})" if start.verdict else ""
    sql = (
        f"select outcome, failure, count(*) from trajectories where run = '{report.run}' and failure is not null "
        "group by all"
    )
    return f'{report.reason}{cause}; `evolog sql "{sql}"` shows what failed.'


def show_report(console: Console, report: Report) -> None:
    """Print a run: how far it is and why it ended, its generations, and the auditor's scores where there are some."""

    def say(line: str) -> None:
        console.print(one_line(with_directory(line)), soft_wrap=True, highlight=False)

    say(f"{report.run}: {report.task}, seed {report.seed}: {state_in_words(report.state, report.audit)}")
    match report.state:
        case "paused":
            say(f"paused: {report.reason or 'without a reason'}; `evolog resume {report.run}` lets it go on")
        case "failed":
            say(f"ended: {why_failed(report)}")
        case _ if report.ended:
            say(f"ended: {report.reason}")
    if not report.ended and report.score is not None:
        say(f"best so far: dev {report.score:.4f}")
    if report.owner:
        say(f"it belongs to run {report.owner}, and is ended with it")
    if report.parent:
        past = [row.generation for row in report.generations if row.inherited]
        shared = f", whose generations up to {past[-1]} are above its own" if past else ""
        say(f"forked from {report.parent}{shared}")
    generations_table(console, report)
    if report.strategy not in ("", "chain", "best_of_k"):
        console.print(lineage_tree(report))
    for row in report.generations:
        for line in sampling_lines(row.masked_tokens, row.repeated):
            say(f"generation {row.generation}: {line}")
    if report.cells:
        _auditors_table(console, report)
    else:
        print_vote(console, report)
        for line in (*best_answer_lines(report), *cost_lines(report)):
            say(line)
        if report.closing:
            console.print("\n".join(closing_lines(report.closing)), soft_wrap=True, highlight=False)
    if report.set_aside:
        say(f'{report.set_aside} messages could not be read and were set aside: `evolog sql "from event_set_aside"`')


RUNS = (
    Column("run"),
    Column("belongs to", drop=8),
    Column("task", drop=1),
    Column("state"),
    Column("audit", drop=2),
    Column("dev", right=True),
    Column("started", drop=3),
    Column("levers", drop=4),
    Column("seed", drop=5, right=True),
    Column("why it ended", drop=6, sentence=True),
    Column("search", drop=7),
    Column("decisions", drop=9, right=True),
)
"""The columns of the list of runs."""


def short_task(task: str) -> str:
    """A task's name: of a path the last part."""
    return task.rstrip("/").rpartition("/")[2]


def runs_table(console: Console, runs: "Sequence[ListedRun]") -> None:
    """Print a row for each run of a directory."""
    print_table(console, RUNS, run_rows(runs))


def run_rows(runs: "Sequence[ListedRun]") -> list[tuple[str, ...]]:
    """A row of `RUNS` for each run."""
    return [
        (
            row.run,
            row.owner,
            short_task(row.task),
            f"{row.state} (imported)" if row.imported else row.state,
            row.audit,
            "" if row.score is None else f"{row.score:.4f}",
            row.started,
            "+".join(row.levers),
            str(row.seed),
            row.reason,
            row.strategy if row.width == 1 else f"{row.strategy} x{row.width}",
            str(row.decisions),
        )
        for row in runs
    ]


FINAL = (
    Column("what", sentence=True, least=24),
    Column("dev", drop=1, right=True),
    Column("dev 95 %", drop=3, right=True),
    Column("test", right=True),
    Column("test 95 %", drop=2, right=True),
    Column("rollouts", drop=4, right=True),
)
"""The columns of the auditor's table."""


def final_table(console: Console, report: Report) -> None:
    """Print the auditor's scores by cell, the model's part in them, and the run's cost."""
    console.print(f"{report.run}: {report.reason}", soft_wrap=True, highlight=False)
    _auditors_table(console, report)


def _auditors_table(console: Console, report: Report) -> None:
    names: dict[str, dict[str, GoldScored]] = {}
    for cell in sort_cells(report.cells):
        names.setdefault(cell.cell, {})[cell.split] = cell
    spent = rollouts_spent(report)
    rows = []
    for name, splits in names.items():
        row = [cell_label(name, report)]
        for split in ("dev", "test"):
            found = splits.get(split)
            row += [f"{found.score:.4f}", bounds(found.low, found.high) or "-"] if found else ["-", "-"]
        rows.append([*row, f"{spent[name]:,}" if name in spent else "-"])
    print_table(console, FINAL, rows)
    if any(not bounds(cell.low, cell.high) for cell in report.cells):
        console.print(
            "95 % -: each item has the same reward there, which says nothing of how far it would vary.",
            soft_wrap=True,
            highlight=False,
        )
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
    for line in (*best_answer_lines(report), *cost_lines(report)):
        console.print(one_line(with_directory(line)), soft_wrap=True, highlight=False)
    if report.closing:
        console.print("\n".join(closing_lines(report.closing)), soft_wrap=True, highlight=False)


def best_answer_lines(report: Report) -> list[str]:
    """The best answer that a run with graded rewards met: its reward, where it was met, and its gold where that is
    known; and where it has none, the best answer to dev with its gold.
    """
    if not report.graded:
        return []
    if not report.best_answers:
        return [f"best answer found: not known, {report.best_answers_missing}"] if report.best_answers_missing else []
    best, *on_dev = report.best_answers
    lines = [f"best answer found: {_answer_in_words(best)}"]
    lines += [f"best answer to dev: {_answer_in_words(one)}" for one in on_dev if best.by_gold is None]
    if best.answer is not None:
        lines.append(f"  it is in `evolog sql \"SELECT answer FROM best_answers WHERE run = '{report.run}'\"`")
    return lines


def _answer_in_words(answer: BestAnswer) -> str:
    gold = "gold has not scored it" if answer.by_gold is None else f"gold {answer.by_gold:.4f}"
    return (
        f"reward {answer.reward:.4f}, {gold}; generation {answer.generation}, {answer.purpose} item {answer.item}, "
        f"attempt {answer.attempt}"
    )


def cost_lines(report: Report) -> list[str]:
    """What the run cost, in one line; of a fork what it spent itself and what it inherited; and what no row has."""
    own, said = report.own, []
    confined = f"scaffolds ran {confinement(report.sandbox)}"
    so_far = "" if report.ended else " so far, without the calls of the policy in generations under way"
    cost = f"{own.rollouts:,} rollouts, {tokens(own)}, {money(own)}{so_far}"
    if report.inherited is None:
        said.append(f"{cost}, {report.seconds:.0f} s; {confined}." if report.ended else f"{cost}; {confined}.")
    else:
        past = report.inherited
        inherited = f"{past.rollouts:,} rollouts, {tokens(past)}, {money(past)}"
        said.append(f"{cost}, of its own; {inherited} inherited, which its parent counts too; {confined}.")
    if report.ended and (left := report.tokens - sum(row.tokens for row in report.generations)) > 0:
        micro_usd = report.micro_usd - sum(row.micro_usd for row in report.generations)
        rest = Spent(tokens=left, micro_usd=max(0, micro_usd))
        said.append(f"of these {tokens(rest)}, {money(rest)} belong to no generation above, such as a last question.")
    return said


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


GENERATIONS = (
    Column("gen", right=True),
    Column("from", drop=5, right=True),
    Column("lever"),
    Column("change", drop=1, sentence=True),
    Column("dev", right=True),
    Column("95 %", drop=3),
    Column("accepted", sentence=True, least=10),
    Column("rollouts", drop=4, right=True),
    Column("tokens", drop=6, right=True),
    Column("cost", drop=2, right=True),
    Column("seconds", drop=7, right=True),
)
"""The columns of a run's generations."""


def generations_table(console: Console, report: Report) -> None:
    """One row a generation, as `evolog show` prints it."""
    print_table(console, GENERATIONS, generation_rows(report.generations))


def generation_rows(generations: Sequence[Generation]) -> list[tuple[str, ...]]:
    """A row of `GENERATIONS` for each generation."""
    rows: list[tuple[str, ...]] = []
    paid = any(row.micro_usd or row.unpriced for row in generations)
    for row in generations:
        score = ("", "") if row.score is None else (f"{row.score:.4f}", bounds(row.low, row.high))
        told = "not reported" if row.unreported and not row.tokens else f"{row.tokens:,}"
        rows.append(
            (
                str(row.generation),
                "+".join(map(str, row.parents)),
                row.lever,
                row.change,
                *score,
                "yes" if row.accepted else "kept" if row.standing == "kept" else row.verdict or "...",
                f"{row.rollouts:,}",
                f"{told}, {row.unreported} not" if row.unreported and row.tokens else told,
                money(row) if paid else "",
                f"{row.seconds:.1f}",
            )
        )
    return rows


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
        console.print(f"{name}: dev {scored(score, low, high)}, {what}", soft_wrap=True, highlight=False)


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
        cells = [_mean_in_words(values[split]) if split in values else "-" for split in ("dev", "test")]
        rollouts = f"{statistics.fmean(values['rollouts']):,.0f}" if "rollouts" in values else "-"
        table.add_row(label, *cells, rollouts, str(max(len(values.get(split, [])) for split in ("dev", "test"))))
    console.print(table)
    for report in both:
        unplayed = [_failed_line(report, failed) for failed in report.cells_failed if failed.cell == START_OF_K]
        for line in (more_attempts(report), *unplayed):
            if line:
                console.print(f"{report.run}: {line}", soft_wrap=True, highlight=False)


def _mean_in_words(values: Sequence[float]) -> str:
    """The mean over seeds, with its interval where they differ."""
    mean, half = mean_interval(values)
    return f"{mean:.4f} ± {half:.4f}" if half else f"{mean:.4f}"


def again_scores(report: Report) -> list[tuple[str, float | None]]:
    """What a run scores on dev that asks its start again: by the vote, and by the attempts that train chose."""
    vote = report.vote.score if report.vote else None
    return [
        ("start asked again by a run (best_of_k): vote", vote),
        ("start asked again by a run (best_of_k): best on train", report.score),
    ]
