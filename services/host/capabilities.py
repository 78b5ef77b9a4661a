"""What this host can do that not every host can, as verifiers need it."""

import functools
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from tasks.contract import Capability

PATIENCE = 60.0
"""Seconds that torch may take to start, and to say whether it can use a device."""
WORDS: dict[Capability, str] = {"cuda": "a CUDA device and a torch that can use it"}
ASK_TORCH = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def missing_capabilities(needs: Collection[Capability]) -> list[Capability]:
    """Those that this host lacks."""
    return [need for need in needs if not HAS[need]()]


@functools.cache
def _has_cuda() -> bool:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return False
    try:  # in a process of its own: a service has no use for a device
        asked = subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


HAS = {"cuda": _has_cuda}
