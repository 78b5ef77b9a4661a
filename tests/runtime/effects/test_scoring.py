"""A task's own scoring code in a process of its own: whatever it does, an answer costs itself alone."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from events.errors import NotHere, TryAgain
from runtime.effects.scoring import Failed, ScoringProcess, in_process
from tasks.contract import Scored
from tasks.loading import Task, load
from tests.harness.facts import ANY_ITEM
from tests.harness.paths import TASKS, TOY

WILD = '''"""Does what its answers say."""

import ctypes
import errno
import os
import signal
import sys
import time

from events.errors import NotFound
from tasks.contract import Scored

VERSION = "wild-1"
seen = []


def late(number, frame):
    raise TimeoutError("rung")


def score(answer, label):
    seen.append(answer)
    match answer:
        case "exit":
            os._exit(3)
        case "exit once" if len(seen) > 1:
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "quit":
            sys.exit("bye")
        case "print":
            print('{"value": 1}\\n' * 10000)
        case "alarm":
            signal.signal(signal.SIGALRM, late)
            signal.alarm(60)
            signal.alarm(0)
        case "wrong":
            return Scored(float("nan"), "right")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "data":
            raise NotFound("The data are not here.")
        case "loop":
            while True:
                pass
        case "fork":
            os.fork()
        case "forge":
            os.write(int(sys.argv[1]), b'{"value": {"reward": 0.5, "outcome": "wrong"}}\\n')
        case "stream":
            while True:
                os.write(int(sys.argv[1]), bytes(1 << 20))
        case "drip":
            while True:
                os.write(int(sys.argv[1]), b"x")
                time.sleep(0.1)
    return Scored(1.0, "right")
'''
RIGHT = Scored(1.0, "right")


@pytest.fixture(scope="module")
def wild() -> Task:
    return load(str(TOY)).with_verifier(WILD, "wild.py")


@pytest.fixture(scope="module")
def scorer() -> Iterator[ScoringProcess]:
    with contextlib.closing(ScoringProcess()) as scorer:
        yield scorer


def scores(scorer: ScoringProcess, task: Task, answers: Sequence[str]) -> list[Scored | Failed]:
    return scorer(task.score, [(ANY_ITEM, answer, "mason") for answer in answers])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("exit", "its process exited with 3"),
        ("crash", "its process was killed by SIGSEGV"),
        ("quit", "score raised SystemExit: bye"),
        ("wrong", "the reward is nan"),
    ],
)
def test_an_answer_that_ends_the_verifier_has_no_score_and_the_rest_have(
    scorer: ScoringProcess, wild: Task, answer: str, reason: str
) -> None:
    before, failed, after = scores(scorer, wild, ["fine", answer, "fine"])
    assert before == after == RIGHT and isinstance(failed, Failed) and reason in failed.reason


def test_what_a_child_dies_of_once_is_scored_by_the_next(scorer: ScoringProcess, wild: Task) -> None:
    assert scores(scorer, wild, ["fine", "exit once", "fine"]) == [RIGHT, RIGHT, RIGHT]


@pytest.mark.slow
def test_a_loop_costs_one_answer(wild: Task) -> None:
    with contextlib.closing(ScoringProcess(limit=10.0)) as scorer:
        before, failed, after = scores(scorer, wild, ["fine", "loop", "fine"])
    assert before == after == RIGHT and failed == Failed("it took longer than 10 s")


def test_a_fork_that_a_verifier_made_scores_no_other_answer(scorer: ScoringProcess, wild: Task) -> None:
    answers = ["fork", "wrong", "fork", "good"]
    assert [isinstance(score, Failed) for score in scores(scorer, wild, answers)] == [False, True, False, False]
    assert scores(scorer, wild, ["good"]) == [RIGHT]


def test_what_a_verifier_writes_to_the_socket_is_no_score_of_another_answer(scorer: ScoringProcess, wild: Task) -> None:
    out_of_turn = Failed("its process sent a result out of its turn")
    assert scores(scorer, wild, ["good", "forge", "good"]) == [RIGHT, out_of_turn, RIGHT]
    assert scores(scorer, wild, ["good"]) == [RIGHT]


def test_a_result_without_an_end_is_given_up(wild: Task) -> None:
    with contextlib.closing(ScoringProcess(2.0)) as scorer:
        dripped, streamed, right = scores(scorer, wild, ["drip", "stream", "good"])
    assert dripped == Failed("it took longer than 2 s") and isinstance(streamed, Failed) and right == RIGHT


def test_a_verifier_may_print_and_use_signals(
    scorer: ScoringProcess, wild: Task, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(ScoringProcess()) as own:  # whose output is this test's
        assert scores(own, wild, ["print", "alarm"]) == [RIGHT, RIGHT]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("answer", "error"), [("full", TryAgain), ("data", NotHere)])
def test_what_is_the_hosts_own_is_no_score(
    scorer: ScoringProcess, wild: Task, answer: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        scores(scorer, wild, ["fine", answer, "fine"])
    assert scores(scorer, wild, ["fine"]) == [RIGHT]


def test_a_task_that_the_child_cannot_load_is_not_here(scorer: ScoringProcess, tmp_path: Path) -> None:
    folder = tmp_path / "task"
    shutil.copytree(TOY, folder)
    task = load(str(folder))
    (folder / "verifier.py").write_text("import nothing_of_the_kind")
    with pytest.raises(NotHere, match="nothing_of_the_kind"):
        scores(scorer, task, ["fine"])


def test_a_child_gives_what_this_process_would(scorer: ScoringProcess) -> None:
    for task, calls in (
        (load(str(TOY)), [(ANY_ITEM, "mason", "mason"), (ANY_ITEM, None, "mason")]),
        (load("lawbench"), [(ANY_ITEM, "a", "b")]),
    ):
        assert scorer(task.score, calls) == in_process(task.score, calls)
        assert scorer(task.reward, calls) == in_process(task.reward, calls)
    tiny = load(str(TASKS / "tiny"))
    assert scorer(tiny.reward, [(ANY_ITEM, "unscorable", "x")]) == in_process(
        tiny.reward, [(ANY_ITEM, "unscorable", "x")]
    )
