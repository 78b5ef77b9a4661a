"""The dashboard's pages over recorded runs: what they show, whom they let in, and what they never do."""

import asyncio
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from starlette.testclient import TestClient

from replay.archive.query import ARCHIVE, text_literal
from services.dashboard.app import COOKIE, create_app
from services.dashboard.charts import LONGEST_GAP, ChartPoint, Happening, Line, chart, timeline
from services.dashboard.pages import LONGEST_LISTING, PAGE_ROWS
from services.dashboard.source import Source, clip
from tests.harness.dashboard import TOKEN, addresses, client, make_hostile, recorded_directory
from tests.harness.paths import ROOT

VENDOR = ROOT / "services" / "dashboard" / "static" / "vendor"
HISTORY, WITH_AGENT = "decider-version-5", "a-language-model-as-agent"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("dashboard") / "recorded"
    return directory, recorded_directory(directory, HISTORY)


@pytest.fixture
def page(recorded: tuple[Path, str]) -> Iterator[TestClient]:
    with client(recorded[0]) as made:
        yield made


def test_every_page_of_a_recorded_run_is_shown(page: TestClient, recorded: tuple[Path, str]) -> None:
    for address in addresses(page, recorded[1]):
        answer = page.get(address)
        assert answer.status_code == 200, (address, answer.text)
        assert "built-in method" not in answer.text, f"{address} shows a method in place of a value"
        assert recorded[1] in answer.text or address.startswith("/sql")


def test_imported_runs_are_named_below_the_list(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Imported" not in page.get("/").text
    monkeypatch.setattr("services.dashboard.pages.imported_runs", lambda node: ["one", "<b>"])
    assert "<code>audit</code>: one, &lt;b&gt;." in page.get("/").text


def test_a_candidates_page_has_the_scaffold_its_change_and_the_agents_words(tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "agent", WITH_AGENT)
    with client(tmp_path / "agent") as page:
        first = page.get(f"/runs/{run}/candidates/0").text
        later = page.get(f"/runs/{run}/candidates/1").text
    assert "agent.py" in first and "def solve" in first and "against its parent" not in first
    assert "-    return model(item.prompt)" in later and "+    return model(f&#39;&lt;b&gt;" in later
    assert "feedback_agent, call 0" in later and "I propose &lt;/pre&gt;" in later


@pytest.mark.slow
def test_the_history_is_turned_by_sequence_and_leaves_nothing_out(page: TestClient, recorded: tuple[Path, str]) -> None:
    seen: list[int] = []
    address = f"/runs/{recorded[1]}/history"
    while address:
        text = page.get(address).text
        seen += map(int, re.findall(r'<tr><td class="n">(\d+)</td>', text))
        found = re.search(r'<a href="([^"]+)">Next page</a>', text)
        address = found[1].replace("&amp;", "&") if found else ""
    with duckdb.connect(recorded[0] / ARCHIVE, read_only=True) as archive:
        known = [row[0] for row in archive.execute("SELECT seq FROM events ORDER BY seq").fetchall()]
    assert seen == known and len(known) > 2 * PAGE_ROWS


def test_a_cause_is_followed_to_what_it_caused(page: TestClient, recorded: tuple[Path, str]) -> None:
    with duckdb.connect(recorded[0] / ARCHIVE, read_only=True) as archive:
        found = archive.execute(
            "SELECT cause, count(*) FROM events WHERE cause IN (SELECT id FROM events) GROUP BY cause ORDER BY 2 DESC"
        ).fetchone()
    assert found is not None
    cause, effects = found
    rows = page.get(f"/runs/{recorded[1]}/history", params={"cause": cause}).text.count('<tr><td class="n">')
    assert rows == min(effects + 1, PAGE_ROWS)


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/runs/none", 404, "There is no run"),
        ("/nowhere", 404, "There is no page"),
        ("/compare?run=one", 400, "Choose two"),
        ("/?order=colour", 400, "order is one of"),
        ("/sql?q=SELEC", 400, "Parser Error"),
        ("/sql?q=DROP+TABLE+events", 400, "read-only"),
        ("/sql?q=FROM+read_text('/etc/passwd')", 400, "refused"),
        ("/sql.csv?q=SELEC", 400, "Parser Error"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_sentence(page: TestClient, address: str, status: int, words: str) -> None:
    answer = page.get(address)
    assert answer.status_code == status and words in answer.text.replace("&#39;", "'"), answer.text


def test_nobody_comes_in_without_the_token(recorded: tuple[Path, str]) -> None:
    app = create_app(Source(recorded[0], with_gold=True), TOKEN, ["testserver"])
    with TestClient(app, follow_redirects=False) as stranger:
        for address in ("/", "/static/page.css", "/head", f"/runs/{recorded[1]}", "/?token=wrong"):
            assert stranger.get(address).status_code == 401
        stranger.cookies.set(COOKIE, "wrong")
        assert stranger.get("/").status_code == 401
        let_in = stranger.get("/sql", params={"token": TOKEN, "q": "FROM runs"})
        assert let_in.status_code == 303 and let_in.headers["location"] == "/sql?q=FROM+runs", "the token is gone"
        assert "HttpOnly" in let_in.headers["set-cookie"] and "SameSite=strict" in let_in.headers["set-cookie"]


def test_it_only_reads_and_answers_to_its_own_names(page: TestClient) -> None:
    for method in ("post", "put", "delete", "patch"):
        assert getattr(page, method)("/").status_code == 405
    assert page.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.slow
def test_a_page_holds_no_script_and_no_style_of_its_own(page: TestClient, recorded: tuple[Path, str]) -> None:
    for address in addresses(page, recorded[1]):
        answer = page.get(address)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        for tag in re.findall(r"<script[^>]*>", answer.text):
            assert re.fullmatch(r'<script src="/static/[\w./-]+">', tag), tag
        assert not re.search(r"<style|<[^>]+\sstyle=|<[^>]+\son\w+=|javascript:", answer.text)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text), "nothing is loaded from elsewhere"


@pytest.mark.slow
def test_hostile_texts_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "hostile", HISTORY)
    make_hostile(tmp_path / "hostile")
    with client(tmp_path / "hostile") as page:
        for address in addresses(page, run):
            text = page.get(address).text
            assert "<script>alert" not in text and "\u202e" not in text and "\x1b" not in text, address
            assert not re.search(r"<[^>]+\sonmouseover=\"alert", text), address
        assert "&lt;script&gt;alert(1)" in page.get(f"/runs/{run}").text


