"""The learning algorithms by name. Whoever trains looks one up here and knows none of them."""

import importlib

from algorithms.learning.batch import Algorithm

NAMES = ("best_of_n", "dpo", "dr_grpo", "entropic", "grpo", "ppo", "reinforce", "rloo", "spin", "star", "test_time", "ttrl")
"""The algorithms there are; each is a module of this package."""


def algorithm(name: str) -> Algorithm:
    """The algorithm `name`; raises KeyError, naming the known ones. Imports torch."""
    if name not in NAMES:
        raise KeyError(f"There is no learning algorithm {name!r}; the known ones are {', '.join(NAMES)}.")
    found: Algorithm = importlib.import_module(f"algorithms.learning.{name}").ALGORITHM
    return found
