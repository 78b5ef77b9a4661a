"""Made-up data folders in the formats of the sia-agent wheel's tasks, small enough to load in an instant."""

import csv
import hashlib
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tasks.contract import Example, Item, Public
from tasks.gpqa import data as gpqa

DOMAINS = ("Biology", "Chemistry", "Physics")
FENS = {
    "best_3_moves_hard_1": ("6k1/5ppp/8/8/8/8/8/R3R1K1 w - - 0 1", ["Kh1", "Kh8", "Ra8#"]),
    "best_3_moves_hard_2": ("8/8/4k2K/1pp5/3pP1P1/pP6/P1P5/8 b - - 0 38", ["c4", "bxc4", "bxc4"]),
    "best_3_moves_hard_3": ("8/P7/8/8/8/8/k7/7K w - - 0 1", ["a8=Q+", "Kb2", "Kg2"]),
    "best_3_moves_hard_4": ("8/8/8/8/8/2k5/8/K6R w - - 0 1", ["Rh3+", "Kd4", "Kb2"]),
}
KNIGHTS = 12


def gpqa_rows() -> list[dict[str, Any]]:
    """Thirty questions with four options, the right one of which is the longest in every third."""
    draw = random.Random(0)
    rows = []
    for number in range(30):
        words = draw.sample([f"{letter}{index}" for letter in "qwertz" for index in range(40)], 40)
        options = {letter: " ".join(words[8 * index : 8 * index + 4]) for index, letter in enumerate("ABCD")}
        right = "ABCD"[number % 4]
        if number % 3 == 0:
            options[right] += " at great length"
        rows.append(
            {
                "id": number + 1,
                "domain": DOMAINS[number % 3],
                "subdomain": "made up",
                "Question": f"Which of these goes with {' '.join(words[32:])}?\nIt is number {number}.",
                "options": options,
                "correct_answer": options[right],
                "correct_answer_letter": right,
                "Explanation": "",
            }
        )
    return rows


def install_gpqa(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write GPQA's stand-in under `root`, and let the task expect its checksums."""
    rows = gpqa_rows()
    hidden = ("correct_answer", "correct_answer_letter", "Explanation")
    shown = [{key: value for key, value in row.items() if key not in hidden} for row in rows]
    return _install(gpqa, {gpqa.QUESTIONS: json.dumps(shown), gpqa.ANSWERS: json.dumps(rows)}, root, patch)


def install_chess(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Write the stand-in of LongCoT chess under `root`: knights with two targets each, and four positions."""
    from tasks.longcot_chess import data
    from tasks.longcot_chess.steps.knight import distances

    draw = random.Random(0)
    problems: list[dict[str, Any]] = []
    answers: dict[str, str | list[str]] = {}
    for number in range(1, KNIGHTS + 1):
        start, *targets = [(draw.randrange(100), draw.randrange(100)) for _ in range(3)]
        prompt = (
            "There is a chess board of size 100x100 and certain target squares.\n\n"
            f"Starting Postion: {start}\nTarget Squares: {targets}\n\n"
            "Return your answer in the format: solution = <integer>"
        )
        id = f"knight_path_hard_{number}"
        problems.append({"question_id": id, "prompt": prompt, "problem": {"template": "knight_path"}})
        first, second = distances(start), distances(targets[0])
        answers[id] = str(int(second[targets[1]] + min(first[targets[0]], first[targets[1]])))
    for id, (fen, line) in FENS.items():
        prompt = (
            f"You are given a chess position using this FEN: {fen}\nGive the 3 best next moves in this position using "
            "the Standard Algebraic Notation (SAN) format. Return your answer in the format: solution = [move1, move2, "
            "move3]"
        )
        problems.append({"question_id": id, "prompt": prompt, "problem": {"template": "best_3_moves"}})
        answers[id] = line
    return _install(data, {data.PROBLEMS: json.dumps(problems), data.ANSWERS: json.dumps(answers)}, root, patch)


def install_titanic(root: Path, patch: pytest.MonkeyPatch, passengers: int = 300) -> Path:
    """Write the stand-in of Spaceship Titanic under `root`: those who slept were taken, most often."""
    from tasks.spaceship_titanic import data

    draw = random.Random(0)
    rows: list[dict[str, str]] = []
    group, member = 0, 1
    for _ in range(passengers):
        group, member = (group, member + 1) if rows and draw.random() < 0.3 else (group + 1, 1)
        asleep = draw.random() < 0.4
        rows.append(
            {
                "PassengerId": f"{group:04}_{member:02}",
                "HomePlanet": draw.choice(["Earth", "Europa", "Mars", ""]),
                "CryoSleep": str(asleep),
                "Cabin": f"{draw.choice('ABCDEFG')}/{draw.randrange(2000)}/{draw.choice('PS')}",
                "Destination": "TRAPPIST-1e",
                "Age": str(float(draw.randrange(80))),
                "VIP": "False",
                **{name: "0.0" if asleep else str(float(draw.randrange(900))) for name in data.COLUMNS[6:11]},
                "Name": f"{draw.choice(['Ada', 'Ben'])} {draw.choice(['Quill', 'Rook', 'Sand'])}{group % 60}",
                "Transported": str(asleep ^ (draw.random() < 0.1)),
            }
        )
    draw.shuffle(rows)
    return _install(data, {data.TRAIN: _csv(rows[30:]), data.TEST: _csv(rows[:30])}, root, patch)


def everything(public: Public) -> list[Item | Example]:
    """The items of all splits."""
    return [*public.train, *public.dev, *public.test]


def _install(task: ModuleType, files: dict[str, str], root: Path, patch: pytest.MonkeyPatch) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    checksums = {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files}
    patch.setattr(task, "FILES", msgspec.structs.replace(task.FILES, checksums=checksums))
    patch.setattr(task, "default_root", lambda: root)
    return root


def _csv(rows: list[dict[str, str]]) -> str:
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
