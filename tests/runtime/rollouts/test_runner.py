"""Playing shards: calls recorded before their answers are released, none asked twice, and nothing to be looked up."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from events.errors import Misconfigured, TryAgain, Unavailable, UsageError, UserError
from events.rollouts import ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from runtime.policies import client
from runtime.policies.interface import Sampled, SampleRequest
from tests.harness.runner import FirstChoicePolicy, RunnerHarness

ASKS = "def solve(item, model, data): return model.complete(item.prompt, choices=data.labels).text"


class Refusing(FirstChoicePolicy):
    """A policy that does not know its choices."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        raise UsageError("The choice 'x' is not one of this policy's labels.")


class Strict(FirstChoicePolicy):
    """A policy that refuses all that it is asked at once if one of it is no label."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        for request in requests:
            if request.choices == ("x",):
                raise UsageError("The choice 'x' is not one of this policy's labels." + request.prompt)
        return super().sample(model, requests)


@pytest.fixture
def table(tmp_path: Path) -> RunnerHarness:
    return RunnerHarness(tmp_path, FirstChoicePolicy())


def test_every_attempt_becomes_a_trajectory_with_its_call(table: RunnerHarness) -> None:
    facts = table.play(ASKS, ["dev0", "dev1"], attempts=3)
    assert [type(fact) for fact in facts] == [TrajectoryRecorded] * 6
    assert {(use.call, use.completion) for fact in facts if isinstance(fact, TrajectoryRecorded) for use in fact.calls} == {
        (call, completion) for call in table.recorded for completion in range(3)
    }
    assert len(table.policy.asked) == 2 and table.policy.asked[0].n == 3


def test_a_scaffold_sees_the_labels_in_the_order_in_which_they_are_on_offer_now(
    table: RunnerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = table.public.dev[0].id
    first, last = table.public.labels[0], table.public.labels[-1]
    with monkeypatch.context() as kept:
        kept.setattr(table.player, "close", lambda: None)  # its processes live on
        table.play(ASKS, [item])
        table.public = msgspec.structs.replace(table.public, labels=table.public.labels[::-1])
        table.recorded = {}
        (played,) = table.play(ASKS, [item])
    table.player.close()
    assert isinstance(played, TrajectoryRecorded) and played.answer == last != first


def test_a_hint_reaches_the_model_and_is_recorded_beside_the_prompt(table: RunnerHarness) -> None:
    item, other = (example.id for example in table.public.train[:2])
    table.play(ASKS, [item, other], hints={item: " Hint: baker."})
    hints = {request.prompt: request.hint for request in table.policy.asked}
    assert list(hints.values()) == [" Hint: baker.", ""]
    (call,) = (call for call in table.recorded.values() if call.item == item)
    (request,) = (r for r in msgspec.json.decode(table.blobs.get(call.body), type=list[SampleRequest]) if r.hint)
    body = client._body("m", request)
    assert body["prompt"] == request.prompt + " Hint: baker." and "Hint" not in request.prompt


def test_a_call_that_is_recorded_is_not_made_again(table: RunnerHarness) -> None:
    first = table.play(ASKS, ["dev0", "dev1"])
    table.policy.asked.clear()
    again = table.play(ASKS, ["dev0", "dev1", "dev2"])
    assert [request.prompt for request in table.policy.asked] == [table.public.dev[2].prompt]
    answers = [[fact.answer for fact in facts if isinstance(fact, TrajectoryRecorded)] for facts in (first, again)]
    assert answers[1][:2] == answers[0]


def test_a_seed_belongs_to_the_item_and_not_to_what_is_played_beside_it(table: RunnerHarness) -> None:
    table.play(ASKS, ["dev0", "dev1"])
    alone = {request.prompt: request.seed for request in table.policy.asked}
    table.recorded.clear()
    table.policy.asked.clear()
    table.play(ASKS, ["dev3", "dev1"])
    seeds = {request.prompt: request.seed for request in table.policy.asked}
    assert seeds[table.public.dev[1].prompt] == alone[table.public.dev[1].prompt]


def test_nothing_is_released_that_could_not_be_recorded(tmp_path: Path) -> None:
    class Full(RunnerHarness):
        def record(self, calls: Sequence[ModelCalled]) -> None:
            raise UsageError("The log takes nothing.")

    facts = Full(tmp_path, FirstChoicePolicy()).play(ASKS, ["dev0"])
    assert isinstance(facts[0], RolloutFailed) and facts[0].reason == "The log takes nothing."


def test_what_another_executor_recorded_first_is_what_counts(tmp_path: Path) -> None:
    """A policy need not say the same twice; else the attempt's answer would not be what its recorded call says."""

    class Second(RunnerHarness):
        def record(self, calls: Sequence[ModelCalled]) -> bool:
            first = [msgspec.structs.replace(call, texts=("said to the other",) * len(call.texts)) for call in calls]
            super().record(first)
            return True

    table = Second(tmp_path, FirstChoicePolicy())
    facts = table.play(ASKS, ["dev0", "dev1"])
    assert [fact.answer for fact in facts if isinstance(fact, TrajectoryRecorded)] == ["said to the other"] * 2
    assert len(table.policy.asked) == 2


def test_a_scaffold_that_looks_its_item_up_finds_nothing_of_its_fold(table: RunnerHarness) -> None:
    """The answer would be there for all of train if the scaffold were given all of train."""
    code = (
        "def solve(item, model, data):\n"
        "    return next((example.label for example in data.train if example.prompt == item.prompt), 'not there')"
    )
    fold = [example.id for example in table.public.train if example.fold == 2]
    assert fold and {fact.answer for fact in table.play(code, fold, fold=2) if isinstance(fact, TrajectoryRecorded)} == {"not there"}
    table.player.close()
    others = [example.id for example in table.public.train if example.fold != 2]
    found = [fact.answer for fact in table.play(code, others, fold=2) if isinstance(fact, TrajectoryRecorded)]
    assert found and "not there" not in found


