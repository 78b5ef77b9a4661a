"""What a hostile scaffold would try, each judged from the host: nothing read, nothing written, nobody reached, nothing
left.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.rollouts.host import AttemptOutcome, ScaffoldData, ScaffoldLimits, ScaffoldProcess, ScaffoldStopped
from runtime.rollouts.openai import relay
from runtime.sandbox.launch import Command, Confined
from runtime.sandbox.limits import Watchdog, _held_deleted, _proportional, tree
from tests.harness.polling import wait_until
from tests.harness.programs import LOOKS_AT_OTHERS
from tests.sandbox import holder
from tests.sandbox.attacked import SYSTEM_PYTHON, USER, Host, Sandbox

pytestmark = pytest.mark.slow

MIB = 1024**2
X86 = platform.machine() == "x86_64"


def named(marker: str) -> list[int]:
    """The processes of this host that run `sleep` for that long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", marker.encode()]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until_gone(marker: str) -> None:
    wait_until(lambda: not named(marker), "every process of that name is gone")


@pytest.fixture
def marker() -> Iterator[str]:
    """Seconds of a `sleep` that no other process has; what still sleeps so afterwards is killed."""
    marker = f"{4000 + os.urandom(1)[0]}.{int.from_bytes(os.urandom(4))}"
    yield marker
    for process in named(marker):
        os.kill(process, 9)


def account(sandbox: Sandbox) -> dict[str, Any]:
    """Under whose account a process of the host is one that the sandbox's launcher could reach."""
    return {"user": USER, "group": USER, "extra_groups": []} if sandbox.apart else {}


def test_labels_and_keys_are_not_read(sandbox: Sandbox, host: Host) -> None:
    code = "import sys; print(open(sys.argv[1]).read())"
    assert host.secret in sandbox.unconfined(code, host.folder / "labels.json").out
    assert host.secret not in sandbox.attack(code, host.folder / "labels.json").out
    for way in ("/proc/self/root", "/proc/1/root", "/proc/1/cwd/../../../..", "/oldroot", "/dev/fd/../../.."):
        assert host.secret not in sandbox.attack(code, f"{way}{host.folder / 'labels.json'}").out


def test_neither_this_program_nor_a_home_nor_accounts_are_there(sandbox: Sandbox) -> None:
    wanted = [
        Path(__file__).parents[2] / "services",
        Path(__file__).parents[2] / ".git",
        Path.home() / ".cache",
        "/etc/passwd",
        "/var",
        "/run",
        "/sys",
    ]
    code = (
        "import os, sys\n"
        "for path in sys.argv[1:]:\n"
        "  try: print(path, os.listdir(path) if os.path.isdir(path) else open(path).read())\n"
        "  except OSError: pass"
    )
    assert "/etc/passwd root" in sandbox.unconfined(code, *wanted).out
    assert sandbox.attack(code, *wanted).out == ""


def test_other_processes_environments_are_not_read(sandbox: Sandbox, host: Host) -> None:
    one = "import sys; print(open(f'/proc/{sys.argv[1]}/environ').read())"
    everywhere = (
        "import glob, re\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "  try: print(*re.findall('SECRET-[0-9a-f]+', open(path, errors='replace').read()))\n"
        "  except OSError: pass\n"
        "print('looked')"
    )
    with subprocess.Popen(["sleep", "30"], env={"API_KEY": host.secret}, **account(sandbox)) as other:
        try:
            assert host.secret in sandbox.unconfined(one, other.pid).out
            ended = sandbox.attack(one, other.pid)
            looked = sandbox.attack(everywhere)
        finally:
            other.kill()
    assert host.secret not in ended.out and "looked" in looked.out and "SECRET" not in looked.out


