"""LongCoT chess: its files and splits, fetched once, checked by SHA-256, and divided by seed."""

import json
import random
from pathlib import Path
from typing import Any

from tasks.contract import Item, Public
from tasks.kit import data_folder
from tasks.longcot_chess import notation
from tasks.sia_wheel import sia_files, three_splits, train_and_dev_labels

PROBLEMS, ANSWERS = "public/chess_hard.json", "private/answers.json"
FILES = sia_files(
    "longcot-chess",
    "longcot-chess",
    {
        PROBLEMS: "1d34b4fb913f403bed0aaf945336512da2717fb1db4569695d784ff6828e1181",
        ANSWERS: "6db983b6b9d87fbbfe761727633a70d2ff85fb55d5b1b07d4109bd33b95f54ab",
    },
)
TEST_SHARE, DEV_SHARE = 0.4, 0.25
"""The parts of each kind of problem that are test and dev."""
TRACES = 3_000
"""About how many made-up questions of each kind tiny-lm is pre-trained on."""
PLIES = 120
"""The longest random game, in moves of either side."""


def default_root() -> Path:
    """Where the files live on this machine."""
    return data_folder("longcot-chess")


def get(root: Path, source: Path | None = None) -> None:
    """Put the files under `root`, as `PublishedFiles.get` does."""
    FILES.get(root, source)


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: answers of train alone. The seed divides the problems of each kind.

    Raises NotFound and CheckFailed as `PublishedFiles.read`.
    """
    problems: list[dict[str, Any]] = json.loads(FILES.read(root, PROBLEMS))
    kinds = [problem["problem"]["template"] for problem in problems]
    items = [
        Item(problem["question_id"], problem["prompt"], "", {}, {"kind": kind})
        for problem, kind in zip(problems, kinds, strict=True)
    ]
    return three_splits("longcot-chess", (), items, answers(root), kinds, seed, test=TEST_SHARE, dev=DEV_SHARE)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The answers to train and dev by item id, for the verifier."""
    return train_and_dev_labels(load(root, seed), answers(root))


def answers(root: Path) -> dict[str, str]:
    """The published answer to each of the 50 problems, by item id: a number, or three moves with spaces between."""
    published: dict[str, str | list[str]] = json.loads(FILES.read(root, ANSWERS))
    return {id: answer if isinstance(answer, str) else " ".join(answer) for id, answer in published.items()}


def traces(seed: int) -> list[tuple[str, str]]:
    """Made-up questions in the words that the reference scaffold asks a small model with, and answers of that form.

    A knight's paths are as long as those of 30 random squares tend to be. Lines of moves are legal, and random.
    """
    import chess

    draw = random.Random(seed)
    lines: list[tuple[str, list[str]]] = []
    while len(lines) < TRACES:
        board, begun = chess.Board(), len(lines)
        while not board.is_game_over() and board.ply() < PLIES:
            if draw.random() < 1 / notation.MOVES:
                lines.append((board.fen(), []))
            move = draw.choice(list(board.legal_moves))
            for _, line in lines[max(begun, len(lines) - notation.MOVES) :]:
                if len(line) < notation.MOVES:
                    line.append(board.san(move))
            board.push(move)
    moves = [(f"moves {fen}", f"solution = [{', '.join(line)}]") for fen, line in lines if len(line) == notation.MOVES]
    return [("knight 30 squares", f"solution = {round(draw.gauss(228, 15))}") for _ in moves] + moves
