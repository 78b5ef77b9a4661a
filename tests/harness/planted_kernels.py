"""Kernels for TriMul that cheat, each in a way of its own, and others that fail."""

from tasks.trimul.baselines import text

REFERENCE = text("reference")
_COMPUTE = REFERENCE.replace("def custom_kernel", "def compute")
"""The reference under another name, for kernels that do the work, but not when they should."""

IN_A_THREAD = f"""{_COMPUTE}
import threading

def custom_kernel(data):
    out = torch.zeros_like(data[0])
    threading.Thread(target=lambda: out.copy_(compute(data)), daemon=True).start()
    return out
"""
"""A side stream, as far as a CPU has one: the work is put off to a thread."""

_BUSY = """
import time

def busy(seconds, clock=time.process_time):
    until = clock() + seconds
    while clock() < until:
        pass
"""
LAZY = f"""{_COMPUTE}{_BUSY}
class Lazy(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [compute(one.data_of) if isinstance(one, cls) and hasattr(one, "data_of") else one for one in args]
        busy(0.2)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {{}}))

def custom_kernel(data):
    with torch._C.DisableTorchFunctionSubclass():
        out = torch.empty_like(data[0]).as_subclass(Lazy)
    out.data_of = data
    return out
"""
"""A tensor that is computed when it is read; slow, so that it is seen that reading it counts."""

BY_POINTER = f"""{_COMPUTE}
seen = {{}}

def custom_kernel(data):
    key = data[0].data_ptr()
    if key not in seen:
        seen[key] = compute(data)
    return seen[key]
"""
"""Outputs remembered by the address of the input."""

REPLAY = f"""{_COMPUTE}
first = []

def custom_kernel(data):
    if not first:
        first.append(compute(data))
    return first[0]
"""
"""The first output again and again."""

PATCHED_CLOCKS = f"""{_COMPUTE}{_BUSY}
def custom_kernel(data):
    busy(0.2)
    return compute(data)

time.perf_counter = time.perf_counter_ns = time.monotonic = time.clock_gettime_ns = lambda *arguments: 0
torch.cuda.synchronize = torch.cuda.Event.elapsed_time = torch.cuda.Event.record = lambda *arguments: 0
"""
"""Libraries of time and events that stand still."""

PATCHED_CHECKS = """
import numpy, torch

torch.allclose = torch.isclose = torch.equal = numpy.allclose = numpy.array_equal = lambda *arguments, **names: True

def custom_kernel(data):
    return torch.zeros_like(data[0])
"""
"""Libraries that find everything equal."""

INPUT = """
def custom_kernel(data):
    return data[0]
"""
"""What came in."""

COARSE = REFERENCE.replace('jkd->bijd", left, right)', 'jkd->bijd", left.round(), right.round())')
"""Operands with next to no digits."""

UNMASKED = REFERENCE.replace("* mask *", "*")
"""No mask: right where the mask is all ones."""

FOR_THESE_SHAPES = f"""{_COMPUTE}
def custom_kernel(data):
    if data[0].shape[1] in (24, 32, 48) and data[0].shape[3] in (128, 256):
        return compute(data)
    return torch.zeros_like(data[0])
"""
"""Right at the shapes that are timed, and nowhere else."""

_HARNESS = """
import os

with open(f"/proc/{os.getppid()}/stat") as file:  # a fork of the reference's process, which the harness started
    harness = file.read().rpartition(")")[2].split()[1]
"""
IN_THE_HARNESS = f"""{_COMPUTE}{_HARNESS}
def custom_kernel(data):
    open(f"/proc/{{harness}}/mem", "r+b").close()
    return compute(data)
"""
"""Reaches for the memory of the process that has the clock."""

ON_ITS_OUTPUT = f"""{_COMPUTE}{_HARNESS}
def custom_kernel(data):
    with open(f"/proc/{{harness}}/fd/1", "w") as file:
        file.write("{{}}")
    return compute(data)
"""
"""Writes where that process prints."""

OVER_THE_OUTPUTS = f"""{_COMPUTE}
def custom_kernel(data):
    with open("outputs.bin", "wb") as file:
        file.write(bytes(16))
    return compute(data)
"""
"""Writes in the file of the outputs."""

AGAINST_THE_REFERENCE = f"""{_COMPUTE}
import os, signal, time

reference = os.getppid()
if os.fork() == 0:
    os.setsid()
    while True:
        os.kill(reference, signal.SIGSTOP)
        time.sleep(0.001)

def custom_kernel(data):
    return compute(data)
"""
"""Has a process of its own that stops the reference's, over and over."""

NO_PROGRAM = "def custom_kernel(data:\n    return data\n"
NO_ENTRY = "def kernel(data):\n    return data[0]\n"
RAISES = "def custom_kernel(data):\n    raise ValueError('no such tile')\n"
DIES = "import os\n\ndef custom_kernel(data):\n    os._exit(7)\n"
KILLS = "import os\n\ndef custom_kernel(data):\n    os.kill(os.getppid(), 9)\n"
FILLS = """
def custom_kernel(data):
    with open("full", "wb") as file, open("fuller", "wb") as other, open("fullest", "wb") as last:
        for each in (file, other, last):
            try:
                while True:
                    each.write(bytes(1 << 20))
            except OSError:
                pass
    return data[0]
"""
OTHER_TYPE = f"{_COMPUTE}\ndef custom_kernel(data):\n    return compute(data).half()\n"
SLOW = f"{_COMPUTE}{_BUSY}\ndef custom_kernel(data):\n    busy(0.2)\n    return compute(data)\n"
IN_A_PROCESS = f"""{_COMPUTE}
import os, signal

signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def custom_kernel(data):
    read, write = os.pipe()
    if os.fork() == 0:
        for _ in range(50):
            out = compute(data)
        os.write(write, out.numpy().tobytes())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=torch.float32).view(data[0].shape)
"""
"""Works in a process that nobody counts once it has ended."""
