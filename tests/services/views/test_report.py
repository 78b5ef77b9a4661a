"""The page of a finished run: what models and tasks wrote is shown and not obeyed, in HTML and in Markdown."""

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from replay.audit.audit import AuditReport, audit_history
from replay.report import Generation, Report
from runtime.run.loading import TaskAccess
from services.views.report import ReportSubject, report_html, report_markdown
from tests.harness.recorded_attempts import recorded_run

HOSTILE = "</td></table><script>fetch('http://x')</script>![p](http://x/p.png) [l](javascript:x) | `c` \u202e *b*\n# h"


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ReportSubject:
    """A finished run whose agent gave a hostile reason; without pictures."""
    history = recorded_run(tmp_path_factory.mktemp("report"), texts=HOSTILE)
    start = Generation(generation=0, score=0.5, low=0.4, high=0.6, accepted=True, standing="accepted", rollouts=2)
    better = Generation(generation=1, parents=(0,), lever="weights", change=HOSTILE, reason=HOSTILE, score=0.75)
    better = msgspec.structs.replace(better, low=0.6, high=0.8, accepted=True, standing="accepted", rollouts=3)
    report = Report(run="r", task="toy", state="finished", reason=HOSTILE, generations=[start, better], score=0.75)
    audit: AuditReport = audit_history(history, TaskAccess(), None)
    return ReportSubject(report, history.started, HOSTILE, "2026-01-01T00:00:00Z", audit, (), "1")


def test_html_holds_nothing_but_its_own_tags_and_loads_nothing(subject: ReportSubject) -> None:
    page, parser = report_html(subject), Tags()
    parser.feed(page)
    own = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "ul", "li", "pre"}
    assert {tag for tag, _ in parser.tags} <= own | {"table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in parser.tags for name in attributes} <= {
        "lang", "charset", "name", "content", "http-equiv", "class", "scope"
    }  # fmt: skip
    assert "default-src 'none'" in page and "\u202e" not in page and "\\u202e" in page
    assert page.count("&lt;script&gt;") == 4  # description, end, change and reason


def test_markdown_shows_what_was_written_as_it_is(subject: ReportSubject) -> None:
    page = report_markdown(subject, "r-")
    for active in ("<script", "![p](", "[l](", "\u202e", "\n# h", "*b*"):
        assert active not in page, active
    assert r"\!\[p\]\(http://x/p.png\)" in page
    rows = [line for line in page.splitlines() if line.startswith("| 1 |")]
    columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert columns and "fetch" in page and len(re.findall(r"(?<!\\)\|", rows[0])) == 9


def test_the_parts_of_a_page(subject: ReportSubject) -> None:
    page = report_html(subject)
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Task and settings", "Result", "Generations", "Pictures", "Levers", "Audit", "Cost", "Replay"]
    for words in ("3 of train, 4 of dev", "The run ended with 0.7500 on dev", "evolog replay ./exported", "+0.2500"):
        assert words in page, words
