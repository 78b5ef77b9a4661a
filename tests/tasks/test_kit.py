"""Splits, folds, near-duplicates and digests, as any task of labelled texts makes them."""

import hashlib
import re
import zipfile
from pathlib import Path

import msgspec
import pytest

from events.errors import CheckFailed, NotFound, UserError
from tasks import kit
from tasks.contract import Example, Item

pytest.importorskip("scipy")

TEXTS = ["abcdefghijklmnop", "abcdefghijklmnopq", "abcdefghijklmnoq", "zyxwvutsrqponmlk", "zyxwvutsrqABCDEF"]
LABELS = ["a", "a", "a", "b", "b"]


def test_near_duplicates_share_a_group_that_is_named_by_its_first_text() -> None:
    assert kit.near_duplicate_groups(TEXTS) == [0, 0, 0, 3, 4]


def test_groups_are_joined_through_a_text_between_them() -> None:
    first, last = (
        "abcdefghijklmnopqrst",
        "efghijklmnopqrstuvwxyz",
    )  # 12 shingles of 22 shared, and 8 of 26 in the test below
    middle = "cdefghijklmnopqrstuvwx"
    assert kit.near_duplicates_in([first], [middle]) == kit.near_duplicates_in([middle], [last]) == {0}
    far = "ijklmnopqrstuvwxyz0123"
    assert kit.near_duplicates_in([first], [far]) == set()
    assert kit.near_duplicate_groups([first, middle, last]) == [0, 0, 0]


def test_near_duplicates_are_found_in_other_texts_by_the_least_similarity_that_is_wanted() -> None:
    # 12 shingles against 12, of which 12, 11 of 13 and 4 of 20 are shared
    texts = ["abcdefghijklmnop", "abcdefghijklmnoq", "abcdefghABCDEFGH"]
    assert kit.near_duplicates_in(texts, ["abcdefghijklmnop"]) == {0, 1}
    assert kit.near_duplicates_in(texts, ["abcdefghijklmnop"], 0.2) == {0, 1, 2}
    assert kit.near_duplicates_in(texts, ["0123456789012345"], 0.01) == set()


@pytest.mark.parametrize("seed", range(20))
def test_a_group_is_never_divided(seed: int) -> None:
    dev, folds = kit.split_by_label(LABELS, kit.near_duplicate_groups(TEXTS), seed, 0.4, 2)
    assert len({(dev[i], folds[i]) for i in range(3)}) == 1


def test_each_label_keeps_its_share_of_dev_and_folds_are_even() -> None:
    labels = ["a"] * 40 + ["b"] * 20
    dev, folds = kit.split_by_label(labels, range(60), seed=1, share=0.25, folds=5)
    assert (sum(dev[:40]), sum(dev[40:])) == (10, 5)
    assert [fold == -1 for fold in folds] == dev
    assert [folds.count(fold) for fold in range(5)] == [9] * 5
    assert kit.split_by_label(labels, range(60), seed=1, share=0.25, folds=5) == (dev, folds)
    assert kit.split_by_label(labels, range(60), seed=2, share=0.25, folds=5) != (dev, folds)


def test_the_digest_of_a_split_is_that_of_its_json() -> None:
    assert kit.digest(()) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"  # of []
    items = (Item("i", "p"),)
    assert kit.digest(items) == kit.digest((Item("i", "p"),)) != kit.digest((Item("i", "q"),))
    assert kit.digest((Example("i", "p", "a", 0, "g"),)) != kit.digest((Example("i", "p", "a", 1, "g"),))


