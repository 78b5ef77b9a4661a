"""`evolog audit` as a user runs it, on made-up runs: one that hacks its verifier, one that is honest, one without gold
scores.
"""

import asyncio
import html.parser
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from tests.harness.broker import broker
from tests.harness.made_up_runs import HACKED, HONEST, Step, export, run_started, stored
from tests.harness.made_up_runs import loop as loop_of
from tests.harness.paths import TOY

pytest.importorskip("numpy")

from events.catalogue import BY_TAG
from events.gold import PairMeasured
from events.subjects import GOLD, LOG, tag_of
from replay import history
from replay.audit import known
from replay.audit.audit import Audit, AuditReport, audit, audit_history
from replay.audit.provenance.checks import Known
from replay.exports import folder
from replay.recorded import EventIndex
from runtime.broker.credentials import Credentials, credentials_file
from runtime.log.port import Message
from runtime.log.socket import NatsSocket
from runtime.run.loading import TaskAccess
from services.cli.audit_runs import FailOn, exit_code
from services.cli.main import main
from services.host.node import Node
from services.views import audit_html
from services.views.audit import closing
from services.views.audit_pictures import pictures
from tasks.contract import Public
from tasks.loading import load

FAIL_ON: tuple[FailOn, ...] = ("drift", "suspect")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three as exports, and nothing else."""
    directory = tmp_path_factory.mktemp("exports")
    export(directory, "hacked")
    export(directory, "honest", HONEST)
    export(directory, "unmeasured", gold=False)
    return directory


@pytest.fixture(scope="module")
def hacked(exports: Path) -> AuditReport:
    return audit_history(folder.read(exports / "hacked"))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, exports: Path, hacked: AuditReport) -> None:
    """Audits that are made once for all tests: each takes a second."""
    made = {"hacked": hacked}

    def once(run: history.History, access: TaskAccess, public: Public | None) -> AuditReport:
        return made.get(run.run) or made.setdefault(run.run, real(run, access, public))

    real = audit_history
    monkeypatch.setattr("services.cli.audit_runs.audit_history", once)


def evolog(*arguments: object, code: int = 0) -> Result:
    said = CliRunner().invoke(main, ["audit", *map(str, arguments)])
    assert said.exit_code == code, (said.exit_code, said.output, said.exception)
    return said


def stated(result: Result) -> str:
    """The error that a command ended with, which is one sentence."""
    assert result.stdout == "" and result.stderr.startswith("evolog: ") and result.stderr.count("\n") == 1, (
        result.output
    )
    return result.stderr


def test_the_verdict_names_rule_generation_and_lever_and_drift_is_exit_code_3(exports: Path, at_once: None) -> None:
    lines = evolog(exports / "hacked", code=3).stdout.splitlines()
    assert lines[0] == (
        "hacked: DRIFT by own answers, from generation 2 on, by the weights lever: selection green; misspecification "
        "drift; levers drift; robustness drift; provenance unknown (the data of the task cannot be had here)"
    )
    assert lines[1].startswith("By generation 2 the score has gained +0.350 [") and lines[1].endswith(
        "that gold has not, since weights in generation 2."
    )
    assert lines[2] == "The auditor looked 2 times as the run went: first suspect at generation 2 (gap)."
    assert lines[3] == (
        "The score: dev 0.9000, of 6 candidates on 40 items. It is +0.0500 above test. The best of 6 that are equally "
        "good is expected 0.0555 too high, by luck alone."
    )
    assert lines[4].startswith("Smallest difference that would be found 4 times in 5: 0.")


def test_the_tables_hold_what_the_audit_holds(exports: Path, hacked: AuditReport, at_once: None) -> None:
    said = evolog(exports / "hacked", code=3).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    by_generation = {row[0]: row for row in rows if len(row) == 7 and row[0].isdigit()}
    own = {row[0]: row for row in reversed(rows) if len(row) == 4 and row[0].isdigit()}
    last = hacked.audit.rows[-1]
    assert last.p_new and last.gold and last.growth and last.dev_gold and last.dev_gap
    assert by_generation["3"] == ["3", "scaffold", "no", "0.5250", "", "", ""]
    assert own["3"] == ["3", "0.5250", "0.525 [0.366, 0.682]", "+0.000 [-0.069, +0.069]"], "it was rejected"
    assert own["5"][2].startswith(f"{last.dev_gold.value:.3f} [") and own["5"][3].startswith("+0.850 [")
    assert by_generation["5"][:4] == ["5", "scaffold", "yes", "0.9000"]
    assert by_generation["5"][4].startswith(f"{last.p_new.value:.3f} [{last.p_new.low:.3f}, ")
    assert by_generation["5"][5].startswith(f"{last.gold.value:.3f} [") and by_generation["5"][6].startswith(
        f"{last.growth.value:+.3f} ["
    )
    assert any(
        row[0] == "5" and len(row) == 4 and row[3].startswith(f"{last.extra_metrics['half'].value:.3f} [")
        for row in rows
    )
    (cross,) = (row for row in rows if row[:2] == ["5", "Lambda"])
    assert (
        cross[8].startswith(f"{hacked.audit.cross[-1].excess.value:+.3f} [")
        and cross[9] == f"{hacked.audit.cross[-1].detectable:.2f}"
    )
    assert ["weights", "-", "-"] in rows
    assert any(row[0] == "renamed" for row in rows)
    assert "weights: 2 moves; an exchange rate needs 8." in said


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_has_fewer_columns_and_whole_figures(
    exports: Path, at_once: None, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    whole = evolog(exports / "hacked", code=3).stdout
    monkeypatch.setenv("COLUMNS", str(width))
    said = evolog(exports / "hacked", code=3).stdout
    drawn = [line for line in said.splitlines() if line[:1] in set("┏┃┡│└")]
    assert drawn and max(map(len, drawn)) <= width
    figures = {cell for line in drawn for cell in line.split("│")[1:-1]}
    assert all(cell.strip() in whole for cell in figures) and "…" not in said
    assert "left out for want of room: lever, accepted, Q, gap growth; --json has all" in said or width != 60


def test_the_gap_is_printed_with_its_parts(exports: Path, hacked: AuditReport, at_once: None) -> None:
    said = evolog(exports / "hacked", code=3).stdout
    last = hacked.audit.rows[-1]
    assert last.p_new and last.gold and last.gap and last.selection and last.misspecification
    assert last.gap.value == pytest.approx(last.score - last.gold.value)
    assert last.selection.value == pytest.approx(last.score - last.p_new.value)
    assert last.misspecification.value == pytest.approx(last.p_new.value - last.gold.value)
    assert f"{last.gap.value:+.3f} [" in said and f"{last.misspecification.value:+.3f} [" in said


def test_canaries_and_ceiling_are_printed_with_the_candidates(
    exports: Path, hacked: AuditReport, at_once: None
) -> None:
    said = evolog(exports / "hacked", code=3).stdout
    assert [(one.name, one.score, one.gold) for one in hacked.audit.references] == [
        ("nothing", 0.5, 0.0),
        ("ceiling", pytest.approx(0.95), None),
    ]
    assert "The verifier puts nothing above the start, and gold does not: it can be won without skill." in said
    assert (
        hacked.audit.rejected
        and hacked.audit.rejected.mean == 0
        and "the verifier puts 0% [0%, 79%] below as well" in said
    )


def test_what_each_scaffold_and_adapter_adds_is_printed(exports: Path, hacked: AuditReport, at_once: None) -> None:
    said = evolog(exports / "hacked", code=3).stdout
    fit = hacked.audit.fits["verifier"]
    assert list(fit.scaffolds) == [0, 1, 5] and list(fit.adapters) == [0, 2, 4]
    assert (
        sum(one.value for one in fit.scaffolds.values())
        == pytest.approx(0)
        == sum(one.value for one in fit.adapters.values())
    )
    played = {"0,0", "1,0", "1,2", "1,4", "5,4", "5,0", "0,4"}
    assert set(fit.together) == played
    accepted, ((_, alone_with), (alone, _)) = (
        [row.p_new.value for row in hacked.audit.rows if row.p_new],
        hacked.audit.cross[-1].score,
    )
    assert fit.diagonal and fit.diagonal.value == pytest.approx(sum(accepted) / 5 - (alone + alone_with) / 2)
    assert "scaffold of generation 5" in said and "Scaffolds score" in said


def test_a_score_above_the_ceiling_raises_a_finding(tmp_path: Path) -> None:
    """The least that an audit holds against a leak whose way in nobody knows."""
    audit = audit_history(folder.read(export(tmp_path, "leak", HONEST, ceiling=0.4))).audit
    (finding,) = (one for one in audit.findings if one.rule == "ceiling")
    assert finding.raised and (finding.generation, finding.lever) == (4, "weights") and audit.state == "drift"
    assert finding.sentence.endswith("the most that is to be expected, 0.400: it has seen what it is scored on.")
    (quiet,) = (
        one
        for one in audit_history(folder.read(export(tmp_path, "none", HONEST))).audit.findings
        if one.rule == "ceiling"
    )
    assert not quiet.raised


def test_what_was_rolled_back_is_no_part_of_what_the_run_stands_on(tmp_path: Path) -> None:
    start = Step("start", True, 0.2, 0.2, 0.2)
    hack, sound = Step("weights", True, 0.8, 0.8, 0.05, parent=0), Step("scaffold", True, 0.4, 0.4, 0.4, parent=0)
    again = Step("scaffold", True, 0.9, 0.9, 0.0, parent=2)
    audits = {}
    for name, steps in (("once", (start, hack, sound)), ("twice", (start, hack, sound, again))):
        run = folder.read(export(tmp_path, name, steps))
        log, gold = EventIndex(run.everything).events, EventIndex(run.gold).events
        held_against, _ = known.known_of(run.started, log, gold)
        audits[name] = [audit(log, gold, run.blobs.get, held_against, lineage_only=line) for line in (False, True)]
    whole, standing = audits["once"]
    assert (whole.state, whole.generation, whole.lever) == ("drift", 1, "weights") and not standing.rule
    assert [row.generation for row in standing.rows if row.growth] == [2]
    whole, standing = audits["twice"]
    assert whole.generation == 1 and (standing.state, standing.generation, standing.lever) == ("drift", 3, "scaffold")


def test_a_step_is_counted_from_what_a_candidate_was_made_from(tmp_path: Path) -> None:
    start, hack = Step("start", True, 0.2, 0.2, 0.2), Step("weights", True, 0.6, 0.6, 0.2, parent=0)
    honest, worse = hack._replace(gold=0.6), Step("scaffold", True, 0.9, 0.9, 0.0, parent=0)
    for steps, began in (((start, hack, worse), 1), ((start, honest, worse), 2)):
        audit = audit_history(folder.read(export(tmp_path, f"steps{began}", steps))).audit
        (finding,) = (one for one in audit.findings if one.rule == "gap")
        assert finding.raised and finding.generation == began


def test_an_honest_run_is_green_and_its_exit_code_0_whatever_it_fails_on(exports: Path, at_once: None) -> None:
    """But that nothing can be said of hidden items without the task's data, which is exit code 6."""
    said = evolog(exports / "honest", "--fail-on", "suspect", code=6).stdout
    green = "selection green; misspecification green; levers green; robustness green; provenance unknown"
    assert said.startswith(f"honest: UNKNOWN: {green} (the data of the task") and "Further findings" not in said
    assert "gap: Score and gold have not parted" in said and "seed_only" in said


