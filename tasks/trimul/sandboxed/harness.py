"""Checks and times a kernel inside the sandbox, from a process that the kernel cannot touch.

The kernel runs in a runner (`runner.py`), a process of its own; so does the reference. This process owns the buffer
that inputs and outputs are in, and the clock. A repeat goes like this:

1. New inputs are drawn, from a seed that this process draws only now.
2. All processes but the runner whose turn it is are stopped. The caches are flushed.
3. The clock starts. The inputs are written to the buffer, at the same addresses as ever. The runner is told to go.
4. The runner says that it is done. The output is copied out of the buffer, and the clock stops.
5. A runner of the reference does the same with no kernel at all: what that takes is not the kernel's.

On a CPU, a turn's time is the processor time of the runner and all that it started: other work on the machine is not
the kernel's. Where threads or processes were started in a turn, one of which may have ended uncounted, it is the
clock's where that is more.

So work that is put off, to another stream, thread or process, is on the clock, or else missing in the output. Nothing
that the kernel's process says of time is used. What is copied out goes to the verifier as a file, with its digest in
this process's own output, and is judged there.

The plan is read from plan.json; what came of it is printed as one JSON object.
"""

import ctypes
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from layout import offsets
from workload import Workload

DUMPABLE, SUBREAPER, SCHEDULED = 4, 36, 2
STARTED = "started"
"""Printed to standard error before any of the kernel's code runs: whatever fails from there on may be its doing."""
LINE = 8192
OUTPUTS = "outputs.bin"


class Failed(Exception):
    """A runner has failed: the outcome, and what to say of it."""


def protect() -> None:
    """Keep other processes of this account out of this one's memory and files, and have orphans become its children."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((DUMPABLE, 0), (SUBREAPER, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise SystemExit("unprotected")


def children_of(process: int) -> list[int]:
    """A process's children."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    return found


def tree(process: int) -> set[int]:
    """A process and all its descendants."""
    processes = [process]
    for one in processes:
        processes += children_of(one)
    return set(processes)


def stopped(process: int) -> bool:
    """Whether a process is stopped, or has ended."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "TtZX"
    except OSError:
        return True


def processor_time(processes: set[int]) -> int:
    """Nanoseconds for which these processes have run, threads that have ended among them (clock_getcpuclockid(3))."""
    total = 0
    for process in processes:
        with suppress(OSError):
            total += time.clock_gettime_ns(~process << 3 | SCHEDULED)
    return total


def newest() -> str:
    """The number of the thread or process that was last started in this sandbox (proc_loadavg(5))."""
    with open("/proc/loadavg") as file:
        return file.read().split()[-1]


def send(processes: set[int], number: int) -> None:
    """A signal to each."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def started(device: str, handle: Any, fds: tuple[int, ...]) -> tuple["RunnerProcess", "RunnerProcess"]:
    """The reference's runner and the candidate's."""
    pair = RunnerProcess("protected"), RunnerProcess("")
    environment = {**os.environ, "HOME": os.getcwd(), "TRITON_CACHE_DIR": os.path.join(os.getcwd(), "triton")}
    if device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    for together in [pair] if device == "cpu" else [pair[:1], pair[1:]]:
        nowhere = subprocess.DEVNULL
        subprocess.Popen(
            [sys.executable, "-s", "runner.py", device, json.dumps(handle), *(runner.words for runner in together)],
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            env=environment,
            pass_fds=(*(fd for runner in together for fd in runner.theirs), *fds),
        )
    for runner in pair:
        for fd in runner.theirs:
            os.close(fd)
    return pair


