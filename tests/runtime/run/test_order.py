"""A run is planned from its task, its seed and its order."""

import msgspec
import pytest

from events.change import ScaffoldProposed
from events.errors import Misconfigured
from events.rollouts import RolloutsRequested
from runtime.run.decide import decide
from runtime.run.evolve import evolve
from runtime.run.order import RunOrder, plan
from runtime.run.state import initial
from tasks.contract import FOLDS, Item, visible_train
from tasks.loading import load
from tests.harness.facts import event_of
from tests.harness.paths import TOY


def test_a_run_is_planned_from_its_task_and_seed_alone() -> None:
    task = load(str(TOY))
    order = RunOrder(task=str(TOY), levers="weights", seed=0, generations=None, budget="rollouts=1k")
    one, other = (plan(task, task.public(0), order, "b") for _ in range(2))
    assert one == other and one.levers == ("weights",) and one.budget.rollouts == 1000
    assert sum(map(len, one.items.folds)) == len(task.public(0).train)
    assert set(one.items.probe[0]) <= set(one.items.folds[0])


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_records_whether_its_task_lets_attempts_share_state(shared: bool) -> None:
    task = msgspec.structs.replace(load(str(TOY)), shared_state=shared)
    order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="")
    assert plan(task, task.public(0), order, "b").shared_state is shared


@pytest.mark.parametrize(("largest", "fits"), [(1000, True), (1001, False)])
def test_a_submission_has_no_more_items_than_one_batch_has_events(largest: int, fits: bool) -> None:
    task = load(str(TOY))
    whole = "VERSION = '1'\ndef score_submission(items, answers, labels): ..."
    public = task.public(0)
    dev = tuple(Item(f"d{number}", "x") for number in range(largest))
    public = msgspec.structs.replace(public, dev=dev)
    order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="")
    assert not plan(task, public, order, "b").submissions
    judged = task.with_verifier(whole, "verifier.py")
    if fits:
        assert plan(judged, public, order, "b").submissions
    else:
        with pytest.raises(Misconfigured, match="dev or a fold of train has 1,001 items"):
            plan(judged, public, order, "b")


@pytest.mark.parametrize("empty", [0, 2, 4])
def test_no_item_sees_its_own_label_though_a_fold_is_empty(empty: int) -> None:
    task = load(str(TOY))
    public = task.public(0)
    filled = [fold for fold in range(FOLDS) if fold != empty]
    train = tuple(
        msgspec.structs.replace(example, fold=filled[number % len(filled)])
        for number, example in enumerate(public.train)
    )
    public = msgspec.structs.replace(public, train=train)
    started = plan(task, public, RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget=""), "b")
    assert [len(items) for items in started.items.folds] == [0 if fold == empty else 20 for fold in range(FOLDS)]

    state = initial("r")
    for told in (started, ScaffoldProposed(generation=0, scaffold="s", parent="", summary="", reason="")):
        state = evolve(state, event_of(told))
        for asked in decide(state, event_of(told), 2):
            state = evolve(state, event_of(asked))
    played = [shard.requested for shard in state.flights[0].shards.values()]
    for requested in (*played, *(probed(fold, items) for fold, items in enumerate(started.items.folds))):
        if requested.split == "train":
            assert not set(requested.items) & {example.id for example in visible_train(public, requested.fold)}
    assert sum(len(requested.items) for requested in played if requested.purpose == "probe") == 20


def probed(fold: int, items: tuple[str, ...]) -> RolloutsRequested:
    return RolloutsRequested(
        generation=0,
        purpose="train",
        round=1,
        shard=0,
        scaffold="",
        adapter="",
        split="train",
        fold=fold,
        items=items,
        attempts=1,
        temperature=1.0,
        seed=0,
    )
