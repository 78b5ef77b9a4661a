"""Scaffolds as child processes: what they are given, what they may do, and what becomes of those that misbehave."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.rollouts.host import (
    AttemptOutcome,
    RefusedCall,
    ScaffoldCall,
    ScaffoldData,
    ScaffoldLimits,
    ScaffoldProcess,
    ScaffoldStopped,
)
from tests.harness.polling import PATIENCE

HASTY, PATIENT = ScaffoldLimits(idle_timeout=6.0), ScaffoldLimits(idle_timeout=60.0)
"""Limits for a scaffold that hangs, which must last until it has started on a busy host, and for one that does not."""


class Stage:
    """A scaffold's folder, its data, and a model that answers a prompt with the prompt and the number of the
    completion.

    It refuses the prompt "no", and takes its time over the prompt "slow".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scaffold").mkdir()
        self.train = [("x", "a")]
        self.waves: list[list[ScaffoldCall]] = []

    def play(
        self,
        code: str,
        items: int = 2,
        attempts: int = 2,
        limits: ScaffoldLimits = PATIENT,
        prompt: str = "q",
    ) -> list[AttemptOutcome]:
        """The outcomes; fails if there are none after a time that is beyond all the limits."""
        found: list[AttemptOutcome | BaseException] = []
        thread = threading.Thread(target=self._play, args=(found, code, items, attempts, limits, prompt), daemon=True)
        thread.start()
        thread.join(2 * limits.idle_timeout + PATIENCE)
        assert found, "still at it"
        if isinstance(found[0], BaseException):
            raise found[0]
        return [outcome for outcome in found if isinstance(outcome, AttemptOutcome)]

    def _play(self, found: list[AttemptOutcome | BaseException], *how: Any) -> None:
        try:
            found += self._outcomes(*how)
        except BaseException as wrong:
            found.append(wrong)

    def _outcomes(
        self, code: str, items: int, attempts: int, limits: ScaffoldLimits, prompt: str
    ) -> list[AttemptOutcome]:
        (self.folder / "scaffold" / "agent.py").write_text(code)
        process = ScaffoldProcess(
            self.folder / "scaffold", ScaffoldData(["a", "b"], self.train), self.folder / "work", limits
        )

        def answer(asks: list[ScaffoldCall]) -> list[Sequence[str] | RefusedCall]:
            self.waves.append(asks)
            time.sleep(0.9 if asks[0].prompt == "slow" else 0)
            return [
                RefusedCall("refused", "not this")
                if ask.prompt == "no"
                else [f"{ask.prompt}/{number}" for number in range(attempts)]
                for ask in asks
            ]

        try:
            return process.solve([(f"i{number}", f"{prompt}{number}") for number in range(items)], attempts, answer)
        finally:
            process.close()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_attempts_that_ask_the_same_share_a_call_and_get_a_completion_each(stage: Stage) -> None:
    outcomes = stage.play("def solve(item, model, data): return model.complete(item.prompt).text")
    assert [outcome.answer for outcome in outcomes] == ["q0/0", "q0/1", "q1/0", "q1/1"]
    assert [outcome.uses for outcome in outcomes] == [((0, 0),), ((0, 1),), ((0, 0),), ((0, 1),)]
    assert [len(wave) for wave in stage.waves] == [2]


def test_calls_of_all_items_are_asked_for_together(stage: Stage) -> None:
    stage.play(
        "def solve(item, model, data): return model.complete(model.complete(item.prompt).text).text",
        items=100,
        attempts=1,
    )
    assert [len(wave) for wave in stage.waves] == [64, 64, 36, 36]


def test_a_later_call_is_told_from_an_earlier_one(stage: Stage) -> None:
    outcomes = stage.play(
        "def solve(item, model, data): return model.complete(model.complete(item.prompt).text).text", items=1
    )
    assert [outcome.answer for outcome in outcomes] == ["q0/0/0", "q0/1/1"]
    assert [outcome.uses for outcome in outcomes] == [((0, 0), (1, 0)), ((0, 1), (2, 1))]


def test_a_scaffold_may_say_nothing(stage: Stage) -> None:
    assert [outcome.answer for outcome in stage.play("def solve(item, model, data): return None", items=1)] == [
        None,
        None,
    ]


