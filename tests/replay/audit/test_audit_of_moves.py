"""What each move from parent to child brought, and what the moves of a lever add up to."""

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("numpy")

from replay.audit.audit import Audit, audit
from replay.audit.provenance.checks import Known
from replay.exports import folder
from replay.recorded import EventIndex
from tests.harness.made_up_runs import HACKED, Step, export

START = Step("start", True, 0.2, 0.2, 0.2)


def audited(path: Path, steps: Sequence[Step], *, gold: bool = True) -> Audit:
    run = folder.read(export(path, "drawn", steps, gold=gold))
    log, measured = EventIndex(run.everything).events, EventIndex(run.gold).events
    return audit(log, measured, run.blobs.get, Known(low=0, high=1))


def test_a_move_goes_from_parent_to_child_on_test_or_else_on_dev(tmp_path: Path) -> None:
    found = audited(tmp_path, HACKED)
    assert [(one.parent, one.generation, one.lever, one.accepted, one.split) for one in found.moves] == [
        (0, 1, "scaffold", True, "test"),
        (1, 2, "weights", True, "test"),
        (2, 3, "scaffold", False, "dev"),
        (2, 4, "weights", True, "test"),
        (4, 5, "scaffold", True, "test"),
    ]
    rejected = found.moves[2].score
    assert rejected and rejected.growth
    assert (rejected.before, rejected.after, rejected.growth.value) == pytest.approx((0.575, 0.525, -0.05))
    parent, child, move = found.rows[1], found.rows[2], found.moves[1]
    assert parent.p_new and child.p_new and parent.gold and child.gold and move.score and move.gold
    assert (move.score.before, move.score.after) == (parent.p_new.value, child.p_new.value)
    assert (move.gold.before, move.gold.after) == (parent.gold.value, child.gold.value)
    assert move.score.growth and move.score.growth.value == pytest.approx(child.p_new.value - parent.p_new.value)
    unpaired = (parent.p_new.error**2 + child.p_new.error**2) ** 0.5
    assert move.score.growth.error < unpaired, "parent and child answer the same items"


def test_the_levers_totals_add_up_to_what_the_run_gained(tmp_path: Path) -> None:
    found = audited(tmp_path, HACKED)
    assert [(one.lever, one.moves, one.split) for one in found.gains] == [
        ("scaffold", 2, "test"),
        ("weights", 2, "test"),
    ]
    first, last = found.rows[0], found.rows[-1]
    assert first.p_new and first.gold and last.p_new and last.gold
    scores, golds = [one.score for one in found.gains if one.score], [one.gold for one in found.gains if one.gold]
    assert sum(one.value for one in scores) == pytest.approx(last.p_new.value - first.p_new.value)
    assert sum(one.value for one in golds) == pytest.approx(last.gold.value - first.gold.value)


def test_totals_are_of_the_branch_that_was_accepted_last(tmp_path: Path) -> None:
    other = Step("weights", True, 0.3, 0.3, 0.3, parent=0)
    kept = Step("scaffold", False, 0.3, 0.3, 0.3, parent=0, kept=True)
    last, repeat = Step("child", True, 0.5, 0.5, 0.5, parent=2), Step("repeat", False, 0.5, 0.5, 0.5, parent=3)
    found = audited(tmp_path, (START, other, kept, last, repeat))
    assert [(one.lever, one.moves) for one in found.gains] == [("scaffold", 1), ("both", 1)]
    assert [one.lever for one in found.moves] == ["weights", "scaffold", "both", ""]


def test_without_gold_the_totals_are_of_dev(tmp_path: Path) -> None:
    found = audited(tmp_path, HACKED, gold=False)
    assert {one.split for one in found.moves} == {"dev"} == {one.split for one in found.gains}
    assert all(one.gold is None for one in found.moves) and all(one.gold is None for one in found.gains)
    assert sum(one.score.value for one in found.gains if one.score) == pytest.approx(0.9 - 0.2)
    alone = audited(tmp_path / "one", HACKED[:1])
    assert not alone.moves and not alone.gains