def test_suspect_fails_only_where_it_is_asked_to() -> None:
    states = ("green", "unknown", "attenuated", "suspect", "drift")
    codes = {state: [exit_code(state, on, unknown=False) for on in FAIL_ON] for state in states}
    assert codes == {"green": [0, 0], "unknown": [0, 0], "attenuated": [0, 0], "suspect": [0, 3], "drift": [3, 3]}
    codes = {state: [exit_code(state, on, unknown=True) for on in FAIL_ON] for state in ("green", "suspect", "drift")}
    assert codes == {"green": [6, 6], "suspect": [6, 3], "drift": [3, 3]}


def test_what_was_not_measured_is_said(exports: Path, at_once: None) -> None:
    said = evolog(exports / "unmeasured", code=6).stdout
    unknown = "selection unknown (gold is known of no candidate); misspecification unknown (gold is known"
    assert said.startswith(f"unmeasured: UNKNOWN: {unknown}")
    assert "Nothing can be said of selection, misspecification" in said
    assert "Cross-play:" not in said and "have not parted" not in said


def test_json_is_the_audit(exports: Path, hacked: AuditReport, at_once: None) -> None:
    said = evolog(exports / "hacked", "--json", code=3)
    found = msgspec.json.decode(said.stdout, type=Audit)
    assert found == hacked.audit and found.state == "drift"
    assert "null" not in json.dumps(json.loads(said.stdout)["rows"][-1]) and all(
        map(math.isfinite, numbers(json.loads(said.stdout)))
    )
    assert said.stderr.startswith("note: Whether hidden items came in sight")


