"""A run whose model's key is not accepted, whose server speaks as compatible servers do, and whose first proposal comes
to nothing: in whole processes, through both APIs.
"""

import json
from pathlib import Path

import pytest

from tests.harness.cli import CliHarness
from tests.harness.llm_server import Fail, LlmServer, Page, Say, Shape, Step, call
from tests.harness.needs import needs
from tests.harness.paths import TOY
from tests.harness.polling import wait_until

pytest.importorskip("openai")
pytest.importorskip("peft")

from events.choice import AgentCalled, TrialFinished
from events.rollouts import TrajectoryRecorded
from events.run import RunPaused
from runtime.log.port import readable

pytestmark = [pytest.mark.slow, needs("anthropic")]

TRIED = {"edits": [{"path": "agent.py", "old": "def solve", "new": "# tried\n\n\ndef solve"}], "items": ["train0"]}


def misbehaving(shape: Shape) -> list[Step]:
    """A server that does something else than it should at every step."""
    both = (("try_scaffold", TRIED), ("ask_policy", {"prompt": "What trade is it?", "n": 2}))
    return [
        Fail(401, "invalid x-api-key"),
        # resumed
        Fail(503, after="0"),
        Say("Let me try.", both, shape=shape, usage=False, thinking="Hm."),
        Say("", (("query", {"sql": "SELECT count(*) AS n FROM items"}),), stop="abort"),
        Say("", (("query", {"sql": "SELECT count(*) AS n FROM items"}),)),
        Say("I would rather not call anything."),
        Say("Nor now."),
        # generation 1
        Fail(400, "prompt is too long: 210000 tokens > 200000 maximum"),
        Page(),
        # resumed
        call("stop", reason="Enough is known."),
    ]


@pytest.mark.parametrize(
    ("provider", "shape"), [pytest.param("anthropic", "openai", marks=pytest.mark.long), ("openai", "one index")]
)
def test_a_run_waits_for_its_key_and_burns_no_generation(tmp_path: Path, provider: str, shape: Shape) -> None:
    with LlmServer(misbehaving(shape)) as server:
        place = CliHarness(tmp_path / "place", **server.environment(provider))
        flags = ("--agent", f"{provider}:scripted", "--generations", "1", "--name", "r", "--no-preflight")
        try:
            paused = place.evolog("run", str(TOY), *flags, code=78)
            words = ["Run r is paused", "invalid x-api-key", f"Fix {provider.upper()}_API_KEY", "`evolog resume r`"]
            assert [word for word in words if word not in " ".join(paused.err.split())] == []
            assert not place.node.alive()  # it brought the services up, and they know the wrong key
            place.evolog("resume", "r")
            wait_until(lambda: place.count("run_paused") == 2, "the run is paused again")
            place.evolog("resume", "r")
            place.wait_until_audited("r")
            report = json.loads(place.here("show", "r", "--json").out)
            events = [event.data for event in readable(place.log.read())]
            place.evolog("replay", "r")
        finally:
            place.evolog("down", code=0)
    assert [(fact.by, fact.number) for fact in events if isinstance(fact, RunPaused)] == [
        ("meta_agent", 1),
        ("feedback_agent", 2),
    ]
    assert report["reason"] == "Enough is known."
    start = report["generations"][0]
    assert start["change"] == "the task's reference scaffold, since the Meta-Agent's proposal failed"
    trials = [fact for fact in events if isinstance(fact, TrialFinished)]
    assert [(trial.rollouts, bool(trial.scaffold)) for trial in trials] == [(1, True), (0, False)]
    assert trials[0].mean_reward is not None and trials[1].prompt_tokens > 0
    calls = [fact for fact in events if isinstance(fact, AgentCalled)]
    assert [one.status for one in calls] == ["answered"] * 5
    assert [one.attempts for one in calls] == [2, 2, 1, 1, 1] and calls[0].prompt_tokens is None
    recorded = sum(isinstance(fact, TrajectoryRecorded) for fact in events)
    assert report["rollouts"] == sum(row["rollouts"] for row in report["generations"]) == recorded + 1  # the trial's