def test_a_text_of_a_megabyte_is_cut_with_a_word(tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "hostile", HISTORY)
    make_hostile(tmp_path / "hostile")
    with client(tmp_path / "hostile") as page:
        first = page.get("/sql.csv", params={"q": "SELECT min(seq) FROM trajectory_recorded"}).text.split()[1]
        text = page.get(f"/runs/{run}/trajectories/{first}").text
    assert "800,000 characters more are left out" in text and len(text) < 400_000


def test_prompts_that_a_task_keeps_back_are_not_shown(tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "private", HISTORY)
    with client(tmp_path / "private") as page:
        address = next(one for one in addresses(page, run) if re.search(r"/trajectories/\d", one))
        assert "<summary>Request</summary>" in page.get(address).text
    with duckdb.connect(tmp_path / "private" / ARCHIVE) as archive:
        archive.execute("UPDATE run_started SET private_prompts = true")
    with client(tmp_path / "private") as page:
        text = page.get(address).text
    assert "<summary>Request</summary>" not in text and "asks that its prompts are not shown" in text


@pytest.mark.slow
def test_gold_is_marked_and_can_be_left_out(recorded: tuple[Path, str]) -> None:
    with client(recorded[0]) as page:
        assert "gold shown" in page.get("/").text
        assert "Final table" in page.get(f"/runs/{recorded[1]}").text
    with client(recorded[0], gold=False) as page:
        for address in addresses(page, recorded[1]):
            assert "gold-mark" not in page.get(address).text
        assert "Gold is not shown here" in page.get(f"/runs/{recorded[1]}/audit").text


