"""No verb prints a character that a terminal obeys or hides, whoever wrote it."""

import asyncio
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.progress import Progress

from events import codec, kinds
from events.errors import NotFound
from events.population import CandidateRejected
from events.run import RunPaused
from replay.archive.query import QueryResult
from replay.audit.audit import audit_history
from replay.audit.verdict import FAMILIES
from replay.compare import compare
from replay.exports import folder
from replay.replayer import redecide
from replay.report import Reporter, collect
from runtime.log.port import Stored
from runtime.status import Status, Waiting
from services.cli.main import main
from services.host.doctor import HostCheck
from services.host.overview import Overview, ServiceLoad
from services.host.visible import CONTROL, VisibleStream, one_line, visible, visible_output
from services.views.audit_html import page
from services.views.events import message_json
from services.views.progress import VisibleConsole, working
from services.views.run import LiveRun
from tests.harness.made_up_runs import export
from tests.harness.paths import HISTORIES, ROOT

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egpj.exe\u2066\u200b\u2028\r[red]:boom:[/nothing]\ufeff\x7f\U000e0041"
LETTERS = {"\n", "\t"}
KINDS = {value for name in dir(kinds) for value in getattr(getattr(kinds, name), "__args__", ())}


def planted(value: Any) -> Any:
    """The value with hostile text in every string of it that is not one of a closed set."""
    match value:
        case str():
            return value if value in KINDS or value in FAMILIES else value + HOSTILE
        case msgspec.Struct():
            return msgspec.structs.replace(
                value, **{name: planted(getattr(value, name)) for name in value.__struct_fields__}
            )
        case tuple() if fields := getattr(value, "_fields", ()):
            return type(value)(**{name: planted(getattr(value, name)) for name in fields})
        case tuple() | list():
            return type(value)(planted(one) for one in value)
        case dict():
            return {key: planted(one) for key, one in value.items()}
    return value


def raw_controls(text: str) -> list[str]:
    """What is left in a text of what a terminal obeys or hides."""
    return sorted(
        {f"{ord(one):x}" for one in text if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs")} - {"a", "9"}
    )


def test_every_control_and_format_character_is_escaped() -> None:
    shown = {"Arab", "Sogd", "Kait", "Egyp"}  # signs of these scripts that are seen, such as the Arabic year
    left = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp", "Cs") and not CONTROL.match(chr(code))
    ]
    names = {unicodedata.name(one)[:4].title() for one in left if one not in LETTERS}
    assert names <= shown
    assert visible("Grüße, 漢字 🙂\n\t") == "Grüße, 漢字 🙂\n\t"