def test_files_of_a_task_live_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert kit.data_folder("lawbench") == Path("/c/evolog/tasks/lawbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kit.data_folder("denoise") == Path.home() / ".cache/evolog/tasks/denoise"


def test_train_and_dev_are_items_of_one_group_each_with_its_label_and_fold() -> None:
    items = [Item(f"i{n}", f"p{n}", "twins" if n < 2 else "", metadata={"n": str(n)}) for n in range(20)]
    labels = {item.id: "a" if n < 10 else "b" for n, item in enumerate(items)}
    train, dev = kit.train_and_dev(items, labels, seed=3, share=0.2)
    assert len(dev) == 4 and len(train) == 16
    assert [labels[item.id] for item in dev].count("a") == 2
    twins = [example.fold for example in train if example.group == "twins"]
    assert len(set(twins)) == 1 or [item.group for item in dev].count("twins") == 2
    (seventh,) = [example for example in train if example.id == "i7"] or [Example("i7", "p7", "a", 0, "i7")]
    assert (seventh.label, seventh.group, seventh.prompt) == ("a", "i7", "p7")
    assert kit.train_and_dev(items, labels, seed=3, share=0.2) == (train, dev)


def test_a_task_without_labels_is_divided_by_group_alone() -> None:
    items = [Item(str(n), str(n), "x" if n < 3 else "") for n in range(10)]
    train, dev = kit.train_and_dev(items, {}, seed=0, share=0.3)
    assert {example.label for example in train} == {None} and len(train) + len(dev) == 10
    assert len([item for item in dev if item.group == "x"]) in (0, 3)
    assert len({example.fold for example in train if example.group == "x"}) <= 1


def test_items_of_near_duplicate_prompts_share_the_first_ones_id_as_their_group() -> None:
    assert [item.group for item in kit.grouped(list("vwxyz"), TEXTS)] == ["v", "v", "v", "y", "z"]


def test_a_public_has_the_digest_of_each_split() -> None:
    items = (Item("i", "p"),)
    public = kit.public("t", ["a"], [], items, [])
    assert public.digests == {"train": kit.digest(()), "dev": kit.digest(items), "test": kit.digest(())}


def test_a_value_is_computed_once_for_what_it_follows_from_and_again_where_its_file_is_damaged(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute() -> list[int]:
        computed.append(0)
        return [1, 2]

    def value(source: str = "a") -> list[int]:
        return kit.cached(tmp_path / "value", source, list[int], compute)

    assert value() == value() == [1, 2] and len(computed) == 1
    assert value("b") == [1, 2] and len(computed) == 2
    whole = (tmp_path / "value").read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b"[1,", b"[7,")):
        (tmp_path / "value").write_bytes(damaged)
        assert value("b") == [1, 2]
    assert len(computed) == 5 and [path.name for path in tmp_path.iterdir()] == ["value"]
    (tmp_path / "value").unlink()
    (tmp_path / "value").mkdir()  # nothing can be kept here
    assert value() == value() == [1, 2] and len(computed) == 7


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_published_files_come_from_a_folder_a_wheel_or_the_file_itself(tmp_path: Path) -> None:
    files = kit.PublishedFiles("t", {"d/a.csv": sha256("x,y\n1,2\n")}, "p==1", "inside/")
    (tmp_path / "source/d").mkdir(parents=True)
    (tmp_path / "source/d/a.csv").write_text("x,y\n1,2\n")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as wheel:
        wheel.writestr("inside/d/a.csv", "x,y\n1,2\n")
    for source in ("source", "w.whl", "source/d/a.csv"):
        files.get(tmp_path / "root" / source, tmp_path / source)
        assert files.rows(tmp_path / "root" / source, "d/a.csv") == [{"x": "1", "y": "2"}]
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("other", "")
    with pytest.raises(NotFound, match=r"has no inside/d/a\.csv"):
        files.get(tmp_path / "none", tmp_path / "other.whl")
    known = msgspec.structs.replace(files, wheel=sha256("another"))
    with pytest.raises(CheckFailed, match="fetch that very version"):
        known.get(tmp_path / "none", tmp_path / "w.whl")
    (tmp_path / "source/d/a.csv").write_text("x,y\n1,3\n")
    with pytest.raises(CheckFailed, match="as published"):
        files.get(tmp_path / "none", tmp_path / "source")
    assert not (tmp_path / "none").exists()


def test_files_of_no_package_come_from_a_folder_alone(tmp_path: Path) -> None:
    files = kit.PublishedFiles("mine", {"a": sha256("1"), "b": sha256("2")})
    with pytest.raises(NotFound, match="of mine come from no package; give a folder holding a, b with --from"):
        files.get(tmp_path / "root")
    (tmp_path / "a").write_text("1")
    with pytest.raises(CheckFailed, match="is no file of mine; give a folder"):
        files.get(tmp_path / "root", tmp_path / "a")
    with pytest.raises(NotFound, match="a of mine is not under"):
        files.read(tmp_path / "root", "a")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "There is no file "),
        (b"text,label\nGr\xf6sse,a\n", "line 2, is no UTF-8 text"),
        (b"text,lable\nx,a\n", "has no column 'label', and those of its first line are 'text', 'lable'; name one."),
        (b"", "has no column 'text', and those of its first line are none"),
        (b"text,label\nx,a\ny\n", "line 3, has nothing in the column 'label'; fill it, or take the row out."),
        (b"text,label\n ,a\n", "line 2, has nothing in the column 'text'"),
        (b"text,label\nwell, no,a\n", "line 2, has more than 2 cells; put a text with commas in quotes."),
        (b"text,label\n\n,\n", "has no rows below its first line"),
    ],
)
def test_a_table_that_cannot_be_read_says_what_to_mend(content: bytes | None, fault: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "items.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(fault)):
        kit.table(tmp_path / "items.csv", ["text", "label"])
