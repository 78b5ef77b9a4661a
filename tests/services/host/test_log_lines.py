"""Lines of services' logs: written with names and values, read again, merged by time, and found by `evolog logs`."""

import logging
import sys
from pathlib import Path

import pytest

from events.errors import Misconfigured, NotFound
from events.secret import Scanner, Secret
from runtime.log.described import counts, describe
from runtime.status import FIELDS
from services.host.log_lines import Formatter, LogFollower, LogLine, level_of, parse
from services.host.node import Node
from services.views.log_lines import log_line
from tests.harness.facts import trajectory

VALUES = {"run": "toy-s0", "items": 32, "error": 'said "no" = bad', "empty": "", "path": "/a b"}


def written(message: str, fields: dict[str, object], formatter: Formatter, *, failed: bool = False) -> str:
    record = logging.LogRecord("evolog", logging.WARNING, __file__, 1, "%s", (message,), None)
    if failed:
        try:
            raise ValueError("sk-12345678")
        except ValueError:
            record.exc_info = sys.exc_info()
    setattr(record, FIELDS, fields)
    return formatter.format(record)


def test_a_line_is_read_as_it_was_written() -> None:
    line = written("done: scores 2 answers", dict(VALUES), Formatter())
    assert line.endswith(
        'WARNING done: scores 2 answers  run=toy-s0 items=32 error="said \\"no\\" = bad" empty="" path="/a b"'
    )
    (entry,) = parse("verifier-0", [line])
    assert (entry.process, entry.level, entry.text) == ("verifier-0", "warning", "done: scores 2 answers")
    assert entry.fields == {name: str(value) for name, value in VALUES.items()}


def test_keys_are_struck_out_of_message_values_and_traceback() -> None:
    formatter = Formatter(Scanner([Secret("sk-12345678")]).redact)
    line = written("asks with sk-12345678", {"key": "sk-12345678"}, formatter, failed=True)
    assert "12345678" not in line and '  key="[a secret was here]"' in line
    (entry,) = parse("p", line.splitlines())
    assert entry.fields == {"key": "[a secret was here]"} and "ValueError: [a secret was here]" in entry.text


def test_what_is_no_line_of_ours_belongs_to_the_entry_before_it() -> None:
    lines = [
        "before all",
        "2026-11-30 17:45:00,123 ERROR it ended",
        "Traceback (most recent call last):",
        "  ValueError: x=1",
        "[77] 2026/11/30 17:45:00.500123 [WRN] Plaintext passwords",
        "2026-11-30 17:45:01,000 INFO a text  with two spaces",
    ]
    first, second, third, fourth = parse("p", lines)
    assert (first.text, first.time) == ("before all", "")
    assert second.text == "it ended\nTraceback (most recent call last):\n  ValueError: x=1" and second.fields == {}
    assert (third.time, third.level, third.text) == ("2026-11-30 17:45:00,500", "warning", "Plaintext passwords")
    assert fourth.text == "a text  with two spaces"
    assert log_line(second).startswith("17:45:00,123 p                ERROR it ended\nTraceback")


def test_logs_of_several_processes_come_by_time_and_half_a_line_waits(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.log_folder.mkdir(parents=True)
    one, two = node.logs("executor", 0), node.logs("verifier", 0)
    one.write_text("2026-11-30 17:45:02,000 INFO second\n2026-11-30 17:45:0")
    two.write_text("2026-11-30 17:45:01,000 INFO first\n")
    follower = LogFollower(node.log_files)
    assert [entry.text for entry in follower.read()] == ["first", "second"]
    assert follower.read() == []
    with one.open("a") as file:
        file.write("3,000 INFO third\n")
    assert follower.read() == [
        LogLine(process="executor-0", time="2026-11-30 17:45:03,000", level="info", text="third")
    ]
    assert [path.stem for path in node.log_files("verifier")] == ["verifier-0"]
    assert [path.stem for path in node.log_files("executor-0")] == ["executor-0"]
    with pytest.raises(NotFound, match=r"no log of 'trainer'.*there are executor-0, verifier-0"):
        node.require_logs("trainer")


def test_a_level_is_one_of_four_words() -> None:
    assert (level_of(None), level_of("Debug ")) == (logging.INFO, logging.DEBUG)
    with pytest.raises(Misconfigured, match="EVOLOG_LOG_LEVEL is 'loud'; expected one of debug, info, warning, error"):
        level_of("loud")


def test_what_is_in_hand_is_described() -> None:
    scored = [trajectory(0), trajectory(1)]
    work = describe(scored, pending=1200)
    assert work.doing.startswith("scores 2 answers of generation") and work.doing.endswith("; 1,200 more wait")
    assert work.fields["items"] == 2 and work.fields["pending"] == 1200
    assert counts(scored) == "trajectory_recorded:2" and counts([]) == ""


def test_an_entry_is_printed_so_that_a_terminal_does_not_obey_it() -> None:
    entry = LogLine(
        process="policy-0", time="2026-11-30 17:45:00,123", level="info", text="ok\x1b[2J", fields={"a": "b c"}
    )
    assert log_line(entry) == '17:45:00,123 policy-0         INFO  ok\\u001b[2J  a="b c"'
