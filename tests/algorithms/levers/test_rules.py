"""The rules agent: each row of its table, and the road from LawBench's start."""

import msgspec
import pytest

from algorithms.levers.rules import CHOOSE, COMPARE, EXPLORE, REFINE, Choice, PastChoice, ProbeAttempt, choose, evidence
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
    return Evidence(**{name: changes.get(name, getattr(START, name)) for name in START.__struct_fields__})


VOTE = seen(dev=0.70, pass_at_1=0.55, pass_at_k=0.82, offered=5.7, recall=0.92, wrong_though_offered=0.37)
RIDGE = seen(
    dev=0.78, pass_at_1=0.71, pass_at_k=0.89, offered=16, recall=0.97, wrong_though_offered=0.26, tied_groups=0.6
)


def edit(name: str, accepted: bool = True) -> PastChoice:
    return PastChoice(lever="scaffold", action=name, accepted=accepted, before=0.5, after=0.6 if accepted else 0.4)


def update(name: str, accepted: bool = True, gain: float = 0.03) -> PastChoice:
    return PastChoice(lever="weights", action=name, accepted=accepted, before=0.70, after=0.70 + gain)


def pick(of: Evidence, history: list[PastChoice], levers: set[str] = BOTH) -> Choice:
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
        (
            RIDGE,
            [update("best_of_n", accepted=False, gain=0), update("grpo", accepted=False, gain=0)],
            "grpo brought nothing more",
        ),
        (seen(tied_groups=0.95), [update("best_of_n", accepted=False, gain=0)], "95% of the groups are tied"),
        (seen(pass_at_1=0.8, pass_at_k=0.84), [], "nothing that the policy does not know"),
    ],
)
def test_the_weights_have_nothing_more_to_give(of: Evidence, history: list[PastChoice], why: str) -> None:
    choice = pick(of, history, {"weights"})
    assert choice.lever == "stop"
    assert why in choice.reason


def test_a_language_model_that_chooses_among_few_is_trained_once_where_one_round_finds_nearly_all() -> None:
    chooses = like(seen(pass_at_1=0.4, pass_at_k=0.9), free=True, labels=4, offered=4.0, chosen=1.0)
    choice = pick(chooses, [], {"weights"})
    assert (choice.action, choice.rounds, choice.hyper, choice.hints) == ("star", 1, CHOOSE, True)
    assert not choice.restart  # it goes on from its parent
    choice = pick(like(chooses, labelled=False), [], {"weights"})
    assert (choice.action, choice.rounds, choice.hyper, choice.hints) == ("best_of_n", 1, CHOOSE, False)
    for other in ({"pass_at_k": 0.84}, {"chosen": 0.5}, {"offered": 33.0}):
        assert pick(like(chooses, **other), [], {"weights"}).rounds == 3
    assert pick(like(chooses, free=False), [], {"weights"}).hyper == REFINE


def test_after_cloning_brought_nothing_attempts_are_compared() -> None:
    choice = pick(RIDGE, [update("best_of_n", accepted=False, gain=0)], {"weights"})
    assert (choice.action, choice.resample, choice.memory) == ("grpo", "all", "round")


def test_an_accepted_edit_gives_the_weights_another_chance() -> None:
    history = [
        update("best_of_n", accepted=False, gain=0),
        update("grpo", accepted=False, gain=0),
        edit("ridge_candidates"),
    ]
    assert pick(RIDGE, history).action == "best_of_n"


def attempt(item: str, reward: float, choices: tuple[str, ...] = ()) -> ProbeAttempt:
    return ProbeAttempt(item=item, reward=reward, outcome="right" if reward else "wrong", choices=choices, label="x")


def test_evidence_of_four_attempts_by_hand() -> None:
    found = evidence(
        [attempt("a", 1), attempt("a", 0, ("x", "y")), attempt("b", 0, ("y", "z")), attempt("b", 0, ("y",))],
        dev=0.5,
        labels=5,
        train_items=9,
    )
    assert (found.pass_at_1, found.pass_at_k, found.tied_groups) == (0.25, 0.5, 0.5)
    assert (found.offered, found.recall, found.wrong_though_offered) == (2.5, 0.5, 0.25)
    assert found.chosen == 0.75


def test_evidence_needs_a_probe() -> None:
    with pytest.raises(ValueError, match="no scored attempt"):
        evidence([], dev=0.5, labels=5, train_items=9)


DENSE = seen(
    pass_at_1=0.0, pass_at_k=0.0, tied_groups=0.0, mean_reward=0.55, rewarded=1.0, graded=0.99, tail=0.5, free=True
)


