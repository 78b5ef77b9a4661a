"""LawBench's files and splits: fetched once, checked by SHA-256, and divided by seed into train folds and dev."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import (
    SHINGLE,
    SIMILAR,
    cached,
    data_folder,
    near_duplicate_groups,
    public,
    split_by_label,
)
from tasks.sia_wheel import sia_files

TRAIN = "training_data/train.csv"
FILES = sia_files(
    "lawbench",
    "lawbench",
    {
        "public/classes.json": "08bb3ccd2568076b0d2ec2e062e2a25027d147bf8e9bd8337bf4156b3e3cbd88",
        "public/test.csv": "889a486485e42e131e26a910c7ad3eb8d41ce5a4bbf474862e6c563b52cc3d75",
        "private/test.csv": "ae5f0c7c65ad01e7edd8d8e98db39e50e62f84d33ad03b12147f565ab68ac60b",
        TRAIN: "aba2b6fbf1f7942d92a85520621f3ebcc4d99285e9c4beb9d3a4927cd83f9de0",
    },
)
CASE_ID, TEST_ID = "case-", "test-"
"""What ids of labelled cases and of test items begin with; the publisher's id follows."""
DEV_SHARE = 0.15
"""Dev's part of the labelled cases of each label."""


class _Split(msgspec.Struct, frozen=True):
    """For each labelled case its group, whether it is dev, and its fold (-1 in dev)."""

    groups: list[int]
    dev: list[bool]
    folds: list[int]


def default_root() -> Path:
    """Where the files live on this machine."""
    return data_folder("lawbench")


def get(root: Path, source: Path | None = None) -> None:
    """Put the four files under `root`, from `source` or by pip; raises as `PublishedFiles.get` does."""
    FILES.get(root, source)


def load(root: Path, seed: int) -> Public:
    """What the loop may see: labels, train with labels and folds, dev and test without labels.

    The seed divides the labelled cases; test is the same for every seed. Raises NotFound where a file is missing, and
    CheckFailed where one is not as published.
    """
    labels = tuple(json.loads(FILES.read(root, "public/classes.json")))
    cases = FILES.rows(root, TRAIN)
    parts = _parts(root, seed, cases)
    train = tuple(
        Example(CASE_ID + c["id"], c["text"], c["label"], parts.folds[i], str(parts.groups[i]))
        for i, c in enumerate(cases)
        if not parts.dev[i]
    )
    dev = tuple(Item(CASE_ID + c["id"], c["text"]) for c, is_dev in zip(cases, parts.dev, strict=True) if is_dev)
    test = tuple(Item(TEST_ID + c["id"], c["text"]) for c in FILES.rows(root, "public/test.csv"))
    return public("lawbench", labels, train, dev, test)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev by item id, for the verifier.

    They are the same for every seed; those of test are in `gold.py`.
    """
    return {CASE_ID + c["id"]: c["label"] for c in FILES.rows(root, TRAIN)}


def _parts(root: Path, seed: int, cases: Sequence[Mapping[str, str]]) -> _Split:
    """The split of a seed.

    The groups of near-duplicates, which take seconds, and each split are cached in files among the data.
    """
    source = f"{FILES.checksums[TRAIN]} {SHINGLE} {SIMILAR}"
    groups = cached(root / "groups.json", source, list[int], lambda: near_duplicate_groups([c["text"] for c in cases]))

    def divide() -> _Split:
        return _Split(groups, *split_by_label([c["label"] for c in cases], groups, seed, DEV_SHARE, FOLDS))

    return cached(root / f"split-{seed}.json", f"{source} {seed} {DEV_SHARE} {FOLDS}", _Split, divide)
