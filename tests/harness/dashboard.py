"""A project directory that holds a recorded run's archive and blobs, for the dashboard's tests."""

from pathlib import Path

import duckdb
from starlette.testclient import TestClient

from events.subjects import GOLD
from replay.archive.projection import Archive
from replay.archive.query import ARCHIVE
from replay.archive.rebuild import rebuild_from_history
from replay.exports import folder
from runtime.blobs.directory import Blobs
from services.dashboard.app import COOKIE, create_app
from services.dashboard.broker import Broker
from services.dashboard.source import Source
from tests.harness.paths import HISTORIES

TOKEN = "a token of the tests"
HOSTILE = '<script>alert(1)</script>" onmouseover="alert(2) \u202egnp.exe \x1b[31m'
"""What a model may write: markup, the end of an attribute, a change of direction, a terminal's escape."""


def recorded_directory(into: Path, history: str) -> str:
    """Fill a directory with a history's archive, and with scaffolds, requests and answers; returns the run's name."""
    run = folder.read(HISTORIES / history)
    into.mkdir()
    rebuild_from_history(run, into / ARCHIVE)
    gold = Archive(into / "gold.duckdb", GOLD)
    gold.apply(run.gold)
    gold.commit()
    gold.close()
    blobs = Blobs(into / "blobs")  # a history has none
    start = blobs.put_tree({"agent.py": b"def solve(item, model, data):\n    return model(item.prompt)\n"})
    changed = blobs.put_tree({"agent.py": b"def solve(item, model, data):\n    return model(f'<b>{item.prompt}')\n"})
    said = blobs.put(b'{"content": "I propose </pre><script>alert(3)</script>"}')
    with duckdb.connect(into / ARCHIVE) as archive:
        for table in ("scaffold_proposed", "candidate_evaluated"):
            archive.execute(
                f'UPDATE "{table}" SET scaffold = CASE WHEN generation = 0 THEN $1 ELSE $2 END', [start, changed]
            )
        archive.execute("UPDATE agent_called SET response = $1", [said])
        archive.execute("UPDATE model_called SET body = $1", [said])
    return run.run


def make_hostile(directory: Path) -> None:
    """Let every text that a model or a task wrote in the archive be `HOSTILE`, and one answer be a megabyte long."""
    with duckdb.connect(directory / ARCHIVE) as connection:
        for table, column in (
            ("trajectory_recorded", "answer"),
            ("scaffold_proposed", "summary"),
            ("scaffold_proposed", "reason"),
            ("lever_chosen", "reason"),
            ("lever_chosen", "action"),
            ("candidate_rejected", "reason"),
            ("candidate_accepted", "reason"),
            ("trajectory_scored", "details"),
            ("run_started", "task"),
            ("run_started", "policy"),
        ):
            connection.execute(f'UPDATE "{table}" SET {column} = $1', [HOSTILE])
        connection.execute(
            "UPDATE trajectory_recorded SET answer = repeat('long ', 200000) WHERE seq = (SELECT min(seq) FROM "
            "trajectory_recorded)"
        )
        connection.execute(  # and those that are joined already
            "UPDATE kept.attempts SET answer = (SELECT answer FROM trajectory_recorded t WHERE t.seq = attempts.seq)"
        )


def client(directory: Path, *, gold: bool = True, broker: Broker | None = None) -> TestClient:
    """A browser's stand-in that has shown the token."""
    source = Source(directory, with_gold=gold, broker=broker)
    made = TestClient(create_app(source, TOKEN, ["testserver"]), raise_server_exceptions=True)
    made.cookies.set(COOKIE, TOKEN)
    return made


def addresses(page: TestClient, run: str) -> list[str]:
    """The address of each kind of page of a run, with one attempt and one item of it."""
    base = f"/runs/{run}"
    attempt = page.get("/sql.csv", params={"q": f"SELECT min(seq) FROM trajectories WHERE run = '{run}'"})
    item = page.get("/sql.csv", params={"q": f"SELECT min(item) FROM trajectories WHERE run = '{run}'"})
    return [
        "/",
        "/sql",
        "/sql?q=SELECT+*+FROM+trajectories",
        "/sql?form=plot&q=SELECT+generation,+score+FROM+candidates",
        base,
        f"{base}/lineage",
        f"{base}/candidates/0",
        f"{base}/candidates/1",
        f"{base}/trajectories?item={item.text.split()[1]}",
        f"{base}/trajectories/{attempt.text.split()[1]}",
        f"{base}/audit",
        f"{base}/training",
        f"{base}/history",
        f"{base}/history?form=json",
        f"{base}/history?form=timeline",
    ]
