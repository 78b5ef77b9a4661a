"""The pictures of an audit, by what is drawn in them: arrows, lines, words; and what those say who do not see them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from replay.audit.audit import Audit, audit
from replay.audit.provenance.checks import Known
from replay.exports import folder
from replay.recorded import EventIndex
from services.views.audit_pictures import GOLD, SCORE, Picture, pictures, why_no_later_table
from tests.harness.made_up_runs import HACKED, Step, export

ONE_LEVER = tuple(step for step in HACKED if step.lever != "weights")
BRANCHES = (
    Step("start", True, 0.2, 0.2, 0.2),
    Step("child", True, 0.4, 0.4, 0.4, parent=0),
    Step("weights", True, 0.5, 0.5, 0.5, parent=0),
    Step("repeat", False, 0.5, 0.5, 0.5, parent=2),
)


def audited(path: Path, steps: Sequence[Step] = HACKED, *, gold: bool = True) -> Audit:
    run = folder.read(export(path, "drawn", steps, gold=gold))
    log, measured = EventIndex(run.everything).events, EventIndex(run.gold).events
    return audit(log, measured, run.blobs.get, Known(low=0, high=1))


@pytest.fixture(scope="module")
def hacked(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(tmp_path_factory.mktemp("hacked"))


def drawn(of: Audit) -> dict[str, Picture]:
    return {picture.name: picture for picture in pictures(of)}


@pytest.fixture(scope="module")
def shown(hacked: Audit) -> dict[str, Picture]:
    return drawn(hacked)


def parts(axes: Axes, label: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_label() == label]


def heights(line: Line2D) -> list[float]:
    ends: Any = line.get_ydata()
    return [float(end) for end in ends]


def texts(picture: Picture) -> str:
    figure = picture.figure
    own = [*figure.texts, *(axes.title for axes in figure.axes), *(axes.xaxis.label for axes in figure.axes)]
    more = [text for axes in figure.axes for text in axes.texts]
    legends = [text for legend in figure.legends for text in (*legend.get_texts(), legend.get_title())]
    head = [figure.get_suptitle(), figure.get_supxlabel()]
    return "\n".join([*head, *(text.get_text() for text in (*own, *more, *legends))])


def test_each_move_is_an_arrow_for_score_and_one_for_gold_under_its_lever(
    hacked: Audit, shown: dict[str, Picture]
) -> None:
    panels = shown["moves"].figure.axes[::2]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "scaffold lever\n3 moves\n2 accepted",
        "weights lever\n2 moves\n2 accepted",
    ]
    for axes, lever in zip(panels, ("scaffold", "weights"), strict=True):
        own = [one for one in hacked.moves if one.lever == lever]
        changes = [(each, colour) for one in own for each, colour in ((one.score, SCORE), (one.gold, GOLD)) if each]
        assert len(changes) == 2 * len(own)
        shafts = [(heights(line), line.get_color()) for line in parts(axes, "shaft")]
        assert shafts == [([change.before, change.after], colour) for change, colour in changes]
        bars = [heights(line) for line in parts(axes, "interval")]
        assert bars == [
            pytest.approx([each.before + each.growth.low, each.before + each.growth.high])
            for each, _ in changes
            if each.growth
        ]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["0→1", "2→3", "4→5"]


def test_what_was_not_accepted_is_hollow_and_what_was_not_measured_on_test_dotted(
    shown: dict[str, Picture],
) -> None:
    scaffold, weights = shown["moves"].figure.axes[::2]
    hollow = [line.get_markerfacecolor() == "white" for line in parts(scaffold, "head")]
    assert hollow == [False, False, True, True, False, False]
    assert [line.get_linestyle() for line in parts(scaffold, "shaft")] == ["-", "-", ":", ":", "-", "-"]
    assert [line.get_marker() for line in parts(scaffold, "tail")] == ["o", "o", "x", "x", "o", "o"]
    assert not any(line.get_markerfacecolor() == "white" for line in parts(weights, "head"))
    said = texts(shown["moves"])
    for words in ("hollow: not accepted", "score on dev: P_sel", "gold on test: Q", "95 % intervals over items"):
        assert words in said, words


def test_the_totals_are_drawn_and_said(hacked: Audit, shown: dict[str, Picture]) -> None:
    picture = shown["moves"]
    totals = picture.figure.axes[1::2]
    for axes, gain in zip(totals, hacked.gains, strict=True):
        assert gain.score and gain.gold and axes.get_title() == "total\non test"
        assert [text.get_text() for text in axes.texts] == [f"{gain.score.value:+.3f}", f"{gain.gold.value:+.3f}"]
        assert f"score {gain.score.value:+.3f} [" in picture.alt and f"gold {gain.gold.value:+.3f} [" in picture.alt
    assert "Scaffold lever: 3 moves, 2 accepted, 2 measured on test. Total of the 2 that led" in picture.alt


def test_levers_that_moved_at_once_or_not_at_all_have_their_own_place(tmp_path: Path) -> None:
    found = audited(tmp_path, BRANCHES)
    picture = drawn(found)["moves"]
    headings = [axes.get_title(loc="left").split("\n")[0] for axes in picture.figure.axes[::2]]
    assert headings == ["weights lever", "both levers", "nothing changed"]
    assert [one.lever for one in found.gains] == ["weights"]
    assert picture.alt.count("None led to the candidate accepted last.") == 2


def test_three_lines_differ_in_dash_marker_and_colour(
    shown: dict[str, Picture],
) -> None:
    picture = shown["generations"]
    handles: list[Any] = list(picture.figure.legends[0].legend_handles)
    lines = [one for one in handles if isinstance(one, Line2D) and one.get_linestyle() != "None"]
    assert [str(line.get_label()).split(":")[0] for line in lines] == ["P_sel", "P_new", "Q"]
    for trait in (Line2D.get_linestyle, Line2D.get_marker, Line2D.get_color):
        assert len({trait(line) for line in lines}) == 3, trait
    plotted = [line for line in picture.figure.axes[0].lines if line.get_marker() in ("s", "o", "D")]
    assert {line.get_linestyle() for line in plotted} >= {line.get_linestyle() for line in lines}
    assert "95 % intervals over the items of test" in texts(picture)


def test_every_picture_bears_run_and_task_as_they_are_written(hacked: Audit) -> None:
    named = msgspec.structs.replace(hacked, run="first", task="$a_b$\x1b")
    for of in (named, msgspec.structs.replace(named, rows=[], moves=[], cross=[])):
        for picture in drawn(of).values():
            assert "run first, task $a_b$\\u001b\n" in texts(picture), picture.name
    long = msgspec.structs.replace(hacked, task="/home/" + 90 * "x" + "/toy")
    title = texts(drawn(long)["moves"]).split("\n")[0]
    assert len(title) < 100 and title.endswith("x/toy")


def test_cross_play_says_why_it_stops_before_the_last_generation(hacked: Audit, tmp_path: Path) -> None:
    assert why_no_later_table(hacked) == ""
    first = msgspec.structs.replace(hacked, cross=hacked.cross[:1])
    assert why_no_later_table(first) == "only the scaffold lever has moved since"
    picture = drawn(first)["cross-play"]
    assert "No table is later than generation 4: only the scaffold lever has moved since." in texts(picture)
    assert picture.alt.endswith("only the scaffold lever has moved since.")
    apart = msgspec.structs.replace(hacked, cross=[])
    assert why_no_later_table(apart) == "scaffold and adapter of generation 5 were not measured apart"
    rejected = audited(tmp_path, (*HACKED, Step("weights", False, 0.1, 0.1, 0.1)))
    assert why_no_later_table(rejected) == "no later candidate was measured on test, for none was accepted"
    elsewhere = audited(tmp_path / "tree", (*BRANCHES[:2], Step("scaffold", True, 0.5, 0.5, 0.5, parent=0)))
    other = [msgspec.structs.replace(hacked.cross[0], generation=1)]
    assert "generation 2 was not made from it" in why_no_later_table(msgspec.structs.replace(elsewhere, cross=other))


@pytest.mark.parametrize(
    ("steps", "gold", "says"),
    [
        (
            HACKED[:0],
            True,
            ["No candidate has been evaluated.", "made from another.", "no candidate has been evaluated."],
        ),
        (HACKED[:1], True, ["P_sel of 1 candidate by", "No candidate has been made from another.", "after the start"]),
        (HACKED, False, ["of the 0 that were measured on test.", "gold unknown.", "after the start was measured"]),
        (ONE_LEVER, True, ["P_new goes from", "Scaffold lever: 3 moves", "only the scaffold lever has moved."]),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, steps: Sequence[Step], gold: bool, says: list[str]) -> None:
    found = drawn(audited(tmp_path, steps, gold=gold))
    assert list(found) == ["generations", "moves", "cross-play"]
    for picture, words in zip(found.values(), says, strict=True):
        assert words in picture.alt and picture.png.startswith(b"\x89PNG"), (words, picture.alt)


def test_a_change_without_an_interval_is_drawn_without_one(hacked: Audit) -> None:
    moves = [
        msgspec.structs.replace(one, gold=None, score=one.score and msgspec.structs.replace(one.score, growth=None))
        for one in hacked.moves
    ]
    gains = [msgspec.structs.replace(one, gold=None) for one in hacked.gains]
    panel, total = drawn(msgspec.structs.replace(hacked, moves=moves, gains=gains))["moves"].figure.axes[:2]
    assert len(parts(panel, "head")) == 3 and not parts(panel, "interval")
    assert "?" in [text.get_text() for text in total.texts]


def test_scores_beyond_one_are_drawn_where_they_are(tmp_path: Path) -> None:
    found = audited(tmp_path, [step._replace(top=30.0) for step in HACKED])
    picture = drawn(found)
    assert picture["generations"].figure.axes[0].get_ylim()[1] > max(row.score for row in found.rows) > 26
    dotted = [line for line in parts(picture["moves"].figure.axes[0], "shaft") if line.get_linestyle() == ":"]
    assert heights(dotted[0]) == pytest.approx([30 * 0.575, 30 * 0.525])


@pytest.mark.slow
def test_three_hundred_generations_have_room(hacked: Audit) -> None:
    template, rows = hacked.moves[0], hacked.rows
    moves = [msgspec.structs.replace(template, generation=one, parent=one - 1) for one in range(1, 301)]
    many = [msgspec.structs.replace(rows[1], generation=one, parent=one - 1) for one in range(1, 301)]
    picture = drawn(msgspec.structs.replace(hacked, moves=moves, rows=[rows[0], *many]))
    panel = picture["moves"].figure.axes[0]
    assert len(parts(panel, "head")) == 600 and len(panel.get_xticks()) <= 20
    assert max(picture["moves"].figure.get_size_inches()) <= 9
    assert not picture["generations"].figure.axes[1].texts, "no letter where there is no room for one"
