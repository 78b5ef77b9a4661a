"""The server for agents: what it answers about a recorded run, what it leaves out, and that it changes nothing."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from events.errors import Misconfigured, NotFound, UsageError
from services.host.node import Node
from services.host.run_reader import ANSWER, TEXT, RunReader, fitted
from services.host.supervisor import with_root
from services.mcp import PAGES, serve
from tests.harness.cli import CLI
from tests.harness.paths import ROOT
from tests.harness.recorded_attempts import PROMPT, archived, recorded_run

TOOLS = {
    "list_runs",
    "show_run",
    "compare_runs",
    "query",
    "list_trajectories",
    "show_trajectory",
    "show_scaffold",
    "diff_scaffolds",
    "audit",
}
LONG = "x" * 50_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project directory in which nothing is up, with the archive and the blobs of a run."""
    place = tmp_path_factory.mktemp("mcp") / ".evolog"
    archived(recorded_run(place, texts=LONG), place)
    return place


def read(text: str) -> Any:
    return json.loads(text)


@pytest.mark.slow
def test_a_run_is_listed_shown_and_compared(directory: Path) -> None:
    reader = RunReader(Node(directory))
    assert [row["run"] for row in read(reader.list_runs(10, 0))["rows"]] == ["r"]
    shown = read(reader.show_run("r"))
    assert [(row["generation"], row["score"]) for row in shown["generations"]] == [(0, 0.5), (1, 0.75)]
    compared = read(reader.compare_runs("r", "r"))
    assert compared["ordered differently"] == {} and len(compared["generations"]) == 2


