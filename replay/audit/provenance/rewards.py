"""A check that rewards depend on answers: a verifier that caches by item gives other answers what the first one got.

What it counts are items with answers that have no word in common. There are two tests. Once one of these answers has
won (its reward is above the lowest), the item holds if all later ones got the very same reward. And where rewards have
two values, an item is constant if all of its answers got one reward. A test raises a finding where `SHARE` of the items
or more hold or are constant, and where rewards that are dealt out anew among these answers do as much with a
probability below `ALPHA`, over all tests together (permutations, seeded).

What it cannot tell from a cache: a verifier that is right to take answers without a common word for equally good. So
long answers are left out, such as programs and prose, and answers in two forms of which no candidate gave both. Rewards
of two values count only for answers that several items got, as labels are; others only where no rounding and no count
gives them, and below the highest. What it cannot see: a cache for some of the items, and what is left out.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from sys import intern
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from events.judgement import TrajectoryScored
from events.rollouts import TrajectoryRecorded
from replay.audit.provenance.fault import ProvenanceFault
from replay.recorded import StoredEvent

ALPHA = 0.005
"""The probability of a finding over a whole run in which rewards have nothing to do with items."""
SHARE = 0.95
"""The least share of items that hold."""
MIN_WON = 15
"""Fewer items with an answer that won say nothing of whether items hold."""
MIN_ITEMS, MIN_CONSTANT, USUAL = 30, 3, 3
"""Fewer items say nothing of whether they are constant, nor fewer with the higher reward. An answer counts for that
which so many items got.
"""
TESTS = (20, 30, 45, 68, 100, 150, 230, 340)
"""Once so many items have got different answers both tests are made. Each may spend an equal part of `ALPHA`."""
LONGEST_ANSWER = 200
"""Characters; longer answers are not compared."""
ANSWERS = 4
"""The different answers of an item that count, the first ones."""
PERMUTATIONS, AT_ONCE = 9900, 300

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_Codes = NDArray[np.int_]
_Flags = NDArray[np.bool_]


class _Answer(NamedTuple):
    text: str
    words: frozenset[str]
    reward: float


class RewardsRepeated:
    """Different answers to one item with the same reward, over nearly all items: the first test that finds so.

    The fault's `chance` is the permutation test's p-value, times the number of tests.
    """

    OF = (TrajectoryRecorded, TrajectoryScored)

    def __init__(self) -> None:
        self.faults: list[ProvenanceFault] = []
        self._unscored: dict[str, TrajectoryRecorded] = {}
        self._answers: dict[tuple[str, str], list[_Answer]] = defaultdict(list)
        self._pairs: dict[tuple[str, str], int] = {}
        """A bit for each pair of scaffold and adapter."""
        self._given: dict[int, tuple[int, tuple[str, ...]]] = {}
        """By an answer's hash the pairs that gave it, and up to `USUAL` items that got it."""
        self._items: list[tuple[str, str]] = []

    def take(self, stored: StoredEvent) -> bool:
        """Take the next event; whether it shows a fault."""
        if self.faults:
            return False
        match stored.event.data:
            case TrajectoryRecorded(answer=str() as answer) as recorded:
                if len(answer) <= LONGEST_ANSWER:
                    self._unscored[stored.event.id] = recorded
            case TrajectoryScored(trajectory=id, reward=reward, verifier=verifier):
                attempt = self._unscored.pop(id, None)
                if attempt and self._answered(attempt, verifier, reward) and len(self._items) in TESTS:
                    fault = self._test(stored.sequence)
                    self.faults += [fault] if fault else []
        return bool(self.faults)

    def _answered(self, attempt: TrajectoryRecorded, verifier: str, reward: float) -> bool:
        """Count an answer; whether it is the second one of its item."""
        text, item = attempt.answer or "", intern(attempt.item)
        givers, asked = self._given.get(hash(text), (0, ()))
        givers |= self._pairs.setdefault((attempt.scaffold, attempt.adapter), 1 << len(self._pairs))
        self._given[hash(text)] = givers, asked if len(asked) == USUAL or item in asked else (*asked, item)
        known = self._answers[key := (verifier, item)]
        if len(known) == ANSWERS or any(text == one.text for one in known) or (known and _shares_word(text, known)):
            return False
        if not (words := frozenset(_words(text))):
            return False
        if not _fine(reward) and any(not givers & self._given[hash(one.text)][0] for one in known):
            return False
        known.append(_Answer(text, words, reward))
        if len(known) != 2:
            return False
        self._items.append(key)
        return True

    def _test(self, sequence: int) -> ProvenanceFault | None:
        """The fault that a test finds in the answers so far."""
        rows: dict[str, Sequence[_Answer]] = {item: self._answers[of, item] for of, item in self._items}
        if len({answer.reward for row in rows.values() for answer in row}) != 2:
            return _held(sequence, rows)
        rows = _usual(rows, self._is_usual)
        return _held(sequence, rows) or _constant(sequence, rows)

    def _is_usual(self, text: str) -> bool:
        """Whether several items got this answer."""
        return len(self._given[hash(text)][1]) == USUAL


