"""Reads problems and answers of LongCoT chess: squares of a knight's path, and moves of a line, by python-chess."""

import re
from collections.abc import Sequence
from itertools import pairwise

import chess
import msgspec

from .steps.knight import SIZE, Square, is_step

MOVES = 3
"""Moves of an answered line."""
_KNIGHT = re.compile(r"Starting Pos\w+: (\(.*?\))\s*Target Squares: \[(.*?)\]", re.DOTALL)
_FEN = re.compile(r"FEN: ([^\n]+?)\s*$", re.MULTILINE)
_SQUARE = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")
_SOLUTION = re.compile(r"\s*(?:solution\s*=)?\s*(.*?)\s*", re.DOTALL)
_PATH = re.compile(rf"\[\s*{_SQUARE.pattern}(?:\s*,\s*{_SQUARE.pattern})*\s*\]".replace("(\\d{1,3})", "\\d{1,3}"))


class KnightProblem(msgspec.Struct, frozen=True):
    """Where a knight starts, and the squares that it must touch."""

    start: Square
    targets: tuple[Square, ...]


def knight_problem(prompt: str) -> KnightProblem | None:
    """The knight's problem that a prompt states; None for another prompt."""
    match = _KNIGHT.search(prompt)
    if not match:
        return None
    (start,), targets = squares(match[1]), squares(match[2])
    return KnightProblem(start, tuple(targets))


def position(prompt: str) -> chess.Board | None:
    """The position that a prompt gives in FEN; None for another prompt."""
    match = _FEN.search(prompt)
    return chess.Board(match[1]) if match else None


def squares(text: str) -> list[Square]:
    """The squares in a text such as "(1, 2), (3, 4)"."""
    return [(int(x), int(y)) for x, y in _SQUARE.findall(text)]


def solution(answer: str | None) -> str:
    """What follows `solution =` in an answer that is nothing else, or the answer itself."""
    match = _SOLUTION.fullmatch(answer or "")
    return match[1] if match else ""


def number(text: str) -> int | None:
    """A whole number of moves; None for anything else."""
    return int(text) if re.fullmatch(r"\d{1,6}", text, re.ASCII) else None


def path(text: str) -> list[Square] | None:
    """The squares of a list such as "[(1, 2), (3, 3)]"; None for anything else."""
    return squares(text) if _PATH.fullmatch(text) else None


def path_fault(problem: KnightProblem, steps: Sequence[Square]) -> str:
    """Why these squares are no knight's path from the start over all targets, in a sentence; empty where they are."""
    if steps[0] != problem.start:
        return f"the path begins at {steps[0]}, and the knight at {problem.start}"
    for here, there in pairwise(steps):
        if not all(0 <= coordinate < SIZE for coordinate in there):
            return f"{there} is no square of the board"
        if not is_step(here, there):
            return f"no knight goes from {here} to {there}"
    if left := set(problem.targets) - set(steps):
        return f"{len(left)} targets are not touched, such as {min(left)}"
    return ""


def moves(text: str) -> list[str] | None:
    """The moves of a list such as "[c4, bxc4, bxc4]", with or without brackets and quotes; None for anything else."""
    inner = text[1:-1] if text[:1] + text[-1:] == "[]" else text
    words = [word.strip("\"'") for word in re.split(r"[,\s]+", inner.strip())]
    return words if all(re.fullmatch(r"[\w=+#-]{2,9}", word, re.ASCII) for word in words) else None


def line(board: chess.Board, words: Sequence[str]) -> list[chess.Move]:
    """The moves of a line in SAN, each played after those before it.

    Raises ValueError for a move that is not legal there, and for a sign of check or mate that is not true.
    """
    board, played = board.copy(stack=False), []
    for word in words:
        move = board.parse_san(word)
        board.push(move)
        if word.endswith("#") and not board.is_checkmate():
            raise ValueError(f"{word} is no mate")
        if word.endswith("+") and not board.is_check():
            raise ValueError(f"{word} gives no check")
        played.append(move)
    return played


def mates(board: chess.Board, played: Sequence[chess.Move]) -> bool:
    """Whether the last of these moves mates."""
    board = board.copy(stack=False)
    for move in played:
        board.push(move)
    return board.is_checkmate()


def restated(prompt: str, problem: KnightProblem) -> str:
    """A knight's prompt with another start and other targets, in the same words."""
    match = _KNIGHT.search(prompt)
    if not match:
        return prompt
    targets = ", ".join(map(str, problem.targets))
    return (
        prompt[: match.start(1)]
        + str(problem.start)
        + prompt[match.end(1) : match.start(2)]
        + targets
        + prompt[match.end(2) :]
    )