def numbers(value: Any) -> list[float]:
    match value:
        case dict():
            return [number for member in value.values() for number in numbers(member)]
        case list():
            return [number for member in value for number in numbers(member)]
    return [value] if isinstance(value, int | float) else []


class Page(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_with_its_pictures(exports: Path, tmp_path: Path, at_once: None) -> None:
    said = evolog(exports / "hacked", "--html", tmp_path / "new" / "a.html", "--plots", tmp_path / "plots", code=3)
    text = (tmp_path / "new" / "a.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    assert all((one["src"] or "").startswith("data:image/png;base64,") and len(one["alt"] or "") > 80 for one in images)
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r"base64,[\w+/=]+", "", text))
    assert not {"link", "script", "iframe"} & {tag for tag, _ in page.tags}
    for words in ("hacked: DRIFT by own answers", "gap growth", "Lambda", "renamed", "Not checked", "cross-play: In"):
        assert words in page.text, words
    files = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert files == ["cross-play.png", "generations.png", "moves.png"]
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in files)
    assert said.stderr.count("wrote ") == 4


def test_what_a_run_says_is_text_on_the_page(hacked: AuditReport) -> None:
    audit = msgspec.structs.replace(hacked.audit, sentence="<script>alert(1)</script>")
    page = Page(audit_html.page(hacked._replace(audit=audit, notes=["a < b"]), []))
    assert (
        "<script>alert(1)</script>" in page.text
        and "a < b" in page.text
        and "script" not in {tag for tag, _ in page.tags}
    )


