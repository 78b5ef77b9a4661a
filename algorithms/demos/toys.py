"""Toys: short questions with a reward for each answer, on which an algorithm learns in seconds. Most answers are two
numbers, "41 07".

dense      1 at the target, less the further off: the reward says which way to go
sparse     1 within 2 of the target in both, else 0: a base policy finds it about once in 400 answers
deceptive  up to .5 in a broad basin, 1 within 6 of a peak far from it: following the basin loses the peak
quiz       one digit, right or wrong: a base policy knows it in two answers of five, so most votes do
shifted    numbers moved by a hidden rule, shown by demonstrations: each item has a rule of its own
"""

import random
from collections.abc import Callable, Sequence

import msgspec

NAMES = ("dense", "sparse", "deceptive", "quiz", "shifted")
"""The names of the toys, each that of the function that makes it."""
FIELDS, LARGEST, TASKS, QUIZ = 2, 99, 4, 8
"""Numbers of an answer, the largest of them, tasks that the base policy has habits for, and quiz questions."""
NEAR, SPREAD = 4, 30
"""How far a mutation goes from its parent; the standard deviation of a task's habitual answers."""
HIT, PEAK = 2, 6
"""Numbers this near to the target count as hits, and those this near to a deceptive toy's peak."""
KNOWN = 0.45
"""The share of quiz traces whose answer is right; the others' answers are random digits."""

Numbers = tuple[int, ...]
PromptCompletion = tuple[str, str]


class ToyQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """One item: its prompt, the true answer, the reward of any answer, and demonstrations for test-time training."""

    prompt: str
    truth: str
    score: Callable[[str], float]
    demonstrations: tuple[PromptCompletion, ...] = ()


class Toy(msgspec.Struct, frozen=True):
    """Questions that are asked equally often."""

    name: str
    questions: tuple[ToyQuestion, ...]


def traces(seed: int, count: int = 16_000) -> list[PromptCompletion]:
    """(prompt, completion) pairs that a base policy is pre-trained on.

    They are numbers about a task's centre, mutations of a parent (alone or after a task), and quiz answers, mostly
    wrong.
    """
    draw = random.Random(seed)
    centres = [tuple(draw.randint(20, 80) for _ in range(FIELDS)) for _ in range(TASKS)]
    pairs = []
    for _ in range(count):
        kind = draw.random()
        task, parent = draw.randrange(TASKS), tuple(draw.randint(0, LARGEST) for _ in range(FIELDS))
        mutation = format_numbers([number + draw.randint(-NEAR, NEAR) for number in parent])
        if kind < 0.4:
            numbers = [
                draw.randint(0, LARGEST) if draw.random() < 0.5 else round(draw.gauss(centre, SPREAD))
                for centre in centres[task]
            ]
            pairs.append((f"task {task}", format_numbers(numbers)))
        elif kind < 0.65:
            pairs.append((near_prompt(parent), mutation))
        elif kind < 0.8:
            pairs.append((f"task {task} {near_prompt(parent)}", mutation))
        else:
            number = draw.randrange(QUIZ)
            pairs.append(
                (quiz_prompt(number), quiz_truth(number) if draw.random() < KNOWN else str(draw.randint(0, 9)))
            )
    return pairs


def format_numbers(numbers: Sequence[int]) -> str:
    """Numbers as text, two digits each, clipped to 0 and 99."""
    return " ".join(f"{min(LARGEST, max(0, number)):02d}" for number in numbers)


def near_prompt(parent: Sequence[int]) -> str:
    """The prompt that asks for a mutation of the parent."""
    return f"near {format_numbers(parent)}"


def quiz_prompt(number: int) -> str:
    """The quiz question of a number below QUIZ."""
    return f"quiz {'abcdefgh'[number]}"


def quiz_truth(number: int) -> str:
    """The right answer to a quiz question."""
    return str((3 * number + 1) % 10)


