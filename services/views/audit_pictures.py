"""The pictures of an audit: score and gold as the run went, what each move brought, and scaffolds against adapters."""

import io
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from replay.audit.ancestry import Moved
from replay.audit.audit import Audit
from replay.audit.cross_play import CrossPlayTable
from replay.audit.moves import CandidateMove, LeverGain
from replay.audit.rows import CandidateRow
from replay.audit.statistics.interval import Interval
from services.host.visible import one_line
from services.views.audit import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE, GOLD, CHOSEN = "#0072B2", "#D55E00", "#4B5563"
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
INITIALS = {"scaffold": "s", "weights": "w", "child": "c", "repeat": "r"}
GROUPS: dict[Moved, str] = {
    "scaffold": "scaffold lever",
    "weights": "weights lever",
    "both": "both levers",
    "": "nothing changed",
}
"""The heading of each lever's moves, in the order in which they are drawn."""
ALARM = "#B91C1C"
DPI = 150
SPARSE = 40
"""Most generations, or moves of a lever, that are drawn with a letter, a cap or a label each."""
LEAST_SLOTS = 2
"""For how many moves a lever has room at least."""
WIDTH, TOTAL = 8.0, 1.05
"""Inches of a picture for what is drawn, and of these for the total of a lever."""
SIDE_BY_SIDE, NAMED = 0.3, 0.45
"""Least inches a move for levers to be drawn side by side, and for a move to be labelled with parent and child."""
UP, DOWN = ([(0, 0), (-0.6, end), (0.6, end), (0, 0)] for end in (-1, 1))
"""Heads of arrows, with the tip at what they point to."""


class Picture(NamedTuple):
    """A PNG. `alt` says what it shows, for those who do not see it; `figure` is what it was made from."""

    name: str
    title: str
    alt: str
    png: bytes
    figure: Figure


def pictures(audit: Audit) -> list[Picture]:
    """The three pictures; each says in words what was not measured."""
    with matplotlib.rc_context(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
    ):
        return [generations(audit), moves(audit), cross_play(audit)]


def generations(audit: Audit) -> Picture:
    """P_sel, P_new and Q by generation, the levers below, and where the scores began to mean something else."""
    if not audit.rows:
        return _empty(audit, "generations", "Score and gold by generation", "No candidate has been evaluated.")
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(13, 1))
    measured = [row for row in audit.rows if _measured(row)]
    handles: list[Artist] = [*_chosen(upper, audit.rows), *_on_test(upper, audit.rows)]
    _mark(upper, audit)
    _unit_axis(upper, [value for row in audit.rows for value in (row.score, *_ends(row.p_new), *_ends(row.gold))])
    upper.margins(x=0.03)
    upper.set_ylabel("mean score")
    upper.set_title(_titled(audit, "score and gold by generation"), pad=34)  # the marks' words are below
    upper.grid(alpha=0.25)
    handles += _lever_strip(lower, audit.rows)
    bands = (
        "Bands and bars: 95 % intervals over the items of test." if measured else "No candidate was measured on test."
    )
    lower.set_xlabel(f"generation (strip: the lever; pale: not accepted)\n{bands}")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(audit.rows) == 1:
        only = audit.rows[0].generation
        lower.set(xlim=(only - 3, only + 3), xticks=[only])
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    alt = (
        f"P_sel of {_count(len(audit.rows), 'candidate')} by generation, and P_new and Q of the {len(measured)} that "
        "were measured on test."
    )
    if measured:
        first, last = measured[0], measured[-1]
        alt += (
            f" P_new goes from {_value(first.p_new)} to {_value(last.p_new)}, gold from {_value(first.gold)} to "
            f"{_value(last.gold)}."
        )
    if audit.generation is not None:
        alt += f" A line marks generation {audit.generation}, from which on the state is {audit.state}."
    return _picture("generations", "Score and gold by generation", alt, figure)


