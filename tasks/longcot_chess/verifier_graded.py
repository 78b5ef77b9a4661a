"""A further judge, which gives part of the reward for an answer that is near: `--verifier graded`.

A knight's number or path earns the share of the least number in it, and a number below the least nothing. A line earns
the share of its moves that agree with the best line before the first that does not.
"""

import msgspec

from tasks.contract import Item, Scored

from . import notation, verifier

VERSION = "graded-1"
OUTCOMES = verifier.OUTCOMES


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """As the exact verifier, with part of the reward where that one says wrong."""
    exact = verifier.score(item, answer, label)
    if exact.outcome != "wrong":
        return exact
    text = notation.solution(answer)
    if notation.knight_problem(item.prompt):
        steps = notation.path(text)
        number = len(steps) - 1 if steps else notation.number(text) or 0
        least = int(label or 0)
        return msgspec.structs.replace(exact, reward=least / number if number > least else 0.0)
    board, words = notation.position(item.prompt), notation.moves(text)
    if board is None or words is None:
        return exact
    pairs = zip(notation.line(board, words), notation.line(board, (label or "").split()), strict=True)
    agreeing = next((index for index, (mine, best) in enumerate(pairs) if mine != best), notation.MOVES)
    return msgspec.structs.replace(exact, reward=agreeing / notation.MOVES)
