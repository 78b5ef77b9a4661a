"""Whole runs of both levers by a language model, through each API, on a task whose hidden labels cannot be mistaken for
anything else.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.harness.cli import CliHarness, one_sentence
from tests.harness.llm_server import Fail, LlmServer, Say, Stall, Step, call
from tests.harness.needs import needs
from tests.harness.paths import TOY
from tests.harness.polling import wait_until

pytest.importorskip("openai")
pytest.importorskip("peft")

from events import codec
from events.choice import AgentCalled, ContextAssembled
from events.codec import Event
from events.fact import Fact
from events.subjects import LOG
from runtime.agents.conversation import ModelRequest
from runtime.blobs.directory import Blobs

pytestmark = [pytest.mark.slow, needs("anthropic")]

PROVIDERS = ("anthropic", "openai")
BOTH = pytest.mark.parametrize("provider", PROVIDERS)
HIDDEN = "GOLD-7c1f"
"""Begins the labels of dev and test, and the ids of their items."""
KEY = "sk-test-0123456789abcdef"
VOTE = """def solve(item, model, data):
    words = set(item.prompt.split())
    votes = dict.fromkeys(data.labels, 0.0)
    for example in data.train:
        votes[example.label] += len(words & set(example.prompt.split())) ** 2
    best = sorted(votes, key=votes.get, reverse=True)[:4]
    return model.complete(item.prompt, choices=best, bias=[votes[label] / 40 for label in best]).text
