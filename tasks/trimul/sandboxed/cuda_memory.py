"""The buffer that harness and runners share on a GPU: memory of the harness's own process, opened by the others."""

import base64
import subprocess
from contextlib import suppress
from typing import Any

import torch
from layout import drawn_parts
from workload import Workload
from workload_cuda import draw

L2 = 256 << 20
"""More bytes than any L2 cache has."""


class CudaMemory:
    """As harness.CpuMemory, on the first CUDA device."""

    device = "cuda"

    def __init__(self, size: int) -> None:
        torch.cuda.init()
        self._memory = torch.zeros(size, dtype=torch.uint8, device="cuda")
        self._scratch = torch.zeros(L2, dtype=torch.uint8, device="cuda")
        shared = self._memory.untyped_storage()._share_cuda_()
        self.handle: Any = [
            {"bytes": base64.b64encode(part).decode()} if isinstance(part, bytes) else part for part in shared
        ]
        self.fds: tuple[int, ...] = ()

    def draw(self, workload: Workload, seed: int) -> dict[str, torch.Tensor]:
        """New inputs, which no runner can see yet."""
        inputs = {name: tensor.reshape(-1).view(torch.uint8) for name, tensor in draw(workload, seed).items()}
        torch.cuda.synchronize()
        return inputs

    def write(self, inputs: dict[str, torch.Tensor], places: dict[str, int]) -> None:
        """Put inputs in their places."""
        for name, tensor in inputs.items():
            self._memory[places[name] : places[name] + tensor.numel()].copy_(tensor)
        torch.cuda.synchronize()

    def flush(self) -> None:
        """Have the L2 cache hold something else."""
        self._scratch.add_(1)
        torch.cuda.synchronize()

    def copy(self, places: dict[str, int]) -> torch.Tensor:
        """The output as it is now."""
        output = self._memory[places["out"] : places["end"]].clone()
        torch.cuda.synchronize()
        return output

    def spoil(self, places: dict[str, int]) -> None:
        """Leave nothing of inputs and output."""
        self._memory[: places["end"]].fill_(255)
        torch.cuda.synchronize()

    def sample(self, output: torch.Tensor, workload: Workload, limit: int) -> tuple[bytes, list[list[int]]]:
        """The part of the output that the verifier gets, and which that is, as `drawn_parts` has it; nothing: all.

        It is drawn only now, when the output is copied already.
        """
        rows = output.view(torch.float32).view(workload.bs * workload.n, workload.n, workload.dim)
        if output.numel() <= limit:
            return rows.cpu().numpy().tobytes(), []
        parts = drawn_parts(*rows.shape, limit)
        return b"".join(rows[row, at:to].cpu().numpy().tobytes() for row, at, to in parts), parts

    def clocks(self) -> str:
        """Clocks, temperature and power now, as nvidia-smi says them."""
        fields = "name,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"
        with suppress(OSError, subprocess.SubprocessError):
            command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
            return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        return ""
