"""Folders that services work in: one for each process, gone with it, and what a killed one left gone at the next
start.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from services.host.work_folder import remove_left_over, work_folder
from tests.harness.paths import ROOT

HOLDS = """
import sys, time
from pathlib import Path
from services.host.work_folder import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "scratch").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def holder(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that works in a folder, and the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(parent)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_when_its_use_ends(tmp_path: Path) -> None:
    with work_folder(tmp_path / "work") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x")
        with work_folder(tmp_path / "work") as other:
            assert other != folder and (folder / "deep" / "file").exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_start_and_nothing_of_a_living_one(tmp_path: Path) -> None:
    killed, left = holder(tmp_path)
    living, kept = holder(tmp_path)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (tmp_path / "policy-0" / "of-an-older-version").mkdir(parents=True)
    (tmp_path / "link").symlink_to("/")
    assert left.exists()
    with work_folder(tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, kept.name}
    living.kill()
    living.wait()
    remove_left_over(tmp_path)
    assert list(tmp_path.iterdir()) == []
