"""What the services do between the log and the code that they call."""

import os
import sys
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from algorithms.levers.rules import PastChoice
from events import codec
from events.change import ScaffoldProposed
from events.choice import LeverChosen
from events.codec import Event
from events.errors import CheckFailed, Misconfigured
from events.fact import Fact
from events.gold import GoldScored, PoliciesCompared
from events.judgement import CandidateEvaluated
from events.population import CandidateAccepted
from events.rollouts import CallUse, ModelCalled, RolloutsRequested, TrajectoryRecorded
from events.run import RunFinished
from events.weights import TrainingBatchSealed, WeightUpdateFailed
from replay.report import Generation, Report
from runtime.blobs.directory import Blobs
from runtime.effects.choose import earlier_choices
from runtime.effects.train import TrainingHost, sealed_attempts, sources, train_round
from runtime.policies import text_scorer
from runtime.policies.bases import prepare_base
from runtime.policies.interface import SampleRequest
from runtime.rollouts.attempt import RecordedAttempt
from runtime.run.batch import batch_digest
from runtime.run.decide import decide
from runtime.run.evolve import evolve
from runtime.run.loading import LoadedRun
from runtime.run.order import RunOrder, plan
from runtime.run.state import initial
from services.auditor.final_table import cells_of
from services.host.node import Node, Running
from services.host.orders import check, check_agent
from services.host.settings import trainer_back_end
from services.host.supervisor import service_environment
from services.views.progress import stdout
from services.views.run import ablation_table, final_table, verdict_on_the_model
from tasks.contract import FOLDS, visible_train
from tasks.loading import load
from tests.harness.facts import trajectory
from tests.harness.paths import TASKS

TOY = TASKS / "toy"


def event(fact: Fact) -> Event:
    return codec.event(fact, run="r", source="test", cause="", time="")


def call(body: str) -> ModelCalled:
    return ModelCalled(
        request="q",
        item="i",
        ordinal=0,
        provider="embedded",
        model="m",
        adapter="",
        body=body,
        index=0,
        sampling_seed=1,
        temperature=1.0,
        texts=("a", "b"),
        tokens=((0,), (1,)),
        logprobs=((-0.1,), (-2.3,)),
        prompt_tokens=1,
        completion_tokens=2,
        micro_usd=0,
        seconds=0.0,
    )


def played(blobs: Blobs) -> list[RecordedAttempt]:
    """Two attempts at one item, which were given the two completions of one call."""
    made = call(blobs.put(msgspec.json.encode([SampleRequest(prompt="p", choices=("a", "b"), bias=(0.5, 0.0), n=2)])))
    attempts = []
    for number in range(2):
        recorded = trajectory(number).data
        assert isinstance(recorded, TrajectoryRecorded)
        recorded = msgspec.structs.replace(recorded, calls=(CallUse("c", number),))
        attempts.append(RecordedAttempt(f"t{number}", recorded, float(number == 0), "", (made,)))
    return attempts


def sealed(digest: str) -> TrainingBatchSealed:
    return TrainingBatchSealed(
        generation=1,
        round=1,
        algorithm="best_of_n",
        hyper={},
        parent_adapter="",
        training_seed=0,
        requests=("q",),
        trajectories=2,
        digest=digest,
    )


def test_a_batch_is_trained_on_as_recorded(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    batch = sealed_attempts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 0.0)])))
    assert [(of.calls[0].tokens, of.calls[0].logprobs, of.reward) for of in batch] == [((0,), (-0.1,), 1.0), ((1,), (-2.3,), 0.0)]
    assert batch[0].calls[0].request.bias == (0.5, 0.0) and batch[0].group == batch[1].group


def test_a_batch_that_is_not_what_was_sealed_is_not_trained_on(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(CheckFailed, match="over 2 trajectories, sealed was"):
        sealed_attempts(blobs, {"q": played(blobs)}, sealed(batch_digest([("t0", 1.0), ("t1", 1.0)])))
    base = blobs.put_folder(prepare_base(text_scorer.KIND, load(str(TOY)).public(0), list))
    (failed,) = train_round(TrainingHost(blobs, tmp_path / "work"), {"q": played(blobs)}, sealed("0" * 64), base, no_task)
    assert isinstance(failed, WeightUpdateFailed) and failed.kind == "batch_differs"


def test_services_that_are_up_without_a_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anthropic")
    order = RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget="", agent="anthropic:claude-opus-5")
    up = Running(pid=1, url="nats://127.0.0.1:4222", policy_url="", started="", version="", providers=("openai",))
    with pytest.raises(Misconfigured, match=r"services that are up have no key.*ANTHROPIC_API_KEY"):
        check_agent(order, up)
    check_agent(order, msgspec.structs.replace(up, providers=("anthropic",)))
    check_agent(order, msgspec.structs.replace(up, url="nats://broker.example:4222"))  # its agents may be elsewhere
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    check_agent(order, None)
    assert "ANTHROPIC_API_KEY" in service_environment(os.environ)


