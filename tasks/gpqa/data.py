"""GPQA's files and splits: fetched once, checked by SHA-256, and divided by seed."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tasks.contract import Item, Public
from tasks.kit import data_folder, near_duplicate_groups
from tasks.sia_wheel import sia_files, three_splits, train_and_dev_labels

LETTERS = ("A", "B", "C", "D")
"""The names of the options, which are the labels."""
QUESTIONS = "public/diamond_questions.json"
ANSWERS = "private/diamond_questions.json"
FILES = sia_files(
    "gpqa",
    "gpqa",
    {
        QUESTIONS: "b803882ce3f18caa6a00ebd4627fe7e0804f55e2118d4e61db7999651b188c56",
        ANSWERS: "53590762ddb6053fe7e8b2e475aefc400f25daa9abdc5cdc0b535e93cd535cd2",
    },
)
TEST_SHARE, DEV_SHARE = 0.4, 0.3
"""The parts of each domain that are test and dev."""
_OPTIONS = re.compile(r"(.*)\n\nA\) (.*)\nB\) (.*)\nC\) (.*)\nD\) (.*)", re.DOTALL)


def default_root() -> Path:
    """Where the files live on this machine."""
    return data_folder("gpqa")


def get(root: Path, source: Path | None = None) -> None:
    """Put the files under `root`, as `PublishedFiles.get` does."""
    FILES.get(root, source)


def load(root: Path, seed: int) -> Public:
    """All that the loop may see: answers of train alone. The seed divides the questions of each domain.

    An item's id is a digest of its question and options. Raises NotFound and CheckFailed as `PublishedFiles.read`.
    """
    rows = _rows(root, QUESTIONS)
    groups = near_duplicate_groups([row["Question"] for row in rows])
    items = [
        Item(_id(row), _prompt(row), _id(rows[group]), {}, {"domain": row["domain"]})
        for row, group in zip(rows, groups, strict=True)
    ]
    domains = [row["domain"] for row in rows]
    return three_splits("gpqa", LETTERS, items, answers(root), domains, seed, test=TEST_SHARE, dev=DEV_SHARE)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The right letters of train and dev by item id, for the verifier."""
    return train_and_dev_labels(load(root, seed), answers(root))


def answers(root: Path) -> dict[str, str]:
    """The right letter of each of the 198 questions, by item id."""
    return {_id(row): row["correct_answer_letter"] for row in _rows(root, ANSWERS)}


def parts(prompt: str) -> tuple[str, tuple[str, ...]] | None:
    """A prompt's question and its four options; None for a text that is no such prompt."""
    match = _OPTIONS.fullmatch(prompt)
    return (match[1], match.groups()[1:]) if match else None


def compose(question: str, options: tuple[str, ...]) -> str:
    """A question with four options as a prompt."""
    return "\n".join([question, "", *(f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=True))])


def _rows(root: Path, file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(FILES.read(root, file))
    return rows


def _prompt(row: dict[str, Any]) -> str:
    return compose(row["Question"], tuple(row["options"][letter] for letter in LETTERS))


def _id(row: dict[str, Any]) -> str:
    return f"gpqa-{hashlib.sha256(_prompt(row).encode()).hexdigest()[:12]}"
