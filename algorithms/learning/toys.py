"""Toys on which an algorithm is seen to learn: short questions, and a reward for each answer. Most answers are three numbers, "41 07 93".

dense      1 at the target, less the further off                              the reward says which way to go
sparse     1 within 6 of the target in all three, else 0                      a base policy finds it about once in 500 answers
deceptive  up to .5 in a broad basin, 1 within 6 of a peak far from it        following the basin loses the peak
tens       the nearest ten of a number, right or wrong                        a base policy knows it in two answers of five, so most votes do
shifted    a number moved by a hidden rule, shown by demonstrations           each item has a rule of its own
"""

import random
from collections.abc import Callable, Sequence

import msgspec

FIELDS, LARGEST, TASKS = 3, 99, 4
NEAR, SPREAD = 9, 30
"""How far a mutation goes from its parent; the standard deviation of a task's habitual answers."""
HIT = 6
"""Numbers this near to the target count as hits."""
KNOWN = 0.4
"""How often the base policy's habits have the nearest ten right."""

Answer = tuple[int, ...]
Pair = tuple[str, str]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One item: its prompt, the true answer, the reward of any answer, and what it shows for test-time training."""

    prompt: str
    truth: str
    score: Callable[[str], float]
    demonstrations: tuple[Pair, ...] = ()


class Toy(msgspec.Struct, frozen=True):
    """Questions that are asked equally often."""

    name: str
    questions: tuple[Question, ...]


def traces(seed: int, count: int = 16_000) -> list[Pair]:
    """(prompt, completion) of the habits that a base policy is to have.

    Numbers about a task's centre, mutations of a parent (alone or after a task), and the nearest ten, mostly wrong.
    """
    draw = random.Random(seed)
    centres = [tuple(draw.randint(20, 80) for _ in range(FIELDS)) for _ in range(TASKS)]
    found = []
    for _ in range(count):
        kind = draw.random()
        task, parent = draw.randrange(TASKS), tuple(draw.randint(0, LARGEST) for _ in range(FIELDS))
        mutation = written([number + draw.randint(-NEAR, NEAR) for number in parent])
        if kind < 0.4:
            numbers = [draw.randint(0, LARGEST) if draw.random() < 0.5 else round(draw.gauss(centre, SPREAD)) for centre in centres[task]]
            found.append((f"task {task}", written(numbers)))
        elif kind < 0.75:
            found.append((near(parent), mutation))
        elif kind < 0.85:
            found.append((f"task {task} {near(parent)}", mutation))
        else:
            number = draw.randint(0, LARGEST)
            found.append((f"tens {number:02d}", nearest_ten(number) if draw.random() < KNOWN else f"{10 * draw.randint(0, 9):02d}"))
    return found


def written(numbers: Sequence[int]) -> str:
    """Two digits each, kept within 0 and 99."""
    return " ".join(f"{min(LARGEST, max(0, number)):02d}" for number in numbers)


def near(parent: Sequence[int]) -> str:
    """The prompt that asks for a mutation of the parent."""
    return f"near {written(parent)}"


def nearest_ten(number: int) -> str:
    """Halves go up, and 95 and more to 90."""
    return f"{min(90, (number + 5) // 10 * 10):02d}"


def read(answer: str) -> Answer | None:
    """The numbers of an answer; None if it is not three numbers of two digits."""
    words = answer.split(" ")
    well = len(words) == FIELDS and all(len(word) == 2 and word.isascii() and word.isdigit() for word in words)
    return tuple(map(int, words)) if well else None


def closeness(numbers: Answer, target: Answer, width: float = 75) -> float:
    """1 - the mean distance over `width`, at least 0."""
    return max(0.0, 1 - sum(abs(a - b) for a, b in zip(numbers, target, strict=True)) / FIELDS / width)


def hit(numbers: Answer, target: Answer) -> bool:
    """Whether all numbers are near the target's."""
    return all(abs(a - b) <= HIT for a, b in zip(numbers, target, strict=True))


def dense(target: Answer = (72, 15, 64), task: int = 0) -> Toy:
    """The reward grows with every step towards the target."""
    return _one("dense", f"task {task}", target, lambda numbers: closeness(numbers, target))


def sparse(target: Answer = (68, 22, 57), task: int = 1) -> Toy:
    """All or nothing."""
    return _one("sparse", f"task {task}", target, lambda numbers: float(hit(numbers, target)))


def deceptive(peak: Answer = (24, 76, 71), basin: Answer = (70, 30, 25), task: int = 2) -> Toy:
    """A broad basin worth .5 at most, and a rare peak worth 1."""
    return _one("deceptive", f"task {task}", peak, lambda numbers: 1.0 if hit(numbers, peak) else 0.5 * closeness(numbers, basin))


def tens(numbers: Sequence[int] = (13, 28, 36, 57, 61, 74, 82, 9)) -> Toy:
    """Eight numbers to be rounded."""
    return Toy("tens", tuple(_rounded(number) for number in numbers))


def shifted(seed: int = 0, items: int = 4, demonstrations: int = 4) -> Toy:
    """Items with a hidden shift each: three numbers and the same moved by the shift, shown a few times, then asked for."""
    draw = random.Random(seed)
    questions = []
    for _ in range(items):
        shift = [draw.choice((-1, 1)) * draw.randint(12, 20) for _ in range(FIELDS)]
        parents = [[draw.randint(25, 74) for _ in range(FIELDS)] for _ in range(demonstrations + 1)]
        *shown, (prompt, truth) = [(near(p), written([a + s for a, s in zip(p, shift, strict=True)])) for p in parents]
        questions.append(Question(prompt=prompt, truth=truth, score=_towards(truth), demonstrations=tuple(shown)))
    return Toy("shifted", tuple(questions))


def moved(pair: Pair, by: int) -> Pair:
    """A demonstration of `shifted` whose question and answer are both moved: the rule still holds."""
    question, answer = (read(text.removeprefix("near ")) for text in pair)
    assert question and answer
    return near([n + by for n in question]), written([n + by for n in answer])


def _one(name: str, prompt: str, target: Answer, reward: Callable[[Answer], float]) -> Toy:
    def score(answer: str) -> float:
        numbers = read(answer)
        return 0.0 if numbers is None else reward(numbers)

    return Toy(name, (Question(prompt=prompt, truth=written(target), score=score),))


def _rounded(number: int) -> Question:
    truth = nearest_ten(number)
    return Question(prompt=f"tens {number:02d}", truth=truth, score=lambda answer: float(answer == truth))


def _towards(truth: str) -> Callable[[str], float]:
    target = read(truth)
    assert target

    def score(answer: str) -> float:
        numbers = read(answer)
        return 0.0 if numbers is None else closeness(numbers, target, 30)

    return score
