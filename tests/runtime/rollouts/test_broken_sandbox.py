"""A sandbox that fails by itself is this host's failure: no attempt has failed, and the work goes back."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import HostUnfit, TryAgain
from events.secret import Scanner
from runtime.agents.proposal import try_out
from runtime.rollouts import program
from runtime.rollouts.shard import RolloutShard
from runtime.sandbox import bwrap, choose
from runtime.sandbox.launch import Kind
from runtime.sandbox.limits import tree
from tests.harness.breaking import REFUSED, BreakingBwrap
from tests.harness.polling import wait_until
from tests.harness.programs import ASKS_FOR_EACH
from tests.harness.runner import FirstChoicePolicy, RunnerHarness, answers, shard_of

SOLVES = "def solve(item, model, data): return 'blue'"
KINDS = {
    "solve": {"agent.py": SOLVES.encode()},
    "over http": {"agent.py": b"import os  # openai\n" + SOLVES.encode()},
    "a program": {"main.py": ASKS_FOR_EACH.encode()},
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakingBwrap]:
    """A bubblewrap that is found to work, and then breaks with its next start."""
    known = (choose._bwrap, bwrap.program, bwrap.version)
    for cached in known:
        cached.cache_clear()
    found = BreakingBwrap(tmp_path / "path", good=1)
    monkeypatch.setenv("PATH", found.path)
    choose.provide()
    yield found
    for cached in known:
        cached.cache_clear()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RunnerHarness]:
    made = RunnerHarness(tmp_path, FirstChoicePolicy())
    yield made
    made.runner.close()


def shard(table: RunnerHarness, kind: str) -> RolloutShard:
    return shard_of(["dev0"], scaffold=table.blobs.put_tree(KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sandbox_that_cannot_be_made_any_more_fails_no_attempt(
    broken: BreakingBwrap, table: RunnerHarness, kind: str
) -> None:
    with pytest.raises(HostUnfit, match=REFUSED) as wrong:
        table.run(shard(table, kind))
    assert wrong.value.code == 78 and "--security-opt seccomp=unconfined" in str(wrong.value)
    broken.mend()
    assert table.run(shard(table, "solve"))[0].answer == "blue"


def test_one_that_could_not_be_made_once_is_tried_again(
    broken: BreakingBwrap, table: RunnerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = choose._try

    def probe_once_mended(kind: Kind) -> None:
        broken.mend()
        probe(kind)

    monkeypatch.setattr(choose, "_try", probe_once_mended)
    for kind in KINDS:
        (broken.folder / "mended").unlink(missing_ok=True)
        with pytest.raises(TryAgain, match="a sandbox could not be made, though another can") as wrong:
            table.run(shard(table, kind))
        assert wrong.value.code == 75


@pytest.mark.parametrize("kind", KINDS)
def test_a_launcher_that_is_gone_fails_no_attempt(broken: BreakingBwrap, table: RunnerHarness, kind: str) -> None:
    broken.program.unlink()
    with pytest.raises(HostUnfit, match=r"bwrap is not there any more .*; put it back"):
        table.run(shard(table, kind))


def test_a_launcher_that_hangs_fails_no_attempt(
    broken: BreakingBwrap, table: RunnerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken.program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "bubblewrap 0.8.0" || exec sleep 600\n')
    monkeypatch.setattr(choose, "PATIENCE", 0.5)
    table.runner.limits = table.runner.limits._replace(idle_timeout=0.5, cpu_seconds=1)
    monkeypatch.setattr(program, "GRACE", 0.1)
    for kind in KINDS:
        with pytest.raises(HostUnfit, match="a probe did not end"):
            table.run(shard(table, kind))


def name_of(process: int) -> str:
    """The program that a process runs; empty for one that has ended."""
    try:
        return Path(f"/proc/{process}/exe").readlink().name
    except OSError:
        return ""


def test_a_sandbox_that_is_killed_from_outside_fails_no_attempt(tmp_path: Path, table: RunnerHarness) -> None:
    waits = "import time\ndef solve(item, model, data):\n  model.complete(item.prompt, ['go'])\n  time.sleep(600)"
    policy = FirstChoicePolicy()
    table.use(policy)
    shard = shard_of(["dev0"], scaffold=table.blobs.put_tree({"agent.py": waits.encode()}))

    def kill() -> None:
        wait_until(lambda: policy.asked, "it is at work")
        os.kill(next(one for one in tree(os.getpid()) if name_of(one) == "bwrap"), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(TryAgain, match="killed from outside, by SIGKILL"):
        table.run(shard)


def test_a_scaffold_that_ends_itself_has_failed_as_ever(table: RunnerHarness) -> None:
    for code in ("import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)", "import os; os.kill(0, 15)"):
        assert [result.kind for result in table.play(code, ["dev0"])] == ["crashed"]
        inside = f"def solve(item, model, data):\n  {code}"
        assert [result.kind for result in table.play(inside, ["dev0"])] == ["crashed"]
    assert answers(table.play(SOLVES, ["dev0"])) == ["blue"]


def test_a_proposal_is_not_unfit_for_want_of_a_sandbox(broken: BreakingBwrap, table: RunnerHarness) -> None:
    with pytest.raises(HostUnfit, match=REFUSED):
        try_out({"agent.py": SOLVES}, table.public, table.folder / "proposals", Scanner([]))
    assert not list((table.folder / "proposals").iterdir())