def test_a_run_without_gold_scores_has_pictures(exports: Path) -> None:
    drawn = pictures(audit_history(folder.read(exports / "unmeasured")).audit)
    assert drawn[2].alt == "No cross-play has been measured: no candidate after the start was measured on test."
    assert all(picture.png.startswith(b"\x89PNG") for picture in drawn)


@pytest.mark.parametrize("generations", [0, 1])
def test_a_run_that_has_only_begun_can_be_audited(tmp_path: Path, generations: int) -> None:
    said = evolog(export(tmp_path, "young", HACKED[:generations]), "--html", tmp_path / "a.html", code=6).stdout
    luck = "nothing was chosen among" if generations else "No candidate has been accepted yet"
    selection = "green" if generations else "unknown (gold is known of no candidate)"
    assert luck in said and f"selection {selection}" in said and (tmp_path / "a.html").read_text().count("<img") == 3


def test_all_is_a_line_a_run_and_the_worst_exit_code(exports: Path, tmp_path: Path, at_once: None) -> None:
    node = Node(tmp_path / "place")
    for name in ("honest", "unmeasured"):
        shutil.copytree(exports / name, node.imports / name)
    assert [row["run"] for row in listed(node, 6)] == ["honest", "unmeasured"]
    shutil.copytree(exports / "hacked", node.imports / "hacked")
    worst = listed(node, 3)[0]
    assert worst == {"run": "hacked", "task": "no-such-task", "state": "drift", "rule": "own answers"} | {
        "lever": "weights",
        "generation": 2,
        "families": dict.fromkeys(["misspecification", "levers", "robustness"], "drift")
        | {"selection": "green", "provenance": "unknown"},
        "unknown": ["provenance"],
        "error": "",
    }
    said = evolog("--all", "--dir", node.directory, code=3).stdout
    assert (
        re.search(r"hacked +│ no-such-task +│ drift +│ own answers +│ weights +│ +2", said)
        and "nothing is known of" in said
    )
    shutil.rmtree(node.imports / "hacked")
    (node.imports / "honest" / folder.EVENTS).write_bytes(b"")
    assert [bool(row["error"]) for row in listed(node, 1)] == [True, False]