def moves(audit: Audit) -> Picture:
    """What each move brought to score and gold, from parent to child, by lever, with the total of each lever."""
    groups = {lever: [one for one in audit.moves if one.lever == lever] for lever in GROUPS}
    groups = {lever: own for lever, own in groups.items() if own}
    if not groups:
        return _empty(audit, "moves", "What each move brought", "No candidate has been made from another.")
    slots = [max(LEAST_SLOTS, len(own)) for own in groups.values()]
    inches = (WIDTH - TOTAL * len(slots)) / sum(slots)
    if side_by_side := inches >= SIDE_BY_SIDE:
        figure = Figure(figsize=(9, 5.2), layout="constrained")
        ratios = [width for room in slots for width in (inches * room, TOTAL)]
        panels = figure.subplots(1, len(ratios), width_ratios=ratios).reshape(-1, 2)
    else:
        slots = [max(slots)] * len(slots)
        inches = (WIDTH - TOTAL) / slots[0]
        figure = Figure(figsize=(9, 2 + 2.2 * len(slots)), layout="constrained")
        panels = figure.subplots(len(slots), 2, width_ratios=(WIDTH - TOTAL, TOTAL), squeeze=False)
    figure.suptitle(_titled(audit, "what each move brought"))
    gains = {one.lever: one for one in audit.gains}
    for panel, total in panels[1:]:
        panel.sharey(panels[0][0])
        total.sharey(panels[0][1])
        panel.tick_params(labelleft=not side_by_side)
    alts = []
    for (lever, own), room, (panel, total) in zip(groups.items(), slots, panels, strict=True):
        _arrows(panel, own, room, inches)
        heading = GROUPS[lever], _count(len(own), "move"), f"{sum(one.accepted for one in own)} accepted"
        panel.set_title(("\n" if side_by_side else ", ").join(heading), loc="left", fontsize=10)
        if side_by_side or panel is panels[-1][0]:
            panel.set_xlabel("parent → child" if inches >= NAMED else "generation", fontsize=9)
        if not side_by_side or panel is panels[0][0]:
            panel.set_ylabel("mean score")
        _total(total, gains.get(lever))
        total.margins(y=0.2)
        alts.append(_lever_in_words(lever, own, gains.get(lever)))
    figure.legend(
        handles=_arrow_handles(audit.moves),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        title="Thin bars: 95 % intervals over items of what a move adds to its parent.\n"
        "Totals: of the moves that led to the candidate accepted last.",
        title_fontsize=9,
        alignment="center",
    )
    alt = f"Arrows from parent to child for score and gold, by lever. {' '.join(alts)}"
    return _picture("moves", "What each move brought", alt, figure)


def cross_play(audit: Audit) -> Picture:
    """The 2 x 2 table on the score and on gold: the first in which Lambda is above 0 for certain, or else the last."""
    table = next((one for one in audit.cross if one.p_value <= one.alpha), audit.cross[-1] if audit.cross else None)
    reason = why_no_later_table(audit)
    if table is None:
        return _empty(audit, "cross-play", "Cross-play", f"No cross-play has been measured: {reason}.")
    figure = Figure(figsize=(9, 4.7), layout="constrained")
    panels = figure.subplots(1, 2)
    cells = [value for means in (table.score, table.gold) for row in means for value in row]
    unit = all(0 <= value <= 1 for value in cells)
    low, high = (0.0, 1.0) if unit else (min(cells), max(cells))
    image = None
    sides = (panels[0], "score", table.score, table.on_score), (panels[1], "gold", table.gold, table.on_gold)
    for panel, measure, means, interaction in sides:
        image = panel.imshow(np.array(means), cmap="cividis", vmin=low, vmax=high)
        for i, j in np.ndindex(2, 2):
            bright = high > low and (means[i][j] - low) / (high - low) > 0.5
            number = f"{means[i][j]:.3f}" if unit else f"{means[i][j]:.4g}"
            panel.text(j, i, number, ha="center", va="center", fontsize=15, color="black" if bright else "white")
        panel.set_xticks([0, 1], ["first\nadapter", f"generation {table.generation}'s\nadapter"])
        panel.set_yticks([0, 1], ["first\nscaffold", f"generation {table.generation}'s\nscaffold"])
        panel.tick_params(length=0)
        panel.axvline(0.5, color="white", linewidth=4)
        panel.axhline(0.5, color="white", linewidth=4)
        panel.spines[:].set_visible(False)
        panel.set_title(f"on {measure}: interaction {signed(interaction)}", fontsize=10)
    assert image is not None
    figure.colorbar(image, ax=panels, shrink=0.85, label="mean score")
    figure.suptitle(_titled(audit, f"cross-play of generation {table.generation}, Λ = {signed(table.excess)}"))
    sentences = ["Λ: what scaffold and adapter score together, beyond the sum of both, and gold does not see."]
    if table is not audit.cross[-1]:
        sentences.append(
            f"Shown is the first of {len(audit.cross)} tables in which Λ is above 0 for certain; the last is of "
            f"generation {audit.cross[-1].generation}."
        )
    if reason:
        sentences.append(f"No table is later than generation {audit.cross[-1].generation}: {reason}.")
    figure.supxlabel("\n".join(fill(sentence, 115) for sentence in sentences), fontsize=9)
    return _picture("cross-play", "Cross-play", f"{_in_words(table)} {' '.join(sentences[1:])}".strip(), figure)


