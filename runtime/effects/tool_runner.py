"""Runs a candidate's program inside the sandbox, for a verifier, and sends back what came of it.

It is a script of its own, started by `tools.py` inside the sandbox, and imports nothing of evolog. It copies the
program's files to its work folder, runs Python there, and writes one JSON object to a pipe. All that it sends is the
candidate's word: the program runs under the same account.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys

OUTPUT, ERRORS, FILES = 1 << 20, 64 << 10, 64 << 20
"""Bytes that are kept of standard output, of standard error, and of all files that were asked for."""


def head(path: str, limit: int) -> bytes:
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(limit)


def main() -> None:
    """Run the program that the order on the command line names."""
    pipe = int(sys.argv[1])
    order = json.loads(sys.argv[2])
    code, work = order["code"], order["work"]
    program = os.path.join(work, "program")
    shutil.copytree(code, program)
    out, err = os.path.join(work, "out"), os.path.join(work, "err")
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        exit_code = subprocess.run(
            [sys.executable, "-s", *order["arguments"]],
            cwd=program,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            check=False,
        ).returncode
    files, left = {}, FILES
    for name in order["outputs"]:
        with contextlib.suppress(OSError):
            content = head(os.path.join(program, name), left + 1)
            if len(content) <= left:
                files[name] = base64.b64encode(content).decode()
                left -= len(content)
    result = {
        "exit_code": exit_code,
        "output": head(out, OUTPUT).decode(errors="replace"),
        "errors": head(err, ERRORS).decode(errors="replace"),
        "files": files,
    }
    with os.fdopen(pipe, "w") as stream:
        json.dump(result, stream)


main()
