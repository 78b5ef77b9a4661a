"""The reasoning task with the package: its problems and marks, and a scaffold that tries to make the items again."""

import sys
from importlib.util import find_spec
from math import gcd
from pathlib import Path

import pytest

from events.errors import Misconfigured
from tasks import kit, loading
from tasks.contract import EvaluationSet, Public
from tasks.reasoning import data, gold, verifier
from tasks.reasoning.scaffold import exercises
from tests.harness.scaffolds import play

if find_spec("reasoning_gym") is None:
    pytest.skip("reasoning-gym is not installed: pip install 'evolog[reasoning]'", allow_module_level=True)
pytestmark = pytest.mark.slow  # the package takes seconds to import, here and in the sandbox


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "key").write_bytes(b"k" * kit.KEY)
    monkeypatch.setattr(data, "default_root", lambda: tmp_path)
    monkeypatch.setattr(data, "SIZES", {"train": 5, "dev": 4, "test": 8})
    data._entries.cache_clear()
    return tmp_path


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_items_are_problems_of_their_generator_and_in_one_split_alone(public: Public, root: Path) -> None:
    assert {split: len(getattr(public, split)) for split in data.SIZES} == {"train": 15, "dev": 12, "test": 24}
    problems = [exercises.read(one.prompt) for split in (public.train, public.dev, public.test) for one in split]
    assert len({(one.kind, tuple(sorted(one.numbers))) for one in problems}) == len(problems)
    assert all(map(data.is_item, problems))
    answers = {**data.labels(root, 0), **gold.labels(root, 0)}
    for split in (public.train, public.dev, public.test):
        for one in split:
            problem = exercises.read(one.prompt)
            assert answers[one.id] == exercises.written(problem, data.solved(problem))  # as the package has it
    assert {example.label for example in public.train} <= set(answers.values())


def test_the_problems_follow_from_the_key_and_the_seed(public: Public, root: Path) -> None:
    other = data.load(root, 1)
    assert other.digests["test"] == public.digests["test"]
    assert other.digests["dev"] != public.digests["dev"]
    (root / "key").write_bytes(b"another" + b"k" * (kit.KEY - 7))
    assert data.load(root, 0).digests["test"] != public.digests["test"]


def test_marks_are_the_packages_and_gold_is_all_or_nothing(public: Public, root: Path) -> None:
    answers = gold.labels(root, 0)
    for one in public.test:
        answer = answers[one.id]
        assert verifier.score(one, answer, answer).outcome == "right" and gold.score(answer, answer) == 1
        assert verifier.score(one, None, answer) == verifier.score(one, "", answer)
        assert verifier.score(one, "", answer).reward == gold.score("", answer) == 0
    listing = "1 2 3 4 5 6 7 8 9 10 11 12"
    divisors = [one for one in public.test if one.metadata["generator"] == "gcd" and answers[one.id] in listing]
    scored = verifier.score(divisors[0], listing, answers[divisors[0].id])
    assert scored.outcome == "partly" and scored.reward == len(answers[divisors[0].id]) / len(listing)
    assert gold.score(listing, answers[divisors[0].id]) == 0


def test_the_package_takes_neighbours_of_sorted_numbers_and_gold_does_not(public: Public, root: Path) -> None:
    one = next(one for one in public.test if exercises.read(one.prompt).kind == "up")
    answer = gold.labels(root, 0)[one.id]
    near = exercises.written(exercises.read(one.prompt), tuple(n + 1 for n in exercises.heard(answer) or ()))
    assert verifier.score(one, near, answer).outcome == "right" and gold.score(near, answer) == 0


def test_problems_are_drawn_once_for_a_key_and_again_where_what_is_kept_is_not_theirs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = data._draw

    def counted(key: bytes, seed: int) -> dict[str, list[data.Entry]]:
        drawn.append(seed)
        return draw(key, seed)

    def load() -> Public:
        data._entries.cache_clear()
        return data.load(root, 0)

    monkeypatch.setattr(data, "_draw", counted)
    first = load()
    assert load() == first and drawn == [0]
    whole = (root / "problems-0").read_bytes()
    assert (root / "problems-0").stat().st_mode & 0o077 == 0
    for damaged in (whole[:-1], whole[:-1] + b"?", b""):
        (root / "problems-0").write_bytes(damaged)
        assert load() == first
    assert drawn == [0] * 4
    monkeypatch.setattr(data, "version", lambda package: "another")
    assert load() == first and drawn == [0] * 5


def test_other_orders_have_the_same_answer(public: Public, root: Path) -> None:
    changed = gold.PERTURBATIONS["reordered"].change(EvaluationSet((), public.test), {}, 1)
    pairs = list(zip(public.test, changed.items, strict=True))
    assert sum(before.prompt != after.prompt for before, after in pairs) > len(pairs) / 2
    for before, after in pairs:
        assert data.solved(exercises.read(after.prompt)) == data.solved(exercises.read(before.prompt))
        assert before.metadata == after.metadata


def test_copies_are_demonstrations_of_the_items_generator_in_views(public: Public) -> None:
    question = next(one.prompt for one in public.dev if one.metadata["generator"] == "gcd")
    pairs = data.copies(question, public.train, 0)
    assert len(pairs) > sum(exercises.read(example.prompt).kind == "gcd" for example in public.train)
    for prompt, answer in pairs:
        kind, *numbers = prompt.split()
        assert (kind, gcd(*map(int, numbers))) == ("gcd", int(answer))


CUNNING = '''
"""Looks for the key and for the sources, and tries seeds: one after another, and derived from what it sees."""

import hashlib
import os

import reasoning_gym


def solve(item, model, data):
    for place in ("/root", "/home", "/tmp", "/workdir", "/evolog", os.path.expanduser("~/.cache"), %r):
        for folder, _, names in os.walk(place):
            if "key" in names:
                return "key " + open(os.path.join(folder, "key"), "rb").read().hex()
    try:
        import tasks.reasoning.data
        return "sources"
    except ImportError:
        pass
    seeds = [*range(300)]
    for text in (item.id, item.prompt):
        seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
    for seed in seeds:
        entry = reasoning_gym.create_dataset("number_sorting", seed=seed, size=1, **%r)[0]
        if entry["question"] == item.prompt:
            return entry["answer"]
    return "nothing"
'''


def planted(root: Path) -> dict[str, str]:
    return {"agent.py": CUNNING % (str(root), data.GENERATORS["number_sorting"])}


def test_a_scaffold_cannot_make_an_item_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With lists so long that no other seed meets an item's question by chance, as it does with the task's own."""
    longer = {**data.GENERATORS["number_sorting"], "min_numbers": 9, "max_numbers": 9, "max_value": 99.0}
    monkeypatch.setattr(data, "GENERATORS", {"number_sorting": longer})
    prompts = [one.prompt for one in data.load(root, 0).test]
    outcomes, _ = play(tmp_path / "run", planted(root), prompts[:3], lambda ask: "")
    assert {outcome.answer for outcome in outcomes} == {"nothing"}


def test_it_could_if_seeds_were_counted(root: Path, tmp_path: Path) -> None:
    """So the test above can fail: the sandbox shows the package, and the package gives its answers away."""
    import reasoning_gym

    entry = reasoning_gym.create_dataset("number_sorting", seed=7, size=1, **data.GENERATORS["number_sorting"])[0]
    (outcome,), _ = play(tmp_path / "run", planted(root), [entry["question"]], lambda ask: "")
    assert outcome.answer == entry["answer"]


def test_without_the_package_a_sentence_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(Misconfigured, match=r"pip install 'evolog\[reasoning\]'"):
        loading.load("reasoning").public(5)
