"""Gold of the loop's own answers to dev, and what the auditor says of gold itself."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from events.errors import Misconfigured
from events.gold import DESCRIPTION, DevAnswersScored, GoldDescribed, GoldFailed
from runtime.effects.scoring import in_process
from services.auditor import dev_answers
from tasks.loading import Task, load
from tests.harness.paths import TOY

HOLED = """
from tasks.contract import Scored

VERSION = "holed-1"


def score(answer, label):
    return Scored(1.0, "right") if answer in (label, "miner") else Scored(0.0, "wrong")
"""


def toy(folder: Path, gold: str = "", groups: bool = False) -> Task:
    """The toy task with more in its gold.py, and, if wanted, with dev and test in groups of two."""
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "gold.py").open("a") as file:
        file.write(f"\n\n{gold}\n")
    return load(str(folder))


def audit_of(task: Task) -> Any:
    public = task.public(0)
    items = {item.id: item for item in (*public.dev, *public.test)}
    loaded = SimpleNamespace(
        task=task,
        public=public,
        started=SimpleNamespace(seed=0),
        items=lambda ids: {id: items[id] for id in ids},
    )
    labels = {**task.labels(0), **task.gold(0)}
    host = SimpleNamespace(scorer=in_process)
    return SimpleNamespace(loaded=loaded, labels=labels, host=host, ask_judge=lambda measure: None)


def described(task: Task) -> GoldDescribed:
    fact = dev_answers._described(audit_of(task))
    assert isinstance(fact, GoldDescribed), fact
    return fact


def test_gold_is_the_runs_verifier_only_where_both_are_the_same_code(tmp_path: Path) -> None:
    own = load(str(TOY))
    assert described(own).own and not described(own.with_verifier(HOLED, "holed.py")).own
    same = (TOY / "verifier.py").read_text()
    assert described(own.with_verifier(same, "same.py")).own, "it was given by its text"
    apart = "def score(item, answer, label):\n    return float(answer == label)"
    assert not described(toy(tmp_path / "apart", apart)).own
    borrowed = toy(tmp_path / "borrowed", "from .verifier import score")
    assert described(borrowed).own, "another name for the same function"


@pytest.mark.parametrize(
    ("gold", "reliability"),
    [
        ("", -1.0),
        ("RELIABILITY = 0.8", 0.8),
        ("RELIABILITY = 0", 0.0),
        ("def second_labels(root, seed):\n    return labels(root, seed)", 1.0),
        ("def second_labels(root, seed):\n    return {}", -1.0),
        ("def second_labels(root, seed):\n    return dict.fromkeys(list(labels(root, seed))[:2], 'x')", -1.0),
    ],
)
def test_golds_reliability_is_stated_or_estimated_from_second_labels(
    tmp_path: Path, gold: str, reliability: float
) -> None:
    assert described(toy(tmp_path / "toy", gold)).reliability == pytest.approx(reliability)


def test_two_labels_that_agree_half_the_time_beyond_chance_know_the_root_of_it(tmp_path: Path) -> None:
    """Every other of 40 items has another label: with many labels Cohen's kappa is near .5, and its root near .7."""
    other = """
def second_labels(root, seed):
    own = labels(root, seed)
    kinds = sorted(set(own.values()))
    return {
        item: label if number % 2 else kinds[(kinds.index(label) + 1) % len(kinds)]
        for number, (item, label) in enumerate(own.items())
    }
"""
    assert described(toy(tmp_path / "toy", other)).reliability == pytest.approx(math.sqrt(0.5), abs=0.06)


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ("RELIABILITY = 1.5", "RELIABILITY is 1.5; expected a number from 0 to 1"),
        ("def second_labels(root, seed):\n    return {'nobody': 'x'}", "expected labels by the ids of test's items"),
        ("def second_labels(root, seed):\n    raise KeyError('x')", "second_labels"),
    ],
)
def test_a_gold_that_cannot_be_described_is_recorded_as_such(tmp_path: Path, gold: str, words: str) -> None:
    fact = dev_answers._described(audit_of(toy(tmp_path / "toy", gold)))
    assert isinstance(fact, GoldFailed) and fact.cell == DESCRIPTION and words in fact.reason


def test_items_that_share_a_group_are_named_with_it() -> None:
    items: Any = [SimpleNamespace(id=id, group=group) for id, group in (("a", "g"), ("b", "g"), ("c", "h"), ("d", ""))]
    assert dev_answers._groups(items) == {"a": "g", "b": "g"}


def attempt(item: str, number: int, answer: str | None, reward: float | None) -> Any:
    return SimpleNamespace(reward=reward, recorded=SimpleNamespace(item=item, attempt=number, answer=answer))


def test_the_very_answers_that_were_rewarded_are_scored_by_gold() -> None:
    """Two attempts an item: a true label, and the hole's word that the run's verifier rewards. One has no reward."""
    task = load(str(TOY)).with_verifier(HOLED, "holed.py")
    audit = audit_of(task)
    first, second, third = (item.id for item in task.public(0).dev[:3])
    attempts = [
        attempt(first, 0, audit.labels[first], 1.0),
        attempt(first, 1, "miner", 1.0),
        attempt(second, 0, "miner", 1.0),
        attempt(second, 1, audit.labels[second], None),
        attempt(third, 0, None, 0.0),
    ]
    candidate: Any = SimpleNamespace(generation=3, candidate="c3")
    miner = float(audit.labels[second] == "miner")
    assert audit.labels[first] != "miner"
    assert dev_answers._scored(audit, candidate, attempts) == DevAnswersScored(
        generation=3, candidate="c3", scores={first: (1.0, 0.0), second: (miner,), third: (0.0,)}, unscored=0
    )


def test_an_item_that_gold_cannot_score_is_left_out(tmp_path: Path) -> None:
    broken = "def score(item, answer, label):\n    if answer == 'x':\n        raise ValueError('x')\n    return 1.0"
    audit = audit_of(toy(tmp_path / "toy", broken))
    first, second = (item.id for item in audit.loaded.public.dev[:2])
    attempts = [attempt(first, 0, "x", 1.0), attempt(first, 1, "y", 1.0), attempt(second, 0, "y", 0.0)]
    candidate: Any = SimpleNamespace(generation=1, candidate="c1")
    fact = dev_answers._scored(audit, candidate, attempts)
    assert isinstance(fact, DevAnswersScored) and (fact.scores, fact.unscored) == ({second: (1.0,)}, 1)


def test_a_reliability_that_is_no_number_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="RELIABILITY is 'much'"):
        toy(tmp_path / "toy", "RELIABILITY = 'much'").gold_reliability()
