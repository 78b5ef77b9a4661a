"""Splits, folds, near-duplicates and digests, as any task of labelled texts makes them."""

from pathlib import Path

import pytest

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