def like(of: Evidence, **changes: object) -> Evidence:
    return msgspec.structs.replace(of, **changes)


@pytest.mark.parametrize(
    "of, algorithm, why",
    [
        (like(DENSE, signal="none"), "spin", "the true ones are known"),
        (like(DENSE, signal="none", labelled=False, copies=True, free=True), "test_time", "items show demonstrations"),
        (like(DENSE, signal="none", true_answers=1.0), "", "nothing to tell apart"),
        (
            like(DENSE, signal="none", labelled=False, agreement=0.45, elected=0.1, guesses_agree=0.025),
            "ttrl",
            "45% of a group agree",
        ),
        (
            like(DENSE, signal="none", labelled=False, agreement=0.45, elected=0.09, guesses_agree=0.0),
            "",
            "no majority",
        ),
        (like(DENSE, signal="none", labelled=False, elected=0.5, guesses_agree=0.03), "", "with probability 0.030"),
        (like(DENSE, signal="none", labelled=False, elected=0.5), "", "no majority"),
        (like(DENSE, signal="comparisons"), "dpo", "100% of the groups hold a better and a worse"),
        (like(DENSE, signal="comparisons", tied_groups=1.0), "", "no group holds a better"),
        (like(DENSE, rewarded=0.0, graded=0.0), "star", "show the true answer"),
        (like(DENSE, rewarded=0.0, graded=0.0, labelled=False), "", "true answers are not known"),
        (like(DENSE, graded=0.04, pass_at_1=0.3, pass_at_k=0.34), "", "nothing that the policy does not know"),
        (like(DENSE, graded=0.04, pass_at_1=0.3, pass_at_k=0.7, clonable=0.0), "grpo", "none has a positive reward"),
        (like(DENSE, graded=0.04, pass_at_1=0.3, pass_at_k=0.7), "best_of_n", "there to be found"),
        (like(DENSE, graded=0.04, pass_at_1=0.3, pass_at_k=0.7, free=False), "best_of_n", "191 labels on offer"),
        (
            like(DENSE, graded=0.04, pass_at_1=0.3, pass_at_k=0.7, free=False, offered=16),
            "best_of_n",
            "shortlist of 16",
        ),
        (like(DENSE, tied_groups=0.91), "", "91% of the groups are tied"),
        (like(DENSE, attempts=1, tied_groups=1.0), "ppo", "nothing to be compared with"),
        (like(DENSE, tail=0.75, mean_reward=0.49), "entropic", "tail 0.75"),
        (like(DENSE, tail=0.75, mean_reward=0.5), "ppo", "dense scalar"),
        (like(DENSE, tail=0.69, tail_by_chance=0.55, mean_reward=0.49), "entropic", "by chance 0.55"),
        (like(DENSE, tail=0.68, tail_by_chance=0.55, mean_reward=0.49), "ppo", "dense scalar"),
        (like(DENSE, tail=1.0, attempts=2, mean_reward=0.49), "rloo", "2 attempts an item are too few"),
        (like(DENSE, tokens=4000.0), "best_of_n", "takes 4,000 tokens"),
        (like(DENSE, tokens=4000.0, clonable=0.09), "ppo", "dense scalar"),
        (like(DENSE, attempts=3), "rloo", "3 attempts an item are too few"),
        (like(DENSE, mean_reward=0.8), "reinforce", "held to the base"),
        (DENSE, "ppo", "mean reward 0.55, 100%"),
        (like(DENSE, rewarded=0.89, length_spread=0.5), "dr_grpo", "differ in length by 50%"),
        (like(DENSE, rewarded=0.89), "grpo", "let them compete"),
    ],
)
def test_each_row_of_the_table(of: Evidence, algorithm: str, why: str) -> None:
    choice = pick(of, [], {"weights"})
    assert (choice.lever, choice.action) == (("weights", algorithm) if algorithm else ("stop", ""))
    assert why in choice.reason


def test_every_algorithm_is_chosen_for_some_evidence_with_hyper_parameters_that_it_has() -> None:
    pytest.importorskip("torch")
    from algorithms import learning
    from algorithms.learning.update import settings

    marks = vars(test_each_row_of_the_table)["pytestmark"]
    rows = next(mark for mark in marks if mark.name == "parametrize").args[1]
    choices = [pick(of, [], {"weights"}) for of, _, _ in rows]
    choices += [
        pick(of, [update(second, accepted=False)], {"weights"}) for of in (DENSE, RIDGE) for second in ("ppo", "grpo")
    ]
    trained = [choice for choice in choices if choice.lever == "weights"]
    by_order_alone = {"gspo", "max_rl", "opsd"}
    assert {choice.action for choice in trained} == set(learning.NAMES) - by_order_alone
    for choice in trained:
        settings(learning.algorithm(choice.action), choice.hyper)


