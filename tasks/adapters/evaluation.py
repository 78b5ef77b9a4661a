"""Calls a task's evaluate.py on a list of cases, in the sandbox: a script that imports nothing of evolog.

    python evaluation.py

`cases.json` lists the cases: the text of the file of true answers, and the files that were handed in. For each, those
are written where evaluate.py looks for them, and it is run as `evaluate.py --gen-dir FOLDER`. `figures.json` then lists
what it left as results.json, or why it left nothing.
"""

import contextlib
import io
import json
import os
import runpy
import shutil
import sys
from typing import Any


def evaluated(order: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    """What evaluate.py says of one case."""
    write(order["truth"], case["truth"])
    handed_in = os.path.abspath("handed_in")
    shutil.rmtree(handed_in, ignore_errors=True)
    os.mkdir(handed_in)
    for path, text in case["files"].items():
        write(os.path.join(handed_in, path), text)
    sys.argv = [os.path.abspath(order["script"]), "--gen-dir", handed_in]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            return {"error": f"it exited with {end.code}: {said.getvalue()[-300:].strip()}"}
    except BaseException as wrong:
        return {"error": f"{type(wrong).__name__}: {wrong}"[:300]}
    try:
        with open(os.path.join(handed_in, "results.json"), encoding="utf-8") as file:
            return {"results": json.load(file)}
    except (OSError, ValueError) as wrong:
        return {"error": f"it left no results.json that can be read ({type(wrong).__name__})"}


def write(path: str, text: str) -> None:
    """Write a file, and the folders that it is in."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def main() -> None:
    """Evaluate each case."""
    with open("cases.json", encoding="utf-8") as file:
        order = json.load(file)
    sys.path.insert(0, os.path.dirname(os.path.abspath(order["script"])))
    figures = [evaluated(order, case) for case in order["cases"]]
    with open("figures.json", "w", encoding="utf-8") as file:
        json.dump(figures, file)


if __name__ == "__main__":
    main()