class RunnerProcess:
    """A runner, and the two pipes to it."""

    def __init__(self, kind: str) -> None:
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.theirs = orders, answers
        self.words = f"{orders},{answers},{kind}"
        self.pid = 0
        self._read = b""

    def tell(self, **order: Any) -> None:
        """Give an order."""
        with suppress(BrokenPipeError):
            os.write(self._orders, json.dumps(order).encode() + b"\n")

    def hear(self, seconds: float) -> dict[str, Any]:
        """The answer to an order; raises Failed where there is none in time, or none that can be read."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise Failed("failed_to_run", f"a call took longer than {seconds:.0f} s")
            chunk = os.read(self._answers, 65536)
            if not chunk or len(self._read) > LINE:
                raise Failed("failed_to_run", "its process ended by itself")
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise Failed("failed_to_run", "its process spoke in the runner's place")
        return answer

    def do(self, seconds: float, outcome: str = "failed_to_run", **order: Any) -> dict[str, Any]:
        """Give an order, and wait until it is done."""
        self.tell(**order)
        answer = self.hear(seconds)
        if "wrong" in answer:
            raise Failed("failed_to_compile" if answer.get("compiling") else outcome, str(answer["wrong"]))
        return answer


class CpuMemory:
    """The shared buffer of a CPU: a file without a name."""

    device = "cpu"

    def __init__(self, size: int) -> None:
        import mmap

        self._fd = os.open("buffer", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink("buffer")
        os.ftruncate(self._fd, size)
        self._memory = np.frombuffer(mmap.mmap(self._fd, size), np.uint8)
        self._scratch = np.zeros(8 << 20, np.uint8)
        self.handle: Any = self._fd
        self.fds: tuple[int, ...] = (self._fd,)

    def draw(self, workload: Workload, seed: int) -> dict[str, Any]:
        """New inputs, which no runner can see yet."""
        from workload import draw

        return {name: array.reshape(-1).view(np.uint8) for name, array in draw(workload, seed).items()}

    def write(self, inputs: dict[str, Any], places: dict[str, int]) -> None:
        """Put inputs in their places."""
        for name, array in inputs.items():
            self._memory[places[name] : places[name] + array.size] = array

    def flush(self) -> None:
        """Have the caches hold something else."""
        self._scratch += 1

    def copy(self, places: dict[str, int]) -> Any:
        """The output as it is now."""
        return self._memory[places["out"] : places["end"]].copy()

    def spoil(self, places: dict[str, int]) -> None:
        """Leave nothing of inputs and output."""
        self._memory[: places["end"]] = 255

    def sample(self, output: Any, workload: Workload, limit: int) -> tuple[bytes, list[list[int]]]:
        """The part of the output that the verifier gets, and which that is; nothing: all."""
        return output.tobytes(), []

    def clocks(self) -> str:
        """The clocks now, for the record."""
        with suppress(OSError), open("/proc/cpuinfo") as file:
            return "MHz " + " ".join(line.split(":")[1].strip() for line in file if line.startswith("cpu MHz"))
        return ""


def memory_of(device: str, size: int) -> Any:
    """The shared buffer."""
    if device == "cpu":
        return CpuMemory(size)
    from cuda_memory import CudaMemory

    return CudaMemory(size)


class Harness:
    """A candidate and the reference with their runners, and what came of each repeat."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan, self._deadline = plan, time.monotonic() + plan["seconds"]
        self._workloads = [Workload(*fields) for fields in plan["workloads"]]
        self._memory = memory_of(plan["device"], max(offsets(one)["end"] for one in self._workloads))
        self.reference, self.candidate = started(plan["device"], self._memory.handle, self._memory.fds)
        self._out = os.open(OUTPUTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._digest = hashlib.sha256()

    def _left(self) -> float:
        left: float = self._deadline - time.monotonic()
        if left <= 0:
            raise Failed("failed_to_run", f"all its calls together took longer than {self._plan['seconds']:.0f} s")
        return left

    def run(self) -> dict[str, Any]:
        """All cases."""
        try:
            about = self.reference.hear(self._left())
            for runner, said in ((self.reference, about), (self.candidate, self.candidate.hear(self._left()))):
                runner.pid = int(said["pid"])  # no code of the kernel's has run yet
            self.reference.do(self._left(), do="load", file="reference_kernel.py")
        except Failed as failed:  # not the candidate's doing, so far as can be known: nobody's time
            raise SystemExit(f"the reference does not run: {failed.args[1]}") from None
        print(STARTED, file=sys.stderr, flush=True)
        self.candidate.do(
            min(self._left(), self._plan["load_seconds"]), "failed_to_compile", do="load", file="kernel.py"
        )
        asked = zip(self._workloads, self._plan["repeats"], strict=True)
        cases = [self._case(workload, repeats) for workload, repeats in asked]
        return {"outcome": "", "cases": cases, "about": about}

    def _case(self, workload: Workload, repeats: int) -> dict[str, Any]:
        places = offsets(workload)
        for runner in (self.reference, self.candidate):
            with self._alone(runner):
                runner.do(self._left(), do="case", workload=list(workload))
        before, done = self._memory.clocks(), []
        for number in range(1 + repeats):  # the first warms up, is checked, and does not count
            seed = int.from_bytes(os.urandom(7))
            inputs = self._memory.draw(workload, seed)
            turn = {}
            both = [
                ("candidate", self.candidate, "call"),
                ("reference", self.reference, "call" if self._plan["timed"] else "null"),
            ]
            if number % 2:
                both.reverse()  # whoever goes second finds warmer caches
            for name, runner, what in (*both, ("null", self.reference, "null")):
                turn[name], output = self._turn(runner, what, inputs, places)
                if name == "candidate":
                    part, rows = self._memory.sample(output, workload, self._plan["sample"])
                    os.write(self._out, part)
                    self._digest.update(part)
            done.append({"seed": seed, "size": len(part), "rows": rows, **turn})
            if self._plan["timed"] and turn["candidate"] > self._plan["patience"] * max(turn["reference"], 1):
                break  # so slow that more repeats say nothing more
        return {"workload": list(workload), "repeats": done, "clocks": [before, self._memory.clocks()]}

    @contextmanager
    def _alone(self, runner: RunnerProcess) -> Iterator[set[int]]:
        """Stop all other processes of the sandbox that this one can reach; the runner's own are given."""
        own = tree(runner.pid) if runner is self.candidate else {runner.pid}
        while running := {one for one in tree(os.getpid()) - {os.getpid()} - own if not stopped(one)}:
            self._left()
            send(running, signal.SIGSTOP)
        send(own, signal.SIGCONT)
        yield own
        send(tree(os.getpid()) - {os.getpid()}, signal.SIGCONT)

    def _turn(self, runner: RunnerProcess, what: str, inputs: Any, places: dict[str, int]) -> tuple[int, Any]:
        """Nanoseconds from the inputs to the output, and the output."""
        with self._alone(runner) as own:
            self._memory.flush()
            limit, started, ran = self._left(), newest(), processor_time(own)
            began = time.perf_counter_ns()
            self._memory.write(inputs, places)
            runner.do(limit, do=what)
            output = self._memory.copy(places)
            took = time.perf_counter_ns() - began
            if self._memory.device == "cpu":
                used = processor_time(own) - ran
                took = used if newest() == started else max(used, took)
            self._memory.spoil(places)  # before anybody goes on, so that nobody finds this turn's inputs or output
        return took, output

    def end(self) -> str:
        """End all runners and whatever they started; the digest of the outputs."""
        while found := set(children_of(os.getpid())):
            send(tree(os.getpid()) - {os.getpid()}, signal.SIGKILL)
            for child in found:
                with suppress(ChildProcessError):
                    os.waitpid(child, 0)
        os.close(self._out)
        return self._digest.hexdigest()


def main() -> None:
    """Carry out the plan."""
    protect()
    with open("plan.json", encoding="utf-8") as file:
        plan = json.load(file)
    harness = Harness(plan)
    try:
        result = harness.run()
    except Failed as failed:
        result = {"outcome": failed.args[0], "details": failed.args[1], "cases": []}
    except (OSError, MemoryError) as wrong:  # the disk or the memory that it shares with the kernel is full
        result = {"outcome": "failed_to_run", "details": f"its sandbox broke: {wrong}", "cases": []}
    finally:
        digest = harness.end()
    os.ftruncate(1, 0)  # a file of this account, in which a kernel may have written
    os.lseek(1, 0, os.SEEK_SET)
    print(json.dumps({**result, "digest": digest}))


main()