def rewards_repeated(events: Iterable[StoredEvent]) -> list[ProvenanceFault]:
    """What `RewardsRepeated` finds in these events."""
    check = RewardsRepeated()
    for stored in events:
        check.take(stored)
    return check.faults


def _held(sequence: int, rows: Mapping[str, Sequence[_Answer]]) -> ProvenanceFault | None:
    """The fault that items hold; `rows` are answers by item."""
    codes, present, distinct = _coded(rows.values())
    countable = _countable(distinct)
    counts = np.array([*(value in countable for value in distinct), False])
    won, held = _holding(_laid_out(codes[None], present), counts)
    chance = _chance(codes, present, MIN_WON, lambda dealt: _holding(dealt, counts))
    if chance is None:
        return None
    item = next(item for item, one in zip(rows, held[0], strict=True) if one)
    first, second = [answer for answer in rows[item] if answer.reward in countable][:2]
    return _fault(
        sequence,
        f"Of {len(rows)} items that got answers without a common word, {won.sum()} had one that scored above the "
        f"lowest reward, and in {held.sum()} of these all later answers got that very reward",
        (item, first, second),
        chance,
    )


def _usual(rows: Mapping[str, Sequence[_Answer]], usual: Callable[[str], bool]) -> dict[str, Sequence[_Answer]]:
    """The rows with the answers that are usual alone, of which one is nothing to compare."""
    kept = {item: [answer for answer in row if usual(answer.text)] for item, row in rows.items()}
    return {item: row for item, row in kept.items() if len(row) > 1}


def _constant(sequence: int, rows: Mapping[str, Sequence[_Answer]]) -> ProvenanceFault | None:
    """The fault that items are constant."""
    codes, present, distinct = _coded(rows.values())
    higher = [item for item, row in rows.items() if all(answer.reward == distinct[-1] for answer in row)]
    if len(distinct) != 2 or len(higher) < MIN_CONSTANT:
        return None

    def constant(dealt: _Codes) -> tuple[_Flags, _Flags]:
        same = ((dealt == dealt[:, :, :1]) | (dealt < 0)).all(axis=2)
        return np.ones_like(same), same

    chance = _chance(codes, present, MIN_ITEMS, constant)
    if chance is None:
        return None
    _, same = constant(_laid_out(codes[None], present))
    first, second = rows[higher[0]][:2]
    return _fault(
        sequence,
        f"Of {len(rows)} items that got several of the usual answers, {same.sum()} gave all of them one reward, and "
        f"{len(higher)} the higher one",
        (higher[0], first, second),
        chance,
    )


def _fault(sequence: int, counted: str, example: tuple[str, _Answer, _Answer], chance: float) -> ProvenanceFault:
    item, first, second = example
    return ProvenanceFault(
        sequence,
        f"{counted}: so {first.text[:40]!r} and {second.text[:40]!r} got {first.reward:g} at item {item!r}. Chance "
        f"does so with a probability of {chance:.2g} at most; a verifier that caches does so always.",
        chance,
    )


