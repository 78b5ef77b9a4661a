"""Running shards: calls recorded before their answers are released, none asked twice, and nothing to be looked up."""

import random
from collections.abc import Sequence
from math import log, log1p
from pathlib import Path

import msgspec
import pytest

from events.errors import Misconfigured, NotHere, TryAgain, Unavailable, UsageError, UserError
from events.rollouts import CallUse, ModelCalled, RolloutFailed, RolloutsRequested, TrajectoryRecorded
from runtime.policies import client
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.calls import most_likely, repeated
from runtime.rollouts.host import ScaffoldLimits
from runtime.rollouts.names import item_names
from runtime.rollouts.shard import AttemptResult, facts_of, failed_attempts
from tasks.loading import load
from tests.harness.paths import TOY
from tests.harness.runner import FirstChoicePolicy, RunnerHarness, answers, shard_of

DEV1 = item_names(load(str(TOY)).public(0).digests, "", ["dev1"])["dev1"]
"""The name under which a scaffold sees the second dev item."""

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


def test_every_attempt_has_an_answer_and_its_call(table: RunnerHarness) -> None:
    results = table.play(ASKS, ["dev0", "dev1"], attempts=3)
    assert [(result.item, result.attempt) for result in results] == [
        (item, attempt) for item in ("dev0", "dev1") for attempt in range(3)
    ]
    assert {(use.call, use.completion) for result in results for use in result.uses} == {
        (call, completion) for call in table.recorded for completion in range(3)
    }
    assert len(table.policy.asked) == 2 and table.policy.asked[0].n == 3


def test_a_request_gets_a_trajectory_or_a_failure_for_each_attempt() -> None:
    requested = RolloutsRequested(
        generation=2,
        purpose="dev",
        round=1,
        shard=0,
        scaffold="s",
        adapter="a",
        split="dev",
        fold=-1,
        items=("dev0", "dev1"),
        attempts=1,
        temperature=1.0,
        seed=1,
    )
    use = CallUse("c", 0)
    assert facts_of(
        "q",
        requested,
        [AttemptResult("dev0", 0, "baker", (use,), 0.5), *failed_attempts(["dev1"], 1, "hung", "no word")],
    ) == [
        TrajectoryRecorded(
            request="q",
            item="dev0",
            attempt=0,
            purpose="dev",
            split="dev",
            generation=2,
            scaffold="s",
            adapter="a",
            answer="baker",
            calls=(use,),
            seconds=0.5,
        ),
        RolloutFailed(request="q", item="dev1", attempt=0, purpose="dev", kind="hung", reason="no word"),
    ]


def test_a_scaffold_sees_the_labels_in_the_order_in_which_they_are_on_offer_now(table: RunnerHarness) -> None:
    item = table.public.dev[0].id
    first, last = table.public.labels[0], table.public.labels[-1]
    scaffold = table.blobs.put_tree({"agent.py": ASKS.encode()})
    table.run(shard_of([item], scaffold=scaffold))
    table.public = msgspec.structs.replace(table.public, labels=table.public.labels[::-1])
    table.recorded = {}
    results = table.run(shard_of([item], scaffold=scaffold))
    table.runner.close()
    assert answers(results) == [last] and last != first


def test_a_hint_reaches_the_model_and_is_recorded_beside_the_prompt(table: RunnerHarness) -> None:
    item, other = (example.id for example in table.public.train[:2])
    table.play(ASKS, [item, other], hints={item: " Hint: baker."})
    hints = {request.prompt: request.hint for request in table.policy.asked}
    assert list(hints.values()) == [" Hint: baker.", ""]
    (call,) = (call for call in table.recorded.values() if call.item == item)
    (request,) = (r for r in msgspec.json.decode(table.blobs.get(call.body), type=list[SampleRequest]) if r.hint)
    body = client._body("m", request)
    assert body["prompt"] == request.prompt + " Hint: baker." and "Hint" not in request.prompt


