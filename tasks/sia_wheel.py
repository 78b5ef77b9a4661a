"""What the tasks of the sia-agent wheel share: files out of it, three splits of few items, and whole answer sets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from events.errors import CheckFailed
from tasks.contract import FOLDS, Example, Item, Public
from tasks.kit import PublishedFiles, public, split_by_label


def sia_files(task: str, folder: str, checksums: Mapping[str, str]) -> PublishedFiles:
    """The files of a task that the wheel of sia-agent 0.6.0 has under sia/tasks/FOLDER/data."""
    return PublishedFiles(
        task=task,
        package="sia-agent==0.6.0",
        wheel="10a186ea66d83a7278d911e913fb6a964cb48a8795625814b736e220a4b56961",
        inside=f"sia/tasks/{folder}/data/",
        checksums=checksums,
    )


def three_splits(
    name: str,
    names: Sequence[str],
    items: Sequence[Item],
    labels: Mapping[str, str],
    kinds: Sequence[str],
    seed: int,
    *,
    test: float,
    dev: float,
) -> Public:
    """A task whose items are divided into train, dev and test by seed.

    `names` are those of all labels, `labels` the true ones by item id. `kinds` are of each item: each kind keeps its
    shares, `test` and `dev`. A group is never divided. The same arguments give the same splits.
    """
    groups = [item.group or item.id for item in items]
    in_test, _ = split_by_label(kinds, groups, seed, test, 1)
    rest = [index for index, is_test in enumerate(in_test) if not is_test]
    in_dev, folds = split_by_label(
        [kinds[index] for index in rest], [groups[index] for index in rest], seed, dev / (1 - test), FOLDS
    )
    train = [
        Example(item.id, item.prompt, labels[item.id], fold, groups[index], item.files, item.metadata)
        for index, is_dev, fold in zip(rest, in_dev, folds, strict=True)
        if not is_dev
        for item in (items[index],)
    ]
    return public(
        name,
        names,
        train,
        [items[index] for index, is_dev in zip(rest, in_dev, strict=True) if is_dev],
        [item for item, is_test in zip(items, in_test, strict=True) if is_test],
    )


def train_and_dev_labels(public: Public, answers: Mapping[str, str]) -> dict[str, str]:
    """The answers that are not to test items, by item id."""
    test = {item.id for item in public.test}
    return {id: answer for id, answer in answers.items() if id not in test}


def labels_of_test(public: Public, answers: Mapping[str, str]) -> dict[str, str]:
    """The answers to test items, by item id."""
    test = {item.id for item in public.test}
    return {id: answer for id, answer in answers.items() if id in test}


def require_each_once(answers: Iterable[tuple[str, str | None]], ids: Sequence[str]) -> dict[str, str | None]:
    """The answers by item id, if they answer each of `ids` once and nothing else; raises CheckFailed where they do not.

    An evaluator that counts rows, and not items, can be had by an id that is given many times or left out.
    """
    pairs = list(answers)
    times, expected = Counter(id for id, _ in pairs), set(ids)
    owed = f"expected each of the {len(expected):,} ids once; answer those again"
    if repeated := [id for id, count in times.items() if count > 1]:
        worst = max(repeated, key=lambda id: times[id])
        raise CheckFailed(
            f"{len(repeated):,} ids are answered more than once, such as {worst!r} {times[worst]:,} times; {owed}."
        )
    if unknown := [id for id in times if id not in expected]:
        raise CheckFailed(f"{len(unknown):,} ids are none of those asked, such as {unknown[0]!r:.60}; {owed}.")
    if missing := [id for id in ids if id not in times]:
        raise CheckFailed(f"{len(missing):,} ids have no answer, such as {missing[0]!r}; {owed}.")
    return dict(pairs)
