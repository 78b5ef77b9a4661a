"""The rules agent: each row of its table, and the road from LawBench's start."""

import pytest

from runtime.agents.rules import EXPLORE, REFINE, Attempt, Choice, Tried, choose, evidence
from tasks.contract import Evidence
from tasks.lawbench.catalogue import EDITS

BOTH = {"scaffold", "weights"}
START = Evidence(
    dev=0.43,
    unparsed=0.0,
    pass_at_1=0.05,
    pass_at_k=0.23,
    attempts=8,
    tied_groups=0.77,
    labels=191,
    offered=191,
    recall=1.0,
    wrong_though_offered=0.95,
    train_items=4523,
    rollouts_left=250_000,
)


def seen(**changes: float) -> Evidence:
    return Evidence(**{name: changes.get(name, getattr(START, name)) for name in START.__struct_fields__})  # type: ignore[arg-type]


VOTE = seen(dev=0.70, pass_at_1=0.55, pass_at_k=0.82, offered=5.7, recall=0.92, wrong_though_offered=0.37)
RIDGE = seen(dev=0.78, pass_at_1=0.71, pass_at_k=0.89, offered=16, recall=0.97, wrong_though_offered=0.26, tied_groups=0.6)


def edit(name: str, accepted: bool = True) -> Tried:
    return Tried(lever="scaffold", action=name, accepted=accepted, before=0.5, after=0.6 if accepted else 0.4)


def update(name: str, accepted: bool = True, gain: float = 0.03) -> Tried:
    return Tried(lever="weights", action=name, accepted=accepted, before=0.70, after=0.70 + gain)


def pick(of: Evidence, history: list[Tried], levers: set[str] = BOTH) -> Choice:
    return choose(of, history, levers, EDITS)


def test_with_both_levers_the_road_is_vote_ridge_cloning_and_stop() -> None:
    road = [
        pick(START, []),
        pick(VOTE, [edit("retrieval_vote")]),
        pick(RIDGE, [edit("retrieval_vote"), edit("ridge_candidates")]),
        pick(
            seen(dev=0.81, pass_at_1=0.9, pass_at_k=0.93, offered=16, recall=0.97, wrong_though_offered=0.1),
            [edit("ridge_candidates"), update("best_of_n")],
        ),
    ]
    assert [(choice.lever, choice.action) for choice in road] == [
        ("scaffold", "retrieval_vote"),
        ("scaffold", "ridge_candidates"),
        ("weights", "best_of_n"),
        ("stop", ""),
    ]
    assert road[2].hyper == REFINE
    assert (road[2].rounds, road[2].resample, road[2].memory) == (3, "unsolved", "update")
    assert "92.0%" in road[1].reason


def test_weights_alone_explore() -> None:
    choice = pick(START, [], {"weights"})
    assert (choice.action, choice.hyper, choice.rounds) == ("best_of_n", EXPLORE, 5)


def test_the_scaffold_alone_stops_when_no_edit_applies() -> None:
    choice = pick(RIDGE, [edit("retrieval_vote"), edit("ridge_candidates")], {"scaffold"})
    assert choice.lever == "stop"
    assert "may not change the weights" in choice.reason


def test_an_edit_that_was_turned_down_is_not_tried_again() -> None:
    assert pick(VOTE, [edit("ridge_candidates", accepted=False)]).lever == "weights"


def test_unparsed_answers_call_for_the_parser() -> None:
    choice = pick(seen(unparsed=0.31), [])
    assert choice.action == "tolerant_parser"
    assert "31.0%" in choice.reason


def test_wrong_answers_among_the_offered_call_for_the_ridge() -> None:
    assert "26.0%" in pick(RIDGE, []).reason


@pytest.mark.parametrize(
    "of, history, why",
    [
        (seen(rollouts_left=36_000), [], "36,000 rollouts are left"),
        (RIDGE, [update("best_of_n", gain=0.002)], "less than 0.005"),
        (RIDGE, [update("best_of_n"), update("best_of_n", accepted=False, gain=0)], "brought nothing more"),
        (RIDGE, [update("best_of_n", accepted=False, gain=0), update("grpo", accepted=False, gain=0)], "grpo brought nothing more"),
        (seen(tied_groups=0.95), [update("best_of_n", accepted=False, gain=0)], "95% of the groups are tied"),
        (seen(pass_at_1=0.8, pass_at_k=0.84), [], "nothing that the policy does not know"),
    ],
)
def test_the_weights_have_nothing_more_to_give(of: Evidence, history: list[Tried], why: str) -> None:
    choice = pick(of, history, {"weights"})
    assert choice.lever == "stop"
    assert why in choice.reason


def test_after_cloning_brought_nothing_attempts_are_compared() -> None:
    choice = pick(RIDGE, [update("best_of_n", accepted=False, gain=0)], {"weights"})
    assert (choice.action, choice.resample, choice.memory) == ("grpo", "all", "round")


def test_an_accepted_edit_gives_the_weights_another_chance() -> None:
    history = [update("best_of_n", accepted=False, gain=0), update("grpo", accepted=False, gain=0), edit("ridge_candidates")]
    assert pick(RIDGE, history).action == "best_of_n"


def attempt(item: str, reward: float, choices: tuple[str, ...] = ()) -> Attempt:
    return Attempt(item=item, reward=reward, outcome="right" if reward else "wrong", choices=choices, label="x")


def test_evidence_of_four_attempts_by_hand() -> None:
    found = evidence(
        [attempt("a", 1), attempt("a", 0, ("x", "y")), attempt("b", 0, ("y", "z")), attempt("b", 0, ("y",))],
        dev=0.5,
        labels=5,
        train_items=9,
    )
    assert (found.pass_at_1, found.pass_at_k, found.tied_groups) == (0.25, 0.5, 0.5)
    assert (found.offered, found.recall, found.wrong_though_offered) == (2.5, 0.5, 0.25)


def test_evidence_needs_a_probe() -> None:
    with pytest.raises(ValueError, match="no scored attempt"):
        evidence([], dev=0.5, labels=5, train_items=9)
