"""The learning algorithms by name. Whoever trains looks one up here and knows none of them."""

import importlib

from algorithms.learning.batch import Algorithm

_MODULES = {"best_of_n": "algorithms.learning.best_of_n", "grpo": "algorithms.learning.grpo"}


def names() -> tuple[str, ...]:
    """The algorithms there are."""
    return tuple(sorted(_MODULES))


def algorithm(name: str) -> Algorithm:
    """The algorithm `name`; raises KeyError, naming the known ones. Imports torch."""
    if name not in _MODULES:
        raise KeyError(f"There is no learning algorithm {name!r}; the known ones are {', '.join(names())}.")
    found: Algorithm = importlib.import_module(_MODULES[name]).ALGORITHM
    return found