def test_an_escape_is_one_of_json() -> None:
    assert visible("\x1b[1m\u202e\U000e0041") == "\\u001b[1m\\u202e\\udb40\\udc41"
    assert one_line("a\nb\r") == "a\\nb\\u000d"
    data = {"text": HOSTILE + "\\\x9b"}
    text = visible(msgspec.json.encode(data).decode())
    assert not raw_controls(text)
    assert msgspec.json.decode(text) == data


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What verbs show of a run, with hostile text in it."""
    run = folder.read(export(tmp_path_factory.mktemp("export"), "hacked"))
    report = asyncio.run(collect(run.log, run.gold_log, run.run))
    return {
        "run": run,
        "report": planted(report),
        "audit": planted(audit_history(run)),
        "compared": planted(compare(run, folder.read(HISTORIES / "fork-of-a-fork"))),
        "replayed": planted(redecide(folder.read(HISTORIES / "fork-of-a-fork"))),
        "listed": planted(folder.read_manifest(HISTORIES / "fork-of-a-fork")),
    }


def message() -> Stored:
    event = codec.event(
        RunPaused(number=1, reason=HOSTILE), run="demo", source="test", cause="", time="2026-01-01T00:00:00Z"
    )
    return Stored(1, 0, event.subject, codec.encode(event))


def unreadable(*arguments: object, **options: object) -> None:
    raise NotFound(f"There is no {HOSTILE}")


VERBS: dict[str, tuple[list[str], Callable[[pytest.MonkeyPatch, dict[str, Any]], object]]] = {
    "show": (
        ["show", "x"],
        lambda patch, of: patch.setattr("services.host.reports.load_report", lambda *a: of["report"]),
    ),
    "ls": (
        ["ls"],
        lambda patch, of: patch.setattr("services.host.sources.with_logs", lambda *a: [listed_run(of)]),
    ),
    "diff": (
        ["diff", "x", "y"],
        lambda patch, of: (
            patch.setattr("services.cli.reading.read_run", lambda *a: None),
            patch.setattr("replay.compare.compare", lambda *a: of["compared"]),
        ),
    ),
    "audit": (
        ["audit", "x"],
        lambda patch, of: patch.setattr("services.cli.audit_runs._audited", lambda *a: of["audit"]),
    ),
    "replay": (
        ["replay", "x"],
        lambda patch, of: (
            patch.setattr("services.cli.reading.read_run", lambda *a: of["run"]),
            patch.setattr("replay.replayer.redecide", lambda *a, **b: of["replayed"]),
        ),
    ),
    "services": (
        ["services"],
        lambda patch, of: patch.setattr("services.host.overview.look_at_services", hostile_services),
    ),
    "sql": (
        ["sql", "x"],
        lambda patch, of: patch.setattr(
            "replay.archive.query.query", lambda *a: QueryResult((HOSTILE,), ("VARCHAR",), [(HOSTILE,), ([HOSTILE],)])
        ),
    ),
    "doctor": (
        ["doctor"],
        lambda patch, of: patch.setattr(
            "services.host.doctor.check_host", lambda *a: [HostCheck(HOSTILE, True, HOSTILE)]
        ),
    ),
    "an error": (["show", HOSTILE], lambda patch, of: patch.setattr("services.host.reports.load_report", unreadable)),
    "a wrong flag": (["show", f"--{HOSTILE}"], lambda patch, of: None),
    "a wrong choice": (["sql", "--format", HOSTILE, "x"], lambda patch, of: None),
}


async def hostile_services(node: object) -> Overview:
    waiting = (Waiting(waiting_for="an answer", since=0.0, error="HTTP 503"),)
    status = Status(service="executor", index=0, host="h", pid=1, since=0.0, waiting=waiting, last_error="HTTP 503")
    load = ServiceLoad(processes=1, pending=1, unacknowledged=0)
    return Overview(
        services={"executor": load},
        processes=(msgspec.structs.replace(planted(status), service="executor"),),
        silent=(),
        troubles=(HOSTILE,),
    )


def listed_run(of: dict[str, Any]) -> Any:
    from services.host.reports import _imported

    return _imported("run" + HOSTILE, of["listed"])


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_prints_no_control_character(
    verb: str,
    as_json: bool,
    views: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    arguments, prepare = VERBS[verb]
    prepare(monkeypatch, views)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".evolog" / "nats").mkdir(parents=True)
    with pytest.raises(SystemExit):
        main([*arguments, *(["--json"] if as_json else [])])
    printed = "".join(capsys.readouterr())
    assert not raw_controls(printed)
    assert "\\u202egpj" in printed and (":boom:" in printed or verb.startswith("a wrong"))
    if as_json and verb in ("show", "diff", "sql", "ls", "services"):
        assert HOSTILE in str(msgspec.json.decode(printed)) or repr(HOSTILE)[1:-1] in str(msgspec.json.decode(printed))


def test_a_run_that_is_followed_prints_a_line_for_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter("demo")
    row = reporter.row(0)
    row.change = row.verdict = row.reason = f"better\n  1  weights  accepted {HOSTILE}"
    accepted = CandidateRejected(candidate="c", generation=0, reason="")
    event = codec.event(accepted, run="demo", source="test", cause="", time="2026-01-01T00:00:00Z")
    with LiveRun(VisibleConsole()) as live, working(HOSTILE) as say:
        say(f"[/x]{HOSTILE}")
        live.update([event], reporter)
    printed = capsys.readouterr().out
    assert not raw_controls(printed)
    assert len(printed.splitlines()) == 4 and printed.count("better\\n  1") == 3


def test_what_is_printed_goes_through_the_one_console() -> None:
    for path in (ROOT / "services").rglob("*.py"):
        if path.name != "progress.py":
            assert not re.search(r"(?<!Visible)Console\(|stdout\.write", path.read_text()), path


def test_messages_and_pages_have_none(views: dict[str, Any]) -> None:
    with visible_output():
        assert isinstance(sys.stdout, VisibleStream)
    assert not raw_controls(visible(message_json(message())))
    assert not raw_controls(page(views["audit"], []))


def test_a_terminal_gets_colours_and_bars_but_no_escape_from_a_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with visible_output():
        console = VisibleConsole()
        console.print("plain", HOSTILE, style="red", highlight=False)
        with Progress(console=console) as progress:
            progress.add_task("working")
            print(HOSTILE)
    printed = capsys.readouterr().out
    assert "\x1b[31m" in printed and "]0;owned" in printed and "[red]:boom:" in printed
    for bad in ("\x1b]0", "\x1b[2J", "\x07", "\x9b", "\u202e", "\u2028", "\ufeff"):
        assert bad not in printed
