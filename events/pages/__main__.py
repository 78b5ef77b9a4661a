"""`python -m events.pages` writes the files that describe the events; with `--check` it says which are stale."""

import json
import sys
from pathlib import Path
from typing import Any

from events.pages import asyncapi, json_schema, markdown

FOLDER = Path(__file__).parents[1]
README = "README.md"
MARKER = "<!-- From here on `python -m events.pages` writes this page; above it, it is written by hand. -->"


def pages(folder: Path) -> dict[str, str]:
    """The text that each file should have, by name. README.md keeps what stands above the marker."""
    above, marker, _ = (folder / README).read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{folder / README} has no line {MARKER!r}: put it where the catalogue is to begin.")
    return {
        README: f"{above}{MARKER}\n\n{markdown.reference()}",
        asyncapi.SCHEMA: _json(json_schema.document()),
        "asyncapi.json": _json(asyncapi.document()),
    }


def stale(folder: Path) -> list[str]:
    """The names of the files in this folder that are not what the code says."""
    return [
        name
        for name, text in pages(folder).items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    """Write the files into a folder, or with `--check` name those that are stale; the exit code."""
    if arguments == ["--check"]:
        names = stale(folder)
        for name in names:
            print(f"events/{name} is not what the code says: run `python -m events.pages`.", file=sys.stderr)
        return 1 if names else 0
    if arguments:
        print("usage: python -m events.pages [--check]", file=sys.stderr)
        return 2
    for name, text in pages(folder).items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def _json(node: dict[str, Any]) -> str:
    return json.dumps(node, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