@pytest.mark.parametrize(("hinted", "seen"), [(False, "2"), (True, "1")])
def test_a_process_that_was_shown_answers_is_not_used_again(table: RunnerHarness, hinted: bool, seen: str) -> None:
    item = table.public.train[0].id
    code = b"SEEN = []\ndef solve(item, model, data): SEEN.append(0); return str(len(SEEN))"
    scaffold = table.blobs.put_tree({"agent.py": code})
    hints = {item: " Hint: baker."} if hinted else {}
    table.run(shard_of([item], scaffold=scaffold, fold=0, shared_state=True, hints=hints))
    (result,) = table.run(shard_of([item], scaffold=scaffold, fold=0, shared_state=True))
    table.runner.close()
    assert result.answer == seen


def test_attempts_of_two_shards_share_nothing_unless_the_task_wants_it(table: RunnerHarness) -> None:
    code = b"SEEN = []\ndef solve(item, model, data): SEEN.append(0); return str(len(SEEN))"
    scaffold = table.blobs.put_tree({"agent.py": code})
    item = table.public.train[0].id
    shards = [
        table.run(shard_of([item], scaffold=scaffold, fold=0, attempts=2, shared_state=shared))
        for shared in (False, False, True, True)
    ]
    assert [answers(results) for results in shards] == [["1", "1"], ["1", "1"], ["1", "2"], ["3", "4"]]
    outside_train = [table.run(shard_of(["dev0"], scaffold=scaffold, attempts=2, shared_state=True)) for _ in range(2)]
    table.runner.close()
    assert [answers(results) for results in outside_train] == [["1", "2"]] * 2, "how much was played before is no clue"


def test_a_call_that_is_recorded_is_not_made_again(table: RunnerHarness) -> None:
    first = table.play(ASKS, ["dev0", "dev1"])
    table.policy.asked.clear()
    again = table.play(ASKS, ["dev0", "dev1", "dev2"])
    assert [request.prompt for request in table.policy.asked] == [table.public.dev[2].prompt]
    assert answers(again)[:2] == answers(first)


def test_a_seed_belongs_to_the_item_and_not_to_what_else_is_run_with_it(table: RunnerHarness) -> None:
    table.play(ASKS, ["dev0", "dev1"])
    alone = {request.prompt: request.seed for request in table.policy.asked}
    table.recorded.clear()
    table.policy.asked.clear()
    table.play(ASKS, ["dev3", "dev1"])
    seeds = {request.prompt: request.seed for request in table.policy.asked}
    assert seeds[table.public.dev[1].prompt] == alone[table.public.dev[1].prompt]


def test_nothing_is_released_that_could_not_be_recorded(tmp_path: Path) -> None:
    class Full(RunnerHarness):
        def record(self, calls: Sequence[ModelCalled]) -> bool | None:
            raise UsageError("The log takes nothing.")

    (result,) = Full(tmp_path, FirstChoicePolicy()).play(ASKS, ["dev0"])
    assert (result.kind, result.reason) == ("refused", "The log takes nothing.")


def test_what_another_executor_recorded_first_is_what_counts(tmp_path: Path) -> None:
    """A policy need not say the same twice; else the attempt's answer would not be what its recorded call says."""

    class Second(RunnerHarness):
        def record(self, calls: Sequence[ModelCalled]) -> bool:
            first = [msgspec.structs.replace(call, texts=("said to the other",) * len(call.texts)) for call in calls]
            super().record(first)
            return True

    table = Second(tmp_path, FirstChoicePolicy())
    assert answers(table.play(ASKS, ["dev0", "dev1"])) == ["said to the other"] * 2
    assert len(table.policy.asked) == 2


def test_a_scaffold_that_looks_its_item_up_finds_nothing_of_its_fold(table: RunnerHarness) -> None:
    """The answer would be there for all of train if the scaffold were given all of train."""
    code = (
        "def solve(item, model, data):\n"
        "    return next((example.label for example in data.train if example.prompt == item.prompt), 'not there')"
    )
    fold = [example.id for example in table.public.train if example.fold == 2]
    assert fold and set(answers(table.play(code, fold, fold=2))) == {"not there"}
    others = [example.id for example in table.public.train if example.fold != 2]
    labels = answers(table.play(code, others, fold=2))
    assert labels and "not there" not in labels