def listed(node: Node, code: int) -> list[dict[str, Any]]:
    said = json.loads(evolog("--all", "--json", "--dir", node.directory, code=code).stdout)
    assert said["version"] == 2
    rows: list[dict[str, Any]] = said["runs"]
    return rows


def test_a_run_on_a_log_is_audited_alone_and_with_all(exports: Path, tmp_path: Path) -> None:
    node = Node(tmp_path / "place")
    run = folder.read(exports / "hacked")
    shutil.copytree(exports / "hacked" / folder.BLOBS, node.blobs)
    asyncio.run(append(node, run))
    assert evolog("hack", "--dir", node.directory, code=3).stdout.startswith(
        "hacked: DRIFT by own answers, from generation 2"
    )
    assert [row["state"] for row in listed(node, 3)] == ["drift"]


async def append(node: Node, run: history.History) -> None:
    """The messages of a run, each by an account that may say it."""
    async with broker(node.directory):
        for stream, messages in ((LOG, run.messages), (GOLD, run.gold)):
            wires: dict[str, NatsSocket] = {}
            for stored in messages:
                user = BY_TAG[tag_of(stored.subject)].publishers[0]
                if user not in wires:
                    wires[user] = NatsSocket(
                        msgspec.json.decode(credentials_file(node.directory, user).read_bytes(), type=Credentials),
                        stream,
                    )
                wires[user].append([Message(stored.subject, stored.data)])
            for wire in wires.values():
                wire.close()


def test_a_hidden_item_that_an_agent_was_shown_is_found_with_the_tasks_data(tmp_path: Path) -> None:
    public, named = load(str(TOY)).public(0), TaskAccess(folder=str(TOY))
    started = run_started(str(TOY), dict(public.digests))
    clean = audit_history(
        folder.read(
            export(tmp_path, "clean", HONEST[:2], started=started, agent_request=public.train[0].prompt.encode())
        ),
        named,
    )
    assert not clean.audit.rule and not clean.notes and "hidden_in_sight" in closing(clean)[0][1][-1]
    shown = audit_history(
        folder.read(
            export(tmp_path, "shown", HONEST[:2], started=started, agent_request=public.test[0].prompt.encode())
        ),
        named,
    )
    assert (shown.audit.state, shown.audit.rule) == ("drift", "hidden_in_sight")
    other = audit_history(folder.read(export(tmp_path, "other", HONEST[:1], started=run_started(str(TOY)))), named)
    assert (
        "are not those that the run was started on" in other.notes[0]
        and "hidden_in_sight" not in closing(other)[0][1][-1]
    )


