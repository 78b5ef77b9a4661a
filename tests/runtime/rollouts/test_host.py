"""Scaffolds as child processes: what they are given, what they may do, and what becomes of those that misbehave."""

import sys
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

BELOW_TMP = Path(sys.prefix).resolve().is_relative_to("/tmp")
OWN_TMP = pytest.mark.skipif(BELOW_TMP, reason="Python lies below /tmp, which no scaffold can write to then")


class Stage:
    """A scaffold's folder, its data, and a model that answers a prompt with the prompt and the number of the
    completion.

    It refuses the prompt "no", and takes its time (`slowness`, in seconds) over the prompt "slow".
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scaffold").mkdir()
        self.train = [("x", "a")]
        self.waves: list[list[ScaffoldCall]] = []
        self.slowness = 0.9

    def play(
        self,
        code: str,
        items: int = 2,
        attempts: int = 2,
        limits: ScaffoldLimits = PATIENT,
        prompt: str = "q",
        shared_state: bool = False,
    ) -> list[AttemptOutcome]:
        """The outcomes; fails if there are none after a time that is beyond all the limits."""
        found: list[AttemptOutcome | BaseException] = []
        how = (found, code, items, attempts, limits, prompt, shared_state)
        thread = threading.Thread(target=self._play, args=how, daemon=True)
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
        self, code: str, items: int, attempts: int, limits: ScaffoldLimits, prompt: str, shared_state: bool
    ) -> list[AttemptOutcome]:
        (self.folder / "scaffold" / "agent.py").write_text(code)
        data = ScaffoldData(["a", "b"], self.train)
        process = ScaffoldProcess(
            self.folder / "scaffold", data, self.folder / "work", limits, shared_state=shared_state
        )

        def answer(asks: list[ScaffoldCall]) -> list[Sequence[str] | RefusedCall]:
            self.waves.append(asks)
            time.sleep(self.slowness if asks[0].prompt == "slow" else 0)
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
        pytest.param("while True: pass", "hung", "no word for 6 s", marks=pytest.mark.slow),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "hung", "no word for 6 s"),
        ("import os; os._exit(3)", "crashed", "exited with 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("import os, time; os.closerange(3, 256); time.sleep(600)", "hung", "closed its line and did not end"),
        (
            "model._ask.__self__._end.sendall(b'[' * 10**5 + b'\\n')",
            "nonsense",
            "cannot be read",
        ),
        ('model._ask.__self__._end.sendall(b\'{"outcome": {"answer": 5}}\\n\')', "nonsense", "cannot be read"),
        ("while True: model._ask.__self__._end.sendall(b'x' * 10**6)", "nonsense", "8388608 bytes in one line"),
        ("import __main__; __main__.PROMPT_LIMIT = 10**9; model.complete('x' * 200_001)", "nonsense", "at most 200000"),
        (
            "import __main__; __main__.CALL_LIMIT = 10**9; [model.complete(str(number)) for number in range(1001)]",
            "nonsense",
            "more than 1000 calls",
        ),
    ],
)
def test_an_attempts_process_that_goes_wrong_fails_it_alone(stage: Stage, body: str, kind: str, reason: str) -> None:
    code = f"def solve(item, model, data):\n  if item.id == 'i0':\n    {body}\n  return 'a'"
    failed, other = stage.play(code, attempts=1, limits=HASTY if kind == "hung" else PATIENT)
    assert failed.kind == kind and reason in failed.reason and other.answer == "a"


TAMPERED = "import sys\nchild = sys.modules['__main__']\n"
HOSTILE = """
import os, sys
read, write = map(int, sys.argv[1:])
os.set_blocking(read, True)
os.set_blocking(write, True)
os.write(write, b'{"ready": true}\\n')
while b'\\n' not in os.read(read, 65536): pass
while True: os.write(write, %r + b'\\n')
"""


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (
            "child.check = lambda **call: None\ndef solve(*of): of[1].complete('x' * 200_001)",
            "flooded",
            "200001 characters",
        ),
        (
            "child.check = lambda **call: None\ndef solve(*of): of[1].complete('', ['a'] * 10_001)",
            "flooded",
            "10001 choices",
        ),
        (
            "child.check = lambda **call: None\nchild.LINE_LIMIT = 10**9\ndef solve(*of): of[1].complete('x' * 10**7)",
            "flooded",
            "in one frame",
        ),
        (
            "child.CALL_LIMIT = 10**9\ndef solve(*of): [of[1].complete(str(n)) for n in range(30)]",
            "flooded",
            "more than 20 for one",
        ),
        ("child.Stage.begin = None\ndef solve(*of): pass", "crashed", "TypeError"),
        ("import os\ndef solve(*of): os.kill(os.getppid(), 9)", "crashed", "SIGKILL"),
    ],
)
def test_a_template_that_goes_wrong_fails_what_is_left(stage: Stage, code: str, kind: str, reason: str) -> None:
    outcomes = stage.play(TAMPERED + code, limits=ScaffoldLimits(idle_timeout=60.0, calls=10))
    assert len(outcomes) == 4 and {outcome.kind for outcome in outcomes} == {kind} and reason in outcomes[0].reason


CALL = '"item": "i0", "prompt": "q", "choices": ["a"]'


@pytest.mark.parametrize(
    "frame",
    [
        '{"ask": []}',
        '{"done": [], "more": true}',
        "{}",
        '{"done": [{"item": "\udcff"}]}',
        '{"x": ' + "[" * 100_000,
        '{"done": [{"item": "i0", "attempt": 0, "answer": "\\ud800"}]}',
        '{"done": [{"item": "i7", "attempt": 0}]}',
        '{"done": [{"item": "i0", "attempt": 2}]}',
        '{"done": [{"item": "i0", "attempt": -1}]}',
        '{"done": [{"item": "i0", "attempt": 0, "seconds": 1e308}]}',
        '{"done": [{"item": "i0", "attempt": 0, "seconds": -1}]}',
        '{"done": [{"item": "i0", "attempt": 0, "seconds": 1e999}]}',
        '{"done": [{"item": "i0", "attempt": 0, "seconds": NaN}]}',
        '{"done": [{"item": "i0", "attempt": 0, "uses": [[0, 0]]}]}',
        '{"ask": [{' + CALL + ', "ordinal": 1180591620717411303424, "bias": []}]}',
        '{"ask": [{' + CALL + ', "ordinal": -1, "bias": []}]}',
        '{"ask": [{' + CALL + ', "ordinal": 0, "bias": [1, 2]}]}',
        '{"ask": [{' + CALL + ', "ordinal": 0, "bias": [1e999]}]}',
    ],
)
def test_a_frame_that_has_no_meaning_is_the_scaffolds_failure(stage: Stage, frame: str) -> None:
    outcomes = stage.play(HOSTILE % frame.encode(errors="surrogateescape"))
    assert [outcome.kind for outcome in outcomes] == ["nonsense"] * 4 and not stage.waves


def test_an_outcome_comes_once(stage: Stage) -> None:
    outcomes = stage.play(HOSTILE % b'{"done": [{"item": "i0", "attempt": 0, "answer": "a"}]}')
    assert [(outcome.answer, outcome.kind) for outcome in outcomes] == [("a", ""), *[(None, "nonsense")] * 3]


def test_an_attempt_uses_its_own_completions_of_calls_that_were_made(stage: Stage) -> None:
    code = TAMPERED + (
        "child.Call.answer_to = lambda call, attempt: attempt.uses.append([0, 1]) or {'text': ''}\n"
        "def solve(item, model, data): return model.complete(item.prompt).text"
    )
    assert stage.play(code, items=1)[0].kind == "nonsense"


def test_a_shard_has_an_end(stage: Stage) -> None:
    code = "import time\ndef solve(item, model, data): return time.sleep(0.1 * (model._attempt > 0))"
    outcomes = stage.play(code, items=1, attempts=100, limits=ScaffoldLimits(idle_timeout=60.0, shard_timeout=2.0))
    assert not outcomes[0].kind and outcomes[99].kind == "hung" and "more than 2 s" in outcomes[99].reason


@pytest.mark.slow
def test_a_shard_of_which_many_attempts_hang_is_given_up(stage: Stage) -> None:
    code = TAMPERED + "child.AT_ONCE = 64\nimport time\ndef solve(item, model, data): time.sleep(600)"
    outcomes = stage.play(code, items=64, attempts=8, limits=HASTY)
    assert {outcome.kind for outcome in outcomes} == {"hung"}
    assert outcomes[-1].reason == "8 attempts in a row had hung"


@pytest.mark.slow
def test_an_attempts_silence_begins_when_it_begins(stage: Stage) -> None:
    code = "import time\ndef solve(item, model, data): return time.sleep(0.5)"
    outcomes = stage.play(code, items=2, attempts=13, limits=HASTY)
    assert not any(outcome.kind for outcome in outcomes)


@pytest.mark.slow
def test_no_time_counts_while_the_policy_answers(stage: Stage) -> None:
    code = (
        "import time\ndef solve(item, model, data):\n"
        "  time.sleep(1)\n  model.complete('slow')\n  time.sleep(1)\n  return 'a'"
    )
    stage.slowness = 7.0
    assert [outcome.answer for outcome in stage.play(code, items=6, attempts=1, limits=HASTY)] == ["a"] * 6


def test_finished_outcomes_are_kept_when_a_later_attempt_ends_the_process(stage: Stage) -> None:
    code = "import os\ndef solve(item, model, data):\n  if model._attempt == 1: os.kill(os.getppid(), 9)\n  return 'a'"
    assert [outcome.answer for outcome in stage.play(code, items=1, attempts=3)] == ["a", None, None]


COUNTS = """
import glob, os
SEEN = []
def solve(item, model, data):
    {leave}
    found = {look}
    return str(found)
