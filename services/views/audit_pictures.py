"""The pictures of an audit: score and gold as the run went, against what each lever spent, and scaffolds against
adapters.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from replay.audit.audit import Audit
from replay.audit.cross_play import CrossPlayTable
from replay.audit.levers import FORMS
from replay.audit.rows import CandidateRow
from replay.audit.statistics.interval import Interval
from replay.audit.statistics.pressure import Curve
from services.views.audit import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE, GOLD, CHOSEN = "#0072B2", "#D55E00", "#6B7280"
"""The colours of P_new, Q and P_sel.

With the levers' they are from Okabe and Ito's palette, which the colour-blind can tell apart.
"""
LEVERS = {
    "start": "#6B7280",
    "scaffold": "#009E73",
    "weights": "#CC79A7",
    "child": "#E69F00",
    "repeat": "#56B4E9",
}
ALARM = "#B91C1C"
DPI = 150
LABELLED = 12
"""Most points that are labelled with their generation."""


class Picture(NamedTuple):
    """A PNG. `alt` says what it shows, for those who do not see it."""

    name: str
    title: str
    alt: str
    png: bytes


def pictures(audit: Audit) -> list[Picture]:
    """The three pictures; each says in words what was not measured."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        return [generations(audit), pressure(audit), cross_play(audit)]