def test_a_policy_that_refuses_fails_the_attempts_in_its_words(tmp_path: Path) -> None:
    (result,) = RunnerHarness(tmp_path, Refusing()).play(ASKS, ["dev0"])
    assert result.kind == "refused" and "not one of this policy's labels" in result.reason


SOME_REFUSED = f"""
def solve(item, model, data): return model.complete(item.prompt, ['x'] if item.id == {DEV1!r} else data.labels).text
"""


def test_a_refused_call_fails_its_own_attempts_alone(tmp_path: Path) -> None:
    table = RunnerHarness(tmp_path, Strict())
    results = table.play(SOME_REFUSED, ["dev0", "dev1", "dev2"], attempts=2)
    assert [result.kind for result in results] == ["", "", "refused", "refused", "", ""]
    assert all("not one of this policy's" in result.reason for result in results[2:4])
    assert sorted(call.item for call in table.recorded.values()) == ["dev0", "dev2"]
    bodies = {
        call.item: msgspec.json.decode(table.blobs.get(call.body), type=list[SampleRequest])[call.index]
        for call in table.recorded.values()
    }
    assert {item: body.prompt for item, body in bodies.items()} == {
        "dev0": table.public.dev[0].prompt,
        "dev2": table.public.dev[2].prompt,
    }


def test_a_refused_call_is_asked_again_on_resume(tmp_path: Path) -> None:
    table = RunnerHarness(tmp_path, Strict())
    table.play(SOME_REFUSED, ["dev0", "dev1"])
    table.use(FirstChoicePolicy())
    assert len(answers(table.play(SOME_REFUSED, ["dev0", "dev1"]))) == 2
    assert [request.choices for request in table.policy.asked] == [("x",)]


def test_an_attempt_that_swallows_a_refusal_has_failed_all_the_same(tmp_path: Path) -> None:
    code = "def solve(item, model, data):\n  try: model.complete('', ['x'])\n  except RuntimeError: return 'a'"
    (result,) = RunnerHarness(tmp_path, Strict()).play(code, ["dev0"])
    assert result.kind == "refused"


@pytest.mark.parametrize("error", [TryAgain("later"), Unavailable("away"), NotHere("no such model")])
def test_a_policy_that_is_away_is_no_failure_of_a_shard(tmp_path: Path, error: UserError) -> None:
    class Away(FirstChoicePolicy):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            raise error

    with pytest.raises(type(error)):
        RunnerHarness(tmp_path, Away()).play(ASKS, ["dev0", "dev1"])


@pytest.mark.parametrize(
    "change",
    [
        "item.prompt + '!', data.labels",
        "item.prompt, data.labels[:2]",
        "item.prompt, data.labels, [1.0] * len(data.labels)",
    ],
)
def test_a_recorded_call_answers_no_other_question(table: RunnerHarness, change: str) -> None:
    table.play(ASKS, ["dev0", "dev1"])
    recorded, asked = dict(table.recorded), len(table.policy.asked)
    code = (
        f"def solve(item, model, data): return model.complete(*([{change}] if item.id == {DEV1!r} else "
        "[item.prompt, data.labels])).text"
    )
    same, failed = table.play(code, ["dev0", "dev1"])
    assert not same.kind and failed.kind == "nonsense" and "it is not deterministic" in failed.reason
    assert table.recorded == recorded and len(table.policy.asked) == asked


@pytest.mark.parametrize(
    "body",
    [
        "return 'hunter2' * 2",
        "raise ValueError('hunter2' * 2)",
        "return model.complete('hunter2' * 2, choices=data.labels).text",
    ],
)
def test_a_secret_that_a_scaffold_found_is_recorded_nowhere(table: RunnerHarness, body: str) -> None:
    (result,) = table.play(f"def solve(item, model, data): {body}", ["dev0"])
    assert result.kind == "refused" and "secret" in result.reason and result.answer is None and not table.recorded
    assert not any(b"hunter2hunter2" in path.read_bytes() for path in table.blobs.root.rglob("*") if path.is_file())


