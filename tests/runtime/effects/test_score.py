"""How attempts come to their rewards: one by one, repeated, as submissions, with tools and with a judge model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import Misconfigured, NotHere, TryAgain, UserError
from events.judgement import JudgeCalled, ScoringFailed, TrajectoryScored
from events.kinds import CallStatus
from events.rollouts import TrajectoryRecorded
from events.secret import Scanner
from runtime.agents.conversation import ModelRequest, ModelTurn, Usage
from runtime.agents.prices import Price
from runtime.agents.providers import CallResult, LanguageModel, ModelClient
from runtime.blobs.directory import Blobs
from runtime.effects.judge import Judge, recorded_answers
from runtime.effects.score import score
from runtime.effects.scoring import Failed, ScoringProcess, in_process
from runtime.effects.tools import SandboxTools
from runtime.run.loading import LoadedRun
from tasks.loading import load
from tests.harness.facts import ANY_ITEM, started
from tests.harness.paths import TOY

NOISY = """
import itertools
from tasks.contract import Scored
VERSION, REPEATS, OUTCOMES = "1", 3, {"slow": "it is slow", "fast": "it is fast"}
times = itertools.count(1)
def score(item, answer, label):
    time = next(times)
    return Scored(float(time), "fast" if time > 1 else "slow", f"{item.id} took {time}", micro_usd=7)
"""
WHOLE = """
from tasks.contract import Scored, Submission
VERSION = "1"
def score_submission(items, answers, labels):
    right = [id for id, answer in answers.items() if answer == labels[id]]
    total = Scored(len(right) / len(items), "wrong", "all in all", micro_usd=5)
    return Submission(total, {id: Scored(1.0, "right", micro_usd=1) for id in right})
"""
ASKS = """
from tasks.contract import Scored
VERSION, JUDGE = "1", "openai:judge"
def score(item, answer, label, tools):
    said = tools.ask(f"Is {answer} right?", max_tokens=3) + tools.ask("Sure?")
    return Scored(float(said == "yesyes"), "right" if said == "yesyes" else "wrong")
