"""Whatever a user, a task, a scaffold or a disk does wrong: a sentence, the right exit code, and nothing lost."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from events import codec
from events.errors import Misconfigured, NotHere
from events.rollouts import TrajectoryRecorded
from events.run import Budget, Items, RunStarted
from events.secret import Scanner
from events.subjects import LOG
from events.weights import AdapterPublished, AdapterRejected, AdapterServed, Canary
from runtime.blobs.directory import Blobs
from runtime.effects.serve import ServedModels, check_adapter
from runtime.log.port import Message
from runtime.policies import text_scorer
from runtime.policies.client import model_name
from runtime.rollouts.calls import CallLog
from runtime.rollouts.host import ScaffoldCall, ScaffoldData, ScaffoldProcess
from runtime.rollouts.runner import RolloutRunner
from runtime.rollouts.shard import RolloutShard
from runtime.run.order import RunOrder
from services.cli.live import run_task
from services.host.settings import scaffold_limits
from services.host.statuses import read_statuses
from services.views.waiting import obstacles, waiting_sentence
from tasks.contract import FOLDS, Example, Public
from tasks.loading import load
from tests.harness import lawbench_standin
from tests.harness.cli import CliHarness, one_sentence
from tests.harness.facts import ANY_ITEM
from tests.harness.faults import damage
from tests.harness.paths import TOY
from tests.harness.polling import PATIENCE
from tests.harness.tasks.smaller import small_toy

SOLVE = "def solve(item, model, data):\n    "
HUNG = "import time\n" + SOLVE + "time.sleep(600)"
SCAFFOLDS = {
    "crashed": "import os\n" + SOLVE + "os._exit(3)",
    "flooded": SOLVE + "while True: print('x' * 10000)",
    "nonsense": SOLVE + "return 5",
    "unloadable": "import no_such_module",
    "refused": SOLVE + "return model.complete(item.prompt, choices=('no label',)).text",
}
VERIFIERS = {"not-a-number": "return Scored(float('nan'), 'wrong')", "raising": "raise RuntimeError('boom')"}
NOTHING = "the first scaffold could not be evaluated"
ATTEMPTS = 8 + 8 * 4
"""Of one evaluation of a tiny task: dev once, the probe eight times."""


NEARLY_FULL = """
from services.cli.main import main
from runtime.broker import store
store.free_bytes = lambda directory: 30 * 10**6 if (directory / "full").exists() else 10**12
main()
"""


class Stopped(NamedTuple):
    """What was said when the disk was nearly full, by `evolog up` and by a run that was being watched."""

    up: tuple[int, str]
    run: tuple[int, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CliHarness, Stopped]]:
    """The services with all the runs of this file: ordered, stopped in their midst by a full disk, gone on with, and
    audited.
    """
    folder = tmp_path_factory.mktemp("bad")
    place = CliHarness(folder)
    runs = {f"scaffold-{kind}": small_toy(folder / kind, scaffold__agent=code) for kind, code in SCAFFOLDS.items()}
    for name, code in VERIFIERS.items():
        text = (TOY / "verifier.py").read_text().split("    if not answer")[0]
        runs[f"verifier-{name}"] = small_toy(folder / name, verifier=f"{text}    {code}\n")
    runs["gold"] = small_toy(folder / "gold", gold="'''No labels here.'''\n")
    catalogue = (
        (TOY / "catalogue.py")
        .read_text()
        .replace("        if evidence.offered", "        1 / 0\n        if evidence.offered")
    )
    runs["own-code"] = small_toy(
        folder / "own", catalogue=catalogue, baselines="BASELINES = {'mine': lambda public, items: items[999]}\n"
    )
    runs["even"] = runs["odd"] = small_toy(folder / "good")
    try:
        up = place.up(program=("-P", "-c", NEARLY_FULL))
        order_elsewhere(place)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", place.environment["XDG_CACHE_HOME"])
            for name, task in runs.items():
                order = RunOrder(task=str(task), levers="scaffold", seed=0, generations=None, budget="", name=name)
                run_task(place.node.directory, order, detach=True, as_json=False)
        disturb(place)
        run = place.start("run", str(folder / "good"), "--name", "watched", "--levers", "scaffold")
        assert run.stdout and "run watched" in run.stdout.readline()
        (place.node.directory / "full").touch()
        stopped = Stopped(ended(up), ended(run))
        (place.node.directory / "full").unlink()
        place.up()
        place.wait_until_audited(*runs, "watched")
        yield place, stopped
    finally:
        place.down()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@pytest.fixture(scope="module")
def place(made: tuple[CliHarness, Stopped]) -> CliHarness:
    return made[0]


def order_elsewhere(place: CliHarness) -> None:
    """A run of a task that this host has not."""
    items = Items(dev=("d0",), folds=(("t0",),) * FOLDS, probe=(("t0",),))
    started = RunStarted(
        task="/nowhere/task",
        seed=0,
        levers=("scaffold",),
        generations=1,
        budget=Budget(),
        items=items,
        splits={},
        verifier="v",
        policy="text-scorer",
        base_model="0" * 64,
    )
    event = codec.event(started, run="elsewhere", source="operator", cause="", time="2026-01-01T00:00:00Z")
    place.connect("operator", LOG).append([Message(event.subject, codec.encode(event))])


def poison() -> dict[str, bytes]:
    """Messages that stand where a trajectory should and are none, by what is said of them."""
    recorded = TrajectoryRecorded(
        request="q",
        item="d0",
        attempt=0,
        purpose="dev",
        split="dev",
        generation=0,
        scaffold="",
        adapter="",
        answer="",
        calls=(),
        seconds=0.0,
    )
    event, other = (
        codec.event(recorded, run=run, source="executor", cause="", time="2026-01-01T00:00:00Z")
        for run in ("odd", "even")
    )
    whole, elsewhere = codec.encode(event), codec.encode(other)
    return {
        "not a CloudEvent: Object missing required field": b'{"specversion": "1.0"}',
        "not a CloudEvent: JSON is malformed: trailing characters": whole + whole,
        "not a CloudEvent: Input data was truncated": whole[:-1],
        "has another shape: 'utf-8' codec": whole.replace(b'"d0"', b'"\xff"'),
        "not a CloudEvent: maximum recursion depth exceeded": b'{"a":' + b"[" * 100_000,
        "unknown event type 'trajectory_forgotten'": whole.replace(
            b'"type":"trajectory_recorded"', b'"type":"trajectory_forgotten"'
        ),
        "has version 99, this program knows 1": whole.replace(b'"version":1', b'"version":99'),
        "has another shape: Expected `int`": whole.replace(b'"attempt":0', b'"attempt":"first"'),
        "has another shape: Object contains unknown field": whole.replace(b'"attempt":0', b'"attempt":0,"reward":1'),
        "follows from its key": whole.replace(event.id.encode(), b"0" * 24),
        "says that its subject is": whole.replace(b'"run":"odd"', b'"run":"even"'),
        "stands on subject": elsewhere,
        "JSON is malformed: invalid character": b"\x00" * 2_000_000,
    }


def disturb(place: CliHarness) -> None:
    """Messages in the midst of a run that have a service's tag and not its shape."""
    for number, data in enumerate(poison().values()):
        place.connect("executor", LOG).append([Message(f"evolog.odd.{number}.trajectory_recorded", data)])
    place.connect("feedback_agent", LOG).append([Message("evolog.odd.y.lever_chosen", b"\xff not JSON")])