def test_the_calls_of_an_item_take_no_more_tokens_than_its_attempts_have(table: RunnerHarness) -> None:
    class Counting(FirstChoicePolicy):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            sampled = super().sample(model, requests)
            return [
                msgspec.structs.replace(one, prompt_tokens=len(of.prompt))
                for of, one in zip(requests, sampled, strict=True)
            ]

    table.use(Counting())
    table.runner.limits = ScaffoldLimits(tokens=1000)
    code = """
def solve(item, model, data):
    return str([len(model.complete(f"{number}" + "x" * 599, choices=["yes"]).text) for number in range(4)])
"""
    results = table.play(code, ["dev0", "dev1"], attempts=2)
    assert [result.kind for result in results] == ["flooded"] * 4
    assert {result.reason for result in results} == {"the 2,000 tokens of the item's attempts are spent"}
    assert len(table.recorded) == 6  # each item's third ends at 1,806 of 2,000, and needs 728 at first
    asked = len(table.policy.asked)
    assert table.play(code, ["dev0", "dev1"], attempts=2) == results and len(table.policy.asked) == asked
    table.runner.limits = ScaffoldLimits(tokens=1500)
    assert not any(result.kind for result in table.play(code, ["dev0"], attempts=2))


@pytest.mark.parametrize("ask", ["'hunter2' * 2", "item.prompt"])
def test_a_secret_in_a_call_or_its_completion_fails_the_attempts_that_made_it_alone(
    table: RunnerHarness, ask: str
) -> None:
    class Leaky(FirstChoicePolicy):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            leak = table.public.dev[1].prompt
            plain = super().sample(model, requests)
            return [
                msgspec.structs.replace(sampled, texts=("hunter2" * 2,)) if of.prompt == leak else sampled
                for of, sampled in zip(requests, plain, strict=True)
            ]

    table.use(Leaky())
    code = (
        f"def solve(item, model, data): return model.complete({ask} if item.id == {DEV1!r} else 'q', data.labels).text"
    )
    first, failed, third = table.play(code, ["dev0", "dev1", "dev2"])
    assert (first.kind, failed.kind, third.kind) == ("", "refused", "") and "known secret" in failed.reason
    assert {call.item for call in table.recorded.values()} == {"dev0", "dev2"}


def test_an_item_that_this_host_does_not_have_is_the_hosts_fault(table: RunnerHarness) -> None:
    with pytest.raises(NotHere, match="case-7"):
        table.play(ASKS, ["dev0", "case-7"])