def test_the_verdict_of_a_run_is_what_the_auditor_said_last(recorded: tuple[Path, str]) -> None:
    directory, run = recorded
    with duckdb.connect(directory / "gold.duckdb", read_only=True) as gold:
        looks = gold.execute("SELECT look FROM drift_flagged ORDER BY seq").fetchall()
    source = Source(directory, with_gold=True)
    assert len(looks) > 1 and asyncio.run(source.verdicts([run]))[run].look == looks[-1][0]
    assert asyncio.run(source.verdicts(["another"])) == asyncio.run(source.verdicts([])) == {}


def test_an_answer_of_many_rows_is_cut_with_a_word_and_csv_has_all(page: TestClient) -> None:
    query = "SELECT range AS n FROM range(1000)"
    text = page.get("/sql", params={"q": query}).text
    assert text.count("<tr>") == LONGEST_LISTING + 1 and f"the first {LONGEST_LISTING}" in text
    assert page.get("/sql.csv", params={"q": query}).text.split()[-1] == "999"


def test_two_runs_are_compared_at_equal_rollouts(tmp_path: Path) -> None:
    run = recorded_directory(tmp_path / "two", HISTORY)
    with duckdb.connect(tmp_path / "two" / ARCHIVE) as archive:
        for table in ("run_started", "run_finished", "candidate_evaluated", "candidate_accepted", "events"):
            archive.execute(
                f"INSERT INTO \"{table}\" SELECT * REPLACE ('other' AS run, id || 'x' AS id) FROM \"{table}\""
            )
    with client(tmp_path / "two") as page:
        text = page.get("/compare", params={"run": [run, "other"]}).text
    assert "rollouts so far" in text and text.count("series-1") > 2
    assert re.search(r'<tr class=""><th scope="row">task', text), "what is equal is not marked as different"


def test_the_head_is_asked_once_for_all_pages_that_are_open(
    recorded: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, asked = Source(recorded[0], with_gold=True), list[str]()

    async def rows(sql: str) -> list[dict[str, int]]:
        asked.append(sql)
        return [{"head": 7}]

    async def many() -> list[int]:
        return await asyncio.gather(*(source.head() for _ in range(20)))

    monkeypatch.setattr(source, "rows", rows)
    assert asyncio.run(many()) == [7] * 20 and len(asked) == 1


def test_a_chart_says_its_values_in_words_and_stays_within_its_box() -> None:
    svg = str(
        chart([Line("dev", "dev", [ChartPoint(0, 0.2, 0.1, 0.3), ChartPoint(4, 1.0, 0.9, 1.0)])], "A & B", "generation")
    )
    assert "A &amp; B. dev 0: 0.2, 4: 1" in svg
    for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', svg):
        assert 0 <= float(x) <= 720 and 0 <= float(y) <= 260


def test_a_timeline_squeezes_pauses_and_says_how_long_they_were() -> None:
    svg = str(timeline([Happening(t, "controller", f"event {t}", "#") for t in (0.0, 1.0, 101.0, 102.0)]))
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', svg)]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert gaps[1] == pytest.approx(LONGEST_GAP * gaps[0], rel=0.02) and "100 s" in svg


def test_literals_of_sql_are_closed_by_nothing_that_they_hold() -> None:
    assert text_literal("it's; DROP") == "'it''s; DROP'"
    assert clip("abcdef", 4) == ("abcd", 2)


def test_what_is_vendored_is_what_its_page_says() -> None:
    text = (VENDOR / "README.md").read_text()
    named = dict(re.findall(r"\| `([\w.-]+)`, from [^|]*\| `([0-9a-f]{64})` \|", text))
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.glob("*.min.*")}
    assert named == there and len(there) == 7
    assert sum(path.stat().st_size for path in VENDOR.glob("*.min.*")) < 250_000
    assert all(
        (VENDOR / f"LICENSE-{package}.txt").exists() for package in re.findall(r"^\| ([\w.-]+) \| \d", text, re.M)
    )
