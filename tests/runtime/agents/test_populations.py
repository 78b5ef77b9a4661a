"""Agents as language models in a run that holds a population: what they are shown of it, what they leave for each
other, and how they order a run of their own.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.change import ChildRunRequested, ProposalFailed
from events.choice import FeedbackRequested, LeverChosen, ParentSelected
from events.codec import Event
from events.judgement import CandidateEvaluated
from events.population import ArtefactPublished, CandidateAccepted, CandidateKept
from events.rollouts import TrajectoryRecorded
from events.secret import MARKER
from runtime.agents.artefacts import MOST, Artefact, artefacts_text, left_by, publisher
from runtime.agents.conversation import ModelRequest
from runtime.agents.endings import ChildRunLimits
from runtime.agents.feedback import beside_text, history_text, may_know
from runtime.blobs.directory import Blobs
from runtime.effects.choose import ChoiceHost, ProbeRecord, child_run_limits, choose_by_model
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.loading import LoadedRun
from runtime.run.order import RunOrder, plan
from tests.harness.agents import ANSWER, KEY, PUBLIC, STOP, TOY, AgentHarness, model_turn, request_for_feedback
from tests.harness.facts import event_of, example, started


def candidate(number: int, parent: int | None, score: float, *, kept: bool = False) -> list[Event]:
    """A generation that ended with a candidate."""
    evaluated = CandidateEvaluated(
        generation=number,
        candidate=f"c{number}",
        scaffold=f"s{number}",
        adapter="",
        lever="start" if parent is None else "scaffold",
        score=score,
        low=score - 0.1,
        high=score + 0.1,
        items=4,
        failed=0,
        pass_at_1=0.25,
        pass_at_k=0.5,
        tied_groups=0.0,
        rollouts=4,
        tokens=4,
        micro_usd=0,
    )
    kind = CandidateKept if kept else CandidateAccepted
    verdict = kind(generation=number, candidate=f"c{number}", score=score, reason=f"verdict {number}")
    selected = ParentSelected(generation=number, candidate=f"c{parent}", probabilities={f"c{parent}": 1.0})
    return [event_of(fact) for fact in ([] if parent is None else [selected]) + [evaluated, verdict]]


FAMILY = [*candidate(0, None, 0.4), *candidate(1, 0, 0.5), *candidate(2, 0, 0.3, kept=True), *candidate(3, 2, 0.45)]


def asked(generation: int, of: int, **more: Any) -> FeedbackRequested:
    return request_for_feedback(generation=generation, candidate=f"c{of}", **more)


def place(text: str, *parts: str) -> list[int]:
    return [text.index(part) for part in parts]


def test_the_history_shows_the_lineage_first_and_names_each_parent() -> None:
    family = [*FAMILY, *candidate(4, 1, 0.6)]
    text = history_text(family, asked(5, 2))
    titles = [
        "### generation 0 (an ancestor)",
        "### generation 1 (from generation 0)",
        "### generation 2 (from generation 0; the present candidate)",
        "### generation 3 (from generation 2)",
        "## From other candidates",
        "### generation 4 (from generation 1)",
    ]
    assert place(text, *titles) == sorted(place(text, *titles))
    assert "kept, though not the best: verdict 2" in text and "accepted: verdict 1" in text


def test_in_a_chain_the_history_is_one_list() -> None:
    text = history_text([*candidate(0, None, 0.4), *candidate(1, 0, 0.5), *candidate(2, 1, 0.6)], asked(3, 2))
    assert "other candidates" not in text and text.count("###") == 3


def test_of_a_history_that_does_not_fit_other_branches_are_left_out_first_and_the_oldest_of_each() -> None:
    family = [*FAMILY, *candidate(4, 1, 0.6), *candidate(5, 1, 0.7)]
    whole = history_text(family, asked(6, 3))
    parts = [part for part in whole.split("\n\n") if part.startswith("###")]
    assert [part.split()[2] for part in parts] == ["0", "1", "2", "3", "4", "5"]
    sizes = {part.split()[2]: len(part) for part in parts}
    for left_out in (["4"], ["4", "5"], ["4", "5", "0"]):
        text = history_text(family, asked(6, 3), limit=sum(sizes.values()) - sum(sizes[one] for one in left_out))
        assert [number for number in sizes if f"### generation {number}" not in text] == sorted(left_out)


def test_what_is_not_settled_is_not_shown(tmp_path: Path) -> None:
    request = asked(5, 2, settled=2)
    assert "generation 3" not in history_text(FAMILY, request) and "generation 3" in history_text(FAMILY, asked(5, 2))
    facts: list[Any] = [event.data for event in FAMILY]
    assert {fact.generation for fact in facts if may_know(request, fact)} == {0, 1, 2}


def test_an_agent_is_told_of_those_beside_it(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(STOP)])
    agent.requested = {"generation": 5, "beside": (3, 4)}
    agent.feedback()
    opening = agent.requests[0].messages[0].text
    assert "What is under way" in opening and "changed 2 times more, in generation 3, 4" in opening
    assert beside_text(()) == "" and "times more" not in opening_of(tmp_path / "alone")


def opening_of(folder: Path, **requested: Any) -> str:
    agent = AgentHarness(folder, [model_turn(STOP)])
    agent.requested = requested
    agent.feedback()
    return agent.requests[0].messages[0].text


def test_under_a_schedule_a_lever_is_as_likely_as_the_schedule_has_it(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(STOP)])
    agent.levers, agent.requested = ("weights",), {"propensities": {"scaffold": 0.5, "weights": 0.5}}
    (chosen,) = agent.feedback()
    assert isinstance(chosen, LeverChosen) and chosen.propensities == {"scaffold": 0.5, "weights": 0.5}
    assert [tool.name for tool in agent.requests[0].tools][-2:] == ["request_weight_update", "stop"]


def test_a_second_scaffold_is_shown_and_can_be_read(tmp_path: Path) -> None:
    reads = [("read_scaffold", {"path": path}) for path in ("second:steps/vote.py", "agent.py", "steps/vote.py")]
    agent = AgentHarness(tmp_path, [model_turn(*reads), model_turn(STOP)])
    agent.library = {"second": {"agent.py": "# theirs", "steps/vote.py": "x" * 30_000}}
    agent.feedback()
    opening, (vote, own, nothing) = agent.requests[0].messages[0].text, agent.tool_results()
    assert "A second scaffold, whose ideas you may use\n#### second:agent.py\n```\n# theirs" in opening
    assert "#### second:steps/vote.py: 30,000 characters, not shown" in opening
    assert vote.startswith("xxx") and own == ANSWER and "holds agent.py, second:agent.py" in nothing
    assert "second scaffold" not in opening_of(tmp_path / "alone")


def note(text: str = "Votes help.", name: str = "findings.md") -> tuple[str, Any]:
    return ("publish_artefact", {"name": name, "text": text, "summary": "What helps."})


def published(agent: AgentHarness) -> list[ArtefactPublished]:
    return [fact for fact in agent.facts if isinstance(fact, ArtefactPublished)]


def test_an_agent_leaves_a_note_and_goes_on(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(note(), note("1,2", "rates.csv")), model_turn(STOP)])
    (chosen,) = agent.feedback()
    first, second = published(agent)
    assert isinstance(chosen, LeverChosen) and agent.tool_results()[0] == "findings.md is published, 11 bytes."
    assert (first.generation, first.name, first.media_type, first.size) == (1, "findings.md", "text/markdown", 11)
    assert agent.blobs.get(first.blob) == b"Votes help." and second.media_type == "text/csv"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (note("x" * 65_537), "has 65,537 bytes; expected at most 65,536"),
        (note("\u00e9" * 32_769), "has 65,538 bytes"),
        (note(name="../findings.md"), "match"),
        (note(name=".hidden"), "match"),
        (note(name="n" * 65), "match"),
        (note(name="a b"), "match"),
        (note(""), "Expected `str` of length >= 1"),
    ],
)
def test_what_is_no_artefact_is_given_back_and_ends_nothing(tmp_path: Path, call: tuple[str, Any], words: str) -> None:
    agent = AgentHarness(tmp_path, [model_turn(call), model_turn(call), model_turn(note()), model_turn(STOP)])
    (chosen,) = agent.feedback()
    assert isinstance(chosen, LeverChosen) and words in agent.tool_results()[0] and len(published(agent)) == 1


def test_a_generation_leaves_a_bounded_number_of_artefacts(tmp_path: Path) -> None:
    notes = [note(name=f"n{number}") for number in range(MOST + 1)]
    agent = AgentHarness(tmp_path, [model_turn(*notes), model_turn(STOP)])
    agent.feedback()
    assert len(published(agent)) == MOST and f"at most {MOST} artefacts" in agent.tool_results()[-1]


def test_after_a_crash_the_same_artefacts_are_published(tmp_path: Path) -> None:
    """The last recorded call is acted on again. What it had published stands, and counts once."""
    turns = [model_turn(*(note(name=f"n{number}") for number in range(MOST))), model_turn(note()), model_turn(STOP)]
    whole = AgentHarness(tmp_path, turns)
    whole.feedback()
    told = [event_of(fact) for fact in published(whole)]
    assert len(told) == MOST
    for calls, stand in ((1, 0), (1, 3), (1, MOST), (2, MOST)):
        again = AgentHarness(tmp_path, turns[calls:], whole.calls()[:calls])
        again.history = told[:stand]
        again.feedback()
        assert published(again) == (published(whole) if calls == 1 else [])
        assert again.tool_results() == whole.tool_results() and "at most" in again.tool_results()[-1]


def test_an_artefact_that_is_published_stays_as_it_is(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(note(), note("Votes hurt.")), model_turn(STOP)])
    log: dict[str, Any] = {}

    def record(fact: Any) -> Any:
        agent.facts.append(fact)
        return log.setdefault(fact.name, fact) if isinstance(fact, ArtefactPublished) else None

    agent.record = record
    agent.feedback()
    first, second = agent.tool_results()
    assert first == "findings.md is published, 11 bytes." and "published already and stays as it is" in second


def test_keys_are_struck_out_of_artefacts(tmp_path: Path) -> None:
    agent = AgentHarness(tmp_path, [model_turn(note(f"The key is {KEY}.")), model_turn(STOP)])
    agent.feedback()
    publisher(agent.session, agent.record)(json.dumps(note(KEY, "second")[1]))
    for made in published(agent):
        assert KEY.encode() not in agent.blobs.get(made.blob) and MARKER.encode() in agent.blobs.get(made.blob)
    assert len(published(agent)) == 2


def left(blobs: Blobs, generation: int, text: str, name: str = "findings.md") -> Event:
    fact = ArtefactPublished(
        generation=generation,
        name=name,
        blob=blobs.put(text.encode()),
        media_type="text/markdown",
        size=len(text),
        summary=f"of {generation}",
    )
    return event_of(fact)


def test_what_earlier_generations_left_is_shown_and_can_be_read(tmp_path: Path) -> None:
    reads: list[tuple[str, Any]] = [
        ("read_artefact", {"generation": 2, "name": "findings.md", "offset": 19_990}),
        ("read_artefact", {"generation": 1, "name": "findings.md"}),
        ("read_artefact", {"generation": 9, "name": "findings.md"}),
    ]
    agent = AgentHarness(tmp_path, [model_turn(*reads), model_turn(STOP)])
    history = [left(agent.blobs, 1, "one"), left(agent.blobs, 2, "x" * 20_000), left(agent.blobs, 3, "three")]
    agent.library = {"artefacts": left_by(history, {1, 2}, agent.blobs)}
    agent.feedback()
    opening, (long, short, nothing) = agent.requests[0].messages[0].text, agent.tool_results()
    assert "### generation 2, findings.md: of 2\n20,000 bytes, not shown; read_artefact shows them" in opening
    assert "### generation 1, findings.md: of 1\none" in opening and "three" not in opening
    assert (long, short) == ("x" * 10, "one") and "no artefact 'findings.md' of generation 9" in nothing
    assert "What earlier generations left" not in opening_of(tmp_path / "alone")


def test_a_list_of_artefacts_is_bounded() -> None:
    fact = ArtefactPublished(generation=1, name="n", blob="b", media_type="text/plain", size=1, summary="s" * 300)
    text = artefacts_text([Artefact(fact, "x")] * 500, 5_000)
    assert len(text) < 5_500 and text.endswith("and others, earlier")


CHILD = {"levers": ["weights", "scaffold", "weights"], "generations": 3, "reason": "two steps", "rollouts": 40}


def child_agent(folder: Path, *orders: dict[str, Any]) -> AgentHarness:
    agent = AgentHarness(folder, [model_turn(("request_child_run", order)) for order in orders])
    agent.child_runs = ChildRunLimits(("scaffold", "weights"), 20)
    return agent


def test_an_order_for_a_child_run_becomes_one(tmp_path: Path) -> None:
    chosen, wanted = child_agent(tmp_path, CHILD).feedback()
    assert isinstance(chosen, LeverChosen) and (chosen.lever, chosen.action) == ("child", "request_child_run")
    assert isinstance(wanted, ChildRunRequested) and wanted.levers == ("weights", "scaffold")
    assert (wanted.generation, wanted.generations, wanted.rollouts, wanted.reason) == (1, 3, 40, "two steps")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levers": []}, "length >= 1"),
        ({"levers": ["child"]}, "Invalid enum value 'child'"),
        ({"generations": 0}, ">= 1"),
        ({"generations": 21}, "<= 20"),
        ({"rollouts": 19}, "19 rollouts are too few"),
    ],
)
def test_a_child_run_that_cannot_be_is_given_back(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    *_, failed = child_agent(tmp_path, CHILD | wrong, CHILD | wrong).feedback()
    assert isinstance(failed, ProposalFailed) and words in failed.reason


def test_a_child_run_may_pull_no_lever_that_its_owner_may_not(tmp_path: Path) -> None:
    agent = child_agent(tmp_path, CHILD, CHILD)
    agent.child_runs = ChildRunLimits(("scaffold",), 20)
    *_, failed = agent.feedback()
    assert isinstance(failed, ProposalFailed) and "The lever 'weights' is not yours to give" in failed.reason


def test_who_may_order_a_child_run(tmp_path: Path) -> None:
    """Not a child run itself, and nobody without the rollouts for its start and one candidate: twice 4 and 2."""
    run, request = started(), request_for_feedback()
    assert child_run_limits(request, run) == ChildRunLimits(("scaffold", "weights"), 12)
    assert child_run_limits(request, msgspec.structs.replace(run, owner="r")) is None
    few, enough = (msgspec.structs.replace(request, rollouts_left=left) for left in (11, 12))
    assert child_run_limits(few, run) is None and child_run_limits(enough, run)
    agent = AgentHarness(tmp_path, [model_turn(("request_child_run", CHILD)), model_turn(STOP)])
    agent.feedback()
    assert "request_child_run" not in names_of_tools(agent.requests[0])
    assert "no tool 'request_child_run'" in agent.tool_results()[0]


def names_of_tools(request: ModelRequest) -> set[str]:
    return {tool.name for tool in request.tools}


def test_an_attempt_of_a_generation_that_is_not_settled_is_not_to_be_had_by_its_id(tmp_path: Path) -> None:
    order = RunOrder(task=str(TOY.folder), levers="both", seed=0, generations=None, budget="", agent="openai:m")
    loaded = LoadedRun(plan(TOY, PUBLIC, order, "b"), TOY, PUBLIC)
    reads = [("read_trajectory", {"id": id}) for id in ("of 2", "of 3")]
    agent = AgentHarness(tmp_path, [*map(model_turn, reads), model_turn(STOP)])
    scaffold = agent.blobs.put_tree({"agent.py": ANSWER.encode()})
    requested = asked(4, 0, settled=2, beside=(3,), scaffold=scaffold)

    def find(id: str) -> RecordedAttempt:
        recorded = example(
            TrajectoryRecorded, generation=int(id[-1]), split="train", item=PUBLIC.train[0].id, calls=(), answer="it"
        )
        return RecordedAttempt(id, recorded, 1.0, "right", ())

    host = ChoiceHost(find, agent.query, agent.inspector(), agent.record)
    choose_by_model(agent.session, requested, loaded, ProbeRecord([], {}, [], {}), host)
    settled, beside = agent.tool_results()
    assert "right" in settled and "There is no attempt 'of 3' at a train item" in beside