def report(place: CliHarness, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.here("show", run, "--json").out)
    return found


def asked(place: CliHarness, sql: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(place.here("sql", sql, "--json").out)
    return found


@pytest.mark.slow
def test_scaffolds_that_do_not_work_fail_in_words_and_score_nothing(place: CliHarness) -> None:
    listed = {row["run"]: row for row in json.loads(place.evolog("ls", "--json").out)["runs"]}
    for kind in SCAFFOLDS:
        row = listed[f"scaffold-{kind}"]
        assert (row["state"], row["reason"], row["score"]) == ("failed", NOTHING, None), kind
    failed = asked(
        place,
        "select run, kind, count(*) as n, min(length(reason)) > 9 as said from rollout_failed group by all order by "
        "run",
    )
    assert failed == [
        {"run": f"scaffold-{kind}", "kind": kind, "n": ATTEMPTS, "said": True} for kind in sorted(SCAFFOLDS)
    ]
    assert asked(place, "select * from trajectory_scored where run like 'scaffold-%'") == []
    assert asked(place, "select distinct score, candidate from runs where run like 'scaffold-%'") == [
        {"score": None, "candidate": None}
    ]


@pytest.mark.slow
def test_a_scaffold_that_hangs_fails_after_its_silence(tmp_path: Path) -> None:
    """On services of its own: a busy host would take others for it under so short a limit."""
    place = CliHarness(tmp_path, EVOLOG_SCAFFOLD_SILENCE="2")
    task = small_toy(tmp_path / "hung", scaffold__agent=HUNG)
    place.evolog("run", str(task), "--name", "hung", "--levers", "scaffold", code=1)
    assert asked(place, "select kind, count(*) as n from rollout_failed group by all") == [
        {"kind": "hung", "n": ATTEMPTS}
    ]
    assert asked(place, "select * from trajectory_scored") == []


@pytest.mark.slow
def test_verifiers_that_do_not_work_are_no_scores_of_zero(place: CliHarness) -> None:
    failed = asked(place, "select run, reason, count(*) as n from scoring_failed group by all order by run")
    assert [(row["run"], row["n"]) for row in failed] == [
        ("verifier-not-a-number", ATTEMPTS),
        ("verifier-raising", ATTEMPTS),
    ]
    assert "reward is nan" in str(failed[0]["reason"]) and "score raised RuntimeError: boom" in str(failed[1]["reason"])
    assert asked(place, "select * from trajectory_scored where run like 'verifier-%'") == []
    assert report(place, "verifier-raising")["reason"] == NOTHING


@pytest.mark.slow
def test_a_run_that_fails_exits_with_1_and_says_where_to_look(place: CliHarness) -> None:
    said = place.evolog("run", str(place.folder / "nonsense"), "--generations", "0", "--name", "nothing", code=1)
    assert f"run nothing failed: {NOTHING} (8 of 8 attempts failed" in said.err
    query = said.err.split('`evolog sql "')[1].split('"`')[0]
    assert asked(place, query)[0]["outcome"] == "nonsense"


@pytest.mark.slow
def test_a_run_of_a_task_that_is_not_here_waits_in_words_and_spends_nothing(place: CliHarness) -> None:
    statuses = read_statuses(place.node)
    assert [status.process for status in statuses].count("executor-1") == 1 and len(statuses) == 10
    (sentence, *_) = (waiting_sentence(status, one, one.since) for status, one in obstacles("elsewhere", statuses))
    assert "waits for what its host lacks: There is no task '/nowhere/task'" in sentence
    assert report(place, "elsewhere")["state"] == "running"
    assert asked(place, "select * from proposal_failed where run = 'elsewhere'") == []


@pytest.mark.slow
def test_a_gold_module_without_labels_is_said_in_the_audit(place: CliHarness) -> None:
    found = report(place, "gold")
    assert found["score"] is not None and found["cells"] == []
    assert "gold.py defines no 'labels'" in str(found["cells_failed"])


@pytest.mark.slow
def test_a_catalogue_or_baseline_that_raises_costs_itself_alone(place: CliHarness) -> None:
    found = report(place, "own-code")
    assert found["reason"] == "all 1 generations are done" and len(found["cells"]) == 8
    assert "ZeroDivisionError" in str(found["generations"]) and "IndexError" in str(found["cells_failed"])


@pytest.mark.slow
def test_a_full_disk_stops_all_in_good_order_and_the_runs_go_on_when_there_is_room(
    made: tuple[CliHarness, Stopped],
) -> None:
    place, stopped = made
    code, said = stopped.up
    assert code == 75 and "evolog: Only 30 MB are free" in said and "what is in the log is safe" in said
    code, said = stopped.run
    assert (
        code == 69 and "run watched is safe in the log: `evolog up` goes on with it" in said and "Traceback" not in said
    )
    assert report(place, "watched")["reason"] == "all 1 generations are done"
    assert (
        len(asked(place, "from runs where state in ('finished', 'failed')"))
        == len(asked(place, "from run_started")) - 1
    )


@pytest.mark.slow
def test_unreadable_messages_are_set_aside_and_disturb_nothing(place: CliHarness) -> None:
    even, odd = report(place, "even"), report(place, "odd")
    for what in ("reason", "score", "scaffold", "rollouts", "tokens"):
        assert even[what] == odd[what] is not None, what
    kinds = len(poison()) + 1
    assert (even["set_aside"], odd["set_aside"]) == (0, kinds)
    assert f"{kinds} messages could not be read and were set aside" in place.here("show", "odd").out
    rows = asked(place, "select reason, size from event_set_aside where run = 'odd' order by sequence")
    expected = [*poison().items(), ("not a CloudEvent", b"\xff not JSON")]
    for row, (reason, data) in zip(rows, expected, strict=True):
        assert reason in str(row["reason"]) and row["size"] == len(data), row
    assert "UNREADABLE" in place.evolog("watch", "odd", "--no-follow").out
    assert "odd" in place.here("ls").out


@pytest.fixture
def alone(tmp_path: Path) -> CliHarness:
    return CliHarness(tmp_path / "place")


def test_a_task_that_is_not_there(alone: CliHarness) -> None:
    one_sentence(
        alone.here("run", "lawbank", code=4), "There is no task 'lawbank'", "lawbench", "a path to a task folder"
    )


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("gold.py", None, "has no gold.py"),
        ("verifier.py", "VERSION = '1'\n", "verifier.py must define one function of score and score_submission"),
        ("verifier.py", "raise OSError('no licence')\n", "verifier.py cannot be imported (OSError: no licence)"),
    ],
)
def test_a_task_folder_that_breaks_the_contract(alone: CliHarness, file: str, text: str | None, words: str) -> None:
    folder = small_toy(alone.folder / "task")
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    one_sentence(alone.here("run", str(folder), code=78), words)
    assert not alone.node.directory.exists()


