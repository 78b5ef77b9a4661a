"""What needs no agent: a knight that goes to the nearest square, the exact solver, and a short search for moves."""

from collections.abc import Callable, Sequence

from tasks.contract import Item, Public

from . import notation
from .steps import knight, search


def nearest(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The moves of a knight that always goes to the nearest target; of positions, the first legal line."""
    return _answers(items, lambda problem: knight.greedy(problem.start, problem.targets), depth=0)


def solver(public: Public, items: Sequence[Item]) -> dict[str, str]:
    """The least number of moves, with proof; of positions, the best line of a search three moves deep.

    It takes about a second an item.
    """
    return _answers(items, lambda problem: knight.optimum(problem.start, problem.targets), depth=3)


def _answers(items: Sequence[Item], moves: Callable[[notation.KnightProblem], int], depth: int) -> dict[str, str]:
    answers = {}
    for item in items:
        problem, board = notation.knight_problem(item.prompt), notation.position(item.prompt)
        if problem:
            answers[item.id] = f"solution = {moves(problem)}"
        elif board:
            answers[item.id] = f"solution = [{', '.join(search.best_line(board, depth))}]"
    return answers


BASELINES = {"the nearest target, the first legal line": nearest, "exact solver, search three moves deep": solver}
