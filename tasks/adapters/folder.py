"""The task folder that an adapter makes of a task from elsewhere, and how its items are split.

The folder is named by a digest of all that is in it. So it never changes, and a run that is resumed or replayed finds
the task as it was, whatever has become of the original.
"""

import hashlib
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from events.errors import NotFound
from tasks.contract import FOLDS

DEV_SHARE, TEST_SHARE = 0.25, 0.25
"""Dev's and test's part of the items where the task has no split of its own."""
LABELLED_DEV_SHARE = 0.15
"""Dev's part of the labelled items where the task has a test of its own."""
MOST_CHOICES = 20
"""Different answers that are still taken for a closed set of labels, where the task names none."""
REPETITION = 3
"""How often an answer of a closed set occurs, on average, at least."""
MOST_DEV, MOST_FOLD = 400, 120
"""Items of dev, and of a fold of train, at most: eight attempts at a fold are one submission, and one batch of events.
"""
TRACES, TRACE_LENGTH = 2000, 120
"""Pairs that tiny-lm is pre-trained on, and characters of a piece of a prompt in one."""


class Split(NamedTuple):
    """Where an item lies: `train` in one fold, or `dev` or `test`, for which the fold is -1. What train has no room for
    is `spare`: an example with its label, and no item.
    """

    name: str
    fold: int


T = TypeVar("T")
Spec = TypeVar("Spec")
Entry = TypeVar("Entry")
Answer = TypeVar("Answer")


class Contents(NamedTuple, Generic[Spec, Entry, Answer]):
    """What a task's folder holds: what was found out about the original, its items, and their true answers by id."""

    spec: Spec
    entries: list[Entry]
    answers: dict[str, Answer]


def read(folder: Path, name: str, kind: type[T]) -> T:
    """What a JSON file of a task's folder holds; raises NotFound where it is not there."""
    try:
        return msgspec.json.decode((folder / name).read_bytes(), type=kind)
    except FileNotFoundError:
        raise NotFound(f"{folder} holds no {name}; order the run again with --from.") from None


def group_of(prompt: str) -> str:
    """The group of an item: those that ask the same share it."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def write(parent: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """The folder of these files under `parent`, for its owner alone; written unless it is there already."""
    listed = [(path, hashlib.sha256(files[path]).hexdigest()) for path in sorted(files)]
    digest = hashlib.sha256(msgspec.json.encode(listed)).hexdigest()[:12]
    folder = parent / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=parent))
    try:
        for path, content in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
        os.rename(new, folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not folder.is_dir():  # where another process was first, its folder is the same
            raise
    return folder


def shared_modules(name: str, description: str, choices: Sequence[str], module: str, summary: str) -> dict[str, str]:
    """The texts of task.py, data.py and gold.py, by path, of a task whose items `tasks.adapters.MODULE` knows;
    `summary` is what data.py says of itself. The policy picks one of the `choices`, or writes where there are none.
    """
    policy = "text-scorer" if choices else "tiny-lm"
    return {
        "task.py": f"""NAME = {name!r}
DESCRIPTION = {description!r}
POLICY = {policy!r}
GENERATIONS = 3
MAX_TOKENS = 256
""",
        "data.py": f'''"""{summary}"""

from pathlib import Path

from tasks.adapters import {module}

HERE = Path(__file__).parent


def default_root():
    """This folder holds all."""
    return HERE


def get(root, source):
    """There is nothing to fetch."""


def load(root, seed):
    """The task as the loop may see it."""
    return {module}.load(HERE, seed)


def labels(root, seed):
    """The labels of train and dev."""
    return {module}.labels(HERE, seed, "train", "dev")


def traces(seed):
    """What tiny-lm is pre-trained on."""
    return {module}.traces(HERE, seed)
''',
        "gold.py": f'''"""The labels of test."""

from pathlib import Path

from tasks.adapters import {module}


def labels(root, seed):
    """The label of each test item."""
    return {module}.labels(Path(__file__).parent, seed, "test")
''',
    }


def safe_name(text: str) -> str:
    """A task's name from any text."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:40] or "task"


def split(groups: Sequence[str], seed: int, dev: float, test: float) -> list[Split]:
    """The split of each item, from the name of its group: no group is divided.

    `dev` and `test` are shares of the items. The same arguments give the same split. There is one item at least in dev
    and train, and in test where its share is above 0, if there are as many groups.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = sorted(members)
    random.Random(f"split {seed}").shuffle(order)
    wanted = {
        "dev": max(1, min(MOST_DEV, round(dev * len(groups)))),
        "test": max(1, round(test * len(groups))) if test else 0,
    }
    found = [Split("train", -1)] * len(groups)
    filled = [0] * FOLDS
    for group in order:
        name = next((name for name, left in wanted.items() if left > 0), "train")
        fold = -1
        if name == "train":
            fold = min(range(FOLDS), key=filled.__getitem__)
            if filled[fold] + len(members[group]) > MOST_FOLD:
                name, fold = "spare", -1
            else:
                filled[fold] += len(members[group])
        else:
            wanted[name] -= len(members[group])
        for index in members[group]:
            found[index] = Split(name, fold)
    return found


def choices_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The closed set that answers come from; empty where they are too many, or too seldom the same."""
    different = sorted(set(labels))
    return tuple(different) if len(different) <= min(MOST_CHOICES, len(labels) // REPETITION) else ()


def traces(prompts: Sequence[str], labels: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """What tiny-lm is pre-trained on: pieces of prompts from anywhere, each with the answer to another one.

    Its tokenizer is trained on them too: one that saw beginnings alone has no tokens for what follows.
    """
    draw = random.Random(f"traces {seed}")
    pairs = []
    for _ in range(TRACES):
        asked, answered = draw.randrange(len(prompts)), draw.randrange(len(labels))
        if labels[asked] != labels[answered] or len(set(labels)) == 1:
            start = draw.randrange(max(1, len(prompts[asked]) - TRACE_LENGTH + 1))
            pairs.append((prompts[asked][start : start + TRACE_LENGTH], labels[answered][:TRACE_LENGTH]))
    return pairs
