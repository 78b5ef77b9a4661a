"""What this host can do that not every host can, as verifiers need it."""

import functools
import shutil
import subprocess
from collections.abc import Collection

from events.errors import NotHere
from tasks.contract import Capability

PATIENCE = 20.0
"""Seconds that a driver may take to list its devices."""
WORDS: dict[Capability, str] = {"cuda": "a CUDA device (`nvidia-smi -L` names none)"}


def missing_capabilities(needs: Collection[Capability]) -> list[Capability]:
    """Those that this host lacks."""
    return [need for need in needs if not HAS[need]()]


def require_capabilities(needs: Collection[Capability]) -> None:
    """Raise `NotHere`, with what this host lacks of a verifier's needs."""
    if missing := missing_capabilities(needs):
        raise NotHere(f"The run's verifier needs {WORDS[missing[0]]}, and this host has none.", code=78)


@functools.cache
def _has_cuda() -> bool:
    if (program := shutil.which("nvidia-smi")) is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and b"GPU " in listed.stdout


HAS = {"cuda": _has_cuda}