def test_what_a_model_wrote_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    row = Generation(generation=1, lever="scaffold", change="[/b] [red]", reason="[/x]", accepted=True)
    final_table(stdout(), Report(run="r", reason="[/oops]", generations=[row]))
    assert "[/oops]" in capsys.readouterr().out


def no_task() -> LoadedRun:
    raise AssertionError("nothing here asks for the task")


def test_labels_and_copies_come_from_train_as_the_item_may_see_it() -> None:
    task = load(str(TOY))
    public = task.public(0)
    loads: list[int] = []

    def loaded() -> LoadedRun:
        loads.append(1)
        return LoadedRun(plan(task, public, RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget=""), "b"), task, public)

    found = sources(loaded, 0)
    assert not loads
    assert [found.label(example.id) for example in public.train[:3]] == [example.label for example in public.train[:3]]
    assert found.copies([public.train[0].id]) == {public.train[0].id: []}
    assert len(loads) == 1


@pytest.mark.parametrize("said, words", [("torchtune", "is 'torchtune'; expected native or trl"), ("trl", "pip install 'evolog")])
def test_a_back_end_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, said: str, words: str) -> None:
    assert trainer_back_end() == "native"
    monkeypatch.setenv("EVOLOG_TRAINER", said)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=words):
        trainer_back_end()


def test_the_digest_of_a_batch_tells_order_and_rewards_apart() -> None:
    pairs = [("t0", 1.0), ("t1", 0.0)]
    assert len({batch_digest(pairs), batch_digest(pairs[::-1]), batch_digest([("t0", 0.0), ("t1", 1.0)])}) == 3


def chosen(generation: int, lever: str, action: str) -> Event:
    return event(LeverChosen(generation=generation, lever=lever, action=action, reason="", propensities={}, diagnosis={}))


def evaluated(generation: int, score: float) -> Event:
    return event(
        CandidateEvaluated(
            generation=generation,
            candidate=f"c{generation}",
            scaffold="",
            adapter="",
            lever="",
            score=score,
            low=0.0,
            high=1.0,
            items=1,
            failed=0,
            pass_at_1=0.0,
            pass_at_k=0.0,
            tied_groups=0.0,
            rollouts=0,
            tokens=0,
            micro_usd=0,
        )
    )


def accepted(generation: int) -> Event:
    return event(CandidateAccepted(generation=generation, candidate=f"c{generation}", score=0.0, reason=""))


def test_the_agent_remembers_what_it_tried_and_what_came_of_it() -> None:
    told = [evaluated(0, 0.4), accepted(0), chosen(1, "scaffold", "vote"), evaluated(1, 0.7), accepted(1)]
    told += [chosen(2, "weights", "grpo"), evaluated(2, 0.6), chosen(3, "weights", "best_of_n")]
    assert earlier_choices(told, 3) == [
        PastChoice(lever="scaffold", action="vote", accepted=True, before=0.4, after=0.7),
        PastChoice(lever="weights", action="grpo", accepted=False, before=0.7, after=0.6),
    ]


def finished(scaffold: str, adapter: str) -> RunFinished:
    return RunFinished(
        reason="", candidate="c", scaffold=scaffold, adapter=adapter, score=0.0, generations=1, rollouts=0, tokens=0, micro_usd=0
    )


def test_each_lever_is_scored_alone_where_both_moved() -> None:
    assert [cell.name for cell in cells_of("s0", finished("s1", "a1"))] == ["start", "scaffold", "weights", "final", "uniform_policy"]
    assert [cell.name for cell in cells_of("s0", finished("s1", ""))] == ["start", "final", "uniform_policy"]
    assert [cell.name for cell in cells_of("s0", finished("s0", "a1"))] == ["start", "final", "uniform_policy"]


def test_a_run_is_planned_from_its_task_and_seed_alone() -> None:
    task = load(str(TOY))
    order = RunOrder(task=str(TOY), levers="weights", seed=0, generations=None, budget="rollouts=1k")
    one, other = (plan(task, task.public(0), order, "b") for _ in range(2))
    assert one == other and one.levers == ("weights",) and one.budget.rollouts == 1000
    assert sum(map(len, one.items.folds)) == len(task.public(0).train)
    assert set(one.items.probe[0]) <= set(one.items.folds[0])