def parse_numbers(answer: str) -> Numbers | None:
    """The numbers of an answer; None if it is not two numbers of two digits."""
    words = answer.split(" ")
    valid = len(words) == FIELDS and all(len(word) == 2 and word.isascii() and word.isdigit() for word in words)
    return tuple(map(int, words)) if valid else None


def closeness(numbers: Numbers, target: Numbers, width: float = 75) -> float:
    """A reward from 0 to 1: one less the mean distance of the numbers over `width`."""
    return max(0.0, 1 - sum(abs(a - b) for a, b in zip(numbers, target, strict=True)) / FIELDS / width)


def is_hit(numbers: Numbers, target: Numbers, width: int = HIT) -> bool:
    """Whether no number is further than `width` from the target's."""
    return all(abs(a - b) <= width for a, b in zip(numbers, target, strict=True))


def dense(target: Numbers = (72, 15), task: int = 0) -> Toy:
    """One question whose reward grows with every step towards the target."""
    return _single_question("dense", f"task {task}", target, lambda numbers: closeness(numbers, target))


def sparse(target: Numbers = (68, 22), task: int = 1) -> Toy:
    """One question whose reward is 1 at the target and 0 elsewhere."""
    return _single_question("sparse", f"task {task}", target, lambda numbers: float(is_hit(numbers, target)))


def deceptive(peak: Numbers = (25, 60), basin: Numbers = (75, 25), task: int = 2) -> Toy:
    """One question with a broad basin worth .5 at most, and a rare peak worth 1."""
    return _single_question(
        "deceptive",
        f"task {task}",
        peak,
        lambda numbers: 1.0 if is_hit(numbers, peak, PEAK) else 0.5 * closeness(numbers, basin),
    )


def quiz() -> Toy:
    """Eight questions that are answered right or wrong."""
    return Toy("quiz", tuple(_quiz_question(number) for number in range(QUIZ)))


def shifted(seed: int = 0, items: int = 2, demonstrations: int = 4) -> Toy:
    """Items with a hidden shift each.

    Demonstrations show two numbers and the same moved by the shift; the question asks for one more.
    """
    draw = random.Random(seed)
    questions = []
    for _ in range(items):
        shift = [draw.choice((-1, 1)) * draw.randint(12, 20) for _ in range(FIELDS)]
        parents = [[draw.randint(25, 74) for _ in range(FIELDS)] for _ in range(demonstrations + 1)]
        *pairs, (prompt, truth) = [
            (near_prompt(p), format_numbers([a + s for a, s in zip(p, shift, strict=True)])) for p in parents
        ]
        questions.append(
            ToyQuestion(prompt=prompt, truth=truth, score=_closeness_score(truth), demonstrations=tuple(pairs))
        )
    return Toy("shifted", tuple(questions))


def move_pair(pair: PromptCompletion, by: int) -> PromptCompletion:
    """A demonstration of `shifted` whose question and answer are both moved: the rule still holds."""
    question, answer = (parse_numbers(text.removeprefix("near ")) for text in pair)
    assert question and answer
    return near_prompt([n + by for n in question]), format_numbers([n + by for n in answer])


def _single_question(name: str, prompt: str, target: Numbers, reward: Callable[[Numbers], float]) -> Toy:
    def score(answer: str) -> float:
        numbers = parse_numbers(answer)
        return 0.0 if numbers is None else reward(numbers)

    return Toy(name, (ToyQuestion(prompt=prompt, truth=format_numbers(target), score=score),))


def _quiz_question(number: int) -> ToyQuestion:
    truth = quiz_truth(number)
    return ToyQuestion(prompt=quiz_prompt(number), truth=truth, score=lambda answer: float(answer == truth))


def _closeness_score(truth: str) -> Callable[[str], float]:
    target = parse_numbers(truth)
    assert target

    def score(answer: str) -> float:
        numbers = parse_numbers(answer)
        return 0.0 if numbers is None else closeness(numbers, target, 30)

    return score