def why_no_later_table(audit: Audit) -> str:
    """Why no candidate after the last table of cross-play has one, as the part of a sentence after a colon; empty where
    the last candidate has one.
    """
    since = audit.cross[-1].generation if audit.cross else 0
    later = [row for row in audit.rows if row.generation > since]
    measured = [row for row in later if _measured(row)]
    if not audit.rows or (audit.cross and not later):
        return "" if audit.cross else "no candidate has been evaluated"
    if not measured:
        none_later = "no later candidate was measured on test"
        if audit.cross:
            return none_later if any(row.accepted for row in later) else f"{none_later}, for none was accepted"
        return "no candidate after the start was measured on test"
    by_generation = {one.generation: one for one in audit.moves}
    moved: set[str] = set()
    generation = measured[-1].generation
    while generation > since and (move := by_generation.get(generation)):
        moved |= {"scaffold", "weights"} if move.lever == "both" else {move.lever} - {""}
        generation = move.parent
    if generation != since and audit.cross:
        return f"generation {measured[-1].generation} was not made from it, and was not measured apart"
    if not moved:
        return "neither lever has moved since" if audit.cross else "neither lever has moved"
    if len(moved) == 1:
        (lever,) = moved
        return f"only the {lever} lever has moved{' since' if audit.cross else ''}"
    return f"scaffold and adapter of generation {measured[-1].generation} were not measured apart"


def _measured(row: CandidateRow) -> bool:
    return bool(row.p_new and row.gold)


def _chosen(axes: "Axes", rows: Sequence[CandidateRow]) -> list[Line2D]:
    """Draw P_sel, as a line through what was accepted; its entries in the legend."""
    size = 4.0 if len(rows) <= SPARSE else 2.0
    accepted = [row for row in rows if row.accepted]
    others = [row for row in rows if not row.accepted]
    (line,) = axes.plot(
        [row.generation for row in accepted],
        [row.score for row in accepted],
        color=CHOSEN,
        linestyle=":",
        marker="s",
        markersize=size,
        label="P_sel: the verifier on dev, chosen by",
        zorder=3,
    )
    if not others:
        return [line] if accepted else []
    (points,) = axes.plot(
        [row.generation for row in others],
        [row.score for row in others],
        color=CHOSEN,
        linestyle="",
        marker="s",
        markerfacecolor="white",
        markersize=size,
        label="P_sel of what was not accepted",
    )
    return [line, points] if accepted else [points]


def _on_test(axes: "Axes", rows: Sequence[CandidateRow]) -> list[Line2D]:
    """Draw P_new and Q with their bands, along each branch; their entries in the legend."""
    branches = _branches(rows)
    sparse = len(rows) <= SPARSE
    new: dict[str, Any] = {"color": SCORE, "linestyle": "-", "marker": "o", "markersize": 7 if sparse else 3}
    gold: dict[str, Any] = {"color": GOLD, "linestyle": "--", "marker": "D", "markersize": 4 if sparse else 2}
    for line in branches:
        numbers = [row.generation for row in line]
        _band(axes, numbers, [row.p_new for row in line if row.p_new], new, sparse)
        _band(axes, numbers, [row.gold for row in line if row.gold], gold, sparse)
    return [
        Line2D([], [], linewidth=1.8, label=label, **style)
        for label, style in (("P_new: the verifier on test", new), ("Q: gold on the same answers", gold))
        if branches
    ]


