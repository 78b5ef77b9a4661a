"""Two runs compared: by generation and lineage, whatever the order in which things happened."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from events import codec
from events.choice import ParentSelected
from replay.compare import compare
from replay.report import Report, collect
from runtime.log.port import Stored
from services.host.visible import shortened
from services.views.compared import comparison_lines
from services.views.run import generation_lines, lineage_tree, show_report
from tests.harness.decided_log import as_history, long_run, wide_run
from tests.harness.printed import printed


@pytest.fixture(scope="module")
def wide() -> list[Stored]:
    """A run of nine generations, four at a time."""
    return wide_run()


def report(messages: Sequence[Stored], run: str = "r") -> Report:
    history = as_history(messages, run=run)
    return asyncio.run(collect(history.log, history.gold_log, run))


def test_runs_that_differ_in_the_order_of_answers_alone_are_the_same(wide: list[Stored]) -> None:
    other = wide_run("other", order=2)
    tags = [[stored.subject.rpartition(".")[2] for stored in messages] for messages in (wide, other)]
    assert tags[0] != tags[1]
    assert compare(as_history(wide), as_history(other, run="other")).same


def test_another_parent_is_a_difference_though_ids_are_names(wide: list[Stored]) -> None:
    def other_parent(stored: Stored) -> Stored:
        event = codec.decode(stored.data)
        if not isinstance(event.data, ParentSelected) or event.data.generation != 7:
            return stored
        other = next(id for id in event.data.probabilities if id != event.data.candidate)
        changed = msgspec.structs.replace(event, data=msgspec.structs.replace(event.data, candidate=other))
        return msgspec.structs.replace(stored, data=codec.encode(changed))

    found = compare(as_history(wide), as_history([other_parent(stored) for stored in wide]))
    assert found.parting and found.parting.first.startswith("parent_selected") and "generation" in found.parting.first
    assert list(found.generations) == [7] and "parents" in found.generations[7]
    assert (found.parting.tag, found.parting.generation) == ("parent_selected", 7)
    assert list(found.parting.fields) == ["candidate"], "what is the same is not shown"
    (before, now), shown = found.parting.fields["candidate"], comparison_lines(found)
    assert f"  candidate: {before} | {now}" in shown and not any("probabilities" in line for line in shown)


def test_a_chain_differs_from_a_population_in_what_it_was_asked(wide: list[Stored]) -> None:
    found = compare(as_history(wide), as_history(long_run()))
    assert found.config["width"] == (4, 1) and found.config["strategy"] == ("dgm", "chain")
    assert any("standing" in fields for fields in found.generations.values())
    shown = comparison_lines(found)
    assert "  width: 4 | 1" in shown and not any("{" in line for line in shown[: shown.index("generations:")])


def test_a_value_that_is_cut_says_how_much_is_left_out() -> None:
    assert shortened("x" * 100, 100) == "x" * 100
    assert shortened("x" * 1100, 100) == "x" * 100 + "... and 1,000 more characters"


def test_a_report_knows_whose_child_each_candidate_is_and_what_became_of_it(wide: list[Stored]) -> None:
    told = report(wide)
    assert [row.generation for row in told.generations] == list(range(10))
    assert told.generations[0].parents == () and all(row.parents for row in told.generations[1:])
    assert {row.standing for row in told.generations} == {"accepted", "kept", "rejected"}
    assert [row.accepted for row in told.generations] == [row.standing == "accepted" for row in told.generations]
    assert any(row.stage for row in told.generations) and any(row.recheck for row in told.generations)
    assert sum(row.rollouts for row in told.generations) == told.rollouts
    assert (told.strategy, told.width, told.owner) == ("dgm", 4, "")


def test_show_prints_the_tree(wide: list[Stored]) -> None:
    told = report(wide)
    text = printed(show_report, told)
    for row in told.generations:
        assert f"{row.generation} {row.lever}" in text
    second = next(row for row in told.generations if row.parents and row.parents[0] == 1)
    (start,) = lineage_tree(told).children
    first = next(child for child in start.children if str(child.label).startswith("1 "))
    assert any(str(child.label).startswith(f"{second.generation} ") for child in first.children)
    kept = next(row for row in told.generations if row.standing == "kept")
    assert any(line.strip().startswith("kept: ") for line in generation_lines(kept))
    assert "who was made from whom" not in printed(show_report, report(long_run()))