def test_penalties_and_large_rewards_are_scaled_before_the_table_is_asked() -> None:
    def probe(*rewards: float) -> Evidence:
        shown = [ProbeAttempt(item="a", reward=reward, outcome="wrong", choices=(), label="x") for reward in rewards]
        return evidence(shown, dev=0.5, labels=5, train_items=9, rollouts_left=1000, free=True)

    assert probe(-4, -1, -2, -3).mean_reward == pytest.approx(0.5) and probe(-4, -1, -2, -3).graded == 2 / 3
    assert pick(probe(-4, -1, -2, -3), [], {"weights"}).action == "grpo"
    assert (probe(0, 100, 0, 0).graded, probe(0, 100, 0, 0).mean_reward) == (0.0, 0.25)


def test_star_restarts_from_the_base_with_hints_and_keeps_all_rounds() -> None:
    choice = pick(like(DENSE, rewarded=0.0, graded=0.0), [], {"weights"})
    assert (choice.restart, choice.hints, choice.memory) == (True, True, "update")


@pytest.mark.parametrize("first, second", [("ppo", "grpo"), ("entropic", "grpo"), ("grpo", "best_of_n")])
def test_an_update_that_was_turned_down_is_followed_by_one_of_another_kind(first: str, second: str) -> None:
    choice = pick(DENSE, [update(first, accepted=False)], {"weights"})
    assert (choice.action, choice.hyper) == (second, {})
    assert pick(RIDGE, [update(first, accepted=False)], {"weights"}).hyper == (
        REFINE if second == "best_of_n" else COMPARE
    )
    assert pick(like(DENSE, signal="comparisons"), [update("dpo", accepted=False)], {"weights"}).lever == "stop"


def test_what_rewards_and_answers_show_by_hand() -> None:
    def one(item: str, reward: float, answer: str, tokens: int) -> ProbeAttempt:
        return ProbeAttempt(
            item=item, reward=reward, outcome="wrong", choices=(), label="x", answer=answer, read=2, tokens=tokens
        )

    shown = [
        one("a", 0.5, "p", 1),
        one("a", 0.0, "p", 3),
        one("a", 0.0, "q", 1),
        one("b", 1.0, "p", 3),
        one("b", 1.0, "", 1),
        one("b", 1.0, "", 3),
    ]
    found = evidence(shown, dev=0.5, labels=5, train_items=9, signal="none", labelled=False, copies=True, free=True)
    assert [found.mean_reward, found.rewarded, found.graded] == pytest.approx([3.5 / 6, 4 / 6, 1 / 6])
    assert found.tail == pytest.approx(1.0)  # a's best stands alone, b is tied
    assert found.agreement == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert (found.tokens, found.free) == (4.0, True) and found.length_spread == pytest.approx(0.5)
    assert (found.signal, found.labelled, found.copies) == ("none", False, True)


def test_an_edit_on_another_branch_leaves_the_updates_of_this_scaffold() -> None:
    """An edit of the candidate that was kept, and that it was not made from, says nothing of its own weights."""
    history = [update("best_of_n", accepted=False, gain=0), edit("ridge_candidates")]
    assert pick(RIDGE, history, {"weights"}).action == "best_of_n"
    branch = [history[0], msgspec.structs.replace(history[1], other_branch=True)]
    assert pick(RIDGE, branch, {"weights"}).action == "grpo"
    assert (
        pick(RIDGE, [*branch[:1], msgspec.structs.replace(edit("x"), lever="child")], {"weights"}).action == "best_of_n"
    )


def test_an_update_that_was_kept_without_a_gain_brought_nothing() -> None:
    assert pick(RIDGE, [update("best_of_n", gain=-0.01)], {"weights"}).action == "grpo"
    assert pick(RIDGE, [update("best_of_n", gain=0.004)], {"weights"}).lever == "stop"


def test_what_is_kept_of_a_past_choice_in_a_chain_is_what_it_was() -> None:
    """Recorded contexts hold it, and are compared when an agent is asked again."""
    assert set(msgspec.to_builtins(edit("vote"))) == {"lever", "action", "accepted", "before", "after"}