"""


def run_with(source: str) -> LoadedRun:
    task = load(str(TOY)).with_verifier(source, "verifier.py")
    return LoadedRun(started(), task, task.public(0))


def attempt(item: str, answer: str | None, number: int = 0) -> TrajectoryRecorded:
    return TrajectoryRecorded(
        request="q",
        item=item,
        attempt=number,
        purpose="dev",
        split="dev",
        generation=0,
        scaffold="s",
        adapter="",
        answer=answer,
        calls=(),
        seconds=0.0,
    )


def test_a_noisy_verifier_is_called_again_and_gives_the_mean_with_its_t_interval() -> None:
    loaded = run_with(NOISY)
    (fact,) = score({"t": attempt("dev0", "x")}, loaded, loaded.task.labels(0), in_process)
    assert isinstance(fact, TrajectoryScored)
    assert (fact.reward, fact.outcome, fact.details, fact.micro_usd) == (2.0, "fast", "dev0 took 2", 21)
    half = 4.303 / 3**0.5  # of 1, 2, 3: a standard deviation of 1, two degrees of freedom
    assert (fact.low, fact.high) == pytest.approx((2 - half, 2 + half), abs=1e-3)


def test_a_submission_is_judged_whole_and_credited_by_item() -> None:
    loaded = run_with(WHOLE)
    labels = loaded.task.labels(0)
    attempts = {"a": attempt("dev0", labels["dev0"]), "b": attempt("dev1", "x"), "c": attempt("dev0", "x", 1)}
    facts = score(attempts, loaded, labels, in_process, {"q": ("dev0", "dev1", "dev2", "dev3")})
    scored = {fact.trajectory: fact for fact in facts if isinstance(fact, TrajectoryScored)}
    assert {id: (fact.reward, fact.outcome) for id, fact in scored.items()} == {
        "a": (1.0, "right"),
        "b": (0.25, "wrong"),  # of four items that were asked, two of which failed to run
        "c": (0.0, "wrong"),
    }
    assert [scored[id].micro_usd for id in "abc"] == [6, 0, 5]  # what the whole cost is counted once


def test_a_submission_that_cannot_be_judged_has_no_score_at_all() -> None:
    loaded = run_with(WHOLE.replace("len(items)", "0"))
    facts = score({"a": attempt("dev0", "x"), "b": attempt("dev1", "x")}, loaded, loaded.task.labels(0), in_process)
    assert [type(fact) for fact in facts] == [ScoringFailed, ScoringFailed]


def test_a_task_without_labels_is_scored_by_what_its_items_hold() -> None:
    loaded = run_with(
        "from tasks.contract import Scored\nVERSION = '1'\n"
        "def score(item, answer, label): return Scored(float(answer in item.prompt and label is None), 'right')"
    )
    prompt = loaded.public.dev[0].prompt
    (fact,) = score({"t": attempt("dev0", prompt.split()[0])}, loaded, {}, in_process)
    assert isinstance(fact, TrajectoryScored) and fact.reward == 1.0


@pytest.fixture
def scorer() -> Iterator[ScoringProcess]:
    with contextlib.closing(ScoringProcess()) as scorer:
        yield scorer


def test_a_verifier_asks_its_judge_model_through_whoever_scores(scorer: ScoringProcess) -> None:
    loaded, asked = run_with(ASKS), []

    def ask(trajectory: str, number: int, prompt: str, most: int) -> str:
        asked.append((trajectory, number, prompt, most))
        if "nonsense" in prompt:
            raise UserError("the judge model would not answer: no")
        return "yes"

    attempts = {"a": attempt("dev0", "baker"), "b": attempt("dev1", "nonsense")}
    good, bad = score(attempts, loaded, loaded.task.labels(0), scorer, ask=ask)
    assert isinstance(good, TrajectoryScored) and good.reward == 1.0
    assert isinstance(bad, ScoringFailed) and "would not answer: no" in bad.reason
    assert asked == [("a", 0, "Is baker right?", 3), ("a", 1, "Sure?", 1024), ("b", 0, "Is nonsense right?", 3)]
    (alone,) = scorer(loaded.task.score, [(ANY_ITEM, "x", "y")])
    assert isinstance(alone, Failed) and "nobody asks a judge model here" in alone.reason


class Provider:
    """A provider whose model says one thing, and the calls that a log has taken."""

    def __init__(self, blobs: Blobs, status: CallStatus = "answered", text: str = "yes") -> None:
        self.recorded: dict[str, JudgeCalled] = {}
        self.asked = 0
        self._turn = ModelTurn(status, text, usage=Usage(10, 2))
        self.judge = Judge(
            run="r",
            model=LanguageModel("openai", "judge"),
            client=lambda request: self._turn,
            price=Price(1.0, 10.0),
            blobs=blobs,
            scanner=Scanner([]),
            seed=0,
            find=self.recorded.get,
            record=self._record,
            ask_model=self._ask,
        )

    def _ask(self, client: ModelClient, request: ModelRequest, seed: int) -> CallResult:
        self.asked += 1
        return CallResult(client(request), 1, 0.5, self._turn.usage)

    def _record(self, called: JudgeCalled) -> JudgeCalled | None:
        from events import codec

        self.recorded[codec.event_id("r", JudgeCalled, *called.key())] = called
        return None


def test_a_judges_answer_is_recorded_first_and_never_paid_twice(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    provider = Provider(blobs)
    assert [provider.judge.ask("t", 0, "Right?", 5) for _ in range(2)] == ["yes", "yes"]
    (called,) = provider.recorded.values()
    assert provider.asked == 1
    assert (called.prompt_tokens, called.completion_tokens, called.micro_usd) == (10, 2, 10 + 20)
    with pytest.raises(UserError, match="something else than is recorded"):
        provider.judge.ask("t", 0, "Wrong?", 5)
    again = recorded_answers(provider.recorded, "r", blobs)
    assert again("t", 0, "Right?", 5) == "yes"
    for number, prompt in ((0, "Wrong?"), (1, "Right?")):
        with pytest.raises(UserError, match="recorded"):
            again("t", number, prompt, 5)


@pytest.mark.parametrize(
    ("status", "error"),
    [("unauthenticated", NotHere), ("server_error", TryAgain), ("rate_limited", TryAgain), ("refused", UserError)],
)
def test_a_judge_that_gives_no_answer_is_no_score(tmp_path: Path, status: CallStatus, error: type[Exception]) -> None:
    provider = Provider(Blobs(tmp_path), status, "no")
    with pytest.raises(error, match="no"):
        provider.judge.ask("t", 0, "Right?", 5)
    assert len(provider.recorded) == (status == "refused")


def nobody(prompt: str, most: int) -> str:
    raise AssertionError(prompt)


@pytest.fixture(scope="module")
def tools() -> SandboxTools:
    return SandboxTools(nobody)


def test_a_candidates_program_runs_in_the_sandbox_and_gives_back_what_was_asked_for(tools: SandboxTools) -> None:
    program = (
        "import os, sys\nprint(open('data/in.txt').read(), sys.argv[1], os.path.exists('/etc/shadow'))\n"
        "open('out.bin', 'wb').write(bytes(range(256)))\nopen('other', 'w').write('x')\nsys.stderr.write('odd')\n"
        "sys.exit(3)"
    )
    files: dict[str, str | bytes] = {"main.py": program, "data/in.txt": b"given"}
    result = tools.run(files, ["main.py", "word"], outputs=["out.bin", "missing"])
    assert (result.exit_code, result.output, result.errors) == (3, "given word False\n", "odd")
    assert result.files == {"out.bin": bytes(range(256))} and result.failure == "" and result.seconds > 0


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("while True: pass", "it took longer than 1 s"),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass", "no result"),
    ],
)
def test_a_program_that_does_not_end_has_failed(tools: SandboxTools, program: str, failure: str) -> None:
    result = tools.run({"main.py": program}, ["main.py"], seconds=1)
    assert failure in result.failure and result.exit_code < 0


def test_a_program_has_the_memory_that_it_was_given(tools: SandboxTools) -> None:
    for size, fits in ((8, True), (800, False)):
        result = tools.run({"main.py": f"x = bytearray({size} << 20)"}, ["main.py"], memory=256 << 20)
        assert (result.exit_code == 0 and not result.failure) is fits


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", ""])
def test_a_file_outside_a_programs_folder_is_refused(tools: SandboxTools, path: str) -> None:
    with pytest.raises(Misconfigured, match="expected a path in its folder"):
        tools.run({path: ""}, ["main.py"])
