"""The optimisation task: functions by hand, the budget of programs, a reward without a limit, and no label anywhere."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import kit, loading
from tasks.contract import Item
from tasks.optimum import catalogue, data, functions, gold, search, verifier
from tasks.optimum.functions import Function
from tests.harness.scaffolds import play

STOCK = "walk s2 n8 c1 r1"
RANDOM = "rand s0 n4 c0 r1"
EDITS = {edit.name: edit for edit in catalogue.EDITS}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "key").write_bytes(b"k" * kit.KEY)
    monkeypatch.setattr(data, "default_root", lambda: tmp_path)
    return tmp_path


def item(prompt: str = "rastrigin 2", name: str = "dev 0 3") -> Item:
    return Item("dev-3", prompt, metadata={"function": name})


@pytest.mark.parametrize(
    ("kind", "point", "raw"),
    [
        ("sphere", (3.0, 0.0), 9),
        ("ellipsoid", (3.0, 0.1), 9 + 1000 * 0.01),
        ("rastrigin", (1.0, 0.5), 1 + 0.25 + 20),
        ("valley", (-1.0, 1.0), 100 * (0 - 2) ** 2 + 1),
    ],
)
def test_functions_by_hand(kind: str, point: tuple[float, float], raw: float) -> None:
    function = Function(kind, np.array([0.0, 0.0]), np.eye(2), scale=2.0, lowest=-3.0)
    assert function.values(np.array([point])) == pytest.approx([-3 + 2 * math.log10(1 + raw)])


@pytest.mark.parametrize("prompt", data.PROMPTS)
def test_no_point_lies_below_the_optimum(prompt: str) -> None:
    kind, dimension = prompt.split()
    function = functions.drawn(np.random.default_rng(1), kind, int(dimension))
    assert function.values(function.place[None]) == pytest.approx([function.lowest])
    assert np.abs(function.place).max() <= functions.PLACES
    assert function.rotation @ function.rotation.T == pytest.approx(np.eye(int(dimension)))
    points = np.random.default_rng(2).uniform(-functions.BOX, functions.BOX, (1000, int(dimension)))
    assert function.values(points).min() > function.lowest


@pytest.mark.parametrize("number", range(40))
def test_a_program_keeps_its_budget_and_the_box_and_returns_the_lowest_value_it_has_seen(number: int) -> None:
    seen: list[float] = []

    def values(points: functions.Array) -> functions.Array:
        assert np.abs(points).max() <= functions.BOX
        found: functions.Array = ((points - 1) ** 2).sum(1)
        seen.extend(found.tolist())
        return found

    program = search.parse(search.drawn(random.Random(number), 5 + number % 2))
    best = search.best_value(values, 2, program, np.random.default_rng(number))
    assert search.BUDGET - 4 < len(seen) <= search.BUDGET
    assert best == min(seen)


def test_a_fifth_of_the_steps_that_are_better_keep_the_step() -> None:
    assert pytest.approx(1, abs=1e-3) == search.LARGER * search.SMALLER**4


@pytest.mark.parametrize(
    "text", ["", "walk s3 n8 c1", "walk s3 n8 c1 r1 p1 p1", "walk s9 n8 c1 r1", "s3 walk n8 c1 r1"]
)
def test_what_is_no_program_earns_nothing_and_hears_why(text: str) -> None:
    scored = verifier.score(item(), text, None)
    assert (scored.reward, scored.outcome) == (0, "unparsed") and "expected" in scored.details
    assert gold.score(item(), text, None) == 0


def test_the_reward_is_how_much_lower_than_random_search_a_program_gets(root: Path) -> None:
    problem = data.problem(kit.key(root), "rastrigin 2", "dev 0 3")
    lowest = verifier.found(item(), STOCK).lowest
    scored = verifier.score(item(), STOCK, None)
    assert scored.reward == problem.random - lowest != 0
    assert verifier.score(item(), STOCK, None) == scored  # the same to the bit
    assert f"{lowest:.4g}" in scored.details
    assert verifier.score(item(), RANDOM, None).reward == 0
    assert verifier.score(item(), RANDOM, None).outcome == "no lower"


def test_rewards_have_no_limit_and_gold_is_the_regret(root: Path) -> None:
    public = loading.load("optimum").public(0)
    rewards = [verifier.score(one, STOCK, None).reward for one in public.dev]
    assert max(rewards) > 1 and min(rewards) < 0
    for one, reward in zip(public.dev, rewards, strict=True):
        problem = data.problem(kit.key(root), one.prompt, one.metadata["function"])
        regret = problem.random - reward - problem.function.lowest
        assert gold.regret(one, STOCK, None) == pytest.approx(regret)
        expected = 1 - regret / (problem.random - problem.function.lowest)
        assert gold.score(one, STOCK, None) == pytest.approx(max(0.0, expected))
    assert gold.regret(one, "no program", None) == gold.regret(one, RANDOM, None)


def test_there_is_no_label_anywhere() -> None:
    task = loading.load("optimum")
    public = task.public(0)
    assert public.labels == () and {example.label for example in public.train} == {None}
    assert task.labels(0) == task.gold(0) == {}
    assert task.solved is None and "right" not in task.outcomes
    assert {split: len(getattr(public, split)) for split in data.SIZES} == data.SIZES
    assert {example.prompt for example in public.train} == set(data.PROMPTS)
    assert {example.fold for example in public.train} == set(range(5))


def test_the_functions_follow_from_the_key_and_the_seed(root: Path) -> None:
    first, second = data.load(root, 0), data.load(root, 1)
    assert first == data.load(root, 0)
    assert first.digests["test"] == second.digests["test"] and first.digests["dev"] != second.digests["dev"]
    key = kit.key(root)
    (root / "key").write_bytes(b"another" + key[7:])
    assert data.load(root, 0).digests["test"] != first.digests["test"]  # although the prompts are the same
    names = [one.metadata["function"] for split in (first.train, first.dev, first.test, second.train) for one in split]
    assert len(set(names)) == len(names)


def test_canaries_and_baselines() -> None:
    task = loading.load("optimum")
    public = task.public(0)
    assert task.canaries(public.test[0], None) == {"random search": (0, 0), "empty": (0, 0)}
    means = {
        name: np.mean([task.gold_score(one, answers[one.id], None) for one in public.dev])
        for name, answers in ((name, predict(public, public.dev)) for name, predict in task.baselines().items())
    }
    assert means["random search"] == 0 and min(m for name, m in means.items() if name != "random search") > 0.1


def test_a_reference_answer_is_lower_than_random_search_for_verifier_and_gold() -> None:
    items = data.load(data.default_root(), 0).dev
    given = [(item, answer) for item in items if (answer := data.reference_answer(item, None))]
    assert len(given) > len(items) - 2 and {answer for _, answer in given} <= set(data.REFERENCES)
    assert all(verifier.score(item, answer, None).outcome == "lower" for item, answer in given)
    assert all(gold.score(item, answer, None) > 0 for item, answer in given)


def test_traces_lean_to_each_tries_own_program() -> None:
    found = data.traces(0, count=3000)
    assert all(search.parse(text) for _, text in found)
    assert {prompt.rsplit(" ", 2)[0] for prompt, _ in found} == set(data.PROMPTS)
    assert {len(text.split()) for prompt, text in found if " base " in prompt} == {search.BASE}
    for number, habit in enumerate(data.HABITS):
        words = [text.split()[0] for prompt, text in found if prompt.endswith(f" {number}")]
        assert max(words, key=words.count) == habit.split()[0]


def edited(*names: str) -> dict[str, str]:
    files = loading.load("optimum").scaffold()
    for name in names:
        files = EDITS[name].apply(files)
    return files


def test_the_reference_asks_once_and_takes_no_last_walk(tmp_path: Path) -> None:
    (outcome,), asked = play(tmp_path, edited(), ["sphere 5"], lambda ask: f"{STOCK} p3")
    assert (outcome.answer, asked) == (STOCK, ["sphere 5 base 0"])


def test_a_rehearsal_finds_the_program_for_a_sphere(tmp_path: Path) -> None:
    answers = [RANDOM, "no program", f"{STOCK} p1"]
    files = edited("rehearsal", "last_walk")
    (outcome,), asked = play(tmp_path, files, ["sphere 5"], lambda ask: answers[ask.ordinal])
    assert outcome.answer == f"{STOCK} p1"
    assert asked == [f"sphere 5 full {number}" for number in range(data.TRIES)]


def test_edits_are_called_for_by_graded_rewards(tmp_path: Path) -> None:
    from algorithms.levers import rules

    rewards = [(f"item{number // 2}", float(number % 2) * 3) for number in range(8)]
    attempts = [
        rules.ProbeAttempt(item=one, reward=reward, outcome="lower", choices=(), label="", answer=RANDOM)
        for one, reward in rewards
    ]
    facts: dict[str, Any] = {"dev": 0.2, "labels": 0, "train_items": 40, "rollouts_left": 10**6, "labelled": False}
    seen = rules.evidence(attempts, free=True, **facts)
    tried: list[rules.PastChoice] = []
    for name in ("rehearsal", "last_walk"):
        choice = rules.choose(seen, tried, ("scaffold", "weights"), catalogue.EDITS)
        assert (choice.lever, choice.action) == ("scaffold", name)
        tried.append(rules.PastChoice(lever="scaffold", action=name, accepted=True, before=0.2, after=0.3))
    assert rules.choose(seen, tried, ("scaffold", "weights"), catalogue.EDITS).lever == "weights"
