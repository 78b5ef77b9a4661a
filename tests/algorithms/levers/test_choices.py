"""Forty probes and what the rules choose by each: that it hangs on no unit of rewards, and that the trainer would find
something to learn in the very attempts it was chosen by.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from algorithms.levers.rules import Choice, PastChoice, ProbeAttempt, choose, evidence, tail_by_chance
from tasks.contract import Evidence

ITEMS = 20


def probe(*groups: Sequence[float], **more: Any) -> list[ProbeAttempt]:
    """Attempts with these rewards, each with an answer of its own unless answers are given."""
    fields: dict[str, Any] = {"outcome": "wrong", "choices": (), "label": "true", "tokens": 10, **more}
    return [
        ProbeAttempt(item=f"i{number}", reward=reward, answer=f"{number} {place}", **fields)
        for number, rewards in enumerate(groups)
        for place, reward in enumerate(rewards)
    ]


def drawn(k: int, reward: Callable[[random.Random], float], items: int = ITEMS) -> list[list[float]]:
    draw = random.Random(11)
    return [[reward(draw) for _ in range(k)] for _ in range(items)]


def levels(low: float, high: float, wins: Sequence[int] = (0, 1, 3, 8)) -> list[list[float]]:
    """Groups of eight with so many of the upper level, over and over."""
    return [[high] * wins[n % len(wins)] + [low] * (8 - wins[n % len(wins)]) for n in range(ITEMS)]


def with_one(groups: list[list[float]], reward: float) -> list[list[float]]:
    return [[reward, *groups[0][1:]], *groups[1:]]


def answered(*groups: str, choices: str = "", label: str = "") -> list[ProbeAttempt]:
    """Attempts that answer by letters, "." for no answer, and are not judged."""
    fields: dict[str, Any] = {"reward": 0.0, "outcome": "wrong", "choices": tuple(choices), "label": label}
    return [
        ProbeAttempt(item=f"i{number}", answer=answer.strip("."), **fields)
        for number, answers in enumerate(groups)
        for answer in answers
    ]


def uniform(draw: random.Random) -> float:
    return draw.uniform(0.1, 1.0)


def missed(draw: random.Random) -> float:
    """Next to nothing, but in one attempt of eight."""
    return draw.uniform(0.5, 1.0) if draw.random() < 1 / 8 else draw.uniform(0.0, 0.02)


def partly_nothing(draw: random.Random) -> float:
    return draw.uniform(0.1, 1.0) if draw.random() < 0.7 else 0.0


def basin(draw: random.Random) -> float:
    return draw.uniform(0.0, 0.5)


def of_lengths(attempts: Sequence[ProbeAttempt], *tokens: int) -> list[ProbeAttempt]:
    return [msgspec.structs.replace(a, tokens=tokens[n % len(tokens)]) for n, a in enumerate(attempts)]


class Case(NamedTuple):
    name: str
    attempts: list[ProbeAttempt]
    action: str
    """The algorithm; empty for stop."""
    facts: Mapping[str, Any] = {}
    history: tuple[str, ...] = ()
    """Weight updates on this scaffold, all rejected."""


NOT_JUDGED = {"signal": "none", "labelled": False}
CASES = [
    # right or wrong
    Case("right or wrong", probe(*levels(0, 1)), "best_of_n"),
    Case("minus one and one", probe(*levels(-1, 1)), "best_of_n"),
    Case("two tenths and nine tenths", probe(*levels(0.2, 0.9)), "best_of_n"),
    Case("nothing and ten", probe(*levels(0, 10)), "best_of_n"),
    Case("right or wrong, three in a hundred in part", probe(*with_one(levels(0, 1), 0.5)), "best_of_n"),
    Case("right or wrong, but for rounding", probe(*levels(0, 0.1 + 0.2), *levels(0, 0.3)), "best_of_n"),
    Case("right or wrong and one outlier", probe(*with_one(levels(0, 1), 1e6)), "best_of_n"),
    Case("right or wrong, among many labels", probe(*levels(0, 1)), "best_of_n", {"labels": 191, "free": False}),
    Case("right or wrong, among few labels", probe(*levels(0, 1), choices=("true", "b")), "best_of_n", {"free": False}),
    Case("two levels below nothing", probe(*levels(-2, -1)), "grpo"),
    Case("a penalty or none", probe(*levels(-1, 0)), "grpo"),
    Case("right every time", probe(*levels(0, 1, [8])), ""),
    Case("the same items right every time", probe(*levels(0, 1, [0, 8])), ""),
    Case("never right", probe(*levels(0, 1, [0])), "star"),
    Case("a penalty every time", probe(*levels(-1, 1, [0])), "star"),
    Case("never right, and nobody knows the answers", probe(*levels(0, 1, [0])), "", {"labelled": False}),
    # graded
    Case("the paper's dense clean scalar", probe(*drawn(8, uniform)), "ppo"),
    Case("the paper's rewards that most attempts miss", probe(*drawn(8, missed)), "entropic"),
    Case("the paper's rest", probe(*drawn(8, partly_nothing)), "grpo"),
    Case("pairs, whose better one always stands alone", probe(*drawn(2, missed)), "rloo"),
    Case("threes, uniform", probe(*drawn(3, uniform)), "rloo"),
    Case("threes, one far above", probe(*([0.02, 0.01, 0.5 + n / 100] for n in range(ITEMS))), "entropic"),
    Case("fours, uniform", probe(*drawn(4, uniform)), "ppo"),
    Case("sixty-four of one item, uniform", probe(*drawn(64, uniform, 1)), "ppo"),
    Case("sixty-four of one item, a peak", probe(*with_one(drawn(64, basin, 1), 1.0)), "entropic"),
    Case("one attempt an item", probe(*drawn(1, uniform)), "ppo"),
    Case("dense, and one outlier above", probe(*with_one(drawn(8, uniform), 1e6)), "ppo"),
    Case("dense, and one outlier below", probe(*with_one(drawn(8, uniform), -1e6)), "ppo"),
    Case("unbounded, about nothing", probe(*drawn(8, lambda d: d.gauss(0, 1e4))), "ppo"),
    Case("little to win", probe(*drawn(8, lambda d: d.uniform(0.8, 1.0))), "reinforce"),
    Case("dear rollouts", probe(*drawn(8, uniform), tokens=5000), "best_of_n"),
    Case("dear rollouts, all below nothing", probe(*drawn(8, lambda d: -uniform(d)), tokens=5000), "ppo"),
    Case("each item its own reward", probe(*([n / 10] * 8 for n in range(ITEMS))), ""),
    Case("each item its own reward, but for rounding", probe(*([n * 0.1, n / 10] * 4 for n in range(ITEMS))), ""),
    # not scored
    Case("better and worse", probe(*drawn(8, uniform)), "dpo", {"signal": "comparisons"}),
    Case("not judged, answers known", answered("abca", label="b"), "spin", {"signal": "none"}),
    Case("not judged, three of four agree", answered("aaab", "bbbc"), "ttrl", NOT_JUDGED),
    Case("not judged, guesses of four", answered("aabc", "bbca", "ccab"), "", NOT_JUDGED),
    # after a rejection
    Case("entropic weighting brought nothing", probe(*drawn(8, missed)), "grpo", {}, ("entropic",)),
    Case("GRPO brought nothing, rewards below nothing", probe(*drawn(8, lambda d: -uniform(d))), "", {}, ("grpo",)),
]
FURTHER = [
    Case("little to win, one outlier", probe(*with_one(drawn(8, lambda d: d.uniform(0.8, 1.0)), 1e6)), "reinforce"),
    Case("better and worse nowhere", probe(*levels(0, 1, [0, 8])), "", {"signal": "comparisons"}),
    Case("not judged, all answers true", answered("bb", "bb", label="b"), "", {"signal": "none"}),
    Case("not judged, demonstrations", answered("ab", "ba"), "test_time", {**NOT_JUDGED, "copies": True}),
    Case("not judged, pairs that differ", answered("ab", "cd"), "", NOT_JUDGED),
    Case("not judged, pairs that agree", answered("aa", "bb", "cc"), "", NOT_JUDGED),
    Case("not judged, all agree", answered("aaaa", "bbbb"), "", NOT_JUDGED),
    Case("not judged, all agree or all differ", answered("aaaa", "abcd", "bbbb", "efgh"), "", NOT_JUDGED),
    Case("not judged, no answers", answered("....", "...."), "", NOT_JUDGED),
    Case("not judged, two of three of two labels", answered("aab", "bba", choices="ab"), "", NOT_JUDGED),
    Case("not judged, two of three of eight labels", answered("aab", "bba", choices="abcdefgh"), "", NOT_JUDGED),
    Case("not judged, so in five groups", answered(*["aab", "bba"] * 2, "cca", choices="abcdefgh"), "ttrl", NOT_JUDGED),
    Case("not judged, guesses of all three labels", answered("aabc"), "", {**NOT_JUDGED, "free": False, "labels": 3}),
    Case("not judged, two of four of 191 labels", answered("aabc"), "", {**NOT_JUDGED, "free": False, "labels": 191}),
    Case(
        "not judged, two of four of 250 labels", answered("aabc"), "ttrl", {**NOT_JUDGED, "free": False, "labels": 250}
    ),
    Case("not judged, one group of free answers", answered("aabc"), "", NOT_JUDGED),
    Case("not judged, one group of many free answers", answered("aaaaaaaabcdefghi"), "ttrl", NOT_JUDGED),
    Case("half answered, and those agree", answered("aa..", "bb.."), "ttrl", NOT_JUDGED),
    Case("mostly nothing", probe(*([n / 20, *[0.0] * 7] if n % 4 else [0.0] * 8 for n in range(ITEMS))), "entropic"),
    Case("a sparse reward in one of fifty groups", probe(*drawn(8, lambda d: 0.0, 49), [0.7, *[0.0] * 7]), ""),
    Case("differences of a hundred thousandth", probe(*drawn(8, lambda d: 0.5 + 1e-5 * d.random())), "reinforce"),
    Case("costs", probe(*drawn(8, lambda d: -d.lognormvariate(0, 1))), "ppo"),
    Case("GRPO brought nothing, some are right", probe(*levels(0, 1)), "best_of_n", {}, ("grpo",)),
    Case("GRPO and another brought nothing", probe(*levels(0, 1)), "", {}, ("ppo", "grpo")),
    Case("answers of 10 to 90 tokens", of_lengths(probe(*drawn(8, partly_nothing)), 10, 50, 90), "dr_grpo"),
]
ALL = [*CASES, *FURTHER]


def seen(case: Case, unit: float = 1.0) -> Evidence:
    facts = {"dev": 0.5, "labels": 0, "train_items": 40, "rollouts_left": 10**6, "free": True, **case.facts}
    attempts = [msgspec.structs.replace(attempt, reward=unit * attempt.reward) for attempt in case.attempts]
    return evidence(attempts, **{"solved": unit, **facts})


def chosen(case: Case, unit: float = 1.0) -> Choice:
    history = [PastChoice(lever="weights", action=a, accepted=False, before=0.5, after=0.5) for a in case.history]
    return choose(seen(case, unit), history, {"weights"}, [])


def names(cases: Sequence[Case]) -> list[str]:
    return [case.name for case in cases]


def test_there_are_forty_cases() -> None:
    assert len(CASES) == 40 and len({case.name for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", ALL, ids=names(ALL))
def test_what_a_probe_shows_decides(case: Case) -> None:
    choice = chosen(case)
    assert (choice.lever, choice.action) == (("weights", case.action) if case.action else ("stop", "")), choice.reason


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("case", ALL, ids=names(ALL))
def test_the_choice_does_not_depend_on_the_unit_of_rewards(case: Case, unit: float) -> None:
    found, same = chosen(case, unit), chosen(case)
    assert (found.lever, found.action) == (same.lever, same.action)
    assert found.hyper.get("right", unit) == pytest.approx(unit)
    figures = msgspec.to_builtins(seen(case, unit))
    assert {**figures, "solved": 1.0} == pytest.approx(msgspec.to_builtins(seen(case)), nan_ok=True)


@pytest.mark.parametrize("case", [case for case in ALL if case.action], ids=[case.name for case in ALL if case.action])
def test_the_trainer_finds_something_to_learn_in_the_attempts_that_decided(case: Case) -> None:
    pytest.importorskip("torch")
    from algorithms import learning
    from algorithms.learning.batch import Rollout, demonstration
    from algorithms.learning.update import settings

    choice = chosen(case)
    algorithm = learning.algorithm(choice.action)
    answers = {answer: number for number, answer in enumerate({a.answer for a in case.attempts} | {"true", "b"})}
    rollouts = [
        Rollout(
            group=attempt.item,
            item=attempt.item,
            prompt=attempt.item,
            choices=attempt.choices,
            tokens=(answers[attempt.answer],),
            logprobs=(-1.0,),
            reward=attempt.reward if "rewards" in algorithm.needs else float("nan"),
            answer=attempt.answer,
            real=(answers[attempt.label],) if attempt.label else (),
        )
        for attempt in case.attempts
    ]
    if choice.hints:  # what is shown the true answer gives it
        rollouts.append(msgspec.structs.replace(rollouts[0], reward=1.0, own=False))
    if "copies" in algorithm.needs:
        rollouts = [demonstration(rollout.item, "an example", (1,)) for rollout in rollouts]
    assert algorithm.select(rollouts, settings(algorithm, choice.hyper)).rollouts


def asked_without_labels(seed: int, k: int, labels: int, bias: float, free: bool) -> str:
    """What is chosen where 40 items have k guesses each, `bias` of them replaced by one label of the item's own."""
    draw = random.Random(f"{seed} {k} {labels}")
    groups = []
    for _ in range(40):
        own = draw.randrange(labels)
        groups.append("".join(chr(97 + (own if draw.random() < bias else draw.randrange(labels))) for _ in range(k)))
    return chosen(Case("", answered(*groups), "", {**NOT_JUDGED, "free": free, "labels": labels})).action


