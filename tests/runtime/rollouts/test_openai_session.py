"""Playing scaffolds that use `openai.OpenAI()`, and programs in SIA's style: what they ask is on the log as any other
call is.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from events.errors import TryAgain
from events.rollouts import ModelCalled
from runtime.policies.interface import Sampled, SampleRequest
from runtime.rollouts.host import ScaffoldLimits
from runtime.rollouts.names import item_names
from runtime.rollouts.shard import AttemptResult
from runtime.sandbox.choose import Profile
from tests.harness.programs import ASKS_FOR_EACH
from tests.harness.runner import FirstChoicePolicy, RunnerHarness

BOTH = """
import os
import openai

client = openai.OpenAI()

def solve(item, model, data):
    messages = [{"role": "user", "content": item.prompt}]
    first = client.chat.completions.create(model="policy", messages=messages, n=2, max_tokens=9)
    again = client.completions.create(model=os.environ["OPENAI_MODEL"], prompt="same for all")
    client.embeddings.create(model="policy", input=item.prompt)
    chosen = model.complete(item.prompt, choices=data.labels).text
    return " ".join([first.choices[1].message.content, again.choices[0].text, chosen])
"""

LIGHT = """
import json, os, urllib.request  # what openai would do, without its import, which takes seconds on a busy host

SEEN = []