def test_task_code_that_raises_is_misconfigured(tmp_path: Path) -> None:
    folder = small_toy(tmp_path / "raising")
    (folder / "data.py").write_text(
        (folder / "data.py").read_text().replace("    train = tuple(", "    raise KeyError('label')\n    train = (")
    )
    with pytest.raises(Misconfigured, match=r"data\.py: load raised KeyError: 'label' \(data\.py, line \d+\); mend it"):
        load(str(folder)).public(0)


@pytest.mark.parametrize(
    ("gives", "reward"),
    [("Scored(True, 'right')", 1.0), ("Scored(1, 'right')", 1.0), ("Scored('much', 'right')", None), ("1.0", None)],
)
def test_a_reward_is_a_number_or_the_verifier_is_misconfigured(
    tmp_path: Path, gives: str, reward: float | None
) -> None:
    head = (TOY / "verifier.py").read_text().split("    if not answer")[0]
    task = load(str(small_toy(tmp_path / "odd", verifier=f"{head}    return {gives}\n")))
    if reward is None:
        with pytest.raises(Misconfigured, match="expected a Scored whose reward is a number"):
            task.score(ANY_ITEM, "a", "a")
    else:
        assert msgspec.json.encode(task.score(ANY_ITEM, "a", "a").reward) == b"1.0"


