"""The pages: rooms have one, links resolve, sentences end, and what no test can run at least parses. Their commands are
run by tests/system/test_pages.py and test_page_one.py.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from algorithms.learning import NAMES
from services.cli.main import VERBS, main
from tests.harness import pages
from tests.harness.paths import ROOT

ROOMS = (
    "events",
    "runtime",
    "runtime/rollouts",
    "runtime/sandbox",
    "runtime/agents",
    "runtime/policies",
    "algorithms",
    "tasks",
    "tasks/adapters",
    "tasks/lawbench",
    "tasks/denoise",
    "tasks/feeling",
    "tasks/gpqa",
    "tasks/longcot_chess",
    "tasks/spaceship_titanic",
    "tasks/trimul",
    "tasks/optimum",
    "tasks/reasoning",
    "replay",
    "replay/archive",
    "replay/audit",
    "services",
    "tests",
    "tests/histories",
)
"""The rooms that a user or a newcomer enters."""
LONGEST = 40
"""Words in a sentence; 25 is the rule."""
PAGES = {str(page.relative_to(ROOT)): page for page in pages.pages()}
each_page = pytest.mark.parametrize("name", PAGES)


def parses(arguments: list[str]) -> None:
    """Raise click's error where the command line has no such verb, flag or value; run nothing."""
    command: click.Command = main
    while isinstance(command, click.Group):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(command.name, arguments)


def test_each_room_has_a_page() -> None:
    assert [room for room in ROOMS if f"{room}/README.md" not in PAGES] == []


def test_page_one_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@each_page
def test_links_resolve(name: str) -> None:
    page = PAGES[name]
    for link in pages.links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name} links to {link}, which is not there"
        assert not anchor or anchor in pages.anchors(target), f"{name} links to {link}, and there is no such heading"


@each_page
def test_sentences_are_short(name: str) -> None:
    long = [sentence for sentence in pages.sentences(PAGES[name]) if len(sentence.split()) > LONGEST]
    assert long == [], f"{name}: more than {LONGEST} words; make two sentences of it"


@each_page
def test_blocks_say_what_they_are(name: str) -> None:
    known = {"sh", "text", "python", "sql", "toml", "json", "yaml", "mermaid"}
    assert [block.line for block in pages.blocks(PAGES[name]) if block.language not in known] == []


@each_page
def test_commands_that_no_test_can_run_parse(name: str) -> None:
    for block in pages.shell_blocks(PAGES[name]):
        for _, command in pages.commands(block):
            if command.rstrip().endswith(pages.EXEMPT) and "evolog" in (words := shlex.split(command, comments=True)):
                parses(words[words.index("evolog") + 1 :])


@pytest.mark.parametrize("name", [name for name in PAGES if "CONTRIBUTING" not in name])  # it adds what there is not
def test_verbs_flags_targets_and_modules_in_the_prose_are_there(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for code in pages.inline_commands(PAGES[name]):
        words = [word for word in code.split() if not re.match(r"[A-Z_]+=", word)]
        match words:
            case ["evolog", verb, *rest] if not verb.startswith("-"):
                assert verb in main.commands, f"{name}: there is no verb in `{code}`"
                command = main.commands[verb]
                if isinstance(command, click.Group) and rest:
                    assert rest[0] in command.commands, f"{name}: there is no verb in `{code}`"
                    command = command.commands[rest[0]]
                flags = {flag for parameter in command.params for flag in parameter.opts}
                wrong = {word.partition("=")[0] for word in rest if word.startswith("--")} - flags - {"--help"}
                assert not wrong, f"{name}: `{code}` has no {wrong}"
            case ["make", target, *_] if re.match(r"[a-z]", target):
                assert re.search(rf"^{target}:", makefile, re.M), f"{name}: there is no target in `{code}`"
            case ["python", "-m", module, *_] if "NAME" not in module:
                assert importlib.util.find_spec(module), f"{name}: there is no module in `{code}`"


def test_each_learning_algorithm_has_a_row() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(learning/\w+\.py\) \|", PAGES["algorithms/README.md"].read_text("utf-8"), re.M)
    assert sorted(rows) == sorted(NAMES)


def test_each_decision_has_a_status_and_stands_in_the_index() -> None:
    text = (ROOT / "DECISIONS.md").read_text(encoding="utf-8")
    indexed = re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+) \|$", text, re.M)
    entries = re.findall(r"^## \d{4}-\d\d-\d\d (.+)\nStatus: (.+)\.$", text, re.M)
    assert sorted(indexed) == sorted(entries) and len(entries) == text.count("\n## ")
    assert all(re.match(r"holds$|superseded by ", status) for _, status in entries)


@pytest.mark.parametrize("verb", [verb.name for verbs in VERBS.values() for verb in verbs])
def test_each_verbs_help_has_an_example_that_parses(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exported-run").mkdir()  # click looks whether what is imported is there
    monkeypatch.chdir(tmp_path)
    given = main.commands[verb].epilog or ""
    examples = [line.strip() for line in given.splitlines() if line.startswith("  evolog ")]
    assert given.startswith("\b\nExamples:\n") and examples
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[:2] == ["evolog", verb]
        parses(words[1:])


def test_help_lists_every_verb_whole_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [heading for heading in VERBS if f"\n{heading}:\n" not in shown] == []
    assert [verb for verb in main.commands if not re.search(rf"^  {verb} +\S.*\.$", shown, re.M)] == []
    assert "..." not in shown.partition("Start a run")[2]


def test_a_page_becomes_a_script(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = (
        "# a comment",
        "echo one",
        "cat > f <<'END'",
        "x",
        "END",
        "false  # exit 1",
        "no-such-thing  # needs a key",
    )
    page.write_text("\n".join(("# Page", "", "```sh", *lines, "```", "", "```text", "not run", "```", "")))
    (block, other) = pages.blocks(page)
    assert (block.language, block.line, other.language) == ("sh", 4, "text")
    assert [number for number, _ in pages.commands(block)] == [5, 6, 9, 10]
    text = pages.script(page)
    assert "cat > f <<'END'\nx\nEND\n" in text and "no-such-thing" not in text and "not run" not in text


def test_prose_is_told_from_tables_code_and_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    prose = "One two. Three `a. b` [four](x.md),\nfive.\n\n| a | b |\n|---|---|\n\n- Six\n- seven."
    page.write_text(f"# A heading\n\n{prose}\n\n```sh\nls\n```\n")
    assert pages.sentences(page) == ["One two.", "Three code four, five.", "Six", "seven."]
    assert pages.anchors(page) == {"a-heading"}