def ask(prompt):
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    body = json.dumps({"model": "policy", "prompt": prompt}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/completions", body, headers)
    return json.load(urllib.request.urlopen(request))["choices"][0]["text"]

def solve(item, model, data):
    SEEN.append(item.id)
    while item.id == DEV0 and model._attempt == HANGS: pass
    return ask(item.prompt) + " " + str(len(SEEN))
"""


class Numbers(FirstChoicePolicy):
    """A policy that answers with the seed, so that no two samples are the same."""

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        self.asked += requests
        texts = [
            tuple(of.choices[0] if of.choices else f"{of.seed % 1000}.{n}" for n in range(of.n)) for of in requests
        ]
        return [Sampled(one, ((1, 2),) * len(one), ((-0.5, -0.5),) * len(one), 3) for one in texts]


@pytest.fixture
def table(tmp_path: Path) -> RunnerHarness:
    return RunnerHarness(tmp_path, Numbers())


def successes(results: list[AttemptResult]) -> list[AttemptResult]:
    """The results, none of which is a failure."""
    assert not any(result.kind for result in results), results
    return results


def test_openai_works_beside_the_model_and_every_call_is_recorded(table: RunnerHarness) -> None:
    played = successes(table.play(BOTH, ["dev0", "dev1"], attempts=2))
    assert [(one.item, one.attempt) for one in played] == [("dev0", 0), ("dev0", 1), ("dev1", 0), ("dev1", 1)]
    assert len({one.answer for one in played}) == 4
    for one in played:
        calls = [(table.recorded[use.call], use.completion) for use in one.uses]
        assert [(call.ordinal >> 48, len(call.texts), completion) for call, completion in calls] == [
            (0, 2, one.attempt), (1, 2, 0), (1, 2, 1), (1, 1, 0),
        ]  # fmt: skip
        assert {call.item for call, _ in calls} == {one.item}
        assert one.answer == " ".join(call.texts[completion] for call, completion in (calls[2], calls[3], calls[0]))
    embeddings = [call for call in table.recorded.values() if call.model == "hashed-character-ngrams"]
    assert len(embeddings) == 4 and {call.texts for call in embeddings} == {()}
    body = msgspec.json.decode(table.blobs.get(embeddings[0].body), type=list[SampleRequest])[0].prompt
    assert json.loads(body)["input"] in {item.prompt for item in table.public.dev[:2]}


def test_what_is_recorded_is_not_asked_again_and_a_seed_stays(table: RunnerHarness) -> None:
    successes(table.play(BOTH, ["dev1"], attempts=2))
    first = successes(table.play(BOTH, ["dev0", "dev1"], attempts=2))
    assert len(table.policy.asked) == 10
    table.policy.asked.clear()
    again = successes(table.play(BOTH, ["dev0", "dev1", "dev2"], attempts=2))
    assert [one.answer for one in again[:4]] == [one.answer for one in first]
    assert [one.uses for one in again[:4]] == [one.uses for one in first]
    assert len(table.policy.asked) == 5 and table.public.dev[0].prompt not in {
        request.prompt for request in table.policy.asked
    }


AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import openai

client = openai.OpenAI(max_retries=0)

def ask(number):
    return client.completions.create(model="policy", prompt=f"{number:02}" + "x" * 88, max_tokens=10).usage.total_tokens

def embed(number):
    return client.embeddings.create(model="policy", input=[f"{number:02}" + "x" * 88]).usage.total_tokens

def solve(item, model, data):
    with ThreadPoolExecutor(16) as pool:
        return str(sum(pool.map(ask, range(8))) + sum(pool.map(embed, range(8))))
"""


def test_calls_at_once_are_paid_as_one_after_the_other_and_found_again(table: RunnerHarness) -> None:
    spent = 8 * (3 + 2) + 8 * 90
    table.runner.limits = ScaffoldLimits(tokens=spent)
    (first,) = successes(table.play(AT_ONCE, ["dev0"]))
    assert first.answer == f"{spent}" and len(table.recorded) == 16
    table.policy.asked.clear()
    table.recorded.popitem()  # as where an executor died between two calls
    (again,) = successes(table.play(AT_ONCE, ["dev0"]))
    assert again.answer == first.answer and len(table.recorded) == 16 and len(table.policy.asked) <= 1


def test_a_call_that_cannot_be_recorded_sends_the_shard_back(tmp_path: Path) -> None:
    class Full(RunnerHarness):
        def record(self, calls: Sequence[ModelCalled]) -> bool | None:
            raise TryAgain("The log is full.")

    with pytest.raises(TryAgain, match="The log is full"):
        Full(tmp_path, Numbers()).play(BOTH, ["dev0"])


def test_a_secret_that_is_asked_for_fails_its_attempt(table: RunnerHarness) -> None:
    code = BOTH.replace("item.prompt}", "item.prompt + 'hunter2hunter2'}").replace(
        "    first =", "    try:\n        first =", 1
    )
    code = code.replace("    again =", "    except openai.BadRequestError:\n        return 'went on'\n    again =")
    (failed,) = table.play(code, ["dev0"])
    assert failed.kind == "refused" and not table.recorded


def test_a_call_outside_of_an_attempt_is_refused(table: RunnerHarness) -> None:
    code = "import openai\nopenai.OpenAI().completions.create(model='policy', prompt='now')\ndef solve(*of): pass"
    (failed,) = table.play(code, ["dev0"])
    assert failed.kind == "unloadable" and "call the model from within" in failed.reason


def test_a_scaffold_cannot_take_another_items_turn(table: RunnerHarness) -> None:
    code = "import agent, openai\ndef solve(item, model, data): agent.solve.__globals__['announce']('dev1', 0)"
    failed = table.play(code, ["dev0"], attempts=1)[0]
    assert "Attempt 0 at item 'dev1' cannot begin now" in failed.reason


@pytest.mark.parametrize("code", [BOTH, ASKS_FOR_EACH], ids=["agent", "program"])
def test_without_a_network_of_its_own_nothing_over_http_is_played(
    table: RunnerHarness, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.rollouts.runner.provide", lambda recorded: Profile("landlock", "landlock"))
    (failed,) = table.play(code, ["dev0"])
    assert failed.kind == "unloadable" and "Landlock's profile cannot give" in failed.reason


def test_an_attempt_cannot_begin_again_with_its_budget(table: RunnerHarness) -> None:
    code = "import agent, openai\ndef solve(item, model, data): agent.solve.__globals__['announce'](item.id, 0)"
    first, second = table.play(code, ["dev0"], attempts=2)
    assert "cannot begin now" in first.reason
    assert "cannot begin now" in second.reason


@pytest.mark.slow
def test_the_policys_time_is_not_the_attempts(tmp_path: Path) -> None:
    class Slow(Numbers):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            time.sleep(7)
            return super().sample(model, requests)

    table = RunnerHarness(tmp_path, Slow())
    table.runner.limits = ScaffoldLimits(idle_timeout=6.0)
    successes(table.play("HANGS, DEV0 = None, None\n" + LIGHT, ["dev0"], attempts=1))


@pytest.mark.slow
def test_an_attempt_that_hangs_fails_alone_over_http_too(table: RunnerHarness) -> None:
    table.runner.limits = ScaffoldLimits(idle_timeout=6.0)
    name = item_names(table.public.digests, "", ["dev0"])["dev0"]
    results = table.play(f"HANGS, DEV0 = 1, {name!r}\n{LIGHT}", ["dev0", "dev1"], attempts=3)
    assert [result.kind for result in results] == ["", "hung", "", "", "", ""]
    assert "no word for 6 s" in results[1].reason


def test_attempts_over_http_share_nothing(table: RunnerHarness) -> None:
    played = successes(table.play("HANGS, DEV0 = None, None\n" + LIGHT, ["dev0", "dev1"], attempts=2))
    assert {str(one.answer).split()[1] for one in played} == {"1"}


def test_the_model_is_not_there_while_a_scaffold_prepares_itself(table: RunnerHarness) -> None:
    (failed,) = table.play(LIGHT + "\ndef prepare(data): ask('now')\n", ["dev0"])
    assert failed.kind == "unloadable" and "Bad Request" in failed.reason


def test_the_policy_is_asked_by_one_thread_at_a_time(tmp_path: Path) -> None:
    class Alone(Numbers):
        def __init__(self) -> None:
            super().__init__()
            self.within = 0

        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            self.within += 1
            time.sleep(0.05)
            assert self.within == 1
            self.within -= 1
            return super().sample(model, requests)

    code = BOTH.replace("def solve", "import threading\n\ndef solve").replace(
        "    first =",
        "    aside = threading.Thread(target=lambda: [model.complete(f'{n}') for n in range(5)])\n    "
        "aside.start()\n    first =",
        1,
    )
    successes(
        RunnerHarness(tmp_path, Alone()).play(code.replace("    return", "    aside.join()\n    return"), ["dev0"])
    )


def test_completions_that_no_event_can_hold_fail_the_attempt(tmp_path: Path) -> None:
    class Wordy(Numbers):
        def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
            return [Sampled(("x" * 50_000,) * of.n, ((1,),) * of.n, ((-0.5,),) * of.n, 3) for of in requests]

    table = RunnerHarness(tmp_path, Wordy())
    code = BOTH.replace("n=2", "n=64").replace("again =", "again = first\n    return 'went on'\n    again =")
    (failed,) = table.play(code, ["dev0"])
    assert failed.kind == "flooded" and "a call's completions are 3," in failed.reason
    assert not table.recorded


def test_a_program_is_played_attempt_by_attempt(table: RunnerHarness) -> None:
    code = (
        ASKS_FOR_EACH.replace("[:3]", "[:9]")
        + "\nclient.completions.create(model=HOSTED_MODEL, prompt='about no item')\n"
    )
    played = successes(table.play(code, ["dev0", "dev1"], attempts=2))
    assert [(one.item, one.attempt) for one in played] == [("dev0", 0), ("dev0", 1), ("dev1", 0), ("dev1", 1)]
    for one in played:
        (use,) = one.uses
        assert table.recorded[use.call].item == one.item and table.recorded[use.call].texts == (one.answer,)
    assert [call.item for call in table.recorded.values()].count("") == 2
    assert {request.max_tokens for request in table.policy.asked} == {50, 256}


def test_a_program_sees_no_label_of_the_items_that_it_answers(table: RunnerHarness) -> None:
    code = (
        "import argparse, csv, pathlib\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--dataset_dir', type=pathlib.Path)\nparser.add_argument('--working_dir', "
        "type=pathlib.Path)\n"
        "at = parser.parse_args()\nfiles = {p.name: p.read_text() for p in at.dataset_dir.iterdir()}\n"
        "labels = {row['text']: row['label'] for row in csv.DictReader(open(at.dataset_dir / 'train.csv', "
        "newline=''))}\n"
        "rows = list(csv.DictReader(open(at.dataset_dir / 'test.csv', newline='')))\n"
        "out = ''.join(f\"{row['id']},{labels.get(row['text'], 'not there')} of {len(labels)}\\n\" for row in rows)\n"
        "(at.working_dir / 'submission.csv').write_text('id,label\\n' + out)\n"
    )
    fold = [example for example in table.public.train if example.fold == 0]
    (one,) = successes(table.play(code, [fold[0].id], fold=0))
    assert one.answer == f"not there of {len(table.public.train) - len(fold)}"
