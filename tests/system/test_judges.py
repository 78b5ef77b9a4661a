"""A whole run whose verifier asks a language model, behind a scripted server."""

from pathlib import Path

import msgspec
import pytest

from tests.harness.cli import RUN, running
from tests.harness.llm_server import LlmServer, Say
from tests.harness.tasks.smaller import small_toy

pytest.importorskip("openai")
pytest.importorskip("peft")

from events.judgement import JudgeCalled, TrajectoryScored
from events.run import RunFinished, RunStarted
from runtime.log.port import readable

pytestmark = pytest.mark.slow

JUDGE = '''"""A language model says whether an answer is right."""

from tasks.contract import Item, Scored, Tools

VERSION = "judge-1"
JUDGE = "openai:a-judge"


def score(item: Item, answer: str | None, label: str | None, tools: Tools) -> Scored:
    """1 where the model says yes."""
    said = tools.ask(f"Is {answer!r} the trade in {item.prompt!r}?", max_tokens=5)
    return Scored(float(said == "yes"), "right" if said == "yes" else "wrong", said)
'''
GOLD = "\n\ndef score(answer: str | None, label: str) -> float:\n    return float(answer == label)\n"


def test_what_a_judge_says_is_recorded_counted_and_never_asked_again(tmp_path: Path) -> None:
    task = small_toy(tmp_path / "task", verifier=JUDGE)
    (task / "gold.py").write_text((task / "gold.py").read_text() + GOLD)
    answers = [Say("no" if number % 3 else "yes", prompt=20, completion=1) for number in range(500)]
    with LlmServer(answers) as server:
        with running(tmp_path / "node", EVOLOG_EXECUTOR_JITTER="0", **server.environment("openai")) as system:
            system.order("--generations", "0", task=task)
            events, gold = system.finished_events(), list(readable(system.gold.read()))
            asked = len(server.requests)
            performed = system.evolog("replay", RUN, "--perform", "verifier", "--json")
        assert len(server.requests) == asked
    started = next(event.data for event in events if isinstance(event.data, RunStarted))
    called = [event.data for event in events if isinstance(event.data, JudgeCalled)]
    scored = [event.data for event in events if isinstance(event.data, TrajectoryScored)]
    finished = next(event.data for event in events if isinstance(event.data, RunFinished))
    golden = [event.data for event in gold if isinstance(event.data, JudgeCalled)]
    assert started.judge == "openai:a-judge"
    assert {one.trajectory for one in called} == {one.trajectory for one in scored} and len(called) == len(scored) == 40
    assert {one.details for one in scored} == {"yes", "no"}
    assert all((one.reward == 1.0) == (one.details == "yes") for one in scored)
    assert len(golden) + 40 == asked and golden
    assert finished.tokens >= 40 * 21 and finished.micro_usd == 0  # a server on this machine costs nothing
    (kind,) = msgspec.json.decode(performed.out)["performed"]
    assert (kind["performed"], kind["same"]) == (40, 40)
