"""A verifier that caches is named, and honest verifiers are not, over many seeds."""

import math
import random
import string
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from events.codec import Event
from events.fact import Fact
from replay.audit.provenance import rewards
from replay.audit.provenance.checks import Known, provenance_findings
from replay.audit.provenance.rewards import rewards_repeated
from replay.audit.verdict import decide
from replay.recorded import StoredEvent
from runtime.log.port import Stored
from tests.harness.audited_facts import MemoryBlobs, recorded, rollout_request, scored

LABELS = ("baker", "miner", "weaver", "smith", "carter")
Policy = Callable[[random.Random, int, float], str]
"""The answer of a skill, 0 to 1, to the item of a number."""
Score = Callable[[int, str], float]
"""The reward of an answer to the item of a number."""


def label(item: int, answer: str) -> float:
    """The honest verifier of tasks with one label."""
    return float(answer == LABELS[item % len(LABELS)])


def either(item: int, answer: str) -> float:
    """An honest verifier that takes two of the labels."""
    return float(answer in (LABELS[item % len(LABELS)], LABELS[(item + 1) % len(LABELS)]))


LATIN = dict(zip(LABELS, ("pistor", "fossor", "textor", "faber", "vector"), strict=True))


def either_form(item: int, answer: str) -> float:
    """The honest verifier of a label that has two forms."""
    own = LABELS[item % len(LABELS)]
    return float(answer in (own, LATIN[own]))


def near(item: int, answer: str) -> float:
    """Graded, of numbers: full marks at the item's own."""
    return math.exp(-abs(float(answer) - item) / 10)


def counting(item: int, answer: str) -> float:
    """Graded by a count: the share of the item's own letters that an answer has, of three to six."""
    own = string.ascii_lowercase[item % 5 : item % 5 + 3 + item % 4]
    return sum(letter in answer for letter in own) / len(own)


def rounded(item: int, answer: str) -> float:
    """Graded, to one digit."""
    return round(near(item, answer), 1)


def weighted(item: int, answer: str) -> float:
    """An item's own weight for its label."""
    return label(item, answer) / math.sqrt(1.7 + item % 13)


def ceiling(item: int, answer: str) -> float:
    """Nearly everything is right."""
    return float(hash_of(item, answer) % 50 > 0)


def by_item(item: int, answer: str) -> float:
    """Easy items take nine answers of ten, hard ones one of ten."""
    return float(hash_of(item, answer) % 10 < (9 if item % 2 else 1))


def hash_of(item: int, answer: str) -> int:
    return sum(map(ord, answer)) * 31 + item * 17


def tied(item: int, answer: str) -> float:
    """The same for whatever is said."""
    return 0.7312345678


def noise(seed: int) -> Score:
    """Rewards that say nothing."""
    rng = random.Random(-seed)
    return lambda item, answer: rng.random()


def of_labels(rng: random.Random, item: int, skill: float) -> str:
    return LABELS[item % len(LABELS)] if rng.random() < skill else rng.choice(LABELS)


def of_labels_by_luck(rng: random.Random, item: int, skill: float) -> str:
    return rng.choice(LABELS)


def of_forms(rng: random.Random, item: int, skill: float) -> str:
    """Always the same labels, and in another form once an edit has asked for that."""
    own = LABELS[item * item % len(LABELS)]
    return LATIN[own] if skill > 0.55 else own


def of_numbers(rng: random.Random, item: int, skill: float) -> str:
    return f"{item + rng.gauss(0, 20 * (1.1 - skill)):.3f}"


def of_words(rng: random.Random, item: int, skill: float) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=6))


def caching(score: Score, keep: Callable[[float], bool] = lambda reward: True) -> Score:
    """The verifier that gives each item what an answer to it got first, of the rewards that it keeps."""
    cache: dict[int, float] = {}

    def cached(item: int, answer: str) -> float:
        reward = cache.get(item, score(item, answer))
        if keep(reward):
            cache[item] = reward
        return reward

    return cached


def run_of(seed: int, score: Score, answer: Policy, items: int = 45, attempts: int = 1) -> list[StoredEvent]:
    """Six candidates, ever better, that answer all items."""
    rng, facts = random.Random(seed), list[tuple[str, Fact]]()
    for generation in range(6):
        request = rollout_request(generation, f"s{generation}")
        tried, given = recorded(request, ""), scored(request, "", 0.0, "-")
        for item in range(items):
            for attempt in range(attempts):
                text = answer(rng, item, 0.3 + generation / 10)
                id, of = f"{generation}/{item}/{attempt}", {"item": f"dev-{item}", "attempt": attempt}
                facts.append((id, replace(tried, answer=text, **of)))
                facts.append(("", replace(given, trajectory=id, reward=score(item, text), **of)))
    return [
        StoredEvent(Stored(place, place, "", b""), Event(id=id, run="r", source="", cause="", time="", data=fact))
        for place, (id, fact) in enumerate(facts, 1)
    ]