"""


@pytest.mark.parametrize(
    ("leave", "look"),
    [
        ("SEEN.append(item.id); os.environ['SEEN' + str(len(SEEN))] = ''", "(len(SEEN), 'SEEN2' in os.environ)"),
        ("data.__dict__.setdefault('left', []).append(0)", "data.left"),
        ("open(str(model._attempt) + item.id, 'w').close()", "len(os.listdir('.'))"),
        pytest.param("open('/tmp/left', 'a').write('x')", "open('/tmp/left').read()", marks=OWN_TMP),
        ("open('/dev/shm/left', 'a').write('x')", "open('/dev/shm/left').read()"),
        ("os.rmdir(os.getcwd())", "1"),
        ("os.makedirs('a/b'); os.chmod('a/b', 0); os.chmod('a', 0); os.chmod('.', 0o500)", "1"),
    ],
)
def test_what_an_attempt_leaves_is_not_seen_by_the_next(stage: Stage, leave: str, look: str) -> None:
    answers = {outcome.answer for outcome in stage.play(COUNTS.format(leave=leave, look=look), items=1, attempts=3)}
    assert len(answers) == 1 and None not in answers


@OWN_TMP
def test_attempts_at_other_items_find_what_was_left_beside_no_more_either(stage: Stage) -> None:
    code = (
        "import os, time\ndef solve(item, model, data):\n"
        "  path = '/tmp/' + item.id\n  found = os.path.exists(path)\n  open(path, 'w').close()\n"
        "  model.complete(item.prompt)\n  return str((found, os.path.exists(path)))"
    )
    assert {outcome.answer for outcome in stage.play(code, items=20, attempts=3)} == {"(False, True)"}


def test_a_process_that_an_attempt_left_has_ended_when_the_next_begins(stage: Stage) -> None:
    code = (
        "import os, subprocess\ndef solve(item, model, data):\n"
        "  running = [name for name in os.listdir('/proc') if name.isdigit()]\n"
        "  subprocess.Popen(['sh', '-c', 'setsid sleep 600 & exit'], start_new_session=True).wait()\n"
        "  return str(len(running))"
    )
    assert len({outcome.answer for outcome in stage.play(code, items=1, attempts=3)}) == 1


def test_folders_without_end_cost_the_attempt_that_made_them_alone(stage: Stage) -> None:
    code = (
        "import os\ndef solve(item, model, data):\n"
        "  for _ in range(3000): os.mkdir('d', 0o700), os.symlink('/', 'link'), os.chdir('d')\n"
        "  os.chmod('..', 0)\n  return 'done'"
    )
    assert [outcome.answer for outcome in stage.play(code, items=2, attempts=2)] == ["done"] * 4


def test_the_descriptors_of_the_template_are_out_of_an_attempts_reach(stage: Stage) -> None:
    code = (
        "import os, sys\ndef solve(item, model, data):\n"
        "  try: os.open(f'/proc/{os.getppid()}/fd/{sys.argv[2]}', os.O_WRONLY)\n"
        "  except OSError as wrong: return type(wrong).__name__"
    )
    assert stage.play(code, items=1, attempts=1)[0].answer == "PermissionError"


def test_every_attempt_has_what_the_scaffold_prepared(stage: Stage) -> None:
    code = (
        "import os\nfitted, absolute = [], os.path.abspath('table')\n"
        "def prepare(data):\n  fitted.append(data.train[0].label)\n  open('table', 'w').write('b')\n"
        "def solve(item, model, data):\n"
        "  fitted.append(open('table').read() + open(absolute).read())\n"
        "  open('table', 'w').write('changed')\n"
        "  try: open(absolute, 'w')\n"
        "  except PermissionError: return ' '.join(fitted)"
    )
    assert {outcome.answer for outcome in stage.play(code)} == {"a bb"}


@pytest.mark.parametrize(
    "left", ["threading.Thread(target=time.sleep, args=(600,)).start()", "subprocess.Popen(['sleep', '600'])"]
)
def test_what_runs_before_the_first_item_is_refused(stage: Stage, left: str) -> None:
    with pytest.raises(ScaffoldStopped, match="start them within solve"):
        stage.play(f"import subprocess, threading, time\ndef prepare(data): {left}\ndef solve(*of): pass")


def test_attempts_draw_their_own_numbers_and_the_same_ones_again(stage: Stage) -> None:
    pytest.importorskip("numpy")
    code = "import numpy, random\ndef solve(item, model, data): return f'{random.random()} {numpy.random.rand()}'"
    first, again = ([outcome.answer for outcome in stage.play(code)] for _ in range(2))
    assert first == again and len(set(first)) == 4


def test_a_task_may_want_its_attempts_to_share_what_they_leave(stage: Stage) -> None:
    code = "SEEN = []\ndef solve(item, model, data): SEEN.append(0); return str(len(SEEN))"
    answers = [outcome.answer for outcome in stage.play(code, items=1, attempts=3, shared_state=True)]
    assert answers == ["1", "2", "3"]


@pytest.mark.parametrize(
    "stall",
    [
        "os.kill(os.getpid(), signal.SIGSTOP)",
        pytest.param("re.match('(a+)+$', 'a' * 60 + 'b')", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_does_not_take_a_large_order_has_hung(stage: Stage, stall: str) -> None:
    late = f"lambda line: (os.set_blocking(line.read, True), os.read(line.read, 5000), {stall})"
    code = f"import os, re, signal, sys\nsys.modules['__main__'].Line.receive = {late}\nsolve = None"
    outcomes = stage.play(code, items=400, attempts=1, limits=HASTY, prompt="x" * 1000)
    assert {(outcome.kind, outcome.reason) for outcome in outcomes} == {
        ("hung", "did not take what it was sent for 6 s")
    }


def test_what_a_scaffold_leaves_behind_holds_nobody_up(stage: Stage) -> None:
    code = (
        "import subprocess, sys\n"
        "def solve(item, model, data):\n"
        "  return str(subprocess.Popen(['sleep', '6100.5'], start_new_session=True).pid)"
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
        "sys.modules['__main__'].GRACE = 600.0\n"
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
    outcomes = stage.play(code, items=5, attempts=1, shared_state=True)
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


def test_memory_is_limited(stage: Stage) -> None:
    limits = ScaffoldLimits(idle_timeout=60.0, memory=500 * 1024**2)
    assert (
        "MemoryError"
        in stage.play("def solve(item, model, data): return len(bytearray(10**9))", limits=limits)[0].reason
    )


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