def generations(audit: Audit) -> Picture:
    """P_sel, P_new and Q by generation, the levers below, and where the scores began to mean something else."""
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(12, 1))
    numbers = [row.generation for row in audit.rows]
    accepted = [row for row in audit.rows if row.accepted]
    upper.plot(
        [row.generation for row in accepted],
        [row.score for row in accepted],
        color=CHOSEN,
        linestyle="--",
        marker="o",
        markersize=4,
    )
    others = [row for row in audit.rows if not row.accepted]
    upper.plot(
        [row.generation for row in others],
        [row.score for row in others],
        "o",
        color=CHOSEN,
        markerfacecolor="white",
        markersize=5,
    )
    legend = [Line2D([], [], color=CHOSEN, linestyle="--", marker="o", markersize=4, label="P_sel: dev, chosen by")]
    if others:
        legend.append(
            Line2D(
                [],
                [],
                color=CHOSEN,
                linestyle="",
                marker="o",
                markerfacecolor="white",
                markersize=5,
                label="P_sel of others",
            )
        )
    branches = _branches(audit.rows)
    for label, colour, marker, lines in (
        (
            "P_new: the verifier on test",
            SCORE,
            "o",
            [[(row.generation, row.p_new) for row in line] for line in branches],
        ),
        ("Q: gold", GOLD, "D", [[(row.generation, row.gold) for row in line] for line in branches]),
    ):
        for line in lines:
            _band(upper, [(generation, interval) for generation, interval in line if interval], colour, marker)
        if lines:
            legend.append(Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=2, label=label))
    _mark(upper, audit)
    _unit_axis(upper, [value for row in audit.rows for value in (row.score, *_ends(row.p_new), *_ends(row.gold))])
    upper.margins(x=0.03)
    upper.set_ylabel("mean score")
    upper.set_title(f"{audit.run}: score and gold", pad=32)  # the marks' words are below
    upper.grid(alpha=0.25)
    for row in audit.rows:
        colour = LEVERS.get(row.lever, CHOSEN)
        lower.plot(
            row.generation,
            0,
            "s",
            color=colour,
            markerfacecolor=colour if row.accepted else "white",
            markersize=9,
            clip_on=False,
        )
    used = [lever for lever in LEVERS if any(row.lever == lever for row in audit.rows)]
    legend += [
        Line2D([], [], color=LEVERS[lever], marker="s", linestyle="", markersize=8, label=lever) for lever in used
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    lower.set(xlabel="generation (hollow: not accepted)", yticks=[], ylim=(-1, 1))
    lower.spines["left"].set_visible(False)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    measured = [row for row in audit.rows if row.p_new and row.gold]
    alt = f"P_sel of {len(numbers)} candidates by generation, and P_new and Q of the {len(measured)} with a gold score."
    if measured:
        first, last = measured[0], measured[-1]
        alt += (
            f" P_new goes from {_value(first.p_new)} to {_value(last.p_new)}, gold from {_value(first.gold)} to "
            f"{_value(last.gold)}."
        )
    if audit.generation is not None:
        alt += f" A line marks generation {audit.generation}, from which on the state is {audit.state}."
    return Picture("generations", "Score and gold by generation", alt, _png(figure))


def pressure(audit: Audit) -> Picture:
    """P_new and Q against the square root of what each lever had spent, with Gao's curve where there is one."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, len(FORMS), sharey=True)
    rows = [row for row in audit.rows if row.p_new and row.gold]
    alts = []
    for panel, lever in zip(panels, FORMS, strict=True):
        panel.set(title=f"{lever} lever", xlabel="pressure d = √(nats spent)")
        if not rows:
            _write(panel, "no candidate has been measured")
            continue
        panel.grid(alpha=0.25)
        mine = [row for row in rows if row.lever in (lever, "start")]
        for measure, colour, marker in (("p_new", SCORE, "o"), ("gold", GOLD, "D")):
            panel.plot(
                [row.nats[lever] ** 0.5 for row in mine],
                [getattr(row, measure).value for row in mine],
                color=colour,
                linewidth=1,
                alpha=0.4,
            )
            for row in rows:
                _point(panel, row, lever, getattr(row, measure), colour, marker)
        if len(rows) <= LABELLED:
            _label(panel, rows, lever)
        panel.margins(x=0.08)
        assert rows[0].gold
        alts.append(
            _fitted(
                panel, lever, audit.curves.get(lever), rows[0].gold.value, max(row.nats[lever] for row in rows) ** 0.5
            )
        )
    _unit_axis(panels[0], [value for row in rows for value in (*_ends(row.p_new), *_ends(row.gold))])
    panels[0].set_ylabel("mean score")
    handles = [
        Line2D([], [], color=SCORE, marker="o", linestyle="", label="P_new: the verifier on test"),
        Line2D([], [], color=GOLD, marker="D", linestyle="", label="Q: gold"),
        Line2D(
            [],
            [],
            color=CHOSEN,
            marker="o",
            markerfacecolor="white",
            linestyle="",
            label="hollow: another lever's move",
        ),
    ]
    if rows:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    alt = (
        f"P_new and gold of {len(rows)} candidates against the square root of the nats that each lever had spent. "
        f"{' '.join(alts)}"
    ).strip()
    return Picture("pressure", "Score and gold against pressure", alt, _png(figure))


def cross_play(audit: Audit) -> Picture:
    """The 2 x 2 table on the score and on gold: the first that shows more on the score than gold sees, or else the
    last.
    """
    table = next((table for table in audit.cross if table.excess.low > 0), audit.cross[-1] if audit.cross else None)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    if table is None:
        panel = figure.subplots()
        _write(panel, "no cross-play has been measured")
        return Picture("cross-play", "Cross-play", "No cross-play has been measured.", _png(figure))
    panels = figure.subplots(1, 2)
    cells = [value for means in (table.score, table.gold) for row in means for value in row]
    low, high = min(0.0, *cells), max(1.0, *cells)
    image = None
    sides = (panels[0], "score", table.score, table.on_score), (panels[1], "gold", table.gold, table.on_gold)
    for panel, measure, means, interaction in sides:
        image = panel.imshow(np.array(means), cmap="cividis", vmin=low, vmax=high)
        for i, j in np.ndindex(2, 2):
            bright = (means[i][j] - low) / (high - low) > 0.5
            panel.text(
                j, i, f"{means[i][j]:.3f}", ha="center", va="center", fontsize=15, color="black" if bright else "white"
            )
        panel.set_xticks([0, 1], ["first\nadapter", f"generation {table.generation}'s\nadapter"])
        panel.set_yticks([0, 1], ["first\nscaffold", f"generation {table.generation}'s\nscaffold"])
        panel.tick_params(length=0)
        panel.axvline(0.5, color="white", linewidth=4)
        panel.axhline(0.5, color="white", linewidth=4)
        panel.spines[:].set_visible(False)
        panel.set_title(f"on {measure}: I = {signed(interaction)}", fontsize=10)
    assert image is not None
    figure.colorbar(image, ax=panels, shrink=0.85, label="mean score")
    figure.suptitle(f"Λ = {signed(table.excess)}: scored together, and not seen by gold", fontsize=11)
    return Picture("cross-play", "Cross-play", _in_words(table), _png(figure))


def _measured(row: CandidateRow) -> bool:
    return bool(row.p_new and row.gold)


def _branches(rows: Sequence[CandidateRow]) -> list[list[CandidateRow]]:
    """The measured candidates as lines from parent to child: a candidate goes on with the line that ends with its
    nearest measured ancestor, or else begins one there.
    """
    by_generation = {row.generation: row for row in rows}
    lines: list[list[CandidateRow]] = []
    for row in rows:
        if not _measured(row):
            continue
        parent = row.parent
        while parent is not None and not _measured(by_generation[parent]):
            parent = by_generation[parent].parent
        line = next((line for line in lines if parent is not None and line[-1].generation == parent), None)
        if line is None:
            lines.append([row] if parent is None else [by_generation[parent], row])
        else:
            line.append(row)
    return lines


def _band(axes: "Axes", points: Sequence[tuple[int, Interval]], colour: str, marker: str) -> None:
    numbers = [number for number, _ in points]
    axes.fill_between(
        numbers,
        [interval.low for _, interval in points],
        [interval.high for _, interval in points],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    lows, highs = [one.value - one.low for _, one in points], [one.high - one.value for _, one in points]
    values = [interval.value for _, interval in points]
    axes.errorbar(
        numbers,
        values,
        yerr=(lows, highs),
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=2,
        elinewidth=1,
        capsize=3,
    )


def _mark(axes: "Axes", audit: Audit) -> None:
    """Lines where the scores began to mean something else and where that was first seen, with words above."""
    marks: dict[int, list[str]] = {}
    if audit.generation is not None:
        lever = f" ({audit.lever})" if audit.lever else ""
        marks.setdefault(audit.generation, []).append(f"{audit.state} from here on{lever}")
    if audit.flagged is not None:
        marks.setdefault(audit.flagged, []).append("first flagged")
    last = audit.rows[-1].generation if audit.rows else 0
    for height, (generation, words) in enumerate(marks.items()):
        axes.axvline(
            generation, color=ALARM, linewidth=1.5, linestyle=":" if words == ["first flagged"] else "-", zorder=0
        )
        late = generation > last / 2
        axes.annotate(
            ", ".join(words),
            (generation, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4 if late else -4, 4 + 13 * height),
            textcoords="offset points",
            ha="right" if late else "left",
            color=ALARM,
            fontsize=9,
        )


def _point(axes: "Axes", row: CandidateRow, lever: str, interval: Interval, colour: str, marker: str) -> None:
    d = row.nats[lever] ** 0.5
    mine = row.lever in (lever, "start")
    axes.errorbar(
        d,
        interval.value,
        yerr=([interval.value - interval.low], [interval.high - interval.value]),
        color=colour,
        marker=marker,
        markersize=6,
        markerfacecolor=colour if mine else "white",
        elinewidth=1,
        alpha=1 if mine else 0.6,
        capsize=2,
    )


def _label(axes: "Axes", rows: Sequence[CandidateRow], lever: str) -> None:
    """Write the generation at each point that the lever moved."""
    for row in rows:
        if row.lever in (lever, "start"):
            for interval, colour, up in ((row.p_new, SCORE, 3), (row.gold, GOLD, -10)):
                assert interval
                point = (row.nats[lever] ** 0.5, interval.value)
                axes.annotate(
                    str(row.generation), point, xytext=(6, up), textcoords="offset points", fontsize=8, color=colour
                )


def _fitted(axes: "Axes", lever: str, curve: Curve | None, start: float, reach: float) -> str:
    """Draw a lever's curve over what it spent; a sentence about it."""
    if curve is None or curve.alpha is None or curve.beta is None:
        reason = curve.reason if curve else "nothing was spent"
        return f"No curve is fitted for the {lever} lever: {reason}."
    d = np.linspace(1e-6, reach, 200)
    bend = d if curve.form == "best_of_n" else np.log(d)
    axes.plot(d, start + d * (curve.alpha - curve.beta * bend), color=GOLD, linewidth=1.5, alpha=0.8)
    if curve.peak is None or curve.peak > 1.2 * reach:
        return f"Gold's curve for the {lever} lever has no peak within what was spent."
    axes.axvline(curve.peak, color=GOLD, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"d* = {curve.peak:.2f}",
        (curve.peak, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        color=GOLD,
    )
    return f"Gold's curve for the {lever} lever peaks at d* = {curve.peak:.2f}; it stands at {curve.now:.2f}."


def _in_words(table: CrossPlayTable) -> str:
    names = (
        ("the first scaffold", f"generation {table.generation}'s scaffold"),
        ("the first adapter", f"generation {table.generation}'s adapter"),
    )
    cells = [
        f"{names[0][i]} with {names[1][j]} {table.score[i][j]:.3f} on the score and {table.gold[i][j]:.3f} on gold"
        for i in (0, 1)
        for j in (0, 1)
    ]
    return f"Two heat maps of mean scores: {'; '.join(cells)}. Lambda is {signed(table.excess)}."


def _unit_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Make the axis reach from 0 to 1 where all scores lie there; otherwise leave it to matplotlib."""
    if values and all(0 <= value <= 1 for value in values):
        axes.set_ylim(-0.03, 1.03)


def _write(axes: "Axes", words: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=CHOSEN)


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return (interval.low, interval.high) if interval else ()


def _value(interval: Interval | None) -> str:
    return f"{interval.value:.3f}" if interval else "unknown"


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