@pytest.mark.parametrize("empty", [0, 2, 4])
def test_no_item_sees_its_own_label_though_a_fold_is_empty(empty: int) -> None:
    task = load(str(TOY))
    public = task.public(0)
    filled = [fold for fold in range(FOLDS) if fold != empty]
    train = tuple(msgspec.structs.replace(example, fold=filled[number % len(filled)]) for number, example in enumerate(public.train))
    public = msgspec.structs.replace(public, train=train)
    started = plan(task, public, RunOrder(task=str(TOY), levers="both", seed=0, generations=None, budget=""), "b")
    assert [len(items) for items in started.items.folds] == [0 if fold == empty else 20 for fold in range(FOLDS)]

    state = initial("r")
    for told in (started, ScaffoldProposed(generation=0, scaffold="s", parent="", summary="", reason="")):
        state = evolve(state, event(told))
        for asked in decide(state, event(told), 2):
            state = evolve(state, event(asked))
    played = [shard.requested for shard in state.shards.values()]
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


@pytest.mark.parametrize(
    ("missing", "levers", "words"),
    [
        ("torch", "both", r"needs torch: pip install 'evolog\[policy,tasks\]', or ask for --levers scaffold"),
        ("peft", "weights", "needs peft"),
        ("numpy", "scaffold", r"needs numpy: pip install 'evolog\[policy,tasks\]'\.$"),
        ("torch", "scaffold", ""),
    ],
)
def test_an_order_says_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, levers: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    order = RunOrder(task=str(TOY), levers=levers, seed=0, generations=None, budget="")
    if not words:
        check(order, Node(tmp_path))
        return
    with pytest.raises(Misconfigured, match=words):
        check(order, Node(tmp_path))


@pytest.mark.parametrize("file", ["base.safetensors", "base.json"])
def test_a_base_model_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    public = load(str(TOY)).public(0)
    folder = prepare_base(text_scorer.KIND, public, list)
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckFailed, match=r"is damaged .* build it again"):
        text_scorer.load_base(folder)
    assert prepare_base(text_scorer.KIND, public, list) == folder
    assert (folder / file).read_bytes() == whole


def scored(cell: str, rollouts: int = 40, score: float = 0.5) -> GoldScored:
    return GoldScored(
        cell=cell,
        split="test",
        scaffold="",
        adapter="",
        policy="",
        score=score,
        low=0.0,
        high=1.0,
        items=40,
        failed=0,
        rollouts=rollouts,
        blob="",
    )


def printed(table: object, *given: object) -> str:
    text = StringIO()
    table(Console(file=text, width=160), *given)  # type: ignore[operator]
    return text.getvalue()


def test_rollouts_stand_beside_every_score() -> None:
    """Kept: the start (100), a scaffold edit (20), an update (3); turned down: an edit between them (7), another at the end (1000)."""
    told = [("start", 100, True), ("scaffold", 7, False), ("scaffold", 20, True), ("weights", 3, True), ("scaffold", 1000, False)]
    rows = [Generation(generation=n, lever=lever, rollouts=rollouts, accepted=kept) for n, (lever, rollouts, kept) in enumerate(told)]
    cells = [scored(cell) for cell in ("start", "scaffold", "weights", "final", "uniform_policy")] + [scored("baseline:svc", 0)]
    text = printed(final_table, Report(run="r", generations=rows, cells=cells, rollouts=1130))
    found = {line.split("│")[1].split(":")[0].strip(): line.split("│")[-2].strip() for line in text.splitlines() if line.startswith("│")}
    assert list(found.values()) == ["100", "127", "103", "1,130", "127", "-"], text
    assert "are 200 more" in text


@pytest.mark.parametrize(
    ("wins", "losses", "p", "words"),
    [
        (30, 5, 0.001, "The model against a uniformly"),
        (5, 30, 0.001, "The model made it worse."),
        (6, 5, 0.9, "policy in the same scaffold ties"),
    ],
)
def test_what_is_said_of_the_model(wins: int, losses: int, p: float, words: str) -> None:
    compared = [PoliciesCompared(split="test", wins=wins, losses=losses, p_value=p)]
    assert words in verdict_on_the_model(Report(run="r", compared=compared))


def test_a_lever_that_came_to_nothing_has_no_score() -> None:
    worked = Report(run="a", levers=("scaffold",), cells=[scored("final")], score=0.5, rollouts=7)
    text = printed(ablation_table, [worked, Report(run="b", levers=("weights",), rollouts=9)])
    (row,) = (line for line in text.splitlines() if "weights only" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["weights only", "-", "-", "9", "0"]
    assert "0.5000 ± 0.0000" in text