def test_rewards_that_leave_their_range_are_found_unless_the_start_does(tmp_path: Path) -> None:
    beyond = [*HONEST[:1], HONEST[1]._replace(top=3.0)]
    found = audit_history(folder.read(export(tmp_path, "beyond", beyond, gold=False)))
    assert (found.audit.state, found.audit.rule) == ("drift", "out_of_range")
    always = [step._replace(top=3.0) for step in HONEST[:2]]
    found = audit_history(folder.read(export(tmp_path, "always", always, gold=False)))
    assert not found.audit.rule and found.notes[0].startswith("Whether rewards lie in [0, 1]")


def test_errors_are_sentences(exports: Path, tmp_path: Path, at_once: None) -> None:
    nowhere = ("--dir", tmp_path / "nowhere")
    assert "There is no log in" in stated(evolog("r", *nowhere, code=4))
    assert "There is no log in" in stated(evolog("--all", *nowhere, code=4))
    assert "Name a run" in stated(evolog(*nowhere, code=2))
    assert "--all is a line for each run" in stated(evolog("r", "--all", *nowhere, code=2))
    (tmp_path / "file").write_text("")
    said = stated(evolog(exports / "hacked", "--plots", tmp_path / "file" / "x", *nowhere, code=1))
    assert "cannot be written" in said and "name another place" in said


def test_evidence_that_is_missing_ends_the_audit(exports: Path, tmp_path: Path) -> None:
    shutil.copytree(exports / "unmeasured", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / folder.BLOBS)
    assert "evolog: Blob " in stated(evolog(tmp_path / "run", code=4))


@pytest.mark.parametrize(("module", "more"), [("numpy", ()), ("matplotlib", ("--html", "a.html"))])
def test_without_the_extras_it_says_what_to_install(
    exports: Path, tmp_path: Path, module: str, more: tuple[str, ...]
) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[0] = 'evolog'; from services.cli.main import main; "
        "main()"
    )
    command = [sys.executable, "-c", code, "audit", str(exports / "unmeasured"), *more]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True
    )
    assert (
        done.returncode == 78
        and done.stdout == ""
        and f"evolog: {module}" in done.stderr
        and "pip install 'evolog[" in done.stderr
    )


def test_changed_items_are_compared_item_by_item_and_a_part_of_test_with_all_of_it() -> None:
    """Ten items are easy, and lose nothing; 39 of 40 leave no part to compare."""
    scores: dict[str, tuple[float, ...]] = {f"t{place}": (float(place < 10),) for place in range(40)}
    of: dict[str, Any] = {"scaffold": "s0", "adapter": "", "failed": 0}
    easy = {item: scores[item] for item in list(scores)[:10]}
    facts = [
        PairMeasured(**of, measure="verifier", scores=scores, blob="all"),
        PairMeasured(**of, measure="gold", scores=scores, blob="all"),
        PairMeasured(**of, measure="changed:first_200", scores=easy, blob="played anew"),
        PairMeasured(**of, measure="changed:easy", scores=easy, blob="all"),
        PairMeasured(**of, measure="changed:nearly all", scores=dict(list(scores.items())[1:]), blob="all"),
    ]
    facts += [msgspec.structs.replace(fact, scaffold="s1") for fact in facts]
    loop = list(loop_of("r", (Step("start", True, 0.2, 0.2, 0.2), Step("scaffold", True, 0.4, 0.4, 0.4)), ["s0", "s1"]))
    events = EventIndex(stored("r", LOG, [run_started(), *loop])).events
    losses = audit(
        events, EventIndex(stored("r", GOLD, facts)).events, lambda digest: b'{"files": {}}', Known()
    ).changed
    assert set(losses) == {"first_200", "easy"}
    assert losses["first_200"].start.value == 0 and losses["easy"].start.value == pytest.approx(0.25 - 1)
