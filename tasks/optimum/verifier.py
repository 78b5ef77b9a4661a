"""The reward: how much lower a program gets than random search, in the function's own units.

It knows nothing of how low the function gets.
"""

from functools import lru_cache
from typing import NamedTuple

from tasks import kit
from tasks.contract import Item, Scored
from tasks.optimum import data, search

VERSION = "lower-than-random-1"
OUTCOMES = {
    "lower": "the program finds lower values than random search with the same budget",
    "no lower": "it does not",
    "unparsed": "the answer is no program",
}


class Found(NamedTuple):
    """What a program and random search found, the means of the lowest values."""

    lowest: float
    random: float


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """The lowest value of random search less the program's; 0 for what is no program."""
    try:
        values = found(item, answer or "")
    except ValueError as wrong:
        return Scored(0.0, "unparsed", str(wrong))
    details = (
        f"lowest value {values.lowest:.4g}, of random search {values.random:.4g} (means of {data.RUNS} runs of "
        f"{search.BUDGET} evaluations)"
    )
    reward = values.random - values.lowest
    return Scored(reward, "lower" if reward > 0 else "no lower", details)


def found(item: Item, answer: str) -> Found:
    """What a program finds of an item's function; raises ValueError for a text that is no program."""
    return _found(kit.key(data.default_root()), item.prompt, item.metadata["function"], search.parse(answer))


@lru_cache(maxsize=20_000)
def _found(key: bytes, prompt: str, name: str, program: search.Program) -> Found:
    problem = data.problem(key, prompt, name)
    if program == data.RANDOM:
        return Found(problem.random, problem.random)
    return Found(data.lowest_found(key, prompt, name, program), problem.random)
