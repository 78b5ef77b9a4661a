"""feeling as a task: which words are asked, who sees which answer, what gold makes of one, and what the steps do."""

import hashlib
import random
from pathlib import Path

import msgspec
import pytest

from runtime.rollouts.host import ScaffoldCall, ScaffoldData
from tasks import loading
from tasks.contract import Data, EvaluationSet, Evidence, Item, Public, visible_train
from tasks.feeling import baselines, catalogue, data, gold
from tasks.feeling.steps import few_shot, plain_text, spelling, wordings
from tests.harness.scaffolds import play

pytest.importorskip("scipy")
pytest.importorskip("snowballstemmer")

EVIDENCE = Evidence(
    dev=0.3,
    unparsed=0.0,
    pass_at_1=0.3,
    pass_at_k=0.9,
    attempts=8,
    tied_groups=0.1,
    labels=4,
    offered=4,
    recall=1.0,
    wrong_though_offered=0.7,
    train_items=100,
    rollouts_left=10**9,
    agreement=0.6,
)
LINES = [
    "$:\t-1.5\t0.80623\t[-1, -1, -1, -1, -3, -1, -3, -1, -2, -1]",
    "ok\t1.2\t0.4\t[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]",
    "bored\t-0.7\t0.5\t[-1, 0, -1, -1, 0, -1, -1, 0, -1, -1]",
    "lol's\t2.0\t0.0\t[2, 2, 2, 2, 2, 2, 2, 2, 2, 2]",
    "lag\t-1.4\t0.6\t[-1, -1, -1, -1, -1, -3, -1, -2, -2, -1]",
    "lagging\t-1.1\t0.8\t[-2, -2, -2, -1, 0, 0, -1, 0, -1, -2]",
    "cute\t2.0\t0.0\t[2, 2, 2, 2, 2, 2, 2, 2, 2, 2]",
    "cutest\t2.8\t0.7\t[3, 3, 3, 3, 3, 3, 3, 3, 2, 2]",
    "lags\t-1.5\t0.7\t[-1, -2, -1, -1, -2, -3, -1, -2, -1, -1]",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lexicon of 200 made-up words of four feelings, each with an ending of its own, and of what is left out."""
    draw = random.Random(0)
    lines = list(LINES)
    for number in range(200):
        mean, ending = ((-3, "kra"), (-1, "mol"), (1, "ly"), (3, "joy"))[number % 4]
        word = (
            "".join(draw.choices("bdfgnt", k=3)) + "aeiou"[number % 5] + "".join(draw.choices("bdfgnt", k=3)) + ending
        )
        lines.append(f"{word}\t{mean}.0\t0.0\t{[mean] * 10}")
    text = "".join(f"{line}\n" for line in dict.fromkeys(lines))
    folder = tmp_path / "feeling"
    folder.mkdir()
    (folder / data.LEXICON).write_text(text, encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setattr(data, "FILES", msgspec.structs.replace(data.FILES, checksums={data.LEXICON: digest}))
    monkeypatch.setattr(data, "default_root", lambda: folder)
    data.stems.cache_clear()
    gold._words.cache_clear()
    gold._chances.cache_clear()
    return folder


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def everything(public: Public) -> list[str]:
    return [example.id for example in public.train] + [item.id for item in (*public.dev, *public.test)]


def test_words_of_letters_with_a_feeling_are_asked_and_one_of_each_stem(root: Path) -> None:
    drawn = {seed: set(everything(data.load(root, seed))) for seed in range(12)}
    for words in drawn.values():
        assert not words & {"$:", "ok", "bored", "lol's"}
        assert len(words & {"lag", "lagging", "lags"}) == 1
        assert words >= {"cute", "cutest"}  # Snowball has two stems for them
    assert set.union(*drawn.values()) >= {"lag", "lagging", "lags"}
    assert data.load(root, 0) == data.load(root, 0)


@pytest.mark.parametrize(
    ("mean", "label"),
    [(-2.1, "terrible"), (-2.0, "bad"), (-0.8, "bad"), (0.8, "good"), (1.7, "good"), (1.8, "wonderful")],
)
def test_a_word_is_of_the_class_of_its_mean(mean: float, label: str) -> None:
    assert data.RatedWord("word", mean, ()).label == label


@pytest.mark.parametrize("seed", [0, 1])
def test_the_verifier_has_the_answers_of_train_and_dev_and_gold_those_of_test(root: Path, seed: int) -> None:
    task = loading.load("feeling")
    public, known, hidden = task.public(seed), task.labels(seed), task.gold(seed)
    assert set(known) == {*(example.id for example in public.train), *(item.id for item in public.dev)}
    assert set(hidden) == {item.id for item in public.test}
    assert all(known[example.id] == example.label for example in public.train)
    assert task.score(public.dev[0], known[public.dev[0].id], known[public.dev[0].id]).reward == 1


@pytest.mark.parametrize("seed", range(6))
def test_no_family_lies_in_two_splits(root: Path, seed: int) -> None:
    public = data.load(root, seed)
    train = {example.group for example in public.train}
    dev, test = ({item.group for item in items} for items in (public.dev, public.test))
    assert not train & dev and not (train | dev) & test
    groups = {example.id: example.group for example in public.train}
    groups |= {item.id: item.group for item in (*public.dev, *public.test)}
    assert groups["cute"] == groups["cutest"] == "cute"


def test_each_split_has_its_share_of_each_class(public: Public) -> None:
    assert [len(public.test), len(public.dev)] == pytest.approx([40, 28], abs=4)
    counts = [sum(example.label == name for example in public.train) for name in data.CLASSES]
    assert max(counts) - min(counts) <= 4 and {example.fold for example in public.train} == set(range(5))


def test_gold_is_how_likely_a_rater_is_to_feel_so_over_the_likeliest(root: Path) -> None:
    """lag: mean -1.4, ratings of a standard deviation of .66, so -2 is .90 of it away and 0 is 2.11."""
    below, bad, good = 0.1833, 0.7994, 0.0170  # of the normal distribution: below -2, up to 0, and up to 1.8
    item = Item("lag", data.question("lag"))
    assert gold.score(item, "bad", "bad") == 1
    assert gold.score(item, "terrible", "bad") == pytest.approx(below / bad, abs=2e-3)
    assert gold.score(item, "good", "bad") == pytest.approx(good / bad, abs=2e-3)
    assert gold.score(item, None, "bad") == gold.score(item, "Bad.", "bad") == 0
    canaries = gold.canaries(item, "bad", "exact-match-1", lambda answer: float(answer == "bad"))
    assert canaries["always bad"] == (1, 1) and canaries["all at once"] == (0, 0) == canaries["empty"]


def test_perturbed_questions_ask_of_the_same_words(public: Public) -> None:
    whole = EvaluationSet(public.labels, public.test)
    for name, perturbation in gold.PERTURBATIONS.items():
        changed = perturbation.change(whole, {}, 0)
        assert [item.id for item in changed.items] == [item.id for item in whole.items]
        for item, was in zip(changed.items, whole.items, strict=True):
            assert item.prompt != was.prompt and f'"{was.id}"' in item.prompt.lower(), name
        assert changed == perturbation.change(whole, {}, 0)


@pytest.fixture
def shown(public: Public) -> Data:
    return Data(public.labels, visible_train(public, 0))


def test_texts_ask_of_the_word_and_show_train_words_alone(public: Public, shown: Data) -> None:
    assert plain_text.texts("lag", shown, []) == ["How do words feel: terrible, bad, good or wonderful?\nlag:"]
    (text,) = few_shot.texts("lag", shown, [])
    *examples, last = text.splitlines()
    assert last == "lag:" and [line.split(": ")[1] for line in examples] == list(data.CLASSES)
    train = {example.id: example.label for example in public.train}
    assert all(train[line.split(": ")[0]] == line.split(": ")[1] for line in examples)
    assert wordings.texts("lag", shown, ["first", "second"])[0] == "first"
    assert all("lag" in text for text in wordings.texts("lag", shown, ["first"])[1:])


def test_spelling_learns_endings(public: Public, shown: Data) -> None:
    spelling.fit(shown)
    truth = gold.labels(data.default_root(), 0)
    guesses = {}
    for item in public.test:
        scores = spelling.bias(item.id, shown)
        assert sum(scores) == pytest.approx(0, abs=1e-6)
        guesses[item.id] = data.CLASSES[scores.index(max(scores))]
    assert sum(guesses[word] == label for word, label in truth.items()) >= 0.9 * len(truth)
    assert spelling.bias("", shown)  # nothing known of it


def test_the_baselines_answer_each_word_with_a_class(public: Public) -> None:
    for name, baseline in baselines.BASELINES.items():
        answers = baseline(public, public.test)
        assert set(answers) == {item.id for item in public.test} and set(answers.values()) <= set(data.CLASSES), name


def test_each_edit_asks_as_it_says_and_several_texts_vote(public: Public, tmp_path: Path) -> None:
    """The scaffold with one edit after the other, played in the sandbox: the text and the bias of its call."""
    files = dict(loading.load("feeling").scaffold())
    known = ScaffoldData(public.labels, [(example.prompt, example.label) for example in public.train])
    calls: list[ScaffoldCall] = []

    def says(call: ScaffoldCall) -> str:
        calls.append(call)
        return "good" if "Feelings of words" in call.prompt or "someone" in call.prompt else "bad"

    def played(name: str) -> tuple[str | None, list[ScaffoldCall]]:
        calls.clear()
        (outcome,), _ = play(tmp_path / name, files, [data.question("lagly")], says, known)
        assert all(call.choices == public.labels for call in calls)
        return outcome.answer, list(calls)

    answer, (asked,) = played("start")
    assert (answer, asked.prompt, asked.plain, set(asked.bias)) == ("bad", data.question("lagly"), False, {0.0})
    seen = {}
    for edit in catalogue.EDITS:
        files = edit.apply(files)
        answer, asks = played(edit.name)
        assert answer == ("good" if edit.name == "wordings" else "bad")
        assert all(ask.plain and ask.prompt.endswith(("lagly:", "feeling is")) for ask in asks)
        seen[edit.name] = asks
    assert [len(asks) for asks in seen.values()] == [1, 1, 1, 1, 3]
    spelled, calibrated = seen["spelling"][0].bias, seen["calibrated"][0].bias
    assert seen["plain_text"][0].bias == (0.0,) * 4 and spelled.index(max(spelled)) == 2  # "ly" ends what is good
    assert [b - a for a, b in zip(spelled, calibrated, strict=True)] == pytest.approx([0, 0, -0.6, 0.7])


def test_edits_are_called_for_by_how_few_answers_are_right(public: Public) -> None:
    def called_for(**figures: float) -> list[str]:
        found = msgspec.structs.replace(EVIDENCE, **figures)
        return [edit.name for edit in catalogue.EDITS if edit.applies(found)]

    assert called_for(pass_at_1=0.25) == ["plain_text", "spelling", "calibrated", "few_shot"]
    assert called_for(pass_at_1=0.6) == ["spelling", "calibrated", "few_shot"]
    assert called_for(pass_at_1=0.75) == []
    assert called_for(pass_at_1=0.75, rollouts_left=10) == ["wordings"]
