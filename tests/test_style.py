"""How the code is written, where neither ruff nor mypy looks."""

import io
import re
import subprocess
import tokenize

import pytest

from tests.harness.paths import ROOT

SILENCES = re.compile(r"#\s*(type:\s*ignore|mypy:)")
"""A comment that keeps mypy from saying something."""
EXPLAINED = re.compile(r"# type: ignore\[[a-z-]+(, [a-z-]+)*\]  # \S")
"""One that names what it silences, and says in a second comment why."""


def unexplained(source: str) -> list[str]:
    """The comments that silence mypy without a code or without a reason, as "line: comment"."""
    if not SILENCES.search(source):
        return []
    return [
        f"{token.start[0]}: {token.string}"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and SILENCES.match(token.string) and not EXPLAINED.match(token.string)
    ]


def test_every_type_error_that_is_ignored_has_a_code_and_a_reason() -> None:
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 400
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in files for line in unexplained(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "write `# type: ignore[code]  # why`"


@pytest.mark.parametrize(
    ("comment", "refused"),
    [
        ("# type: ignore", True),
        ("# type: ignore  # torch has no types", True),
        ("# type: ignore[misc]", True),
        ("# type: ignore[misc] torch has no types", True),
        ("#type:ignore[misc]", True),
        ("# mypy: ignore-errors", True),
        ("# type: ignore[misc]  # torch has no types", False),
        ("# type: ignore[no-untyped-call, misc]  # torch has no types", False),
        ("# a word about a type: ignore it", False),
    ],
)
def test_an_ignored_error_without_code_or_reason_is_found(comment: str, refused: bool) -> None:
    found = unexplained(f"one = 1\ntwo = one  {comment}\nthree = '{comment}'\n")
    assert found == ([f"2: {comment}"] if refused else [])