def test_data_that_are_missing_or_not_as_published(alone: CliHarness, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    one_sentence(alone.here("run", "lawbench", code=4), "is not under", "run `evolog data get lawbench`")
    lawbench_standin.write(tmp_path / "tampered")
    said = alone.here("data", "get", "lawbench", "--from", str(tmp_path / "tampered"), code=3)
    one_sentence(said, "as published", "sha256")
    one_sentence(
        alone.here("data", "get", "lawbench", "--from", "nowhere", code=4), "nowhere is not there", "--from takes"
    )
    tasks = alone.folder / "cache" / "evolog" / "tasks"
    assert list(tasks.iterdir()) == []
    shutil.copytree(tmp_path / "tampered", tasks / "lawbench")
    one_sentence(alone.evolog("run", "lawbench", code=3), "as published", "run `evolog data get lawbench`")


@pytest.mark.parametrize("command", [("up",), ("run", str(TOY))])
def test_without_a_nats_server(alone: CliHarness, command: tuple[str, ...]) -> None:
    one_sentence(
        alone.evolog(*command, code=69, EVOLOG_NATS_SERVER="/nowhere/nats"),
        "EVOLOG_NATS_SERVER names /nowhere/nats",
        "unset it",
    )


@pytest.mark.parametrize("silence", ["soon", "0", "-1", "nan"])
def test_a_limit_that_is_none_is_refused(silence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLOG_SCAFFOLD_SILENCE", silence)
    with pytest.raises(Misconfigured, match="expected seconds above 0, such as 120: correct it, or unset it"):
        scaffold_limits()


def test_up_refuses_a_limit_that_is_none(alone: CliHarness) -> None:
    one_sentence(alone.evolog("up", code=78, EVOLOG_SCAFFOLD_SILENCE="soon"), "'soon'")


LABELS = ("a", "b", "c")


@pytest.mark.parametrize("of", ["folder", "file"])
def test_a_damaged_scaffold_fails_no_attempt_and_names_the_blob(tmp_path: Path, of: str) -> None:
    blobs = Blobs(tmp_path / "blobs")
    agent = blobs.put(b"def solve(item, model, data): return 'a'\n")
    scaffold = blobs.put_tree({"agent.py": blobs.get(agent)})
    hurt = scaffold if of == "folder" else agent
    damage(blobs, hurt)
    train = tuple(Example(f"t{number}", "x", "a", number % FOLDS, "g") for number in range(5))
    public = Public("p", LABELS, train, (), (), dict.fromkeys(("train", "dev", "test"), "0"))
    never_asked: Any = None
    runner = RolloutRunner(blobs, tmp_path / "work", policy=never_asked, scanner=Scanner([]))
    shard = RolloutShard(
        run="r", id="q", scaffold=scaffold, model="m", items=("t0", "t1"), attempts=2, temperature=1.0, seed=0
    )
    with pytest.raises(NotHere, match=f"{hurt}.*damaged"):
        runner.run(shard, public, CallLog(find=lambda ids: {}, record=lambda calls: None))


def test_calls_of_the_model_have_an_end(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(SOLVE + "for number in range(10**9): model.complete(str(number))")
    process = ScaffoldProcess(tmp_path, ScaffoldData([], []), tmp_path / "work")

    def answer(asks: list[ScaffoldCall]) -> list[list[str]]:
        return [["a"] for _ in asks]

    try:
        (outcome,) = process.solve([("i", "q")], 1, answer)
    finally:
        process.close()
    assert outcome.kind == "crashed" and "more than 1000 calls of the model in one attempt" in outcome.reason


def test_a_long_prompt_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    base = text_scorer.build_base(LABELS, ["a b", "b c"])
    scored: list[int] = []
    features = base.features

    def counted(text: str) -> tuple[np.ndarray, np.ndarray]:
        scored.append(len(text))
        return features(text)

    monkeypatch.setattr(base, "features", counted)
    policy = text_scorer.TextScorer(base)
    assert [policy.log_probs("a" * length) for length in (20_000, 20_001)] == [
        policy.log_probs("a" * length) for length in (20_000, 20_001)
    ]
    assert scored == [20_000, 20_001, 20_001]


class Adapters:
    """A base, and adapters for it or for another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs = folder, Blobs(folder / "blobs")
        self.models = ServedModels(self.blobs, folder / "work")
        self.base = self.save("base", LABELS)
        self.other = self.save("other", (*LABELS, "d"))

    def save(self, name: str, labels: tuple[str, ...]) -> str:
        text_scorer.build_base(labels, ["a b", "b c"]).save(self.folder / name)
        return self.blobs.put_folder(self.folder / name)

    def adapter(self, base: str = "base", b: float = 0.0) -> str:
        made_for = text_scorer.load_base(self.folder / base)
        folder = self.folder / f"adapter-{base}-{b}"
        folder.mkdir()
        tensors = {
            text_scorer.KEY_A: np.zeros((1, text_scorer.BUCKETS), np.float32),
            text_scorer.KEY_B: np.full((len(made_for.labels), 1), b, np.float32),
        }
        save_file(tensors, folder / text_scorer.ADAPTER)
        config = {"base_model_name_or_path": text_scorer.base_name(made_for), "r": 1, "lora_alpha": 1}
        (folder / text_scorer.CONFIG).write_text(json.dumps(config))
        return self.blobs.put_folder(folder)

    def check_adapter(self, adapter: str, canary: tuple[float, ...] | None = None) -> AdapterServed | AdapterRejected:
        shown = canary or tuple(self.models.find(self.base).log_probs("a b"))
        published = AdapterPublished(
            generation=1,
            round=1,
            adapter=adapter,
            parent_adapter="",
            base_model=self.base,
            batch="b",
            algorithm="best_of_n",
            canary=(Canary("a b", shown),),
            trained_on=1,
        )
        fact = check_adapter(self.models, published)
        assert isinstance(fact, AdapterServed | AdapterRejected)
        return fact


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters(tmp_path)


def test_a_bad_adapter_is_rejected_in_words_and_the_last_good_one_stays(adapters: Adapters) -> None:
    good = adapters.adapter()
    assert isinstance(adapters.check_adapter(good), AdapterServed)
    damaged = adapters.adapter(b=1.0)
    damage(adapters.blobs, damaged)
    cases = {
        damaged: "is damaged",
        adapters.adapter("other"): "was made for the base text-scorer@",
        adapters.blobs.put_tree({text_scorer.CONFIG: b"{}", text_scorer.ADAPTER: b"garbage"}): "SafetensorError",
        adapters.blobs.put_tree({text_scorer.CONFIG: b"no JSON", text_scorer.ADAPTER: b""}): "JSONDecodeError",
        adapters.blobs.put_tree({"README.md": b""}): "it is no peft adapter",
    }
    for adapter, words in cases.items():
        fact = adapters.check_adapter(adapter)
        assert isinstance(fact, AdapterRejected) and words in fact.reason, fact
    wrong = adapters.check_adapter(good, canary=(0.0, 0.0, 0.0))
    assert isinstance(wrong, AdapterRejected) and "canary differs" in wrong.reason
    with pytest.raises(NotHere, match="is not in"):  # it may be copied here yet
        adapters.check_adapter("f" * 64)
    assert adapters.models.find(model_name(adapters.base, good)).log_probs("a b")


@pytest.mark.parametrize("how", ["flipped", "truncated"])
@pytest.mark.parametrize("file", [text_scorer.ADAPTER, text_scorer.CONFIG])
def test_one_wrong_bit_of_an_adapter_is_refused_by_its_digest(adapters: Adapters, how: str, file: str) -> None:
    good, bad = adapters.adapter(), adapters.adapter(b=1.0)
    hurt = adapters.blobs.members(bad)[file]
    if hurt in adapters.blobs.members(good).values():
        good = ""
    damage(adapters.blobs, hurt, how)
    for _ in range(2):  # it is not half loaded by the first try
        fact = adapters.check_adapter(bad)
        assert (
            isinstance(fact, AdapterRejected)
            and f"Blob {hurt} in " in fact.reason
            and "is damaged: its bytes hash to" in fact.reason
        )
    assert adapters.models.find(model_name(adapters.base, good)).log_probs("a b")
