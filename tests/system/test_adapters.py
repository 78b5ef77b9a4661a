"""Tasks from elsewhere in the whole system: `evolog run --from`, resumed and replayed; the four of SIA's package."""

import json
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from events.rollouts import TrajectoryRecorded
from events.run import RunStarted
from runtime.effects.tools import SandboxTools
from tasks.adapters import sia
from tasks.adapters.sia_directory import adapt
from tasks.kit import download
from tasks.lawbench.data import FILES
from tasks.loading import load
from tests.harness.cli import RUN, CliHarness, one_sentence, running
from tests.harness.paths import TESTS
from tests.harness.runner import RunnerHarness, shard_of
from tests.harness.sia_directory import BLIND, ScriptedPolicy, write

EVALS = TESTS / "harness" / "inspect_evals.py"


@pytest.mark.slow
def test_a_sia_directory_is_run_and_replayed_though_it_is_gone(tmp_path: Path) -> None:
    with running(tmp_path / "node") as harness:
        directory = write(tmp_path / "parity")
        harness.evolog("run", "--from", "sia", str(directory), "--name", RUN, "--generations", "0", "--detach")
        directory.rename(tmp_path / "gone")
        events = harness.finished_events()
        (started,) = [event.data for event in events if isinstance(event.data, RunStarted)]
        assert started.submissions and started.task.startswith(str(harness.node.tasks))
        played = [event.data for event in events if isinstance(event.data, TrajectoryRecorded)]
        assert played and {trajectory.answer for trajectory in played} <= {"even", "odd"}
        assert json.loads(harness.here("show", RUN, "--json").out)["score"] is not None
        assert "come out the same" in harness.evolog("replay", RUN).out


@pytest.mark.long
def test_a_task_of_inspect_is_run(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    with running(tmp_path / "node") as harness:
        harness.evolog("run", "--from", "inspect", f"{EVALS}:endings", "--name", RUN, "--generations", "0", "--detach")
        answers = {e.data.answer for e in harness.finished_events() if isinstance(e.data, TrajectoryRecorded)}
        assert answers and all(re.fullmatch("ANSWER: [ABCD]", answer or "") for answer in answers)


@pytest.mark.slow
def test_what_cannot_be_run_starts_nothing(tmp_path: Path) -> None:
    harness = CliHarness(tmp_path / "node")
    directory = write(tmp_path / "parity", evaluate=BLIND)
    refused = harness.evolog("run", "--from", "sia", str(directory), code=78)
    one_sentence(refused, "does not tell true answers from others")
    one_sentence(harness.evolog("run", "--from", "sia", str(tmp_path / "nowhere"), code=4), "There is no directory")
    assert not harness.node.alive() and not harness.node.log_folder.exists()


class Known(NamedTuple):
    """What is known beforehand of one of the package's tasks."""

    splits: tuple[int, int, int]
    says: str
    """What a model says that is right, with the label in it."""
    otherwise: str = ""
    """What the reference agent reads of "I do not know."; empty where it answers nothing."""


KNOWN = {
    "gpqa": Known((98, 50, 50), '{{"answer": "{label}"}}', "D"),
    "lawbench": Known((600, 400, 913), "{label}", "[走私、贩卖、运输、制造]毒品"),
    "longcot-chess": Known((26, 12, 12), "I see.\nsolution = {label}"),
    "spaceship-titanic": Known((600, 400, 870), "{label}"),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(download(FILES.package, folder, "these tests need it")) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("sia/tasks/")])
    return folder / "sia" / "tasks"


@pytest.mark.long
@pytest.mark.parametrize("name", KNOWN)
def test_a_task_of_the_package_runs_with_its_own_agent(tmp_path: Path, package: Path, name: str) -> None:
    """The model is right about every other item, and knows nothing of the others."""
    known = KNOWN[name]
    task = load(str(adapt(package / name, tmp_path / "tasks", SandboxTools(lambda prompt, tokens: ""))))
    public, labels = task.public(0), task.labels(0)
    assert (len(public.train), len(public.dev), len(public.test)) == known.splits
    items = list(public.dev)[:40]

    def answer(prompt: str) -> str:
        place = next((place for place, item in enumerate(items) if item.prompt in prompt), 1)
        return "I do not know." if place % 2 else known.says.format(label=labels[items[place].id])

    harness = RunnerHarness(tmp_path, ScriptedPolicy(answer))
    harness.public = public
    scaffold = harness.blobs.put_tree({path: text.encode() for path, text in task.scaffold().items()})
    results = harness.run(shard_of([item.id for item in items], scaffold=scaffold, draw="0 0 dev 0"))
    given = {result.item: result.answer for result in results if not result.kind}
    assert len(given) == len(items), results[0]
    found = sia.judge(task.folder, items, given, labels, SandboxTools(lambda prompt, tokens: ""))
    if name == "spaceship-titanic":  # its agent works on an example of its own
        assert set(given.values()) == {None} and found.total.outcome == "unparsed" and len(harness.recorded) == 1
        return
    right = {item.id for place, item in enumerate(items) if place % 2 == 0 or labels[item.id] == known.otherwise}
    if name == "lawbench":  # its agent takes the first class of the list that is a part of what the model says
        right = {id for id in right if next(label for label in public.labels if label in labels[id]) == labels[id]}
    assert {id for id, scored in found.items.items() if scored.reward == 1.0} == right
    assert found.total.reward == pytest.approx(len(right) / len(items))
    assert len(harness.recorded) == len(items) and all(result.uses for result in results)
