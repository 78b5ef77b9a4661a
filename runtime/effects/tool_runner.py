"""Runs a candidate's program inside the sandbox, for a verifier, and sends back what came of it.

It is a script of its own, started by `tools.py` inside the sandbox, and imports nothing of evolog. It copies the
program's files to its work folder, runs Python there, and writes one JSON object to a pipe.

What a program prints and leaves is that program's word. That it is this program's, and not that of something which it
started and which has the same account, is held in three ways: no other process can read this one's memory, where the
token of its result is; the files for standard output and error have no name; and a program that guards itself in the
same way (tasks/trimul) can end all others before it prints.
"""

import base64
import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import IO

DUMPABLE = 4
OUTPUT, ERRORS, FILES = 1 << 20, 64 << 10, 64 << 20
"""Bytes that are kept of standard output, of standard error, and of all files that were asked for."""


def head(path: str, limit: int) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(limit)


def printed(file: IO[bytes], limit: int) -> str:
    """What a program has written to a file without a name."""
    file.seek(0)
    return file.read(limit).decode(errors="replace")


def main() -> None:
    """Run the program that the order on the command line names."""
    ctypes.CDLL(None).prctl(DUMPABLE, 0, 0, 0, 0)
    token = sys.stdin.readline().strip()
    pipe = int(sys.argv[1])
    order = json.loads(sys.argv[2])
    code, work = order["code"], order["work"]
    program = os.path.join(work, "program")
    shutil.copytree(code, program)
    with tempfile.TemporaryFile(dir=work) as stdout, tempfile.TemporaryFile(dir=work) as stderr:
        exit_code = subprocess.run(
            [sys.executable, "-s", *order["arguments"]],
            cwd=program,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            check=False,
        ).returncode
        out, err = printed(stdout, OUTPUT), printed(stderr, ERRORS)
    files, left = {}, FILES
    for name in order["outputs"]:
        with contextlib.suppress(OSError):
            content = head(os.path.join(program, name), left + 1)
            if len(content) <= left:
                files[name] = base64.b64encode(content).decode()
                left -= len(content)
    result = {
        "token": token,
        "exit_code": exit_code,
        "output": out,
        "errors": err,
        "files": files,
    }
    with os.fdopen(pipe, "w") as stream:
        json.dump(result, stream)


main()
