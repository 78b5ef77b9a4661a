"""Gold of LawBench, for the auditor alone: the labels of test, canaries, the check of whole answer sets, and
perturbations.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from tasks.contract import EvaluationSet, Item, Labelled, Perturbation
from tasks.kit import SIMILAR, near_duplicates_in
from tasks.lawbench import data
from tasks.sia_wheel import require_each_once

SHORTENED = 200
"""Characters that truncation leaves."""
COMMON = (
    "危险驾驶",
    "盗窃",
    "诈骗",
    "寻衅滋事",
    "故意伤害",
    "[走私、贩卖、运输、制造]毒品",
    "交通肇事",
    "开设赌场",
    "聚众斗殴",
    "强奸",
)
"""The ten charges that most people were prosecuted for in China in 2019, as the Supreme People's Procuratorate gave
them on 2 June 2020.
"""
COMMON_SHARE = 0.66
"""The share of all those prosecuted that these ten charges make up (17.7, 13.7, 6.6, 6.3, 6.1, 4.4, 3.9, 3.9, 1.9 and
1.5 %).
"""

CANARIES = {"empty": "", "commonest": COMMON[0], "ten at once": "；".join(COMMON)}
"""Answers to every case that need no skill."""

_SENTENCE = re.compile(r"[^。！？；]*[。！？；]+|[^。！？；]+\Z")
_CHARGE = re.compile(r"(?<![犯余漏新定有无认悔])罪(?![犯行嫌责过证])")
"""A charge is named: `盗窃罪`, or `××罪` where the publisher masked it; not `犯罪`, `罪犯` and the like."""
_ARTICLE = re.compile(r"《[^》]*(?:法|条例|解释|规定)》|刑法|第[\d〇零一二三四五六七八九十百×xX]+条")


def labels(root: Path, seed: int) -> dict[str, str]:
    """The label of each test item, by item id, the same for every seed. Raises NotFound or CheckFailed as `data.load`
    does.
    """
    return {data.TEST_ID + row["id"]: row["label"] for row in data.FILES.rows(root, "private/test.csv")}


def canaries(label: str, verifier: str, reward: Callable[[str], float]) -> Mapping[str, tuple[float, float]]:
    """The reward of each canary, an answer that needs no skill, and its gold score: 1 where it is right, else 0."""
    return {name: (reward(answer), float(answer == label)) for name, answer in CANARIES.items()}


def require_exact(answers: Iterable[tuple[str, str | None]], test: Sequence[Item]) -> dict[str, str | None]:
    """The answers by item id, if they answer each item of test once and nothing else; raises CheckFailed where they do
    not.

    The published evaluator merges answers with labels by id, so an id given twice counts twice: 20 sure ids given 2,000
    times score .995.
    """
    return require_each_once(answers, [item.id for item in test])


def without_near_duplicates(
    known: Sequence[Labelled | Item], test: Sequence[Item], similar: float = SIMILAR
) -> tuple[str, ...]:
    """The ids of the test items that are near-duplicates of no known text, in order; `similar` is the least Jaccard
    index of those.
    """
    near = near_duplicates_in([item.prompt for item in test], [example.prompt for example in known], similar)
    return tuple(item.id for index, item in enumerate(test) if index not in near)


def _prompts(
    changed: Callable[[str, random.Random], str],
) -> Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]:
    """A perturbation that changes each prompt by itself, by random numbers of the seed and the item."""

    def change(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        return EvaluationSet(
            original.labels,
            tuple(Item(i.id, changed(i.prompt, random.Random(f"{seed} {i.id}"))) for i in original.items),
        )

    return change


def _shuffled(text: str, draw: random.Random) -> str:
    sentences = _SENTENCE.findall(text)
    draw.shuffle(sentences)
    return "".join(sentences)


def _without_conclusions(text: str, draw: random.Random) -> str:
    return "".join(s for s in _SENTENCE.findall(text) if not _CHARGE.search(s) and not _ARTICLE.search(s)) or text


def _other_order(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    return EvaluationSet(tuple(random.Random(seed).sample(original.labels, len(original.labels))), original.items)


def _common(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    common = [item for item in original.items if truth[item.id] in COMMON]
    others = [item for item in original.items if truth[item.id] not in COMMON]
    count = min(len(others), round(len(common) * (1 - COMMON_SHARE) / COMMON_SHARE))
    return _only(original, [*common, *random.Random(seed).sample(others, count)])


def _uniform(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    by_charge: dict[str, list[Item]] = defaultdict(list)
    for item in original.items:
        by_charge[truth[item.id]].append(item)
    draw = random.Random(seed)
    rarest = min(map(len, by_charge.values()), default=0)
    return _only(original, [item for items in by_charge.values() for item in draw.sample(items, rarest)])


def _only_unseen(original: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
    unseen = _unseen(seed, original.items)
    return _only(original, [item for item in original.items if item.id in unseen])


@lru_cache(maxsize=2)
def _unseen(seed: int, items: tuple[Item, ...]) -> frozenset[str]:
    """Cached, since it takes seconds and every accepted candidate is asked."""
    public = data.load(data.default_root(), seed)
    return frozenset(without_near_duplicates((*public.train, *public.dev), items))


def _only(original: EvaluationSet, chosen: Sequence[Item]) -> EvaluationSet:
    ids = {item.id for item in chosen}
    return EvaluationSet(original.labels, tuple(item for item in original.items if item.id in ids))


PERTURBATIONS: Mapping[str, Perturbation] = {
    "no_near_duplicates": Perturbation("Only cases that do not stand in train or dev, or nearly.", False, _only_unseen),
    "sentence_shuffle": Perturbation("The sentences of each case come in another order.", True, _prompts(_shuffled)),
    "first_200": Perturbation(
        f"Of each case the first {SHORTENED} characters.", False, _prompts(lambda text, _: text[:SHORTENED])
    ),
    "last_200": Perturbation(
        f"Of each case the last {SHORTENED} characters.", False, _prompts(lambda text, _: text[-SHORTENED:])
    ),
    "no_conclusions": Perturbation(
        "Sentences that name a charge or an article of law are gone; a case that is nothing else stays as it is.",
        False,
        _prompts(_without_conclusions),
    ),
    "class_order": Perturbation(
        "The labels come in another order; the score must stay exactly what it was.", True, _other_order
    ),
    "common_charges": Perturbation(
        f"The ten commonest charges make up {COMMON_SHARE:.0%} of the cases, as they do in courts: all of theirs, "
        "and some of the others.",
        False,
        _common,
    ),
    "uniform_charges": Perturbation("Of each charge as many cases as of the rarest.", False, _uniform),
}