def test_a_run_whose_sandbox_this_host_cannot_give_is_not_played(
    table: RunnerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVOLOG_ALLOW_UNSANDBOXED", raising=False)
    for recorded in ("none", "landlock ABI 7, seccomp 0, memory by watchdog"):
        with pytest.raises(Misconfigured):
            table.run(shard_of(["dev0"], scaffold="", sandbox=recorded))


def test_a_scaffold_sees_names_that_tell_nothing_in_an_order_that_tells_nothing(tmp_path: Path) -> None:
    table = RunnerHarness(tmp_path, FirstChoicePolicy())
    items = [f"dev{number}" for number in range(8)]
    seen = dict(zip(items, answers(table.play("def solve(item, model, data): return item.id", items)), strict=True))
    assert seen == item_names(table.public.digests, "", items)  # derived, so that the next executor gives the same
    assert len(set(seen.values())) == 8 and not any(item in str(name) for item, name in seen.items())
    assert list(item_names(table.public.digests, "", items)) != items
    for other in (
        item_names(table.public.digests, "0 1 dev 1", items),
        item_names({**table.public.digests, "test": "another"}, "", items),
    ):
        assert not set(other.values()) & set(seen.values())


class Fixed(FirstChoicePolicy):
    """A server with a cache: long answers, and the same for each seed; cut at the limit."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.asked += requests
        tokens, logprobs = tuple(range(30)), (-1.0,) * 30
        return [Sampled(("x",) * of.n, (tokens,) * of.n, (logprobs,) * of.n, 3, (True,) * of.n) for of in requests]


def test_completions_that_repeat_another_against_all_chance_are_counted_and_said_and_not_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = RunnerHarness(tmp_path, Fixed())
    assert answers(table.play(ASKS, ["dev0", "dev1"], attempts=4)) == ["x"] * 8
    calls = list(table.recorded.values())
    assert [(call.repeated, call.cut, call.sampling) for call in calls] == [(3, (True,) * 4, {})] * 2
    assert "gave 6 completions again, token by token" in caplog.text


def test_calls_of_other_seeds_are_compared_within_a_shard_and_none_at_temperature_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = "def solve(item, model, data): return model.complete('p').text"
    table = RunnerHarness(tmp_path, Fixed())
    table.play(same, ["dev0", "dev1"])
    assert sorted(call.repeated for call in table.recorded.values()) == [0, 1]
    cold = RunnerHarness(tmp_path / "cold", Fixed())
    scaffold = cold.blobs.put_tree({"agent.py": same.encode()})
    caplog.clear()
    cold.run(msgspec.structs.replace(shard_of(["dev0", "dev1"], scaffold=scaffold, attempts=4), temperature=0.0))
    cold.runner.close()
    assert [call.repeated for call in cold.recorded.values()] == [0, 0] and not caplog.text


@pytest.mark.parametrize(
    ("logprob", "same", "apart", "temperature", "count"),
    [
        (-20.8, 2, 0, 1.0, 1),  # e^-20.8 is 9.2e-10
        (-20.6, 2, 0, 1.0, 0),  # e^-20.6 is 1.1e-9
        (-20.8, 2, 1, 1.0, 0),  # two others might have been equal: 2 e^-20.8
        (-7.0, 4, 0, 1.0, 3),  # e^-21
        (-0.7, 8, 0, 1.0, 0),  # half of all probability, eight times: e^-4.9
        (-0.7, 64, 0, 1.0, 63),  # e^-44
        (-0.7, 32, 32, 1.0, 0),  # half of 64, as it ought to be
        (-30.0, 2, 0, 2.0, 0),  # at temperature 2, up to e^-15
        (-60.0, 2, 0, 2.0, 1),
        (-40.0, 2, 0, 0.5, 1),  # at temperature 1/2, up to e^-67
        (-40.0, 2, 0, 0.01, 1),
        (-12.0, 8, 0, 0.5, 7),
        (-1.0, 64, 0, 0.2, 0),  # which a low temperature may make all but sure
    ],
)
def test_equal_completions_are_put_down_to_chance_where_chance_may_be(
    logprob: float, same: int, apart: int, temperature: float, count: int
) -> None:
    tokens = ((7,),) * same + tuple((100 + number,) for number in range(apart))
    sampled = Sampled(("",) * len(tokens), tokens, ((logprob,),) * len(tokens))
    assert repeated(sampled, (), temperature) == count
    later = Sampled(("",) * (same - 1), tokens[: same - 1], ((logprob,),) * (same - 1))
    assert repeated(later, tokens[same - 1 :], temperature) == count  # the first was of an earlier call


def test_how_likely_a_token_can_be_at_another_temperature() -> None:
    assert most_likely(log(0.3), 1.0) == pytest.approx(log(0.3)) and most_likely(0.0, 0.7) == 0.0
    # at 2, the rest on one token: sqrt .2 / (sqrt .2 + sqrt .8) = 1/3
    assert most_likely(log(0.2), 2.0) == pytest.approx(log(1 / 3))
    # at 1/2, the rest on all of 2^18 tokens: .04 / (.04 + .64 / 2^18)
    assert most_likely(log(0.2), 0.5) == pytest.approx(-log1p(16 / 2**18))
    draw = random.Random(1)
    for temperature in (0.3, 0.7, 1.5):
        weights = [draw.random() ** 9 for _ in range(50)]
        p = [weight / sum(weights) for weight in weights]
        tempered = [each ** (1 / temperature) for each in p]
        for each, there in zip(p, tempered, strict=True):
            assert log(there / sum(tempered)) <= most_likely(log(each), temperature) + 1e-12
