"""The learning algorithms, each a module, looked up by name. The trainer knows none of them."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from algorithms.learning.batch import Algorithm

NAMES = (
    "best_of_n",
    "dpo",
    "dr_grpo",
    "entropic",
    "grpo",
    "gspo",
    "max_rl",
    "opsd",
    "ppo",
    "reinforce",
    "rloo",
    "spin",
    "star",
    "test_time",
    "ttrl",
)
"""The names of the algorithms."""


def algorithm(name: str) -> "Algorithm":
    """The algorithm of this name. Raises KeyError, with the known names, for another. Imports torch."""
    if name not in NAMES:
        raise KeyError(f"There is no learning algorithm {name!r}; the known ones are {', '.join(NAMES)}.")
    result: Algorithm = importlib.import_module(f"algorithms.learning.{name}").ALGORITHM
    return result
