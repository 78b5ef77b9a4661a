"""Replay, forks, exports and comparisons, as a user has them: a real run of both levers, then nothing but its log and
files.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cli import CliHarness, one_sentence
from tests.harness.paths import ROOT, TOY

pytestmark = pytest.mark.slow

STRICT = '''"""Nothing is ever right."""

from tasks.contract import Scored

VERSION = "strict-1"


def score(answer: str | None, label: str) -> Scored:
    return Scored(0.0, "wrong")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliHarness]:
    """A directory in which a run `toy-a` has been, and nothing is up."""
    there = CliHarness(tmp_path_factory.mktemp("replay"))
    there.evolog("run", str(TOY), "--name", "toy-a", "--json")
    yield there
    there.down()


def sequences(place: CliHarness, tag: str, run: str = "toy-a") -> list[int]:
    rows = json.loads(
        place.here("sql", f"select seq from events where run = '{run}' and tag = '{tag}' order by seq", "--json").out
    )
    return [row["seq"] for row in rows]


def test_a_run_is_decided_again_while_nothing_is_up(place: CliHarness) -> None:
    said = place.evolog("replay", "toy-a")
    assert "come out the same, byte for byte, to its end." in said.out and not place.node.alive()
    found = json.loads(place.here("replay", "toy", "--json").out)
    assert (
        found["difference"] is None
        and found["finished"]
        and found["decisions"] == len(sequences(place, "decision_made"))
    )


def test_the_state_at_a_sequence_or_time(place: CliHarness) -> None:
    proposed = sequences(place, "scaffold_proposed")[1]
    assert "made from generation 0: phase evaluate" in place.here("replay", "toy-a", "--to", str(proposed)).out
    state = json.loads(place.here("replay", "toy-a", "--to", "2100-01-01", "--json").out)["state"]
    assert state["finished"] and not state["flights"] and state["best"]["score"] > 0.5
    one_sentence(place.here("replay", "toy-a", "--to", "soon", code=2), "'soon' is no point in a run")


def test_an_export_is_replayed_shown_and_compared_where_there_is_no_broker(place: CliHarness, tmp_path: Path) -> None:
    assert "blobs, in " in place.here("replay", "toy-a", "--export", str(tmp_path / "out")).out
    one_sentence(place.here("replay", "toy-a", "--export", str(tmp_path / "out"), code=2), "is there already")
    elsewhere = CliHarness(tmp_path / "elsewhere")
    elsewhere.here("replay", str(tmp_path / "out"), EVOLOG_NATS_SERVER="/nowhere")
    elsewhere.evolog("import", str(tmp_path / "out"), EVOLOG_NATS_SERVER="/nowhere")
    shutil.rmtree(tmp_path / "out")
    for command in (("replay", "toy-a"), ("show", "toy-a"), ("ls",), ("replay", "toy-a", "--to", "100")):
        assert "toy-a" in elsewhere.evolog(*command, EVOLOG_NATS_SERVER="/nowhere").out
    imported = elsewhere.node.imports / "toy-a"
    assert "are the same in" in place.here("diff", "toy-a", str(imported)).out
    one_sentence(elsewhere.evolog("fork", "toy-a", "--at", "100", code=2), "is here as files")

    events = imported / "events.ndjson"
    events.write_bytes(events.read_bytes().replace(b'"outcome":"wrong"', b'"outcome":"right"', 1))
    one_sentence(elsewhere.here("replay", "toy-a", code=3), "is not as it was exported")


def test_code_that_decides_otherwise_is_found_out_with_exit_code_3(place: CliHarness, tmp_path: Path) -> None:
    """A constant of a decider is changed in a copy of the program, as somebody would who works on it."""
    for package in ("events", "algorithms", "tasks", "runtime", "replay", "services"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    statistics = tmp_path / "algorithms" / "statistics.py"
    source = statistics.read_text()
    assert source.count("Z95 = 1.959963984540054") == 1
    statistics.write_text(source.replace("Z95 = 1.959963984540054", "Z95 = 1.96"))
    said = place.evolog("replay", "toy-a", code=3, PYTHONPATH=str(tmp_path))
    first = sequences(place, "candidate_evaluated")[0]
    assert f"first difference at sequence {first}: event 1 of decision 3 is another." in said.out
    assert "  recorded: " in said.out and "  decided:  " in said.out


@pytest.mark.long
def test_a_fork_shares_the_past_and_goes_its_own_way(place: CliHarness, tmp_path: Path) -> None:
    (tmp_path / "verifier.py").write_text(STRICT)
    asked = sequences(place, "feedback_requested")[-1]
    one_sentence(place.evolog("fork", "toy-a", "--at", str(asked), "--set", "seed=1", code=2), "cannot change seed")
    one_sentence(
        place.evolog("fork", "toy-a", "--at", str(asked), "--set", "algorithm=sgd", code=2),
        "algorithm=sgd is none",
    )
    one_sentence(
        place.evolog("fork", "toy-a", "--at", str(asked), "--set", "verifier=/nowhere", code=4),
        "cannot be read as a verifier",
    )
    place.up()
    strict = ("--set", f"verifier={tmp_path / 'verifier.py'}", "--set", "generations=1", "--name", "strict", "--detach")
    assert place.evolog("fork", "toy-a", "--at", str(asked), *strict).out == "strict\n"
    place.evolog("fork", "toy-a", "--at", str(asked), "--name", "again", "--detach")
    place.evolog("fork", "toy-a", "--at", str(asked), "--set", "algorithm=rloo", "--name", "rloo", "--detach")
    place.wait_until_audited("strict", "again", "rloo")
    place.down()
    for run in ("strict", "again", "rloo"):
        assert "byte for byte, to its end" in place.here("replay", run).out
    assert json.loads(place.here("show", "strict", "--json").out)["score"] == 0.0
    same = json.loads(place.here("diff", "toy-a", "again", "--json", code=1).out)
    assert set(same["config"]) == {"parent_run", "parent_sequence", "parent_digest"}
    assert not (same["parting"] or same["generations"] or same["scaffolds"] or same["scores"])
    shown = json.loads(place.here("show", "again", "--json").out)
    assert [row["lever"] for row in shown["generations"]] == ["start", "scaffold", "weights"]
    assert "algorithm:  | rloo" in place.here("diff", "toy-a", "rloo", code=1).out