def _chance(
    codes: _Codes, present: _Flags, least: int, count: Callable[[_Codes], tuple[_Flags, _Flags]]
) -> float | None:
    """How likely chance is to show as large a share, times the number of tests; None where that is no finding.

    `count` says of each item in each way to deal rewards whether it counts, and whether it repeats.
    """

    def totals(dealt: _Codes) -> tuple[_Codes, _Codes]:
        counted, repeating = count(_laid_out(dealt, present))
        return counted.sum(axis=1), repeating.sum(axis=1)

    (counted,), (repeating,) = totals(codes[None])
    share = repeating / max(1, counted)
    if counted < least or share < SHARE:
        return None
    tests, reached = 2 * len(TESTS), 1
    rng = np.random.default_rng(len(present))
    for _ in range(PERMUTATIONS // AT_ONCE):
        by_chance, repeating_by_chance = totals(rng.permuted(np.tile(codes, (AT_ONCE, 1)), axis=1))
        reached += int(((by_chance >= least) & (repeating_by_chance >= share * by_chance)).sum())
        if reached * tests > ALPHA * (PERMUTATIONS + 1):  # it will not be a finding any more
            return None
    return tests * reached / (PERMUTATIONS + 1)


def _coded(rows: Collection[Sequence[_Answer]]) -> tuple[_Codes, _Flags, list[float]]:
    """The rewards of answers as codes, row by row; where in a row there is an answer; and what the codes stand for."""
    distinct, codes = np.unique([answer.reward for row in rows for answer in row], return_inverse=True)
    present = np.array([[place < len(row) for place in range(ANSWERS)] for row in rows], dtype=bool)
    return codes, present.reshape(len(rows), ANSWERS), distinct.tolist()


def _countable(distinct: Sequence[float]) -> Sequence[float]:
    """The rewards that an item can hold: the higher one of two; of more, in their order, those between the ends that
    are no counts.
    """
    return distinct[1:] if len(distinct) == 2 else [reward for reward in distinct[1:-1] if _fine(reward)]


def _laid_out(codes: _Codes, present: _Flags) -> _Codes:
    """Codes of rewards, a row for each way to deal them, as such rows by items by answers; -1 where no answer is."""
    laid = np.full((len(codes), *present.shape), -1)
    laid[:, present] = codes
    return laid


def _holding(codes: _Codes, counts: _Flags) -> tuple[_Flags, _Flags]:
    """Whether an answer to each item but its last won a reward that counts; and whether all later ones got the same.

    `codes` are ways by items by answers, and `counts` says of each code whether it counts.
    """
    winning = counts[codes]
    first = winning.argmax(axis=2)[..., None]
    later = (np.arange(ANSWERS) > first) & (codes >= 0)
    won = winning.any(axis=2) & later.any(axis=2)
    return won, won & (~later | (codes == np.take_along_axis(codes, first, axis=2))).all(axis=2)


@lru_cache(maxsize=4096)
def _fine(reward: float) -> bool:
    """Whether a reward is neither rounded to six digits nor a share of up to 1,000."""
    nearest = round(reward, 6), float(Fraction(reward).limit_denominator(1000))
    return all(abs(reward - other) > 1e-9 for other in nearest)


def _shares_word(text: str, known: Sequence[_Answer]) -> bool:
    """Whether an answer has a word of one of these: of long answers mostly one of the first words is."""
    for word in _words(text):
        for answer in known:
            if word in answer.words:
                return True
    return False


def _words(answer: str) -> Iterator[str]:
    """What two answers must not share to be different: numbers, the first four letters of words, and letters beyond
    ASCII. The names of a JSON object's members are no part of an answer.
    """
    if answer.startswith(("{", "[")):
        try:
            answer = " ".join(_leaves(msgspec.json.decode(answer)))
        except (msgspec.DecodeError, RecursionError):
            pass
    for word in _WORD.finditer(unicodedata.normalize("NFKC", answer).casefold()):
        yield from _parts(word[0])


@lru_cache(maxsize=4096)
def _parts(word: str) -> frozenset[str]:
    if word[0].isdecimal():
        return frozenset({f"{float(word):g}"})
    return frozenset({word[:4]} if word.isascii() else word)


def _leaves(value: object) -> list[str]:
    match value:
        case dict():
            return [leaf for member in value.values() for leaf in _leaves(member)]
        case list():
            return [leaf for member in value for leaf in _leaves(member)]
    return [str(value)]