def test_the_launchers_environment_and_paths_are_not_in_the_first_process(
    sandbox: Sandbox, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", host.secret)
    code = (
        "import os\n"
        "for what in ('environ', 'cmdline'):\n"
        "  try: print(open(f'/proc/1/{what}').read() if os.getppid() < 3 else '')\n"
        "  except OSError: pass\n"
        "print(os.environ)"
    )
    out = sandbox.attack(code).out
    assert "environ(" in out and host.secret not in out and "HOME" not in out and "--ro-bind" not in out


def test_descriptors_are_not_inherited(sandbox: Sandbox, host: Host) -> None:
    code = "import os\nfor fd in range(3, 300):\n try: print(fd, os.read(fd, 100))\n except OSError: pass"
    held = os.open(host.folder / "labels.json", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        assert sandbox.attack(code).out == ""
    finally:
        os.close(held)


@pytest.mark.skipif(os.geteuid() != 0, reason="another account cannot be had")
def test_what_the_relay_holds_is_hidden_from_its_own_account(open_folder: Path) -> None:
    folder = open_folder / "relayed"
    folder.mkdir()
    for name, text in (("relay.py", Path(relay.__file__).read_text()), ("looks.py", LOOKS_AT_OTHERS)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    command = [
        SYSTEM_PYTHON,
        f"{folder}/relay.py",
        "/none.sock",
        "0",
        "60",
        "-",
        "/",
        SYSTEM_PYTHON,
        f"{folder}/looks.py",
    ]
    done = subprocess.run(command, user=USER, group=USER, extra_groups=[], capture_output=True, text=True, check=False)
    relays, opened = done.stdout.split(maxsplit=1)
    assert int(relays) >= 1 and opened == "[]\n", done


NETWORK = """
import socket, sys
port, name, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def tcp(address): socket.create_connection((address, port), 1).send(b'x')
def unix(address): socket.socket(socket.AF_UNIX).connect(address)
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))
def raw(): socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
def vsock(): socket.socket(40, socket.SOCK_STREAM).connect((2, 1))
def netlink(): socket.socket(16, socket.SOCK_RAW, 0)
def packet(): socket.socket(17, socket.SOCK_RAW, 0)
def alg(): socket.socket(38, 5, 0)
ways = {'loopback': lambda: tcp('127.0.0.1'), 'own address': lambda: tcp(sys.argv[4]),
        'abstract': lambda: unix('\\0' + name), 'udp': udp, 'raw': raw, 'vsock': vsock, 'netlink': netlink,
        'packet': packet, 'alg': alg}
for what, way in ways.items():
  try: way(); print('REACHED', what)
  except OSError as wrong: print(what, wrong.errno)
"""


def test_the_network_is_not_reached(sandbox: Sandbox, host: Host) -> None:
    arguments = (host.port, host.abstract_name, host.folder, own_address())
    free = sandbox.unconfined(NETWORK, *arguments).out
    assert all(f"REACHED {what}" in free for what in ("loopback", "own address", "abstract", "netlink")), free
    for one in (host.listener, host.listener, host.abstract):
        one.accept()[0].close()
    ended = sandbox.attack(NETWORK, *arguments)
    assert (
        "REACHED" not in ended.out and "vsock 1" in ended.out and "netlink 1" in ended.out and "packet 1" in ended.out
    ), ended
    for one in (host.listener, host.abstract):
        with pytest.raises(TimeoutError):
            one.accept()


def own_address() -> str:
    """An address of this host that is not loopback, or loopback's second one where there is none."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return next((address for address in said if "." in address), "127.0.0.2")


def test_nothing_is_written_outside(sandbox: Sandbox, host: Host) -> None:
    code = (
        "import os, sys\n"
        "for path in sys.argv[1:]:\n"
        "  for act in (lambda: open(path, 'a').write('x'), lambda: os.mkdir(path + '.d'), lambda: os.symlink('/', "
        "path + '.l')):\n"
        "    try: act(); print('WROTE', path)\n"
        "    except OSError: pass\n"
        "open('mine', 'w').write('x'); print('work')"
    )
    places = [
        host.folder / "planted",
        Path("/planted"),
        Path("/usr/bin/planted"),
        Path(sys.prefix, "planted"),
        Path("/etc/planted"),
        Path("/evolog/planted"),
    ]
    (host.folder / "control").mkdir()
    (host.folder / "control").chmod(0o777)
    assert "WROTE" in sandbox.unconfined(code, host.folder / "control" / "planted").out
    assert sandbox.attack(code, *places, host.folder / "labels.json").out.split() == ["work"]
    assert not [path for place in places for path in place.parent.glob("planted*")]
    assert (host.folder / "labels.json").read_text() == host.secret


def test_nothing_outlives_the_command(sandbox: Sandbox, marker: str) -> None:
    code = (
        "import os, sys, signal\n"
        "if os.fork() == 0:\n"
        "  os.setsid()\n"
        "  if os.fork() == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "    os.closerange(0, 3); os.execvp('sleep', ['sleep', sys.argv[1]])\n"
        "  os._exit(0)\n"
        "import time; time.sleep(0.3); print('done')"
    )
    assert "done" in sandbox.attack(code, marker).out
    wait_until_gone(marker)
    sandbox.unconfined(code, marker)
    assert named(marker)


TAKES_OVER = """
import os, struct, sys, time
call = '0f05'
clear_death_signal = 'bf01000000 31f6 b89d000000' + call
write = 'ba08000000 b801000000' + call
end_launcher = ''.join('6a01 4889e6 bf' + struct.pack('<I', fd).hex() + write for fd in range(3, 12))
wait = 'b822000000' + call + 'ebf7'
try:
  at = int(open('/proc/1/syscall').read().split()[-1], 16)
  memory = os.open('/proc/1/mem', os.O_RDWR)
  os.pwrite(memory, bytes.fromhex(clear_death_signal + end_launcher + wait), at)
except PermissionError:
  print('denied', flush=True)
for _ in range(2):  # orphans: the first process wakes up
  if os.fork() == 0:
    if os.fork() == 0:
      os.closerange(0, 3); os.execvp('sleep', ['sleep', sys.argv[1]])
    os._exit(0)
time.sleep(1); print('went', flush=True)
"""


@pytest.mark.skipif(not X86, reason="the machine code is another one")
def test_nothing_outlives_a_first_process_that_was_taken_over(sandbox: Sandbox, marker: str) -> None:
    if sandbox.kind != "bwrap":
        pytest.skip("its first process is out of reach")
    ended = sandbox.attack(TAKES_OVER, marker)
    assert "denied" in ended.out or sandbox.apart or os.geteuid(), ended
    wait_until_gone(marker)


def test_nothing_outlives_a_launcher_that_is_killed(sandbox: Sandbox, marker: str) -> None:
    if sandbox.apart:
        pytest.skip("the launcher is a process of the fixture's")
    code = "import os, sys\nif os.fork() == 0: os.setsid()\nos.execvp('sleep', ['sleep', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-P", holder.__file__, sandbox.kind], stdin=subprocess.PIPE, text=True
    ) as launcher:
        assert launcher.stdin
        launcher.stdin.write(json.dumps({"code": code, "arguments": [marker], "limits": {}}))
        launcher.stdin.close()
        wait_until(lambda: len(named(marker)) == 2, "both processes sleep")
        launcher.kill()
    wait_until_gone(marker)


def test_a_process_flood_is_held_and_ends(sandbox: Sandbox, marker: str) -> None:
    code = (
        "import os, sys\nwhile True:\n  try:\n    if os.fork() == 0: os.execvp('sleep', ['sleep', sys.argv[1]])\n "
        " except OSError: pass"
    )
    ended = sandbox.attack(code, marker, processes=40, wall_seconds=6)
    assert ended.violation
    wait_until_gone(marker)
    if sandbox.kind == "bwrap":
        assert 20 < ended.most < 50


def test_memory_is_summed_over_all_processes(sandbox: Sandbox) -> None:
    code = "import os, time\nfor _ in range(5): os.fork()\nheld = bytearray(os.urandom(1)) * 40_000_000\ntime.sleep(60)"
    ended = sandbox.attack(code, memory=400 * MIB, processes=100)
    assert "memory" in ended.violation and "at most 400" in ended.violation, ended
    shared = (
        "import os, time\n"
        "held = bytearray(b'x') * 200_000_000\n"
        "children = [os.fork() for _ in range(2)]\n"
        "time.sleep(0.5); print('fine', flush=True)\n"
        "for child in children: child and os.waitpid(child, 0)"
    )
    assert sandbox.attack(shared, memory=400 * MIB).out.count("fine") == 4  # pages that four processes share count once


@pytest.mark.parametrize(
    "hides",
    [
        "libc.prctl(4, 0, 0, 0, 0); hold()",  # PR_SET_DUMPABLE: its maps are no longer the launcher's to read
        "libc.prctl(15, b'\\xff', 0, 0, 0); hold()",  # PR_SET_NAME, to what is no text
        f"threading.Timer(0.3, hold).start(); libc.syscall({60 if X86 else 93}, 0)",  # its first thread ends
    ],
)
def test_memory_is_not_hidden_from_the_sum(sandbox: Sandbox, hides: str) -> None:
    code = (
        "import ctypes, os, threading, time\n"
        "libc = ctypes.CDLL(None)\n"
        "def hold():\n"
        "  held = bytearray(b'x') * (600 << 20); time.sleep(60)\n"
        f"os.fork()\n{hides}"
    )
    ended = sandbox.attack(code, memory=1024 * MIB)
    assert "memory" in ended.violation and "at most 1024" in ended.violation, ended


def test_what_cannot_be_watched_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise KeyError("Pss_Anon")

    monkeypatch.setattr(Watchdog, "_passed", broken)
    ended = holder.run("bwrap", "import time; time.sleep(60)", [], {})
    assert ended["violation"] == "its limits could not be watched: KeyError('Pss_Anon')" and ended["code"] != 0


def test_a_kernel_that_says_too_little_has_resident_pages_counted(tmp_path: Path) -> None:
    (tmp_path / "smaps_rollup").write_text("0-1 ---p 00000000 00:00 0 [rollup]\nRss: 8 kB\n")
    assert _proportional({str(tmp_path): 8192, str(tmp_path / "ended"): 4096}, 100) == 8292


@pytest.mark.parametrize("denied", ["fd", "fd/0"])
@pytest.mark.parametrize("virtual_size", [0, 4096])
def test_a_thread_that_hides_what_it_holds_has_ended_or_stops_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str, virtual_size: int
) -> None:
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd/0").touch()
    (tmp_path / "stat").write_text(f"7 (python) S {'0 ' * 19}{virtual_size} 0\n")
    real_stat, real_listdir = os.stat, os.listdir

    def checked(path: str) -> str:
        if str(path) == str(tmp_path / denied):
            raise PermissionError
        return path

    monkeypatch.setattr(os, "listdir", lambda path: real_listdir(checked(path)))
    monkeypatch.setattr(os, "stat", lambda path, **options: real_stat(checked(path), **options))
    with pytest.raises(PermissionError) if virtual_size else contextlib.nullcontext():
        assert _held_deleted(str(tmp_path)) == {}


def test_one_process_cannot_take_more_memory_than_allowed(sandbox: Sandbox) -> None:
    assert "MemoryError" in sandbox.attack("bytearray(600_000_000)", memory=400 * MIB).err


def test_files_in_memory_count_as_memory(sandbox: Sandbox) -> None:
    if sandbox.kind != "bwrap":
        pytest.skip("the work folder is on the disk")
    code = "import time\nfor n in range(4): open(f'f{n}', 'wb').write(b'x' * 60_000_000)\ntime.sleep(60)"
    assert "memory" in sandbox.attack(code, memory=150 * MIB).violation


def test_a_disk_flood_is_held(sandbox: Sandbox) -> None:
    code = "import sys\nn = 0\nwhile True:\n  with open(f'f{n}', 'wb') as file: file.write(b'x' * 1_000_000)\n  n += 1"
    ended = sandbox.attack(code, work_size=20 * MIB, file_size=2 * MIB, wall_seconds=60)
    assert "No space left" in ended.err if sandbox.kind == "bwrap" else "its files took" in ended.violation, ended
    one = sandbox.attack("open('f', 'wb').write(b'x' * 3_000_000)", file_size=2 * MIB)
    assert "too large" in one.err
    shm = (
        "import os\ntry: open('/dev/shm/f', 'wb').write(b'x' * 200_000_000)\nexcept OSError as wrong: "
        "print('held', wrong.errno)"
    )
    assert "held" in sandbox.attack(shm).out and not Path("/dev/shm/f").exists()


WRITABLE = """
import os
held = []
for folder, folders, files in os.walk('/'):
  folders[:] = [name for name in folders if folder != '/' or name != 'proc']
  try:
    with open(os.path.join(folder, 'planted'), 'wb') as file: held.append(file.name)
    state = os.statvfs(folder)
    print(folder, state.f_blocks * state.f_frsize)
  except OSError: pass
  try: os.mkdir(os.path.join(folder, 'planted.d')); assert file.name in held
  except OSError: pass
"""


def test_whatever_can_be_written_has_a_size_and_is_counted(sandbox: Sandbox, host: Host) -> None:
    said = sandbox.attack(WRITABLE, work_size=20 * MIB)
    sizes = dict(line.rsplit(" ", 1) for line in said.out.splitlines())
    if sandbox.kind == "bwrap":
        assert sizes == {"/workdir": str(20 * MIB), "/dev/shm": str(64 * MIB)}, said
    else:
        assert sizes == {} and "WROTE" in sandbox.attack("open('x', 'w'); print('WROTE')").out, said
    flood = (
        "import os, time\n"
        "n = 0\n"
        "while n < 400:\n"
        "  for folder in ('.', '/dev', '/dev/shm', '/dev/pts', '/tmp', '/var/tmp', '/run', '/'):\n"
        "    try: open(f'{folder}/f{n}', 'wb').write(b'x' * 1_000_000)\n"
        "    except OSError: pass\n"
        "  n += 1\n"
        "time.sleep(60)"
    )
    assert "memory" in (ended := sandbox.attack(flood, memory=80 * MIB, work_size=50 * MIB)).violation or (
        sandbox.kind == "landlock" and "its files took" in ended.violation
    ), ended


def test_memory_that_is_no_processes_any_more_cannot_be_had(sandbox: Sandbox) -> None:
    """A shared mapping without a file keeps its pages after they are unmapped, while a last one is mapped."""
    code = (
        "import ctypes, mmap, os\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype, libc.munmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)\n"
        "size = 100 << 20\n"
        "for _ in range(5):\n"
        "  at = libc.mmap(None, ctypes.c_size_t(size), 3, FLAGS, -1, 0)\n"
        "  if at == 2**64 - 1: print('refused'); continue\n"
        "  ctypes.memset(at, 7, size); libc.munmap(at + 4096, size - 4096); print('held')\n"
        "try: mmap.mmap(os.open('/dev/zero', os.O_RDWR), size); print('held')\n"
        "except OSError: print('no zeros')"
    )
    shared = code.replace("FLAGS", "0x21")
    assert sandbox.unconfined(shared).out.split("\n")[:6] == ["held"] * 6
    assert sandbox.attack(shared).out == "refused\n" * 5 + "no zeros\n"
    assert sandbox.attack(code.replace("FLAGS", "0x22")).out == "held\n" * 5 + "no zeros\n"  # a process's own


def test_deleted_files_that_are_still_open_are_counted(sandbox: Sandbox) -> None:
    code = (
        "import os, sys, threading, time\n"
        "for _ in range(8):\n"
        "  made = os.open('.', os.O_TMPFILE | os.O_RDWR) if sys.argv[1] == 'unnamed' else os.open('f', os.O_CREAT | "
        "os.O_RDWR)\n"
        "  os.write(made, b'x' * 10_000_000)\n"
        "  if sys.argv[1] == 'deleted': os.unlink('f')\n"
        "print('written', flush=True)\n"
        "time.sleep(60)"
    )
    for how in ("deleted", "unnamed"):
        ended = sandbox.attack(code, how, work_size=20 * MIB, file_size=11 * MIB)
        if sandbox.kind == "bwrap":
            assert "No space left" in ended.err and "written" not in ended.out, ended
        else:
            assert "its files took" in ended.violation, ended


def test_a_process_that_hides_which_files_it_holds_does_not_run_on(sandbox: Sandbox) -> None:
    if sandbox.kind != "landlock":
        pytest.skip("its files are in file systems of its own")
    code = (
        "import ctypes, os, shutil, sys, time\n"
        "print(ctypes.CDLL(None).prctl(4, 0, 0, 0, 0), flush=True)\n"
        "shutil.copy('/bin/sleep', 'hidden'); os.chmod('hidden', 0o111)\n"  # what cannot be read cannot be looked into
        "os.execv('hidden', ['hidden', '60'])"
    )
    ended = sandbox.attack(code)
    assert ended.out == "-1\n" and "could not be watched" in ended.violation, ended


def test_a_flood_of_files_is_stopped(sandbox: Sandbox) -> None:
    ended = sandbox.attack("n = 0\nwhile True:\n  open(f'f{n}', 'w').close(); n += 1", files=2000, wall_seconds=60)
    assert "files, at most 2000" in ended.violation


def test_processor_time_is_summed_over_all_processes(sandbox: Sandbox) -> None:
    ended = sandbox.attack("import os\nfor _ in range(2): os.fork()\nwhile True: pass", cpu_seconds=1, wall_seconds=60)
    assert "processor time" in ended.violation or ended.code == -9 or ended.code == -24, (
        ended
    )  # its own rlimit may come first


def test_what_takes_too_long_is_stopped(sandbox: Sandbox) -> None:
    assert "it ran for" in sandbox.attack("import time; time.sleep(20)", wall_seconds=0.3).violation


def test_signals_do_not_reach_outside(sandbox: Sandbox, marker: str) -> None:
    code = (
        "import os, sys\n"
        "print('sent')\n"
        "sys.stdout.flush()\n"
        "for process in (int(sys.argv[1]), os.getppid(), -1):\n"
        "  for number in (9, 19):\n"
        "    try: os.kill(process, number)\n"
        "    except OSError: pass\n"
    )
    with subprocess.Popen(["sleep", marker], **account(sandbox)) as other:
        assert "sent" in sandbox.attack(code, other.pid).out
        time.sleep(0.05)
        assert other.poll() is None and "T" not in Path(f"/proc/{other.pid}/stat").read_text().split()[2]
        other.kill()


CALLS = {  # name: number on x86_64, on aarch64, then arguments
    "ptrace": (101, 117, 0, 0, 0, 0),
    "process_vm_readv": (310, 270, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 271, 1, 0, 0, 0, 0, 0),
    "mount": (165, 40, b"none", b"/workdir", b"tmpfs", 0, 0),
    "umount2": (166, 39, b"/proc", 0),
    "pivot_root": (155, 41, b"/workdir", b"/workdir"),
    "chroot": (161, 51, b"/"),
    "open_tree": (428, 428, -100, b"/", 1),
    "fsopen": (430, 430, b"tmpfs", 0),
    "mount_setattr": (442, 442, -100, b"/", 0, 0, 0),
    "unshare(user)": (272, 97, 0x10000000),
    "unshare(files)": (272, 97, 0x20000),
    "clone(user)": (56, 220, 0x10000000 | 17, 0, 0, 0, 0),
    "clone(net)": (56, 220, 0x40000000 | 17, 0, 0, 0, 0),
    "setns": (308, 268, 0, 0),
    "bpf": (321, 280, 0, 0, 0),
    "keyctl": (250, 219, 0, -3, 1),
    "add_key": (248, 217, b"user", b"x", b"y", 1, -3),
    "userfaultfd": (323, 282, 0),
    "io_uring_setup": (425, 425, 1, 0),
    "perf_event_open": (298, 241, 0, 0, -1, -1, 0),
    "personality": (135, 92, 0x0040000),
    "kexec_load": (246, 104, 0, 0, 0, 0),
    "init_module": (175, 105, 0, 0, b""),
    "open_by_handle_at": (304, 265, -100, 0, 0),
    "memfd_create": (319, 279, b"x", 0),
    "shmget": (29, 194, 0, 1 << 30, 0o1600),
    "seccomp": (317, 277, 0, 0, 0),
    "pidfd_getfd": (438, 438, 0, 0, 0),
    "process_madvise": (440, 440, 0, 0, 0, 0, 0),
    "swapon": (167, 224, b"/workdir", 0),
    "acct": (163, 89, 0),
    "reboot": (169, 142, 0, 0, 0, 0),
    "sethostname": (170, 161, b"x", 1),
    "fanotify_init": (300, 262, 0, 0),
    "quotactl": (179, 60, 0, 0, 0, 0),
    "syslog": (103, 116, 10, 0, 0),
    "vmsplice": (278, 75, 0, 0, 0, 0),
    "landlock_create_ruleset": (444, 444, 0, 0, 1),
    "tiocsti": (16, 29, 0, 0x5412, b"x"),
}


def test_the_kernels_dangerous_calls_are_denied(sandbox: Sandbox) -> None:
    code = (
        "import ctypes, errno, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, call in {CALLS!r}.items():\n"
        f"  number, arguments = call[{0 if X86 else 1}], [ctypes.c_long(a) if isinstance(a, int) else a for a in "
        "call[2:]]\n"
        "  ctypes.set_errno(0)\n"
        "  result = libc.syscall(number, *arguments)\n"
        "  if result == 0 and name.startswith('clone'): os._exit(0)\n"
        "  print(name, 'DONE' if result >= 0 else errno.errorcode[ctypes.get_errno()], sep=': ')\n"
        "print('clone3', errno.errorcode[(libc.syscall(435, 0, 0), ctypes.get_errno())[1]], sep=': ')"
    )
    rows = dict(line.split(": ") for line in sandbox.attack(code).out.splitlines())
    assert rows.pop("clone3") == "ENOSYS"
    assert {name: said for name, said in rows.items() if said != "EPERM"} == {} and len(rows) == len(CALLS)
    free = dict(
        line.split(": ")
        for line in sandbox.unconfined(code.replace("reboot", "getpid") if os.geteuid() else HARMLESS).out.splitlines()
    )
    assert {free["personality"], free["memfd_create"]} == {"DONE"}


HARMLESS = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None)\n"
    f"for name, call in {[(name, CALLS[name]) for name in ('personality', 'memfd_create')]!r}:\n"
    f"  print(name, 'DONE' if libc.syscall(call[{0 if X86 else 1}], *call[2:]) >= 0 else '', sep=': ')"
)


@pytest.mark.skipif(not X86, reason="another machine has no second table")
def test_another_architectures_calls_kill(sandbox: Sandbox) -> None:
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, flags=0x22, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20; int 0x80; ret: getpid of the 32-bit table
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())"
    )
    assert sandbox.attack(code).code == -31  # SIGSYS
    assert (
        "-1" in sandbox.attack("import ctypes; print(ctypes.CDLL(None).syscall(0x40000000 | 39))").out
    )  # the x32 table


def test_nested_namespaces_and_set_uid_programs_give_nothing(sandbox: Sandbox) -> None:
    code = (
        "import os, subprocess\n"
        "for words in (['unshare', '-Ur', 'id', '-u'], ['unshare', '-n', 'true'], ['mount', '-t', 'tmpfs', 'x', "
        "'/workdir']):\n"
        "  print(words[0], subprocess.run(words, stderr=subprocess.DEVNULL).returncode)\n"
        "try: os.setuid(0); print('ROOT')\n"
        "except OSError: print('no root')"
    )
    out = sandbox.attack(code).out
    assert "no root" in out and "ROOT" not in out and " 0\n" not in out and "\n0\n" not in out


def test_it_is_not_the_hosts_root(sandbox: Sandbox, host: Host) -> None:
    code = "import sys, time\nprint(flush=True)\ntime.sleep(float(sys.argv[1]))"
    if sandbox.apart or sandbox.kind != "bwrap":
        pytest.skip("it runs as an ordinary user in any case")
    running = Confined("bwrap", Command([sys.executable, "-IS", "-c", code, "5"], {}, {}, host.folder))
    try:
        running.stdout.readline()
        command = tree(running.pid)[2]
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{command}/status").read_text().splitlines() if ":\t" in line
        )
        assert "0" not in status["Uid"].split() + status["Gid"].split() and status["Groups"].split() == []
        assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    finally:
        running.close()


def solve(folder: Path, code: str, limits: ScaffoldLimits = ScaffoldLimits(idle_timeout=60)) -> AttemptOutcome:
    """The outcome of one attempt of a scaffold, as an executor would have it."""
    (folder / "scaffold").mkdir(exist_ok=True)
    (folder / "scaffold" / "agent.py").write_text(code)
    process = ScaffoldProcess(folder / "scaffold", ScaffoldData(["a"], [("x", "a")]), folder / "work", limits)
    try:
        return process.solve([("i", "q")], 1, lambda asks: [])[0]
    finally:
        process.close()


def test_planted_links_and_pipes_lead_nowhere(tmp_path: Path) -> None:
    """The second round is what bubblewrap before 0.12 would have followed into the host."""
    code = (
        "import os\n"
        f"there = {str(tmp_path)!r}\n"
        "for name, target in (('answer', there + '/labels'), ('mnt', '/oldroot' + there + '/made'), ('tmp', '/'), "
        "('..x', '..')):\n"
        "  os.symlink(target, name)\n"
        "os.mkfifo('result'); os.mkfifo('agent.py')\n"
        "def solve(item, model, data): return ' '.join(sorted(os.listdir('.')))"
    )
    (tmp_path / "labels").write_text("SECRET")
    for _ in range(2):
        assert solve(tmp_path, code).answer == "..x agent.py answer mnt result tmp"
        assert list((tmp_path / "work").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "scaffold", "work"]


def test_a_scaffold_cannot_change_its_own_folder_or_its_host_script(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "def solve(item, model, data):\n"
        "  told = []\n"
        "  for path in (__file__, sys.modules['__main__'].__file__):\n"
        "    try: open(path, 'a').write('#')\n"
        "    except OSError as wrong: told.append(str(wrong.errno))\n"
        "  return ' '.join(told)"
    )
    assert solve(tmp_path, code).answer in ("30 30", "13 13")  # EROFS, or EACCES as another account than the files'
    assert (tmp_path / "scaffold" / "agent.py").read_text() == code


def test_floods_of_output_stop_the_scaffold_and_cost_the_host_little(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    printed = solve(tmp_path, "def solve(item, model, data):\n  while True: print('x' * 100_000)")
    assert printed.kind == "flooded" and "printed more than" in printed.reason
    frames = (
        "import os, sys\nout = int(sys.argv[2])\nos.set_blocking(out, True)\nwhile True: os.write(out, b'x' * 100_000)"
    )
    with pytest.raises(ScaffoldStopped, match="in one frame"):
        solve(tmp_path, frames)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_scaffold_over_its_memory_says_so(tmp_path: Path) -> None:
    code = "import os, time\nfor _ in range(3): os.fork()\nheld = bytearray(b'x') * 100_000_000\ntime.sleep(60)"
    with pytest.raises(ScaffoldStopped, match=r"stopped: its processes and files in memory took .* at most 400"):
        solve(tmp_path, code, ScaffoldLimits(idle_timeout=60, memory=400 * MIB))


def test_the_interpreters_packages_are_there_and_their_workers_work(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    code = (
        "import tempfile, sqlite3, subprocess, sys, threading, multiprocessing, numpy, sklearn\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "def double(x): return 2 * x\n"
        "def solve(item, model, data):\n"
        "  with ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool: doubled = list(pool.map(double, "
        "[1, 2]))\n"
        "  said = subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True, text=True).stdout.strip()\n"
        "  with tempfile.TemporaryFile() as file: file.write(b'x')\n"
        "  return f'{sklearn.__name__} {doubled} {said} {numpy.ones(3) @ numpy.ones(3)}'"
    )
    outcome = solve(tmp_path, code, ScaffoldLimits(idle_timeout=60))
    assert outcome.answer == "sklearn [2, 4] 5 3.0", outcome.reason
