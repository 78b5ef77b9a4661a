"""A run in the formats of others: its spans as it goes on, and its logs, data set and report once it has ended."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cli import RUN, CliHarness, one_sentence, running
from tests.harness.otlp_receiver import otlp_receiver

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CliHarness, dict[str, str]]]:
    """A finished run, and the name of each span that was sent while it went on, by id."""
    pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    with running(tmp_path_factory.mktemp("exports")) as harness, otlp_receiver() as found:
        harness.order("--generations", "1")
        said = harness.evolog(
            "export", RUN, "--to", "otel", "--follow", "--json", OTEL_EXPORTER_OTLP_ENDPOINT=found.url
        )
        assert json.loads(said.out)["spans"] == found.arrivals == len(found.spans)
        harness.wait_until_audited(RUN)
        harness.down()
        yield harness, dict(found.spans)


def test_spans_that_were_sent_as_the_run_went_on_are_those_of_the_finished_run(
    place: tuple[CliHarness, dict[str, str]],
) -> None:
    harness, live = place
    harness.here("export", RUN, "--to", "otel", "-o", "spans.jsonl")
    requests = [json.loads(line) for line in (harness.folder / "spans.jsonl").read_text().splitlines()]
    spans = [span for request in requests for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert {span["spanId"]: span["name"] for span in spans} == live
    assert f"invoke_agent {RUN}" in live.values() and len(live) > 300
    with otlp_receiver() as found:
        harness.here("export", RUN, "--to", "otel", OTEL_EXPORTER_OTLP_ENDPOINT=found.url)
    assert found.spans == live


def test_each_attempt_is_a_sample_and_a_row(place: tuple[CliHarness, dict[str, str]]) -> None:
    harness, _ = place
    (counted,) = json.loads(harness.here("sql", "SELECT count(*) AS n FROM trajectories", "--json").out)
    inspect = json.loads(harness.here("export", RUN, "--to", "inspect", "--json").out)
    parquet = json.loads(harness.here("export", RUN, "--to", "parquet", "--gold", "--json").out)
    rows = {table["name"]: table["rows"] for table in parquet["tables"]}
    assert inspect["samples"] == rows["trajectories"] == counted["n"] and "pair_measured" in rows
    assert len(inspect["files"]) == len(list((harness.folder / f"{RUN}-inspect").iterdir()))
    one_sentence(harness.here("export", RUN, "--to", "inspect", code=2), "is there already")


def test_a_folder_is_the_default_and_is_replayed(place: tuple[CliHarness, dict[str, str]]) -> None:
    harness, _ = place
    harness.here("export", RUN)
    harness.here("replay", f"./{RUN}-export")
    harness.here("export", f"./{RUN}-export", "--to", "otel", "-o", "again.jsonl")
    harness.here("export", RUN, "--to", "otel", "-o", "spans.jsonl")
    again, first = ((harness.folder / name).read_bytes() for name in ("again.jsonl", "spans.jsonl"))
    assert again == first


def test_flags_that_do_not_belong_together_are_refused(place: tuple[CliHarness, dict[str, str]]) -> None:
    harness, _ = place
    one_sentence(harness.here("export", RUN, "--to", "parquet", "--follow", code=2), "give --to otel")
    one_sentence(harness.here("export", RUN, "--to", "otel", "--follow", code=78), "set OTEL_EXPORTER_OTLP_ENDPOINT")


def test_a_report_is_one_page_that_loads_nothing(place: tuple[CliHarness, dict[str, str]]) -> None:
    harness, _ = place
    harness.here("report", RUN)
    page = (harness.folder / f"{RUN}.html").read_text()
    assert page.count('src="data:image/png;base64,') == page.count("src=") == 3
    assert "http:" not in page.replace("http-equiv", "") and "https:" not in page
    for words in ("Final table", "What each lever did", "evolog replay ./exported --expect", "default-src 'none'"):
        assert words in page, words
    harness.here("report", RUN, "--format", "md", "-o", "paper/appendix.md")
    names = sorted(path.name for path in (harness.folder / "paper").iterdir())
    assert names == ["appendix-cross-play.png", "appendix-generations.png", "appendix-moves.png", "appendix.md"]
    assert "](appendix-moves.png)" in (harness.folder / "paper" / "appendix.md").read_text()


def test_the_operators_agent_is_told_the_auditors_verdict(place: tuple[CliHarness, dict[str, str]]) -> None:
    from services.host.run_reader import RunReader
    from services.mcp import _audit

    harness, _ = place
    reader, directory = RunReader(harness.node), Path(harness.node.directory)
    found: dict[str, Any] = json.loads(_audit(reader, directory, RUN, operator=True))
    assert found["audit"]["run"] == RUN and found["audit"]["state"] and found["table"]
    assert "state" not in _audit(reader, directory, RUN, operator=False)