@pytest.mark.slow
def test_imported_runs_are_named_with_what_reads_them(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RunReader(Node(directory))
    assert "imported" not in read(reader.list_runs(10, 0))
    imports = Node(directory).imports
    monkeypatch.setattr("services.host.run_reader.imported_runs", lambda node: ["other"] * (node.imports == imports))
    assert read(reader.list_runs(10, 0))["imported"] == ["other"]
    with pytest.raises(NotFound, match="'other' was imported, and is not in the archive: `evolog show`"):
        reader.show_run("other")


@pytest.mark.slow
def test_a_trajectory_is_found_and_shown_with_what_the_policy_was_asked(directory: Path) -> None:
    reader = RunReader(Node(directory))
    found = read(reader.list_trajectories("r", 0, None, "dev", None, "worst", 1, 0))
    assert "there are more than 1 rows" in found["cut"][0]
    (row,) = found["rows"]
    assert (row["item"], row["reward"]) == ("d2", 0.0)
    shown = read(reader.show_trajectory(row["trajectory"]))
    (call,) = shown["calls"]
    assert (call["prompt"], call["choices"], shown["judged"][0]["details"]) == ("second", ["a", "b"], "by the book")
    assert call["completion"].startswith("xxx") and "of 50,000 characters are shown" in call["completion"]


@pytest.mark.slow
def test_scaffolds_are_shown_and_compared_with_the_parents(directory: Path) -> None:
    reader = RunReader(Node(directory))
    assert "return 1" in read(reader.show_scaffold("r", 0))["files"]["agent.py"]
    diff = read(reader.diff_scaffolds("r", 1, None))["diff"]
    assert "-    return 1" in diff and "+    return 2" in diff
    with pytest.raises(NotFound, match="no scaffold"):
        reader.show_scaffold("r", 7)


@pytest.mark.slow
def test_what_is_wrong_is_a_sentence(directory: Path) -> None:
    reader = RunReader(Node(directory))
    with pytest.raises(NotFound, match="no run 'nobody'"):
        reader.show_run("nobody")
    with pytest.raises(NotFound, match="no trajectory"):
        reader.show_trajectory("'; DROP TABLE events; --")
    for sql in ("DELETE FROM events", "SELECT * FROM read_text('/etc/passwd')", "ATTACH 'gold.duckdb'"):
        with pytest.raises(UsageError):
            reader.query(sql, 10)


@pytest.mark.slow
def test_private_prompts_are_left_out(tmp_path: Path) -> None:
    archived(recorded_run(tmp_path / ".evolog", private=True), tmp_path / ".evolog")
    reader = RunReader(Node(tmp_path / ".evolog"))
    (row, *_) = read(reader.list_trajectories("r", 0, "d1", None, None, "first", 5, 0))["rows"]
    text = reader.show_trajectory(row["trajectory"])
    assert "prompts of this task are private" in text and "enzymes" in PROMPT and "enzymes" not in text


def test_an_answer_says_what_was_cut() -> None:
    rows = [{"number": number, "text": "y" * 1000} for number in range(500)]
    answer = fitted({"rows": rows}, "rows", more=True, limit=500)
    found = json.loads(answer)
    assert len(answer) <= ANSWER + 500 and 0 < len(found["rows"]) < 500
    assert found["cut"][1] == f"{len(found['rows']):,} of 500 rows are shown: the answer would be too long"
    assert "cut" not in json.loads(fitted({"rows": rows[:2]}, "rows"))
    (long,) = json.loads(fitted({"rows": [{"text": "z" * (TEXT + 1)}]}, "rows"))["cut"]
    assert "texts longer than" in long
    assert "\\u202e" in fitted({"rows": ["\u202e"]}, "rows")


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(Misconfigured, match=r"pip install 'evolog\[mcp\]'") as raised:
        serve(tmp_path)
    assert raised.value.code == 78


def with_client(directory: Path, talk: Callable[[Any], Awaitable[None]], *flags: str) -> None:
    """Start `evolog mcp` as a client does, and talk to it."""
    client: Any = pytest.importorskip("mcp.client.client")
    stdio: Any = pytest.importorskip("mcp.client.stdio")
    anyio: Any = pytest.importorskip("anyio")
    arguments = [*CLI, "mcp", "--dir", str(directory), *flags]
    server = stdio.StdioServerParameters(command=sys.executable, args=arguments, env=with_root({}), cwd=str(ROOT))

    async def call() -> None:
        async with client.Client(server) as connected:
            await talk(connected)

    anyio.run(call)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--operator",)])
def test_the_packages_own_client_reads_a_run_and_finds_nothing_that_changes_one(
    directory: Path, flags: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    async def talk(client: Any) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == TOOLS
        assert all(tool.annotations.read_only_hint and not tool.annotations.destructive_hint for tool in tools)
        assert all(tool.description for tool in tools)
        found = await client.call_tool("query", {"sql": "SELECT count(*) AS n FROM trajectories"})
        assert not found.is_error and json.loads(found.content[0].text)["rows"] == [{"n": 5}]
        refused = await client.call_tool("query", {"sql": "DELETE FROM events"})
        assert refused.is_error and "read-only" in refused.content[0].text
        unknown = await client.call_tool("show_run", {"run": "nobody"})
        assert unknown.is_error and "There is no run 'nobody'" in unknown.content[0].text
        resources = (await client.list_resources()).resources
        assert {str(resource.uri) for resource in resources} == {f"evolog://{name}" for name in PAGES}
        schema = await client.read_resource("evolog://schema")
        assert "### `trajectories`" in schema.contents[0].text
        audited = await client.call_tool("audit", {"run": "r"})
        if not flags:
            assert json.loads(audited.content[0].text)["released"] == [] and "--operator" in audited.content[0].text
        else:  # there is no log here, only an archive: the command says so
            assert audited.is_error and "There is no log in" in audited.content[0].text

    with_client(directory, talk, *flags)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_no_answer_holds_gold_unless_the_server_is_the_operators(directory: Path) -> None:
    texts: list[str] = []

    async def talk(client: Any) -> None:
        for name, arguments in (
            ("list_runs", {}),
            ("show_run", {"run": "r"}),
            ("compare_runs", {"first": "r", "second": "r"}),
            ("query", {"sql": "SHOW TABLES"}),
            ("audit", {"run": "r"}),
            ("query", {"sql": "FROM pair_measured"}),
            ("query", {"sql": f"FROM '{directory / 'gold.duckdb'}'"}),
        ):
            texts.append((await client.call_tool(name, arguments)).content[0].text)

    with_client(directory, talk)
    assert "pair_measured does not exist" in texts[-2]
    assert all(
        word not in text for text in texts[:-2] for word in ("pair_measured", "dev_answers_scored", "gold_scored")
    )
