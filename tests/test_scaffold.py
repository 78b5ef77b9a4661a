"""Scaffolds as child processes: what they are given, what they may do, and what becomes of those that misbehave."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.scaffold_host import Ask, Limits, Outcome, ScaffoldProcess, ScaffoldStopped

QUICK = Limits(silence=1.0)


class Stage:
    """A scaffold's folder, its data, and a model that answers a prompt with the prompt and the number of the completion."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scaffold").mkdir()
        (folder / "data.json").write_text(json.dumps({"labels": ["a", "b"], "train": [["x", "a"]]}))
        self.waves: list[list[Ask]] = []

    def play(self, code: str, items: int = 2, attempts: int = 2, limits: Limits = Limits(silence=20.0)) -> list[Outcome]:
        (self.folder / "scaffold" / "agent.py").write_text(code)
        process = ScaffoldProcess(self.folder / "scaffold", self.folder / "data.json", self.folder / "work", limits)

        def answer(asks: list[Ask]) -> Sequence[Sequence[str]]:
            self.waves.append(asks)
            return [[f"{ask.prompt}/{number}" for number in range(attempts)] for ask in asks]

        try:
            return process.solve([(f"i{number}", f"q{number}") for number in range(items)], attempts, answer)
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
    stage.play("def solve(item, model, data): return model.complete(model.complete(item.prompt).text).text", items=100, attempts=1)
    assert [len(wave) for wave in stage.waves] == [64, 64, 36, 36]


def test_a_later_call_is_told_from_an_earlier_one(stage: Stage) -> None:
    outcomes = stage.play("def solve(item, model, data): return model.complete(model.complete(item.prompt).text).text", items=1)
    assert [outcome.answer for outcome in outcomes] == ["q0/0/0", "q0/1/1"]
    assert [outcome.uses for outcome in outcomes] == [((0, 0), (1, 0)), ((0, 1), (2, 1))]


def test_a_scaffold_may_say_nothing(stage: Stage) -> None:
    assert [outcome.answer for outcome in stage.play("def solve(item, model, data): return None", items=1)] == [None, None]


def test_prints_do_not_disturb(stage: Stage) -> None:
    assert stage.play("def solve(item, model, data):\n print('{\"done\": []}', flush=True)\n return data.labels[1]")[0].answer == "b"


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("return 1 / 0", "crashed", r"ZeroDivisionError: division by zero at agent.py:1"),
        ("return 5", "nonsense", "returned int, expected str"),
        ("return 'x' * 20_000", "nonsense", "20000 characters"),
        ("return '\\ud800'", "nonsense", "Unicode"),
        ("return model.complete(item.prompt, choices=['a'], bias=[1, 2]).text", "crashed", "2 biases for 1 choices"),
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
        ("while True: pass", "hung", "no word for 1 s"),
        ("import os; os._exit(3)", "crashed", "exited with 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
    ],
)
def test_a_process_that_goes_wrong_fails_what_is_left(stage: Stage, body: str, kind: str, reason: str) -> None:
    outcomes = stage.play(f"def solve(item, model, data):\n  {body}", limits=QUICK)
    assert len(outcomes) == 4 and {outcome.kind for outcome in outcomes} == {kind} and reason in outcomes[0].reason


def test_a_flood_of_output_is_stopped(stage: Stage) -> None:
    outcomes = stage.play("def solve(item, model, data):\n  while True: print('x' * 10000)", limits=Limits(silence=10.0))
    assert {outcome.kind for outcome in outcomes} == {"flooded"}


def test_memory_is_limited(stage: Stage) -> None:
    limits = Limits(silence=10.0, memory=500 * 1024**2)
    assert "MemoryError" in stage.play("def solve(item, model, data): return len(bytearray(10**9))", limits=limits)[0].reason


def test_results_of_an_earlier_group_survive_a_later_crash(stage: Stage) -> None:
    code = "def solve(item, model, data):\n  if item.id == 'i99': import os; os._exit(1)\n  return 'a'"
    outcomes = stage.play(code, items=100, attempts=1)
    assert sum(outcome.answer == "a" for outcome in outcomes) >= 64 and outcomes[99].kind == "crashed"


@pytest.mark.parametrize("code", ["def solve(", "import no_such_module", "x = 1", "raise ValueError('no')"])
def test_a_scaffold_that_does_not_load_says_why(stage: Stage, code: str) -> None:
    with pytest.raises(ScaffoldStopped) as stopped:
        stage.play(code)
    assert stopped.value.kind == "unloadable" and str(stopped.value)


def test_a_scaffold_sees_neither_this_program_nor_its_environment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = (
        "import os, importlib.util\n"
        "def solve(item, model, data):\n"
        "  return str([importlib.util.find_spec(name) for name in ('events', 'tasks', 'runtime')]) + str(sorted(os.environ))"
    )
    answer = stage.play(code)[0].answer
    assert answer and "[None, None, None]" in answer and "OPENAI" not in answer and "HOME" not in answer
