"""Data that tasks take from wheels of published packages."""

import subprocess
import sys
from pathlib import Path

from events.errors import Unavailable


def download(package: str, folder: Path, otherwise: str) -> Path:
    """Download the wheel of a package, such as "scanpy==1.12", by pip into `folder`, and return its path.

    Raises Unavailable where pip gets none; `otherwise` is the end of that sentence, and says what to do instead.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        package,
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"pip could not download {package} ({last}); {otherwise}.")
    return wheels[0]
