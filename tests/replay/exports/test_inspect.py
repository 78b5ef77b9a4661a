"""A run as logs of Inspect: read by Inspect's own reader, the same bytes each time, gold only where it is asked for."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from events.errors import UsageError
from replay.exports.attempts import PRIVATE
from replay.exports.inspect import InspectExport, write_inspect
from tests.harness.recorded_attempts import ANSWER, PROMPT, recorded_run


def exported(tmp_path: Path, *, private: bool = False, gold: bool = False) -> tuple[InspectExport, Path]:
    folder = tmp_path / "logs"
    return write_inspect(recorded_run(tmp_path, private=private), folder, gold=gold), folder


def logs(folder: Path) -> dict[str, dict[str, Any]]:
    """The header of each log with its samples, as JSON, by what it is about."""
    read = {}
    for path in sorted(folder.iterdir()):
        with zipfile.ZipFile(path) as file:
            header = json.loads(file.read("header.json"))
            names = [name for name in file.namelist() if name.startswith("samples/")]
            samples = [json.loads(file.read(name)) for name in names]
        read[header["eval"]["task"].partition("/")[2]] = header | {"samples": samples}
    return read


@pytest.mark.slow
def test_inspects_reader_reads_each_attempt_as_a_sample(tmp_path: Path) -> None:
    inspect_log: Any = pytest.importorskip("inspect_ai.log")
    written, folder = exported(tmp_path, gold=True)
    path = str(folder / written.files[0])
    dev = inspect_log.read_eval_log(path)
    assert (dev.version, dev.status, dev.eval.model, dev.results.total_samples) == (2, "success", "fake", 2)
    assert {score.name: score.metrics["mean"].value for score in dev.results.scores} == {"verifier": 0.5, "gold": 0.5}
    first = dev.samples[0]
    assert (first.id, first.epoch, first.input, first.output.completion) == ("d1", 1, PROMPT, ANSWER)
    assert [message.role for message in first.messages] == ["user", "assistant"]
    assert (first.scores["verifier"].value, first.scores["verifier"].answer) == (1.0, ANSWER)
    assert [event.event for event in first.events] == ["model"]
    assert first.model_usage["b"].output_tokens == 2
    assert inspect_log.read_eval_log(path, header_only=True).eval.metadata["evolog_run"] == "r"
    assert [summary.id for summary in inspect_log.read_eval_log_sample_summaries(path)] == ["d1", "d2"]
    train = inspect_log.read_eval_log(str(folder / written.files[1]))
    assert train.samples[2].error.message == "crashed: it raised"
    assert len(inspect_log.list_eval_logs(str(folder))) == 3
    for name in written.files:
        inspect_log.read_eval_log(str(folder / name), resolve_attachments=True)


def test_a_log_has_a_sample_for_each_attempt_and_the_mean_of_the_rewards(tmp_path: Path) -> None:
    written, folder = exported(tmp_path)
    read = logs(folder)
    assert (written.samples, list(read)) == (5, ["generation-000-dev", "generation-001-train-1"])
    dev = read["generation-000-dev"]
    assert dev["results"]["scores"][0]["metrics"]["mean"]["value"] == 0.5
    assert [(one["id"], one["input"]) for one in dev["samples"]] == [("d1", PROMPT), ("d2", "second")]
    assert dev["samples"][1]["messages"][0]["content"].endswith("[one of: a | b]")


def test_attempts_at_one_item_are_epochs_and_failures_are_errors_without_a_score(tmp_path: Path) -> None:
    train = logs(exported(tmp_path)[1])["generation-001-train-1"]
    samples = train["samples"]
    assert [(one["id"], one["epoch"]) for one in samples] == [("t1", 1), ("t1", 2), ("t1", 3)]
    assert [one.get("error", {}).get("message") for one in samples] == [None, "no sandbox", "crashed: it raised"]
    assert [bool(one["scores"]) for one in samples] == [True, False, False]
    assert samples[1]["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert (train["results"]["completed_samples"], train["results"]["scores"][0]["scored_samples"]) == (1, 1)


def test_an_export_that_is_done_twice_is_the_same(tmp_path: Path) -> None:
    sums = []
    for number in (1, 2):
        _, folder = exported(tmp_path / str(number), gold=True)
        sums.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert sums[0] == sums[1] and len(sums[0]) == 3


def test_gold_is_there_only_where_it_is_asked_for(tmp_path: Path) -> None:
    without = logs(exported(tmp_path / "without")[1])
    assert {name for log in without.values() for one in log["samples"] for name in one["scores"]} == {"verifier"}
    asked = logs(exported(tmp_path / "asked", gold=True)[1])
    dev = asked["generation-000-dev"]["samples"]
    assert [(one["id"], one["scores"]["gold"]["value"]) for one in dev] == [("d1", 0.25), ("d2", 0.75)]
    test = asked["test-pair-000"]["samples"]
    assert [(one["epoch"], one["scores"]["gold"]["value"]) for one in test] == [(1, 0.125), (2, 0.0)]


@pytest.mark.parametrize("private", [True, False])
def test_private_prompts_are_left_out(tmp_path: Path, private: bool) -> None:
    first = logs(exported(tmp_path, private=private)[1])["generation-000-dev"]["samples"][0]
    assert first["input"] == first["messages"][0]["content"] == (PRIVATE if private else PROMPT)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine").touch()
    with pytest.raises(UsageError, match="is there already"):
        exported(tmp_path)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["mine"]