def test_a_policy_that_refuses_fails_the_attempts_in_its_words(tmp_path: Path) -> None:
    facts = RunnerHarness(tmp_path, Refusing()).play(ASKS, ["dev0"])
    assert isinstance(facts[0], RolloutFailed) and facts[0].kind == "refused" and "not one of this policy's labels" in facts[0].reason


SOME_REFUSED = "def solve(item, model, data): return model.complete(item.prompt, ['x'] if item.id == 'dev1' else data.labels).text"


def test_a_refused_call_fails_its_own_attempts_alone(tmp_path: Path) -> None:
    table = RunnerHarness(tmp_path, Strict())
    facts = table.play(SOME_REFUSED, ["dev0", "dev1", "dev2"], attempts=2)
    assert [type(fact) for fact in facts] == [TrajectoryRecorded] * 2 + [RolloutFailed] * 2 + [TrajectoryRecorded] * 2
    assert all(fact.kind == "refused" and "not one of this policy's" in fact.reason for fact in facts if isinstance(fact, RolloutFailed))
    assert sorted(call.item for call in table.recorded.values()) == ["dev0", "dev2"]
    bodies = {
        call.item: msgspec.json.decode(table.blobs.get(call.body), type=list[SampleRequest])[call.index] for call in table.recorded.values()
    }
    assert {item: body.prompt for item, body in bodies.items()} == {"dev0": table.public.dev[0].prompt, "dev2": table.public.dev[2].prompt}


def test_a_refused_call_is_asked_again_on_resume(tmp_path: Path) -> None:
    table = RunnerHarness(tmp_path, Strict())
    table.play(SOME_REFUSED, ["dev0", "dev1"])
    table.player.policy = table.policy = FirstChoicePolicy()
    facts = table.play(SOME_REFUSED, ["dev0", "dev1"])
    assert [type(fact) for fact in facts] == [TrajectoryRecorded] * 2 and [request.choices for request in table.policy.asked] == [("x",)]


def test_an_attempt_that_swallows_a_refusal_has_failed_all_the_same(tmp_path: Path) -> None:
    code = "def solve(item, model, data):\n  try: model.complete('', ['x'])\n  except RuntimeError: return 'a'"
    (fact,) = RunnerHarness(tmp_path, Strict()).play(code, ["dev0"])
    assert isinstance(fact, RolloutFailed) and fact.kind == "refused"


@pytest.mark.parametrize("error", [TryAgain("later"), Unavailable("away")])
def test_a_policy_that_is_away_is_no_failure_of_a_shard(tmp_path: Path, error: UserError) -> None:
    class Away(FirstChoicePolicy):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            raise error

    with pytest.raises(type(error)):
        RunnerHarness(tmp_path, Away()).play(ASKS, ["dev0", "dev1"])


@pytest.mark.parametrize(
    "change", ["item.prompt + '!', data.labels", "item.prompt, data.labels[:2]", "item.prompt, data.labels, [1.0] * len(data.labels)"]
)
def test_a_recorded_call_answers_no_other_question(table: RunnerHarness, change: str) -> None:
    table.play(ASKS, ["dev0", "dev1"])
    recorded, asked = dict(table.recorded), len(table.policy.asked)
    code = f"def solve(item, model, data): return model.complete(*([{change}] if item.id == 'dev1' else [item.prompt, data.labels])).text"
    kept, failed = table.play(code, ["dev0", "dev1"])
    assert isinstance(kept, TrajectoryRecorded)
    assert isinstance(failed, RolloutFailed) and failed.kind == "nonsense" and "it is not deterministic" in failed.reason
    assert table.recorded == recorded and len(table.policy.asked) == asked


@pytest.mark.parametrize(
    "body", ["return 'hunter2' * 2", "raise ValueError('hunter2' * 2)", "return model.complete('hunter2' * 2, choices=data.labels).text"]
)
def test_a_secret_that_a_scaffold_found_is_recorded_nowhere(table: RunnerHarness, body: str) -> None:
    (fact,) = table.play(f"def solve(item, model, data): {body}", ["dev0"])
    assert isinstance(fact, RolloutFailed) and fact.kind == "refused" and "secret" in fact.reason and not table.recorded
    assert not any(b"hunter2hunter2" in path.read_bytes() for path in table.blobs.root.rglob("*") if path.is_file())


def test_an_item_that_this_host_does_not_have_fails_the_shard(table: RunnerHarness) -> None:
    facts = table.play(ASKS, ["dev0", "case-7"])
    assert all(isinstance(fact, RolloutFailed) and "case-7" in fact.reason for fact in facts) and len(facts) == 2


def test_a_run_whose_sandbox_this_host_cannot_give_is_not_played(table: RunnerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOLOG_ALLOW_UNSANDBOXED", raising=False)
    requested = RolloutsRequested(
        generation=0,
        purpose="dev",
        round=1,
        shard=0,
        scaffold="",
        adapter="",
        split="dev",
        fold=-1,
        items=("dev0",),
        attempts=1,
        temperature=1.0,
        seed=1,
    )
    for recorded in ("none", "landlock ABI 7, seccomp 0, memory by watchdog"):
        with pytest.raises(Misconfigured):
            table.player.play("r", "q", requested, table.public, "m", table.known, table.record, sandbox=recorded)