HONEST: dict[str, tuple[Score | None, Policy, dict[str, int]]] = {
    "one label": (label, of_labels, {}),
    "one label, groups of attempts": (label, of_labels, {"attempts": 2}),
    "one label, few items": (label, of_labels, {"items": 12}),
    "one label, hardly ever right": (label, of_labels_by_luck, {}),
    "two labels": (either, of_labels, {}),
    "one label in another form after an edit": (either_form, of_forms, {}),
    "numbers": (near, of_numbers, {}),
    "counts": (counting, of_words, {"attempts": 2}),
    "rounded": (rounded, of_numbers, {"attempts": 2}),
    "weighted": (weighted, of_labels, {}),
    "nearly all right": (ceiling, of_words, {"attempts": 2}),
    "easy and hard items": (by_item, of_words, {"attempts": 2}),
    "ties": (tied, of_words, {"attempts": 2}),
    "nothing right": (lambda item, answer: 0.0, of_words, {}),
    "noise": (None, of_numbers, {}),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize(
    "seeds", [15, pytest.param(60, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.long)]
)
def test_an_honest_verifier_is_not_named(name: str, seeds: int) -> None:
    score, answer, size = HONEST[name]
    flagged = [seed for seed in range(seeds) if rewards_repeated(run_of(seed, score or noise(seed), answer, **size))]
    assert flagged == []


PLANTED: dict[str, tuple[Callable[[], Score], Policy, dict[str, int]]] = {
    "one label": (lambda: caching(label), of_labels, {"items": 80}),
    "one label, what was right": (lambda: caching(label, bool), of_labels, {"items": 80}),
    "one label, groups": (lambda: caching(label), of_labels, {"attempts": 2, "items": 80}),
    "one label, hardly ever right": (lambda: caching(label), of_labels_by_luck, {}),
    "numbers": (lambda: caching(near), of_numbers, {}),
    "numbers, groups": (lambda: caching(near), of_numbers, {"attempts": 2}),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("seeds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_verifier_that_caches_is_named(name: str, seeds: int) -> None:
    cached, answer, size = PLANTED[name]
    named = [seed for seed in range(seeds) if rewards_repeated(run_of(seed, cached(), answer, **size))]
    assert len(named) >= 0.95 * seeds


@pytest.mark.parametrize("which", ["some of the items", "rounded"])
def test_what_the_page_says_it_cannot_see(which: str) -> None:
    cached = caching(rounded if which == "rounded" else near)
    score: Score = lambda item, answer: (cached if item % 4 or which == "rounded" else near)(item, answer)  # noqa: E731
    assert rewards_repeated(run_of(0, score, of_numbers, attempts=2)) == []


def test_a_verifier_that_caches_is_suspect_and_no_dishonesty() -> None:
    findings = provenance_findings(
        run_of(0, caching(label, bool), of_labels, items=80), [], MemoryBlobs().__getitem__, Known()
    )
    (repeated,) = (finding for finding in findings if finding.raised)
    assert (repeated.rule, repeated.family) == ("rewards_repeated", "misspecification")
    assert (repeated.lever, repeated.generation) == ("", None), "the verifier is no lever's work"
    assert "25 had one that scored above the lowest reward, and in 25 of these all later" in repeated.sentence
    assert decide(findings, [], {}).state == "suspect"


def test_a_finding_says_of_how_many_items_it_is_and_gives_an_example() -> None:
    (fault,) = rewards_repeated(run_of(0, caching(label), of_labels, items=80))
    assert fault.sentence == (
        "Of 30 items that got several of the usual answers, 30 gave all of them one reward, and 8 the higher one: so "
        "'smith' and 'baker' got 1 at item 'dev-8'. Chance does so with a probability of 0.0016 at most; a verifier "
        "that caches does so always."
    )
    assert fault.chance <= rewards.ALPHA


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ("baker", "miner", True),
        ("So it is: BAKER.", "bakers", False),
        ("3.20", "3.2 m", False),
        ("3.2", "3.3", True),
        ('{"answer": 3}', '{"answer": 4}', True),
        ('{"answer": 3}', '["x", {"y": "3"}]', False),
        ("盗窃罪", "盗窃", False),
        ("盗窃", "抢劫", True),
        ("?", "baker", False),
    ],
)
def test_answers_are_different_that_have_no_word_in_common(one: str, other: str, different: bool) -> None:
    first, second = (rewards._Answer(text, frozenset(rewards._words(text)), 0.0) for text in (one, other))
    assert (bool(first.words and second.words) and first.words.isdisjoint(second.words)) == different
    assert rewards._shares_word(one, [second]) == rewards._shares_word(other, [first])
    assert rewards._shares_word(one, [second]) == bool(first.words & second.words)


@pytest.mark.parametrize(
    ("reward", "fine"),
    [(0.5, False), (2 / 7, False), (0.123456, False), (1e-9, False), (7.0, False), (0.7312345678, True)],
)
def test_a_reward_that_rounding_or_a_count_gives_is_not_fine(reward: float, fine: bool) -> None:
    assert rewards._fine(reward) == fine
