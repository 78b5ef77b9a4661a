"""A bubblewrap that works for so long, and then no more until it is mended."""

import os
import shutil
from pathlib import Path

REFUSED = "No permissions to create new namespace, likely because the kernel does not allow it"
WORDS = """#!/bin/sh
cd {folder}
case "$1" in --version) exec {bwrap} --version;; esac
echo >> starts
if [ ! -e mended ] && [ "$(wc -l < starts)" -gt {good} ]; then echo "bwrap: {refused}" >&2; exit 1; fi
exec {bwrap} "$@"
"""


class BreakingBwrap:
    """`path` has it before all others. It starts `good` sandboxes, and refuses then."""

    def __init__(self, folder: Path, good: int = 0) -> None:
        self.folder = folder
        folder.mkdir()
        self.program = folder / "bwrap"
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self._words = WORDS.format(folder=folder, bwrap=shutil.which("bwrap"), good=good, refused=REFUSED)
        self.put_back()

    def put_back(self) -> None:
        """Install it, also where it was deleted."""
        self.program.write_text(self._words)
        self.program.chmod(0o755)

    def alone(self) -> Path:
        """A folder with it and what else is needed, on a PATH that has no other bubblewrap."""
        for folder in os.environ["PATH"].split(os.pathsep):
            for program in Path(folder).glob("*"):
                if program.name != "bwrap" and not (self.folder / program.name).exists():
                    (self.folder / program.name).symlink_to(program)
        return self.folder

    def starts(self) -> int:
        """How often it was asked for a sandbox."""
        return len((self.folder / "starts").read_text()) if (self.folder / "starts").exists() else 0

    def mend(self) -> None:
        """Let it work from now on."""
        (self.folder / "mended").touch()
