"""A run as a data set: loaded by `datasets`, described by its card, gold only where it is asked for."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from replay.exports.attempts import PRIVATE
from replay.exports.parquet import DataSetExport, write_data_set
from tests.harness.recorded_attempts import ANSWER, PROMPT, recorded_run

pytestmark = pytest.mark.slow  # an archive is made for each export


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSetExport, Path]:
    """The run without gold, and its folder."""
    place = tmp_path_factory.mktemp("plain")
    return write_data_set(recorded_run(place), place / "out"), place / "out"


def header(folder: Path) -> dict[str, Any]:
    yaml: Any = pytest.importorskip("yaml")
    _, text, _ = (folder / "README.md").read_text().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    result = duckdb.sql(f"FROM '{folder}/data/{table}.parquet'")
    assert result is not None
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def test_each_completion_stands_with_its_prompt_tokens_and_reward(plain: tuple[DataSetExport, Path]) -> None:
    conversations = rows(plain[1], "conversations")
    assert [(row["item"], row["attempt"], row["reward"]) for row in conversations] == [
        ("d1", 0, 1.0),
        ("d2", 0, 0.0),
        ("t1", 0, 1.0),
        ("t1", 1, None),
    ]
    first, second, *_, last = conversations
    assert (first["prompt"], first["completion"], first["tokens"], first["logprobs"]) == (
        PROMPT,
        ANSWER,
        [1, 2],
        [-0.1, -0.2],
    )
    assert (second["choices"], last["completion"], last["tokens"]) == (["a", "b"], "B", [3])
    assert [row["outcome"] for row in rows(plain[1], "trajectories")] == [
        "right",
        "wrong",
        "right",
        "not scored",
        "crashed",
    ]


def test_the_card_names_each_file_and_the_number_of_its_rows(plain: tuple[DataSetExport, Path]) -> None:
    written, folder = plain
    configs = header(folder)["configs"]
    files = {f"data/{path.name}" for path in (folder / "data").iterdir()}
    assert {config["data_files"] for config in configs} == files
    assert [config["config_name"] for config in configs if config.get("default")] == ["trajectories"]
    card = (folder / "README.md").read_text()
    assert all(f"| `{table.name}` | {table.rows:,} |" in card for table in written.tables)
    assert "The log of the run closes with" in card


def test_nothing_of_the_auditors_is_there_unasked(plain: tuple[DataSetExport, Path]) -> None:
    names = {table.name for table in plain[0].tables}
    assert names & {"dev_answers_scored", "pair_measured", "audit_finished"} == set() and "trajectories" in names


def test_an_export_that_is_done_twice_is_the_same_with_gold_where_it_is_asked_for(tmp_path: Path) -> None:
    first, second = (tmp_path / str(number) for number in (1, 2))
    for folder in (first, second):
        written = write_data_set(recorded_run(folder), folder / "out", gold=True)
    names = sorted(path.relative_to(first / "out") for path in (first / "out").rglob("*") if path.is_file())
    assert [name for name in names if (first / "out" / name).read_bytes() != (second / "out" / name).read_bytes()] == []
    assert {"dev_answers_scored", "pair_measured", "audit_finished"} <= {table.name for table in written.tables}


def test_private_prompts_are_left_out(tmp_path: Path) -> None:
    write_data_set(recorded_run(tmp_path, private=True), tmp_path / "out")
    assert {row["prompt"] for row in rows(tmp_path / "out", "conversations")} == {PRIVATE}


def test_datasets_loads_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets: Any = pytest.importorskip("datasets")
    written = write_data_set(recorded_run(tmp_path), tmp_path / "out", gold=True)
    for table in written.tables:
        loaded = datasets.load_dataset(str(tmp_path / "out"), table.name, cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].num_rows == table.rows, table.name
    assert datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"].num_rows == 5