def _band(
    axes: "Axes", numbers: Sequence[int], intervals: Sequence[Interval], style: dict[str, Any], sparse: bool
) -> None:
    values = [one.value for one in intervals]
    lows, highs = [one.low for one in intervals], [one.high for one in intervals]
    axes.fill_between(numbers, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(numbers, values, linewidth=1.8, **style)
    if sparse:
        beyond = [
            [value - low for value, low in zip(values, lows, strict=True)],
            [high - value for value, high in zip(values, highs, strict=True)],
        ]
        axes.errorbar(numbers, values, yerr=beyond, fmt="none", ecolor=style["color"], elinewidth=1, capsize=3)


def _lever_strip(axes: "Axes", rows: Sequence[CandidateRow]) -> list[Patch]:
    """Draw a bar for each generation in its lever's colour, with its initial where there is room; legend entries."""
    for row in rows:
        colour = LEVERS.get(row.lever, CHOSEN)
        axes.bar(row.generation, 2, bottom=-1, width=0.9, color=colour, alpha=1 if row.accepted else 0.3)
        if len(rows) <= SPARSE:
            axes.text(row.generation, 0, INITIALS.get(row.lever, ""), ha="center", va="center", fontsize=8)
    axes.set(yticks=[], ylim=(-1, 1))
    axes.spines["left"].set_visible(False)
    return [
        Patch(color=colour, label=f"{INITIALS[lever]}: {lever}" if lever in INITIALS else lever)
        for lever, colour in LEVERS.items()
        if any(row.lever == lever for row in rows)
    ]


def _arrows(axes: "Axes", own: Sequence[CandidateMove], room: int, inches: float) -> None:
    """Draw the moves of a lever side by side, of which there is room for so many at so many inches each."""
    scale = min(1.0, inches / 0.4) ** 0.5
    apart, beside = min(0.2, 0.16 / inches), min(0.15, 0.08 / inches)
    for place, one in enumerate(own):
        for change, colour, at in ((one.score, SCORE, place - apart), (one.gold, GOLD, place + apart)):
            if change is None:
                continue
            _shaft(axes, at, change.before, change.after, colour, scale, one.split, one.accepted)
            if change.growth:
                ends = [change.before + change.growth.low, change.before + change.growth.high]
                axes.plot([at + beside] * 2, ends, color=colour, linewidth=scale, alpha=0.6, label="interval")
    step = -(-len(own) // int((WIDTH - TOTAL) / 0.35))
    labels = [f"{one.parent}→{one.generation}" if inches >= NAMED else str(one.generation) for one in own]
    axes.set_xticks(range(0, len(own), step), labels[::step], fontsize=9)
    axes.set_xlim(-0.7, room - 0.3)
    axes.grid(axis="y", alpha=0.25)


def _shaft(
    axes: "Axes", at: float, before: float, after: float, colour: str, scale: float, split: str, filled: bool
) -> None:
    alpha = 1.0 if filled else 0.55
    axes.plot(
        [at, at],
        [before, after],
        color=colour,
        linestyle="-" if split == "test" else ":",
        linewidth=1.8 * scale,
        solid_capstyle="butt",
        alpha=alpha,
        label="shaft",
    )
    axes.plot(
        at,
        before,
        marker="o" if split == "test" else "x",
        color=colour,
        markersize=3.5 * scale,
        alpha=alpha,
        label="tail",
    )
    axes.plot(
        at,
        after,
        marker=UP if after > before else DOWN if after < before else "_",
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=(8 if after == before else 14) * scale,
        markeredgewidth=scale,
        label="head",
    )


def _total(axes: "Axes", one: LeverGain | None) -> None:
    """Draw what a lever's moves add up to, as arrows from 0."""
    axes.set(xticks=[], xlim=(-0.8, 2.0))
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(f"total\non {one.split}" if one else "total", fontsize=10)
    if one is None:
        axes.text(0.5, 0.5, "none\nled to it", transform=axes.transAxes, ha="center", va="center", fontsize=8)
        return
    axes.axhline(0, color=CHOSEN, linewidth=0.8)
    for at, interval, colour in ((0.0, one.score, SCORE), (1.2, one.gold, GOLD)):
        if interval is None:
            axes.text(at, 0, "?", ha="center", va="bottom", color=colour)
            continue
        _shaft(axes, at, 0, interval.value, colour, 1, one.split, True)
        axes.plot(
            [at + 0.25] * 2, [interval.low, interval.high], color=colour, linewidth=1, alpha=0.7, label="interval"
        )
        up = interval.value >= 0
        axes.annotate(
            f"{round(interval.value, 3) + 0.0:+.3f}" if abs(interval.value) < 10 else f"{interval.value:+.4g}",
            (at, interval.high if up else interval.low),
            xytext=(0, 2 if up else -2),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=8,
            color=colour,
        )


def _arrow_handles(drawn: Sequence[CandidateMove]) -> list[Line2D]:
    """The legend's entries for the arrows of these moves."""
    known = {
        (one.split, colour) for one in drawn for colour, change in ((SCORE, one.score), (GOLD, one.gold)) if change
    }
    marks: dict[str, dict[str, Any]] = {"test": {"marker": "o"}, "dev": {"marker": "x", "linestyle": ":"}}
    handles = [
        Line2D([], [], color=colour, label=label, **marks[split])
        for split, colour, label in (
            ("test", SCORE, "score on test: P_new"),
            ("test", GOLD, "gold on test: Q"),
            ("dev", SCORE, "score on dev: P_sel"),
            ("dev", GOLD, "gold on dev: Q_sel"),
        )
        if (split, colour) in known
    ]
    head: dict[str, Any] = {"color": CHOSEN, "marker": "^", "linestyle": "", "markersize": 8}
    handles.append(Line2D([], [], label="filled: accepted", **head))
    if any(not one.accepted for one in drawn):
        hollow = "hollow: not accepted"
        handles.append(Line2D([], [], label=hollow, markerfacecolor="white", **head))
    return handles


def _lever_in_words(lever: Moved, own: Sequence[CandidateMove], one: LeverGain | None) -> str:
    accepted, on_test = sum(move.accepted for move in own), sum(move.split == "test" for move in own)
    words = (
        f"{GROUPS[lever].capitalize()}: {_count(len(own), 'move')}, {accepted} accepted, {on_test} measured on test."
    )
    if one is None:
        return f"{words} None led to the candidate accepted last."
    score, gold = signed(one.score) or "unknown", signed(one.gold) or "unknown"
    return f"{words} Total of the {one.moves} that led to the candidate accepted last: score {score}, gold {gold}."


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


def _titled(audit: Audit, words: str) -> str:
    """The title of a picture, with run and task: of long names, the end."""
    run, task = (name if len(name) <= 40 else f"…{name[-39:]}" for name in map(one_line, (audit.run, audit.task)))
    return f"run {run}, task {task}\n{words}"


def _unit_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Make the axis reach from 0 to 1 where all scores lie there; otherwise leave it to matplotlib."""
    if values and all(0 <= value <= 1 for value in values):
        axes.set_ylim(-0.03, 1.03)


def _empty(audit: Audit, name: str, title: str, words: str) -> Picture:
    """A picture of which nothing can be drawn: it says why."""
    figure = Figure(figsize=(9, 2), layout="constrained")
    figure.suptitle(_titled(audit, title.lower()))
    figure.text(0.5, 0.35, fill(words, 90), ha="center", va="center", color=CHOSEN)
    return _picture(name, title, words, figure)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ends(interval: Interval | None) -> tuple[float, ...]:
    return (interval.low, interval.high) if interval else ()


def _value(interval: Interval | None) -> str:
    return f"{interval.value:.3f}" if interval else "unknown"


def _picture(name: str, title: str, alt: str, figure: Figure) -> Picture:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return Picture(name, title, alt, file.getvalue(), figure)
