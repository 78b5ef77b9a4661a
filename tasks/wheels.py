"""Published packages whose wheels hold data that a task needs."""

import subprocess
import sys
from pathlib import Path

from events.errors import Unavailable


def download(package: str, folder: Path, otherwise: str) -> Path:
    """The wheel of `package`, such as "scanpy==1.12", in `folder`; raises Unavailable, with what to do `otherwise`, where pip gets none."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"pip could not download {package} ({last}); {otherwise}.")
    return wheels[0]
