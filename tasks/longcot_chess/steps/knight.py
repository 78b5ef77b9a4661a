"""The least number of moves in which a knight touches squares of a large board, with proof.

The distances of squares come from breadth-first search. The order of the squares is an open travelling-salesman
problem: an integer program with a binary variable for each pair of squares, which HiGHS solves (`scipy.optimize.milp`).
Constraints against closed subtours (Dantzig, Fulkerson and Johnson 1954, eq. 5) are added as they are broken. What is
returned is the optimum, and not a bound.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse.csgraph import connected_components

SIZE = 100
"""Squares of a side of the board."""
JUMPS = ((1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2))

Square = tuple[int, int]


def is_step(here: Square, there: Square) -> bool:
    """Whether a knight goes from one square to the other in one move."""
    return (there[0] - here[0], there[1] - here[1]) in JUMPS


@lru_cache(maxsize=4096)
def distances(start: Square) -> np.ndarray:
    """The least number of moves from a square to each, (SIZE, SIZE) integers."""
    found = np.full((SIZE, SIZE), -1)
    frontier = np.zeros((SIZE + 4, SIZE + 4), bool)  # with a margin of two, which no jump leaves
    frontier[start[0] + 2, start[1] + 2] = True
    moves = 0
    while frontier.any():
        found[frontier[2:-2, 2:-2]] = moves
        shifted = [frontier[2 + x : SIZE + 2 + x, 2 + y : SIZE + 2 + y] for x, y in JUMPS]
        reached = np.logical_or.reduce(shifted) & (found < 0)
        frontier = np.zeros_like(frontier)
        frontier[2:-2, 2:-2] = reached
        moves += 1
    return found


def matrix(squares: Sequence[Square]) -> np.ndarray:
    """The least number of moves between each two of these squares, (N, N)."""
    columns = tuple(np.array(squares).T)
    return np.array([distances(square)[columns] for square in squares])


def greedy(start: Square, targets: Sequence[Square]) -> int:
    """The moves of a knight that always goes to the nearest target that is left."""
    left, here, moves = list(targets), start, 0
    while left:
        there = min(left, key=lambda square: int(distances(here)[square]))
        moves += int(distances(here)[there])
        left.remove(there)
        here = there
    return moves


@lru_cache(maxsize=1024)
def optimum(start: Square, targets: tuple[Square, ...]) -> int:
    """The least number of moves in which a knight that starts there touches all targets, in any order."""
    nodes = [start, *dict.fromkeys(target for target in targets if target != start)]
    if len(nodes) <= 2:
        return int(matrix(nodes).max())
    # a further node, next to which the start must lie, and all others may for nothing, makes the path a tour
    count = len(nodes) + 1
    pairs = list(combinations(range(count), 2))
    between = matrix(nodes)
    cost = np.array([0 if b == count - 1 else between[a, b] for a, b in pairs], float)
    rows = [node for pair in pairs for node in pair]
    degree = sparse.csr_array((np.ones(2 * len(pairs)), (rows, np.repeat(np.arange(len(pairs)), 2))))
    least = np.array([float(pair == (0, count - 1)) for pair in pairs])
    constraints = [LinearConstraint(degree, 2, 2)]
    whole = False  # fractions first: they are cheap, and show most of the constraints that are needed
    while True:
        solved = milp(cost, constraints=constraints, bounds=Bounds(least, 1), integrality=np.full(len(pairs), whole))
        if not solved.success:
            raise RuntimeError(f"HiGHS found no tour: {solved.message}")
        chosen = [pair for pair, value in zip(pairs, solved.x, strict=True) if value > 1e-6]
        graph = sparse.csr_array((np.ones(len(chosen)), tuple(np.array(chosen).T)), shape=(count, count))
        parts, part = connected_components(graph, directed=False)
        if parts == 1 and whole:
            return round(float(solved.fun))
        if parts == 1:
            whole = True
            continue
        inside = np.array([[part[a] == one == part[b] for a, b in pairs] for one in range(parts)], float)
        constraints.append(LinearConstraint(inside, -np.inf, np.bincount(part) - 1))
