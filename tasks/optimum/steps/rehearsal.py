"""Puts the program first that does best on functions of the item's kind that the scaffold draws for itself."""

from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from searching import functions, search

REHEARSALS = 12


def keep(item: Any, programs: list[str]) -> list[str]:
    """The programs that can be read, by the mean regret on the scaffold's own functions, in their scale."""
    kind, dimension = item.prompt.split()
    found = []
    for program in dict.fromkeys(programs):
        try:
            found.append((mean_regret(kind, int(dimension), search.parse(program)), program))
        except ValueError:
            continue
    return [program for _, program in sorted(found, key=lambda pair: pair[0])]


@lru_cache(maxsize=4096)
def mean_regret(kind: str, dimension: int, program: Any) -> float:
    """On REHEARSALS functions, the same for every program."""
    regrets = []
    for number in range(REHEARSALS):
        draw = np.random.default_rng([number, dimension])
        function = functions.drawn(draw, kind, dimension)
        regrets.append(
            (search.best_value(function.values, dimension, program, draw) - function.lowest) / function.scale
        )
    return fmean(regrets)