@pytest.mark.parametrize("free", [False, True], ids=["labels on offer", "free answers"])
@pytest.mark.parametrize("labels", [2, 4, 10, 50])
@pytest.mark.parametrize("k", [4, 8])
def test_guesses_do_not_elect_labels(k: int, labels: int, free: bool) -> None:
    picks = [asked_without_labels(seed, k, labels, 0.0, free) for seed in range(40)]
    assert picks.count("ttrl") <= 4, picks  # more come once in 300, of 40 probes at .025


@pytest.mark.parametrize("free", [False, True], ids=["labels on offer", "free answers"])
@pytest.mark.parametrize(("labels", "bias"), [(2, 0.5), (4, 0.3), (10, 0.3), (50, 0.3)])
def test_answers_that_lean_to_one_of_an_items_own_elect_labels(labels: int, bias: float, free: bool) -> None:
    picks = [asked_without_labels(seed, 8, labels, bias, free) for seed in range(20)]
    assert picks.count("ttrl") >= 18, picks


@pytest.mark.parametrize("k", [*(pytest.param(k, marks=pytest.mark.slow) for k in (3, 4)), 8, 64])
def test_a_tail_by_chance_is_that_of_uniform_rewards(k: int) -> None:
    simulated = seen(Case("", probe(*drawn(k, uniform, 24_000 // k)), ""))
    assert tail_by_chance(k) == pytest.approx(simulated.tail, abs=0.015)
    assert simulated.tail_by_chance == pytest.approx(tail_by_chance(k))


def test_the_tail_of_three_uniform_rewards_by_integration() -> None:
    """Of 0, u and 1 it is (2 - u) / (2 sqrt(u^2 - u + 1)), whose mean over u is 3/4 ln 3."""
    assert seen(Case("", probe([0.0, 0.4, 1.0]), "")).tail == pytest.approx(1.6 / (2 * 0.76**0.5))
    assert tail_by_chance(3) == pytest.approx(0.75 * 1.0986122886681098, abs=0.01)


def test_star_takes_the_tasks_own_level_of_right() -> None:
    never = probe(*levels(0, 1, [0]))
    assert chosen(Case("", never, "")).hyper == {}
    assert chosen(Case("", never, "", {"solved": 0.8})).hyper == {"right": 0.8}
    assert 0 < chosen(Case("", never, "", {"solved": None})).hyper["right"] < 1e-20  # whatever is positive