def test_prints_do_not_disturb(stage: Stage) -> None:
    assert (
        stage.play("def solve(item, model, data):\n print('{\"done\": []}', flush=True)\n return data.labels[1]")[
            0
        ].answer
        == "b"
    )


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("return 1 / 0", "crashed", r"ZeroDivisionError: division by zero at agent.py:1"),
        ("return 5", "nonsense", "returned int, expected str"),
        ("return 'x' * 20_000", "nonsense", "20000 characters"),
        ("return '\\ud800'", "nonsense", "Unicode"),
        ("return model.complete(item.prompt, choices=['a'], bias=[1, 2]).text", "crashed", "2 biases for 1 choices"),
        ("return model.complete(item.prompt, choices=['a'], bias=[float('nan')]).text", "crashed", "not finite"),
        ("return model.complete('\\ud800').text", "crashed", "no valid Unicode text"),
        ("return model.complete('x' * 200_001).text", "crashed", "200001 characters, at most 200000"),
        ("return model.complete('x', choices=['a'] * 10_001).text", "crashed", "10001 choices, at most 10000"),
        ("return model.complete('x', choices=['a' * 200_001]).text", "crashed", "200001 characters together"),
        ("return model.complete('no').text", "crashed", "RuntimeError: not this"),
        ("raise ValueError('\\ud800')", "crashed", "ValueError: ?"),
        ("import sys; sys.exit(0)", "crashed", "SystemExit"),
    ],
)
def test_an_attempt_that_goes_wrong_fails_alone(stage: Stage, body: str, kind: str, reason: str) -> None:
    outcomes = stage.play(f"def solve(item, model, data): {body}")
    assert {outcome.kind for outcome in outcomes} == {kind}
    assert all(outcome.reason for outcome in outcomes) and reason in outcomes[0].reason


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("while True: pass", "hung", "no word for 6 s"),
        ("import os; os._exit(3)", "crashed", "exited with 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("import os, time; os.closerange(3, 256); time.sleep(600)", "hung", "closed its pipes and did not end"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "hung", "no word for 6 s"),
        (
            "import sys; sys.modules['__main__'].PROMPT_LIMIT = 10**9; model.complete('x' * 200_001)",
            "flooded",
            "200001 characters",
        ),
        (
            "import sys; sys.modules['__main__'].CHOICES_LIMIT = 10**9; model.complete('', ['a'] * 10_001)",
            "flooded",
            "10001 choices",
        ),
    ],
)
def test_a_process_that_goes_wrong_fails_what_is_left(stage: Stage, body: str, kind: str, reason: str) -> None:
    outcomes = stage.play(f"def solve(item, model, data):\n  {body}", limits=HASTY if kind == "hung" else PATIENT)
    assert len(outcomes) == 4 and {outcome.kind for outcome in outcomes} == {kind} and reason in outcomes[0].reason


@pytest.mark.parametrize("stall", ["os.kill(os.getpid(), signal.SIGSTOP)", "re.match('(a+)+$', 'a' * 60 + 'b')"])
def test_a_process_that_does_not_take_a_large_order_has_hung(stage: Stage, stall: str) -> None:
    late = f"lambda channel: (channel._in.read1(5000), {stall})"
    code = f"import os, re, signal, sys\nsys.modules['__main__'].Channel.receive = {late}\nsolve = None"
    outcomes = stage.play(code, items=400, attempts=1, limits=HASTY, prompt="x" * 1000)
    assert {(outcome.kind, outcome.reason) for outcome in outcomes} == {
        ("hung", "did not take what it was sent for 6 s")
    }


def test_what_a_scaffold_leaves_behind_holds_nobody_up(stage: Stage) -> None:
    code = (
        "import subprocess, sys\n"
        "left = subprocess.Popen(['sleep', '6100.5'], start_new_session=True)\n"
        "def solve(item, model, data): return str(left.pid)"
    )
    (outcome,) = stage.play(code, items=1, attempts=1)
    assert outcome.answer
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes() == b"sleep\x006100.5\0"]


def test_large_data_reach_the_scaffold_and_lie_in_no_file(stage: Stage) -> None:
    stage.train = [("x" * 1000, "a")] * 10_000
    (outcome,) = stage.play(
        "def solve(item, model, data): return f'{data.labels} {len(data.train)} {data.train[-1].label}'", 1, 1
    )
    assert outcome.answer == "('a', 'b') 10000 a"
    assert [path.name for path in stage.folder.rglob("*") if path.is_file()] == ["agent.py"]


def test_a_refused_call_fails_its_own_attempts_and_can_be_caught(stage: Stage) -> None:
    code = (
        "def solve(item, model, data):\n"
        "  try: return model.complete('no' if item.id == 'i0' else item.prompt).text\n"
        "  except RuntimeError as wrong: return f'caught: {wrong}'"
    )
    outcomes = stage.play(code, attempts=1)
    assert [outcome.answer for outcome in outcomes] == ["caught: not this", "q1/0"]
    assert [outcome.uses for outcome in outcomes] == [((0, 0),), ((0, 0),)]


