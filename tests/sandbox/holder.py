"""Runs one piece of code in a profile, and says as JSON what came of it: `python holder.py KIND`, the order on standard
input.

Tests use `run` in their own process, and this script to try what an ordinary user's sandbox holds when the tests run as
root.
"""

import json
import subprocess
import sys
import tempfile
import threading
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[2]))
from runtime.sandbox import landlock
from runtime.sandbox.launch import Command, Confined, Kind
from runtime.sandbox.limits import ResourceLimits, tree

PATIENCE = 120.0
KEPT = 1_000_000


def run(kind: Kind, code: str, arguments: list[str], limits: dict[str, Any]) -> dict[str, object]:
    """What it printed, its exit code, the limit that it was stopped at, and the most processes that it ever had."""
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        argv = [sys.executable, "-IS", "-c", code, *arguments]
        running = Confined(kind, Command(argv, {}, {}, Path(work), ResourceLimits(**limits)))
        said = {"out": b"", "err": b""}
        streams = {"out": running.stdout, "err": running.stderr}
        threads = [threading.Thread(target=_drain, args=(streams[name], said, name), daemon=True) for name in streams]
        for thread in threads:
            thread.start()
        running.stdin.close()
        most, ended = 0, None
        for _ in range(int(PATIENCE / 0.02)):
            most = max(most, len(tree(running.pid)))
            try:
                ended = running.wait(0.02)
                break
            except subprocess.TimeoutExpired:
                continue
        running.close()
        for thread in threads:
            thread.join(2)
        words = {name: text.decode(errors="replace") for name, text in said.items()}
        return {
            **words,
            "code": ended,
            "violation": running.violation,
            "most": most,
            "left": sorted(p.name for p in Path(work).iterdir()),
        }


def _drain(stream: BufferedReader, said: dict[str, bytes], name: str) -> None:
    while chunk := stream.read1(1 << 16):
        said[name] = (said[name] + chunk)[:KEPT]


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "landlock?":
        print(landlock.version())
    else:
        print(json.dumps(run(cast("Kind", kind), **json.load(sys.stdin))))
