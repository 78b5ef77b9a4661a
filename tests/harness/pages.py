"""The project's pages: their commands, their links, and the words that they are written in."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.harness.paths import ROOT

EXEMPT = ("# needs a key", "# needs a GPU", "# needs another host")
"""How a line ends that no test can run."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^( *)```.*?^\1```$|`[^`\n]*`", re.M | re.S)


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, and the line that it begins on."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """The Markdown files that git knows, but for those that are data: prompts of agents."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(ROOT / name for name in listed.split() if "/prompts/" not in name and (ROOT / name).is_file())


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Block(match[2], match[3], text.count("\n", 0, match.start()) + 2)


def shell_blocks(page: Path) -> list[Block]:
    """The blocks of a page that hold commands."""
    return [block for block in blocks(page) if block.language == "sh"]


def links(page: Path) -> list[str]:
    """What a page links to, without what stands in code."""
    return _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(page: Path) -> list[str]:
    """A page's prose, by sentence: without code, tables, headings and the targets of links."""
    text = _FENCE.sub("\n", page.read_text(encoding="utf-8"))
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\]\([^)]*\)", "]", text)).replace("[", "").replace("]", "")
    text = re.sub(r"^ *(\||#|<!--).*$", "", text, flags=re.M)
    paragraphs = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text)
    plain = [re.sub(r"^\s*(?:[-*]|\d+\.) ", "", " ".join(paragraph.split())) for paragraph in paragraphs]
    return [sentence for paragraph in plain if paragraph for sentence in re.split(r"(?<=[.!?:;]) (?=\S)", paragraph)]


def inline_commands(page: Path) -> list[str]:
    """What stands in backquotes within a page's prose and tables and begins as a command does."""
    text = _FENCE.sub("\n", page.read_text(encoding="utf-8"))
    found = re.findall(r"`([^`\n]+)`", text)
    return [code for code in found if re.match(r"(?:[A-Z_]+=\S+ )*(?:evolog|make|python -m|pip install) ?", code)]


def script(page: Path) -> str:
    """The page's commands as one bash script: each is named, then run, and must end with 0 or as `# exit N` says."""
    return "\n".join(text for block in shell_blocks(page) for text in _checked(block))


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """The commands of a block with the line of each; lines that belong together, as in a here-document, are one."""
    taken: list[str] = []
    lines = block.text.splitlines()
    for number, line in enumerate(lines, 1):
        taken.append(line)
        command = "\n".join(taken)
        if number < len(lines) and not _whole(command):
            continue
        if command.strip() and not command.lstrip().startswith("#"):
            yield block.line + number - len(taken), command
        taken = []


def _whole(command: str) -> bool:
    checked = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
    return checked.returncode == 0 and not checked.stderr and not command.endswith("\\")


def _checked(block: Block) -> Iterator[str]:
    for line, command in commands(block):
        if command.rstrip().endswith(EXEMPT):
            continue
        if command.startswith("make test"):
            command = command.replace("make", "make --dry-run", 1)  # the tests do not run themselves
        expected = int(match[1]) if (match := re.search(r"# exit (\d+)\s*$", command)) else 0
        yield f"echo {shlex.quote(f'line {line}: {command.splitlines()[0]}')}"
        failed = f'echo "line {line} ended with $_code, expected {expected}"; exit 1'
        yield f"{command}\n_code=$?; [ $_code = {expected} ] || {{ {failed}; }}"
