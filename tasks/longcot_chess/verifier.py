"""The reward that a run learns from: the least number of moves, or the best line, exactly."""

from tasks.contract import Item, Scored

from . import notation

VERSION = "exact-1"
OUTCOMES = {
    "right": "the number is the least, or the line is the best one",
    "wrong": "the number is another, the path is longer, or the line is legal and another",
    "unparsed": "no answer of the form that is asked for could be read",
    "illegal": "a move or a step of the answer is not legal, or a sign of check or mate is not true",
}


def score(item: Item, answer: str | None, label: str | None) -> Scored:
    """1 for the right answer, else 0.

    A knight's problem is answered by a number, or by the squares of a path, which is checked step by step. A line is
    played move by move: each must be legal where it is played. Two ways to write a move are the same move.
    """
    text = notation.solution(answer)
    if problem := notation.knight_problem(item.prompt):
        return _score_knight(problem, text, int(label or 0))
    return _score_line(item, text, (label or "").split())


def _score_knight(problem: notation.KnightProblem, text: str, least: int) -> Scored:
    steps = notation.path(text)
    if steps is None:
        number = notation.number(text)
        if number is None:
            return Scored(0.0, "unparsed", "expected a whole number of moves, as in solution = 218")
        if number == least:
            return Scored(1.0, "right")
        return Scored(
            0.0, "wrong", f"{number} is {'more' if number > least else 'less'} than the least number of moves"
        )
    if fault := notation.path_fault(problem, steps):
        return Scored(0.0, "illegal", fault)
    if len(steps) - 1 <= least:
        return Scored(1.0, "right")
    return Scored(0.0, "wrong", f"the path has {len(steps) - 1} moves, more than the least number")


def _score_line(item: Item, text: str, best: list[str]) -> Scored:
    board, words = notation.position(item.prompt), notation.moves(text)
    if board is None or words is None or len(words) != notation.MOVES:
        return Scored(0.0, "unparsed", "expected three moves, as in solution = [c4, bxc4, bxc4]")
    try:
        played = notation.line(board, words)
    except ValueError as wrong:
        return Scored(0.0, "illegal", str(wrong))
    wanted = notation.line(board, best)
    if played == wanted or (
        played[:-1] == wanted[:-1] and notation.mates(board, played) and notation.mates(board, wanted)
    ):
        return Scored(1.0, "right")  # of two moves that mate, one is as good as the other
    return Scored(0.0, "wrong", "the line is legal, and another is better")
