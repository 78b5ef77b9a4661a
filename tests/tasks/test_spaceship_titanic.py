"""Spaceship Titanic as a task: groups stay together, a submission is judged as a whole, forged ones earn nothing."""

from pathlib import Path

import pytest

from events.errors import CheckFailed
from tasks import loading
from tasks.contract import Data, EvaluationSet, Item, Public, Reply, visible_train
from tests.harness import sia_standins

pytest.importorskip("sklearn")
from tasks.spaceship_titanic import baselines, data, gold
from tasks.spaceship_titanic.steps import boosting, records
from tasks.spaceship_titanic.verifier import score_submission

ITEMS = [Item(id, "") for id in ("1_01", "1_02", "2_01", "3_01")]
TRUTH = {"1_01": "True", "1_02": "False", "2_01": "True", "3_01": "False"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return sia_standins.install_titanic(tmp_path / "titanic", monkeypatch)


@pytest.fixture
def public(root: Path) -> Public:
    return data.load(root, 0)


def test_groups_are_in_one_split_and_one_fold(public: Public) -> None:
    places: dict[str, set[str]] = {}
    for name, split in (("dev", public.dev), ("test", public.test)):
        for item in split:
            places.setdefault(item.group, set()).add(name)
    for example in public.train:
        places.setdefault(example.group, set()).add(str(example.fold))
    assert {len(found) for found in places.values()} == {1}
    ids = [item.id for item in sia_standins.everything(public)]
    assert len(ids) == len(set(ids)) == 300
    assert all(id.partition("_")[0] == item.group for item in public.dev for id in [item.id])


def test_the_shares_are_those_that_one_submission_can_hold(public: Public) -> None:
    assert 0.29 < len(public.test) / 300 < 0.39 and 0.06 < len(public.dev) / 300 < 0.14
    # of all 8,693 passengers: a fold and dev have fewer than 1,000
    assert 8693 * (1 - data.TEST_SHARE - data.DEV_SHARE) / 5 < 980 and 8693 * data.DEV_SHARE < 980


@pytest.mark.parametrize("seed", [0, 1])
def test_the_verifier_has_the_answers_of_train_and_dev_and_gold_those_of_test(root: Path, seed: int) -> None:
    task = loading.load("spaceship-titanic")
    public, known, hidden = task.public(seed), task.labels(seed), task.gold(seed)
    assert set(known) == {*(example.id for example in public.train), *(item.id for item in public.dev)}
    assert set(hidden) == {item.id for item in public.test}
    assert known | hidden == data.answers(root)


def test_a_record_says_nothing_of_the_answer_and_not_its_number(public: Public) -> None:
    for item in (*public.dev, *public.test):
        names = [line.partition(":")[0] for line in item.prompt.split("\n")]
        assert names == [*data.COLUMNS, "GroupSize"]
        assert item.id not in item.prompt


def test_a_submission_is_judged_passenger_by_passenger_and_as_a_whole() -> None:
    judged = score_submission(ITEMS, {"1_01": "True", "1_02": "True", "2_01": "yes", "3_01": None}, TRUTH)
    assert judged.total.reward == 0.25
    assert {id: (scored.reward, scored.outcome) for id, scored in judged.items.items()} == {
        "1_01": (1, "right"),
        "1_02": (0, "wrong"),
        "2_01": (0, "unparsed"),
        "3_01": (0, "unparsed"),
    }
    assert score_submission(ITEMS, dict(TRUTH), TRUTH).total == judged.total.__class__(
        1.0, "right", "4 of 4 passengers are right"
    )


def test_passengers_who_are_left_out_are_counted() -> None:
    assert score_submission(ITEMS, {"1_01": "True"}, TRUTH).total.reward == 0.25
    assert score_submission(ITEMS, {}, TRUTH).total.reward == 0
    assert score_submission([], {}, {}).total.reward == 0


@pytest.mark.parametrize("answer", ["true", "1", "TRUE", "True\nTransported,True", '{"accuracy": 1.0}', "[True]"])
def test_what_is_neither_true_nor_false_earns_nothing(answer: str) -> None:
    assert score_submission(ITEMS[:1], {"1_01": answer}, TRUTH).items["1_01"].outcome == "unparsed"


def test_a_whole_answer_set_has_each_passenger_once() -> None:
    with pytest.raises(CheckFailed, match="3 ids have no answer"):
        gold.accuracy([("1_01", "True")], TRUTH)
    with pytest.raises(CheckFailed, match="'1_01' 1,000 times"):
        gold.accuracy([*TRUTH.items(), *[("1_01", "True")] * 999], TRUTH)
    with pytest.raises(CheckFailed, match="none of those asked, such as '9_01'"):
        gold.accuracy([*TRUTH.items(), ("9_01", "True")], TRUTH)
    assert gold.accuracy([(id, "True") for id in TRUTH], TRUTH) == 0.5


def test_a_record_is_read_whatever_the_order_of_its_lines(root: Path, public: Public) -> None:
    questions = EvaluationSet(public.labels, public.test)
    task, truth = loading.load("spaceship-titanic"), gold.labels(root, 0)
    shuffled = task.perturbed("column_order", questions, truth, 0)
    assert any(before.prompt != after.prompt for before, after in zip(public.test, shuffled.items, strict=True))
    for before, after in zip(public.test, shuffled.items, strict=True):
        assert str(records.numbers(before.prompt)) == str(records.numbers(after.prompt))  # as text, for NaN
    for item in task.perturbed("no_spending", questions, truth, 0).items:
        assert records.fields(item.prompt)["Spa"] == "" != records.fields(item.prompt)["CryoSleep"]
    train_names = {example.prompt.split("Name: ")[1].split("\n")[0].split()[-1] for example in public.train}
    for item in task.perturbed("strangers", questions, truth, 0).items:
        assert item.prompt.split("Name: ")[1].split("\n")[0].split()[-1] not in train_names


def test_a_record_as_numbers() -> None:
    prompt = "HomePlanet: Mars\nCryoSleep: True\nCabin: F/906/P\nAge: \nSpa: 3.0\nGroupSize: 2"
    found = records.numbers(prompt)
    assert found[0] == 2 and found[2] == 1 and found[4:7] == [5, 0, 906] and found[8] == 2 and found[-1] == 3
    assert found[7] != found[7], "no age is recorded"


def test_boosting_finds_what_sleep_says(root: Path, public: Public) -> None:
    truth = gold.labels(root, 0)
    answers = baselines.boosting(public, public.test)
    assert sum(answers[id] == truth[id] for id in truth) / len(truth) > 0.75
    asleep = baselines.asleep(public, public.test)
    assert sum(asleep[id] == truth[id] for id in truth) / len(truth) > 0.8
    assert set(baselines.commonest(public, public.test).values()) < set(data.LABELS) | {""}


def test_the_step_learns_from_what_it_may_see_alone(public: Public) -> None:
    seen = Data(public.labels, visible_train(public, 0))
    boosting.fit(seen)
    item = next(example for example in public.train if example.fold == 0)
    asleep, awake = (
        next(example for example in public.train if records.fields(example.prompt)["CryoSleep"] == text)
        for text in ("True", "False")
    )
    assert boosting.odds(asleep, seen) > 0 > boosting.odds(awake, seen)
    assert boosting.odds(item, seen) == boosting.odds(Item("another name", item.prompt), None)


def test_the_reference_scaffold_asks_for_true_or_false() -> None:
    from tasks.spaceship_titanic.scaffold import agent

    class Echo:
        def complete(self, prompt: str, choices: tuple[str, ...] = (), bias: tuple[float, ...] = ()) -> Reply:
            return Reply(f"{prompt} {choices} {bias}")

    assert agent.solve(Item("", "record"), Echo(), None) == "record ('False', 'True') (0.0, 0)"


def test_spaceship_titanic_keeps_the_contract() -> None:
    task = loading.load("spaceship-titanic")
    assert (task.name, task.verifier, task.submissions) == ("spaceship-titanic", "spaceship-titanic/accuracy-1", True)
    assert task.reference == "spaceship-titanic" and loading.load("spaceship_titanic").reference == task.reference
    (edit,) = task.edits()
    assert {"steps/records.py", "steps/boosting.py"} <= set(edit.apply(task.scaffold()))
