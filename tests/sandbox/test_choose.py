"""Which profile is chosen, what is refused, and in which words."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import Misconfigured
from runtime.rollouts import program
from runtime.sandbox import bwrap, choose, landlock, limits
from runtime.sandbox.launch import Command, Confined
from runtime.sandbox.limits import Group, ResourceLimits, delegated
from tests.harness.cli import CliHarness, one_sentence
from tests.harness.paths import TOY


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """What is known of this host is found out anew, here and by the tests that follow."""
    known = (choose._bwrap, choose._landlock, bwrap.program, bwrap.version)
    for cached in known:
        cached.cache_clear()
    yield
    for cached in known:
        cached.cache_clear()


def stand_in(folder: Path, says: str, version: str = "0.8.0") -> Path:
    """A bwrap that fails with these words."""
    program = folder / "bwrap"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "bubblewrap {version}" && exit\necho "bwrap: {says}" >&2\nexit 1\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC | stat.S_IXOTH)
    return program


def test_bubblewrap_is_in_force_here() -> None:
    profile = choose.provide()
    assert (
        profile.kind == "bwrap"
        and profile.text.startswith(f"bwrap {bwrap.version()}, seccomp ")
        and ", memory by " in profile.text
    )
    assert choose.provide(profile.text) == profile


def test_without_it_a_run_is_refused_with_the_cause_and_the_fix(tmp_path: Path) -> None:
    said = CliHarness(tmp_path).evolog("run", str(TOY), PATH="/nowhere", code=78)
    one_sentence(said, "bubblewrap (bwrap) is not installed", "apt-get install bubblewrap")


def test_doctor_says_what_is_in_force_or_why_nothing_is(tmp_path: Path) -> None:
    place = CliHarness(tmp_path)
    assert f"sandbox: bwrap {bwrap.version()}, seccomp " in place.evolog("doctor").out
    assert "bwrap) is not installed" in place.evolog("doctor", PATH="/nowhere", code=78).out


@pytest.mark.parametrize(
    ("says", "fix"),
    [
        ("setting up uid map: Permission denied", "apparmor_restrict_unprivileged_userns=0"),
        ("No permissions to create new namespace, likely because", "--security-opt seccomp=unconfined"),
        ("Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
        ("something else", "Try `bwrap --unshare-all"),
    ],
)
def test_a_bubblewrap_that_fails_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, fix: str
) -> None:
    stand_in(tmp_path, says)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Misconfigured) as wrong:
        choose.provide()
    assert says in str(wrong.value) and fix in str(wrong.value) and wrong.value.code == 78


def test_an_old_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "", version="0.4.1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Misconfigured, match=r"bubblewrap 0\.4\.1; 0\.8 or newer is needed"):
        choose.provide()


def test_landlock_is_used_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(choose, "_try", lambda kind: None)
    monkeypatch.setattr(choose, "_equipped", lambda: None)
    monkeypatch.setattr(landlock, "version", lambda: 7)
    with pytest.raises(Misconfigured, match="EVOLOG_SANDBOX_ALLOW=bwrap,landlock"):
        choose.provide()
    with pytest.raises(Misconfigured, match="does not allow"):
        choose.provide("landlock ABI 7, seccomp 0, memory by watchdog")
    monkeypatch.setenv(choose.ALLOW, "bwrap,landlock")
    assert choose.provide().text.startswith("landlock ABI 7, seccomp ")
    monkeypatch.setenv(choose.ALLOW, "firejail")
    with pytest.raises(Misconfigured, match="names firejail; expected bwrap, or bwrap,landlock"):
        choose.provide()


def test_an_old_landlock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choose.ALLOW, "landlock")
    monkeypatch.setattr(landlock, "version", lambda: 3)
    with pytest.raises(Misconfigured, match=r"the kernel has ABI 3, and 6 \(Linux 6\.12\) is needed"):
        choose.provide("landlock")


def test_a_probe_that_gets_out_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(choose._Failed, match="reached a file of the host, a port of the host, an abstract socket"):
        choose._try("none")


def test_none_needs_the_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = CliHarness(tmp_path).evolog("run", str(TOY), "--sandbox", "none", code=78)
    one_sentence(said, "EVOLOG_ALLOW_UNSANDBOXED=1")
    monkeypatch.delenv(choose.UNSANDBOXED, raising=False)
    with pytest.raises(Misconfigured, match="EVOLOG_ALLOW_UNSANDBOXED=1"):
        choose.provide("none")
    monkeypatch.setenv(choose.UNSANDBOXED, "1")
    assert choose.provide("none") == ("none", "none")


def test_a_command_waits_until_all_of_its_sandbox_is_in_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.limit_in_bytes").touch()
    monkeypatch.setenv(limits.CGROUP, str(tmp_path))
    moved: list[int] = []
    monkeypatch.setattr(Group, "take", lambda self, processes: moved.extend(processes))
    running = Confined("bwrap", Command([sys.executable, "-IS", "-c", "print(5)"], {}, {}, tmp_path))
    try:
        assert running.communicate(10)[0] == b"5\n" and moved[0] == running.pid
        assert list(tmp_path.glob("evolog-*")) == [tmp_path / f"evolog-{running.pid}"]
    finally:
        for setting in tmp_path.glob("evolog-*/*"):
            setting.unlink()  # as the kernel's own files would not stand in the way of `rmdir`
        running.close()
    assert not list(tmp_path.glob("evolog-*"))


def test_a_group_that_cannot_be_made_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: Group, version: str, parent: Path, name: str, limits: ResourceLimits) -> None:
        raise OSError("no room")

    (tmp_path / "memory.limit_in_bytes").touch()
    monkeypatch.setenv(limits.CGROUP, str(tmp_path))
    monkeypatch.setattr(Group, "__init__", none)
    with pytest.raises(Misconfigured, match="EVOLOG_CGROUP"):
        Confined("bwrap", Command(["sleep", "60"], {}, {}, tmp_path))


def test_a_group_that_was_delegated_takes_memory_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_own_groups", lambda: iter(()))
    assert delegated({}) is None
    second, first = tmp_path / "v2", tmp_path / "v1"
    second.mkdir()
    first.mkdir()
    (second / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (first / "memory.limit_in_bytes").touch()
    assert delegated({limits.CGROUP: str(second)}) == ("cgroup v2", second)
    assert delegated({limits.CGROUP: str(first)}) == ("cgroup v1", first)
    assert delegated({limits.CGROUP: str(tmp_path)}) is None
    group = Group("cgroup v2", second, "evolog-1", ResourceLimits(memory=1000, processes=7))
    group.take([41])
    files = {path.name: path.read_text() for path in group.folder.iterdir()}
    assert files == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "cgroup.procs": "41",
    }
    (group.folder / "memory.events").write_text("low 0\noom_kill 1\n")
    assert group.ran_out()


def test_a_program_is_refused_under_landlock_in_words(tmp_path: Path) -> None:
    launch = program.launcher("landlock", tmp_path, tmp_path / "bridge.sock", 1)
    ended = program.run(launch, tmp_path, "main.py", tmp_path, {})
    assert (ended.code, ended.kind, ended.files) == (1, "unloadable", {})
    assert "over HTTP, which Landlock's profile cannot give" in ended.reason and "bubblewrap" in ended.reason