"""
THIEF = "from pathlib import Path\n\ndef solve(item, model, data):\n    return Path({path!r}).read_text()\n"


def hidden_toy(folder: Path) -> Path:
    """The toy, with `HIDDEN` before every label and id of dev and test."""
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    swaps = {
        "data.py": [
            (
                '(f"{split}{number}", " ".join',
                f'(("" if split == "train" else "{HIDDEN}") + f"{{split}}{{number}}", " ".join',
            ),
            (
                "return {id: label for split",
                f'return {{id: label if split == "train" else "{HIDDEN}" + label for split',
            ),
        ],
        "gold.py": [("{id: label for", f'{{id: "{HIDDEN}" + label for')],
        "verifier.py": [("answer == label", f'answer == label.removeprefix("{HIDDEN}")')],
    }
    for name, pairs in swaps.items():
        text = (folder / name).read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def script(task: Path, *stalls: Step) -> list[Step]:
    """A baseline as the first scaffold; then reading, a scaffold that steals, an honest one in its place; a weight
    update; the end.
    """
    return [
        Fail(429, after="0"),
        call("propose_scaffold", files=[], summary="As it is.", report=f"A baseline to compare with; my key is {KEY}."),
        # generation 1
        Fail(500),
        Say(
            "Let me look.",
            (("list_trajectories", {"outcome": "wrong"}), ("query", {"sql": "SELECT count(*) AS n FROM trajectories"})),
        ),
        Say(
            "More?",
            (
                ("query", {"sql": "SELECT * FROM trajectories WHERE purpose = 'dev'"}),
                ("query", {"sql": "FROM model_called"}),
            ),
        ),
        Say("A long answer that is cut in the middle.", cut=True),
        Say(
            "",
            (
                ("query", {"sql": "SELECT purpose, count(*) FROM rewards GROUP BY ALL"}),
                ("read_trajectory", '{"id": oops'),
            ),
        ),
        *stalls,
        Say(
            "",
            (
                ("query", {"sql": f"FROM read_text('{task}/gold.py')"}),
                ("read_scaffold", {"path": "agent.py"}),
                ("guess", {}),
            ),
        ),
        call(
            "propose_scaffold",
            files=[{"path": "agent.py", "text": THIEF.format(path=str(task / "gold.py"))}],
            summary="Read the labels.",
            report="They are there.",
        ),
        call(
            "propose_scaffold",
            files=[{"path": "agent.py", "text": VOTE}],
            summary="Shared words vote.",
            report="Words tell the trade.",
        ),
        # generation 2
        call(
            "request_weight_update",
            algorithm="best_of_n",
            rounds=1,
            hyper={"lr": 5e-4, "epochs": 2},
            reason="Right answers can be found.",
        ),
        # generation 3
        call("stop", reason="Enough is known."),
    ]


class Recorded(NamedTuple):
    """Both runs, once they are audited."""

    reports: dict[str, dict[str, Any]]
    events: dict[str, list[Event]]
    blobs: Blobs
    tables: dict[str, Any]
    requests: dict[str, int]

    def of(self, run: str, kind: type[Fact]) -> list[Any]:
        return [event.data for event in self.events[run] if isinstance(event.data, kind)]

    def told(self, run: str) -> list[ModelRequest]:
        """All that was said to the model."""
        return [
            msgspec.json.decode(self.blobs.get(called.request), type=ModelRequest)
            for called in self.of(run, AgentCalled)
        ]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """One run through each API, at the same time and by the same services, of which one is killed in the middle of a
    conversation.
    """
    folder = tmp_path_factory.mktemp("llm")
    task = hidden_toy(folder / "task")
    (folder / "prices.toml").write_text("[anthropic]\nscripted = { input = 3, output = 15 }\n")
    with LlmServer({"anthropic": script(task, Stall()), "openai": script(task)}) as server:
        environment = server.environment("anthropic") | server.environment("openai")
        place = CliHarness(folder / "place", **environment, EVOLOG_PRICES=str(folder / "prices.toml"))
        try:
            place.up()
            for provider in PROVIDERS:
                place.evolog(
                    "run",
                    str(task),
                    "--agent",
                    f"{provider}:scripted",
                    "--generations",
                    "3",
                    "--name",
                    provider,
                    "--detach",
                )
            wait_until(server.stalled.is_set, "the agent waits for an answer")
            place.kill("feedback_agent")
            place.wait_until_audited(*PROVIDERS)
            reports = {run: json.loads(place.here("show", run, "--json").out) for run in PROVIDERS}
            sql = (
                "SELECT purpose, sum(model_calls) AS calls, sum(micro_usd) AS micro_usd FROM cost WHERE run = "
                "'anthropic' GROUP BY purpose"
            )
            tables = {row["purpose"]: row for row in json.loads(place.here("sql", sql, "--json").out)}
            events: dict[str, list[Event]] = {run: [] for run in PROVIDERS}
            for message in place.connect("operator", LOG).read(1, 100_000):
                event = codec.decode_at(message.subject, message.data)
                events[event.run].append(event)
        finally:
            place.down()
    asked = {run: sum(("system" in body) == (run == "anthropic") for body in server.requests) for run in PROVIDERS}
    yield Recorded(reports, events, Blobs(place.node.blobs), tables, asked)


@BOTH
def test_both_levers_are_pulled_and_the_run_ends_as_the_agent_says(recorded: Recorded, provider: str) -> None:
    report = recorded.reports[provider]
    assert [(row["lever"], row["change"].split(",")[0]) for row in report["generations"]] == [
        ("start", "As it is."),
        ("scaffold", "Shared words vote."),
        ("weights", "best_of_n"),
    ]
    assert report["reason"] == "Enough is known." and report["generations"][1]["accepted"]
    assert report["generations"][1]["score"] > report["generations"][0]["score"] + 0.2


@BOTH
def test_every_call_is_recorded_with_its_tokens_and_cost(recorded: Recorded, provider: str) -> None:
    calls = recorded.of(provider, AgentCalled)
    assert [(one.agent, one.generation, one.ordinal, one.attempts) for one in calls] == [
        ("meta_agent", 0, 0, 2),
        ("feedback_agent", 1, 0, 2),
        ("feedback_agent", 1, 1, 1),
        ("feedback_agent", 1, 2, 2),
        ("feedback_agent", 1, 3, 1),
        ("feedback_agent", 1, 4, 1),
        ("feedback_agent", 1, 5, 1),
        ("feedback_agent", 2, 0, 1),
        ("feedback_agent", 3, 0, 1),
    ]
    cost = sum(one.micro_usd for one in calls)
    # nine answers, and what a cut one had read already; a server on this machine is free unless the table says
    # otherwise
    assert cost == (9 * (3 * 1000 + 15 * 50) + 3 * 1000 + 15 * 1 if provider == "anthropic" else 0)
    assert recorded.reports[provider]["micro_usd"] == cost
    if provider == "anthropic":
        assert recorded.tables["feedback_agent"]["calls"] == 8
        assert sum(row["micro_usd"] for row in recorded.tables.values()) == cost


def test_a_killed_agent_pays_for_no_answer_twice(recorded: Recorded) -> None:
    """The one that was killed asked for one answer that never came; every other was asked for as often as where nothing
    was killed.
    """
    assert recorded.requests["anthropic"] == recorded.requests["openai"] + 1 == 13


@BOTH
def test_what_the_tools_gave_is_what_the_agent_may_see(recorded: Recorded, provider: str) -> None:
    last = next(told for told in recorded.told(provider) if len(told.messages) > 9)
    found = [result.text for message in last.messages for result in message.results]
    assert " wrong 0 " in found[0] and found[1] == '["n"]\n[128]'
    assert (
        found[2].count("\n") == 0 and "model_called does not exist" in found[3]
    )  # no attempt at a dev item, no table of calls
    assert (
        found[4] == '["purpose","count_star()"]\n["probe",16]' and "cannot be read" in found[5] and "oops" in found[5]
    )
    assert "is refused" in found[6] and "def solve" in found[7] and "no tool 'guess'" in found[8]
    assert "agent.py names" in found[9]


@BOTH
def test_nothing_of_dev_or_test_is_ever_told_to_an_agent(recorded: Recorded, provider: str) -> None:
    digests = {digest for one in recorded.of(provider, AgentCalled) for digest in (one.request, one.response)}
    for one in recorded.of(provider, ContextAssembled):
        digests |= {one.blob, *one.parts.values()}
    shown = [recorded.blobs.get(digest) for digest in sorted(digests)]
    assert len(shown) > 20 and any(b"train75" in text for text in shown)
    assert not any(HIDDEN.encode() in text for text in shown)
    hidden = [event.tag for event in recorded.events[provider] if HIDDEN.encode() in codec.encode(event)]
    assert "rollouts_requested" in hidden and not {
        "context_assembled",
        "agent_called",
        "lever_chosen",
        "scaffold_proposed",
    } & set(hidden)


def test_a_key_that_a_model_repeats_is_kept_nowhere(recorded: Recorded) -> None:
    every = b"".join(path.read_bytes() for path in recorded.blobs.root.rglob("*") if path.is_file())
    assert KEY.encode() not in every and b"my key is [a secret was here]" in every
    assert not any(KEY.encode() in codec.encode(event) for events in recorded.events.values() for event in events)


@BOTH
def test_what_was_shown_is_recorded_and_bounded(recorded: Recorded, provider: str) -> None:
    first, second, *_ = recorded.of(provider, ContextAssembled)
    assert set(first.parts) == {"system", "other tasks", "task", "limits", "samples", "reference"}
    assert first.trajectories == 0
    assert set(second.parts) == {"system", "task", "scaffold", "figures", "history", "trajectories", "limits"}
    assert second.trajectories == len(second.shown) == 16  # one attempt at each item of the probe
    assert max(len(recorded.blobs.get(digest)) for digest in second.parts.values()) < 45_000


def test_both_apis_come_to_the_same_run(recorded: Recorded) -> None:
    one, other = ([row["score"] for row in recorded.reports[provider]["generations"]] for provider in PROVIDERS)
    assert one == other


def test_without_a_key_nothing_is_started(tmp_path: Path) -> None:
    place = CliHarness(tmp_path)
    place.environment = {
        name: value for name, value in place.environment.items() if not name.startswith(("ANTHROPIC_", "OPENAI_"))
    }
    for provider in PROVIDERS:
        said = place.evolog("run", str(TOY), "--agent", f"{provider}:some-model", code=78)
        one_sentence(said, f"set {provider.upper()}_API_KEY")
    assert not place.node.directory.exists()
    one_sentence(
        place.evolog("run", str(TOY), "--agent", "oracle", code=2), "expected rules, anthropic:MODEL or openai:MODEL"
    )
    said = place.evolog(
        "run",
        str(TOY),
        "--agent",
        "openai:odd",
        "--budget",
        "usd=5",
        code=78,
        OPENAI_API_KEY="k",
        OPENAI_BASE_URL="https://x.example/v1",
    )
    one_sentence(said, "No price is known for openai:odd", "EVOLOG_PRICES")


def test_a_first_scaffold_of_a_meta_agent_is_compared_with_the_reference(tmp_path: Path, models: Path) -> None:
    """The first scaffold votes by words. The reference asks the policy without a shortlist."""
    first = call("propose_scaffold", files=[{"path": "agent.py", "text": VOTE}], summary="It votes.", report="So.")
    with LlmServer({"openai": [first]}) as server:
        place = CliHarness(
            tmp_path, XDG_CACHE_HOME=str(models), EVOLOG_START_ATTEMPTS="16", **server.environment("openai")
        )
        order = ("--agent", "openai:scripted", "--generations", "0", "--levers", "scaffold", "--name", "r")
        said = place.evolog("run", str(TOY), *order)
    assert "│ start: the Meta-Agent's scaffold" in said.out and "│ reference scaffold, base weights" in said.out
    report = json.loads(place.here("show", "r", "--json").out)
    cells = {(cell["cell"], cell["split"]): cell for cell in report["cells"]}
    start, reference = cells["start", "test"], cells["reference", "test"]
    assert reference["scaffold"] != start["scaffold"] == report["scaffold"] and reference["items"] == 40
    assert cells["start_vote_of_k", "test"]["attempts"] == min(16, report["rollouts"] // 40)
    assert start["score"] > reference["score"] and ("reference", "dev") in cells


def test_a_url_that_is_none_is_said_in_a_sentence(tmp_path: Path) -> None:
    place = CliHarness(
        tmp_path,
        OPENAI_BASE_URL="http://me:pw@[bad",
        ANTHROPIC_BASE_URL="https://me:pw@host.example",
        ANTHROPIC_API_KEY="k",
    )
    one_sentence(
        place.evolog("run", str(TOY), "--agent", "openai:m", code=78),
        "OPENAI_BASE_URL is 'http://[bad'; expected a URL",
    )
    said = place.here("doctor", "--json", EVOLOG_NATS_SERVER="/nowhere", code=78).out
    findings = {finding["what"]: finding for finding in json.loads(said)["findings"]}
    assert not findings["openai"]["ok"] and "OPENAI_BASE_URL is" in findings["openai"]["found"]
    assert findings["anthropic"]["found"] == "can be asked at https://host.example" and "me:pw" not in said
    place.up()
    place.down()
