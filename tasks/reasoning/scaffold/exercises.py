"""The problems of the reasoning task: read from a prompt, put in the few words that the policy knows, and changed in
ways that can be undone.

    sum 4 - 3 + 7          gcd 12 18          up 3 9 4          down 3 9 4

Views of a problem are problems whose answer gives away its own:

    order        the numbers in another order                the same answer
    negated      a sum whose terms have the other sign       the answer with the other sign
    difference   gcd(a, b) as gcd(b, |a - b|)                the same answer
    reversed     sorted the other way                        the answer from its end
    mirrored     9 - x in place of x, the other way          9 - x in the answer's place

This file is a part of scaffolds, so it imports nothing of evolog. It solves nothing.
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

LARGEST = 9
"""The largest number to sort."""
PLAIN = "plain"
"""The kind of the view that changes nothing."""

Numbers = tuple[int, ...]


class Problem(NamedTuple):
    """A problem: `sum` of terms with their signs, `gcd` of numbers, or numbers to sort `up` or `down`."""

    kind: str
    numbers: Numbers


class View(NamedTuple):
    """A problem in place of another.

    `change` turns numbers of the other's answer into those of this one's, and `undo` turns them back.
    """

    kind: str
    problem: Problem
    change: Callable[[Numbers], Numbers]
    undo: Callable[[Numbers], Numbers]


def read(prompt: str) -> Problem:
    """The problem of a prompt as reasoning-gym writes it; raises ValueError for any other text."""
    question = prompt.partition("\n")[0]
    if found := re.fullmatch(r"State the final answer to the following arithmetic problem: (.+) =", question):
        return Problem("sum", _numbers(found[1].replace("- ", "-").replace("+ ", "")))
    if found := re.fullmatch(r"Find the Greatest Common Divisor \(GCD\) of these numbers: ([\d, ]+)\. .*", question):
        return Problem("gcd", _numbers(found[1]))
    if found := re.fullmatch(r"Sort these numbers in (ascending|descending) order: ((?:\d+\.0(?:, )?)+)", question):
        return Problem("up" if found[1] == "ascending" else "down", _numbers(found[2]))
    raise ValueError(f"no problem that is known here: {question[:80]!r}")


def asked(problem: Problem) -> str:
    """The problem as the policy is asked."""
    if problem.kind != "sum":
        return " ".join([problem.kind, *map(str, problem.numbers)])
    return f"sum {expression(problem.numbers)}"


def expression(terms: Sequence[int]) -> str:
    """Terms as a sum: "4 - 3 + 7"."""
    first, *others = terms
    return " ".join([str(first), *(f"{'-' if term < 0 else '+'} {abs(term)}" for term in others)])


def spoken(numbers: Numbers) -> str:
    """The numbers of an answer as the policy writes them."""
    return " ".join(map(str, numbers))


def heard(text: str) -> Numbers | None:
    """The numbers of what the policy, or reasoning-gym, wrote as an answer; None where it is anything else."""
    return _numbers(text) if re.fullmatch(r"-?\d+( -?\d+)*|\['\d+\.0'(, '\d+\.0')*\]", text) else None


def written(problem: Problem, numbers: Numbers) -> str:
    """The numbers of an answer in the form that the problem's prompt asks for."""
    return str([f"{number}.0" for number in numbers]) if problem.kind in ("up", "down") else spoken(numbers)


def views(problem: Problem, draw: random.Random, each: int) -> list[View]:
    """The problem as it is, and `each` views at most of every kind that it allows, no two the same problem."""
    found = [View(PLAIN, problem, _same, _same)]
    for kind, change, undo in _CHANGES[problem.kind]:
        for _ in range(each):
            changed = _changed(kind, problem, draw)
            if changed and all(changed != view.problem for view in found):
                found.append(View(kind, changed, change, undo))
    return found


def _changed(kind: str, problem: Problem, draw: random.Random) -> Problem | None:
    """A problem after a change of this kind, with its numbers in any order; None where it allows none."""
    numbers = problem.numbers
    other_way = {"up": "down", "down": "up"}.get(problem.kind, problem.kind)
    match kind:
        case "negated":
            numbers = _negated(numbers)
        case "difference":
            numbers = (min(numbers), max(numbers) - min(numbers))
        case "mirrored":
            numbers = _mirrored(numbers)
    if kind == "difference" and 0 in numbers:
        return None
    return Problem(problem.kind if kind == "order" else other_way, tuple(draw.sample(numbers, len(numbers))))


def _same(numbers: Numbers) -> Numbers:
    return numbers


def _negated(numbers: Numbers) -> Numbers:
    return tuple(-number for number in numbers)


def _reversed(numbers: Numbers) -> Numbers:
    return numbers[::-1]


def _mirrored(numbers: Numbers) -> Numbers:
    return tuple(LARGEST - number for number in numbers)


_SORTING = (("order", _same, _same), ("reversed", _reversed, _reversed), ("mirrored", _mirrored, _mirrored))
_CHANGES: dict[str, Sequence[tuple[str, Callable[[Numbers], Numbers], Callable[[Numbers], Numbers]]]] = {
    "sum": (("order", _same, _same), ("negated", _negated, _negated)),
    "gcd": (("order", _same, _same), ("difference", _same, _same)),
    "up": _SORTING,
    "down": _SORTING,
}


def _numbers(text: str) -> Numbers:
    return tuple(map(int, re.findall(r"-?\d+", text.replace(".0", ""))))