def test_a_scaffold_may_call_from_its_own_threads(stage: Stage) -> None:
    """Two calls come while one is being answered, so more threads wait than there are attempts."""
    code = (
        "import sys, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "sys.modules['__main__'].GRACE = None\n"
        "def solve(item, model, data):\n"
        "  ask = lambda prompt: time.sleep(0 if prompt == 'slow' else 0.3) or model.complete(prompt).text\n"
        "  return ' '.join(ThreadPoolExecutor(3).map(ask, ['slow', 'a', 'b']))"
    )
    (outcome,) = stage.play(code, items=1, attempts=1)
    assert outcome.answer == "slow/0 a/0 b/0", outcome.reason


def test_attempts_that_share_their_threads_are_answered_in_turn(stage: Stage) -> None:
    code = (
        "import sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "sys.modules['__main__'].GRACE = 0.1\n"
        "shared = ThreadPoolExecutor(2)\n"
        "def solve(item, model, data): return shared.submit(lambda: model.complete(item.prompt).text).result()"
    )
    outcomes = stage.play(code, items=5, attempts=1)
    assert [outcome.answer for outcome in outcomes] == [f"q{number}/0" for number in range(5)]


def test_long_calls_come_in_several_frames(stage: Stage) -> None:
    outcomes = stage.play(
        "def solve(item, model, data): return model.complete('案' * 199_000 + item.id).text[-4:]", 10, 1
    )
    assert [outcome.answer for outcome in outcomes] == [f"i{number}/0" for number in range(10)]
    assert [len(wave) for wave in stage.waves] == [3, 3, 3, 1]


def test_a_flood_of_output_is_stopped(stage: Stage) -> None:
    outcomes = stage.play("def solve(item, model, data):\n  while True: print('x' * 10000)")
    assert {outcome.kind for outcome in outcomes} == {"flooded"}


def test_a_flood_of_calls_is_stopped(stage: Stage) -> None:
    outcomes = stage.play(
        "def solve(item, model, data):\n  import sys\n  sys.modules['__main__'].check = lambda **call: None\n  "
        "model.complete('x' * 10**7)"
    )
    assert {outcome.kind for outcome in outcomes} == {"flooded"} and "in one frame" in outcomes[0].reason


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("model.uses[:] = [[0, 999]]\n    return 'a'", "nonsense", "an outcome that none of its attempts can have"),
        (
            "model.uses[:] = [[0, 0]] * 2000\n    return 'a'",
            "nonsense",
            "an outcome that none of its attempts can have",
        ),
        ("model._item = 'another'\n    return model.complete('q').text", "flooded", "calls for no item of its own"),
        (
            "import __main__\n    __main__.CALL_LIMIT = 10**9\n    [model.complete(str(n)) for n in range(30)]",
            "flooded",
            "more than 20 for one",
        ),
    ],
)
def test_a_child_that_was_tampered_with_is_stopped(stage: Stage, body: str, kind: str, reason: str) -> None:
    code = f"def solve(item, model, data):\n    {body}\n"
    outcomes = stage.play(code, items=1, limits=ScaffoldLimits(idle_timeout=60.0, calls=10))
    assert {outcome.kind for outcome in outcomes} == {kind} and reason in outcomes[0].reason


def test_memory_is_limited(stage: Stage) -> None:
    limits = ScaffoldLimits(idle_timeout=60.0, memory=500 * 1024**2)
    assert (
        "MemoryError"
        in stage.play("def solve(item, model, data): return len(bytearray(10**9))", limits=limits)[0].reason
    )


def test_results_of_an_earlier_group_survive_a_later_crash(stage: Stage) -> None:
    code = "def solve(item, model, data):\n  if item.id == 'i99': import os; os._exit(1)\n  return 'a'"
    outcomes = stage.play(code, items=100, attempts=1)
    assert sum(outcome.answer == "a" for outcome in outcomes) >= 64 and outcomes[99].kind == "crashed"


@pytest.mark.parametrize("code", ["def solve(", "import no_such_module", "x = 1", "raise ValueError('no')"])
def test_a_scaffold_that_does_not_load_says_why(stage: Stage, code: str) -> None:
    with pytest.raises(ScaffoldStopped) as stopped:
        stage.play(code)
    assert stopped.value.kind == "unloadable" and str(stopped.value)


def test_a_scaffold_sees_neither_this_program_nor_its_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = (
        "import os, importlib.util\n"
        "def solve(item, model, data):\n"
        "  return str([importlib.util.find_spec(name) for name in ('events', 'tasks', 'runtime')]) + "
        "str(sorted(os.environ))"
    )
    answer = stage.play(code)[0].answer
    assert answer and "[None, None, None]" in answer and "OPENAI" not in answer and "HOME" not in answer
