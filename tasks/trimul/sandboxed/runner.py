"""Runs kernels on buffers that the harness owns, call by call: one JSON object a line.

Each kernel has a process of its own. On a CPU these are forks of one process that has imported torch, which costs more
than most kernels; on a GPU there is one for each start, as CUDA survives no fork.

It is as little to be trusted as the kernel that it runs, which shares its process. The harness believes nothing of what
it says but that it said so, and when.
"""

import base64
import ctypes
import json
import os
import sys
import traceback
import types
from typing import Any

import numpy as np
import torch
from layout import offsets
from workload import HIDDEN, Workload, kinds, shapes

ENTRY = "custom_kernel"
DUMPABLE = 4


def buffer(device: str, handle: Any) -> torch.Tensor:
    """The harness's memory as bytes: a file that both map, or a CUDA allocation that both have open."""
    if device == "cpu":
        size = os.fstat(int(handle)).st_size
        return torch.from_file(f"/proc/self/fd/{handle}", shared=True, size=size, dtype=torch.uint8)
    parts = [base64.b64decode(part["bytes"]) if isinstance(part, dict) else part for part in handle]
    torch.cuda.init()
    storage = torch.UntypedStorage._new_shared_cuda(*parts)
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage, 0, (storage.nbytes(),), (1,))


def part_of(memory: torch.Tensor, offset: int, shape: tuple[int, ...], kind: str) -> torch.Tensor:
    """A tensor in the memory."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return memory[offset : offset + size].view(getattr(torch, kind)).view(shape)


def last_line(wrong: BaseException) -> str:
    """An error as a compiler would say it: its line in the kernel, if there is one, and its message."""
    frames = [frame for frame in traceback.extract_tb(wrong.__traceback__) if frame.filename == "kernel.py"]
    where = f"line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(wrong).__name__}: {wrong}"[:2000]


class Runner:
    """One kernel with its buffers, and the case that it is called for."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory
        self.kernel: Any = None
        self.data: Any = None
        self.out = self.nothing = memory

    def load(self, order: dict[str, Any]) -> None:
        """Import the kernel."""
        with open(order["file"], encoding="utf-8") as file:
            source = file.read()
        module = types.ModuleType("kernel")
        sys.modules["kernel"] = module  # where Triton looks for a function's source
        module.__file__ = order["file"]
        exec(compile(source, order["file"], "exec"), module.__dict__)
        self.kernel = getattr(module, ENTRY)

    def case(self, order: dict[str, Any]) -> None:
        """Prepare the tensors of a workload."""
        workload = Workload(*order["workload"])
        places, kind = offsets(workload), kinds(workload)
        inputs = {
            name: part_of(self.memory, places[name], shape, kind[name]) for name, shape in shapes(workload).items()
        }
        x, mask = inputs.pop("x"), inputs.pop("mask")
        self.data = (x, mask, inputs, {"hidden_dim": HIDDEN, "dim": workload.dim})
        self.out = part_of(self.memory, places["out"], workload.output_shape, "float32")
        self.nothing = torch.zeros(workload.output_shape, device=self.memory.device)

    def call(self, order: dict[str, Any]) -> None:
        """Call the kernel, and put its result where the harness reads it."""
        with torch.no_grad():
            self.hand_over(self.kernel(self.data))

    def null(self, order: dict[str, Any]) -> None:
        """What a call costs without a kernel."""
        self.hand_over(self.nothing)

    def hand_over(self, out: Any) -> None:
        """Copy a result to the harness."""
        if not isinstance(out, torch.Tensor) or out.shape != self.out.shape:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise TypeError(f"the kernel returned {shape}; expected a tensor {tuple(self.out.shape)}")
        if out.dtype != torch.float32:
            raise TypeError(f"the kernel returned {out.dtype}; expected torch.float32")
        self.out.copy_(out)
        if self.out.is_cuda:
            torch.cuda.synchronize()


def compiling(wrong: BaseException) -> bool:
    """Whether Triton could not compile a kernel, which it does when that is first called."""
    return type(wrong).__module__.startswith("triton.compiler")


def main() -> None:
    """Serve one pair of pipes, and a second one in a fork: the candidate's, which is the reference's child then."""
    device, handle, *pipes = sys.argv[1:]
    pairs = [(int(read), int(write), kind == "protected") for read, write, kind in (pipe.split(",") for pipe in pipes)]
    mine = pairs[1] if len(pairs) > 1 and os.fork() == 0 else pairs[0]
    for orders, answers, _ in set(pairs) - {mine}:
        os.close(orders)
        os.close(answers)
    serve(device, handle, *mine)


def serve(device: str, handle: str, read: int, answers: int, protected: bool) -> None:
    """Answer orders until they end."""
    orders = os.fdopen(read, "rb")
    runner = Runner(buffer(device, json.loads(handle)))
    if protected:  # the candidate has the same account
        ctypes.CDLL(None).prctl(DUMPABLE, 0, 0, 0, 0)
    functions = {name: getattr(runner, name) for name in ("load", "case", "call", "null")}
    about = {"pid": os.getpid(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    os.write(answers, json.dumps(about).encode() + b"\n")
    for line in orders:
        order = json.loads(line)
        answer: dict[str, str | bool] = {}
        try:
            functions[order["do"]](order)
        except (Exception, SystemExit) as wrong:
            answer = {"wrong": last_line(wrong), "compiling": compiling(wrong)}
        os.write(answers, json.dumps(answer).encode() + b"\n")


main()
