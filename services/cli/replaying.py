"""`evolog replay`, `evolog import`: a recorded run decided again, shown as it stood, or moved as files."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from events.errors import UsageError
from replay.exports import folder
from replay.history import History
from replay.replayer import DecisionDifference, ReplayResult, find_sequence, redecide, state_at
from runtime.log.port import Log
from runtime.run.state import RunState
from services.host.node import Node, version
from services.host.sources import imported, recorded, runs_of, with_logs
from services.views.progress import counting, working

AROUND = 60
"""Characters shown on each side of the place where two texts part."""


def replay_run(directory: Path, name: str, as_json: bool) -> int:
    """Decide a run again, and print the first difference; the exit code."""
    run = read(directory, name)
    with counting("deciding again", "events") as say:
        found = redecide(run, say=say)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        for line in lines(found):
            click.echo(line)
    return 3 if found.difference else 0


def lines(found: ReplayResult) -> list[str]:
    """What is said of a run that was decided again."""
    if found.difference:
        return different(found.difference)
    end = "to its end" if found.finished else "as far as it has come"
    said = [f"{found.run}: {found.decisions:,} decisions on {found.events:,} events come out the same, byte for byte, {end}."]
    if found.next:
        said.append(f"At sequence {found.next} this code decides, and nothing is recorded yet: the run goes on with `evolog up`.")
    return said


def different(found: DecisionDifference) -> list[str]:
    """The first difference, with what stands around the place where the two part."""
    shorter = min(len(found.recorded), len(found.decided))
    place = next((place for place in range(shorter) if found.recorded[place] != found.decided[place]), shorter)
    recorded, decided = (text[max(0, place - AROUND) : place + AROUND] or "nothing" for text in (found.recorded, found.decided))
    return [f"first difference at sequence {found.sequence}: {found.why}.", f"  recorded: {recorded}", f"  decided:  {decided}"]


def show_state(directory: Path, name: str, at: str, as_json: bool) -> None:
    """Print the state that a run was in at a sequence or time."""
    run = read(directory, name)
    sequence = find_sequence(run.messages, at)
    state = state_at(run, sequence)
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "run": run.run, "sequence": sequence, "state": _fields(state)}).decode())
        return
    for line in state_lines(run.run, sequence, state):
        click.echo(line)


def state_lines(run: str, sequence: int, state: RunState) -> list[str]:
    """A state for people."""
    best, current = state.best, state.current
    open_shards = [shard for shard in state.shards.values() if not shard.complete]
    attempts = sum(len(shard.requested.items) * shard.requested.attempts - len(shard.results) for shard in open_shards)
    said = [
        f"{run} at sequence {sequence}: generation {state.generation}, {'paused, ' if state.paused else ''}phase {state.phase}",
        f"  spent: {state.rollouts:,} rollouts, {state.tokens:,} tokens, ${state.micro_usd / 1e6:.2f}",
    ]
    for name, candidate in (("best", best), ("judged now", current)):
        if candidate:
            score = "not scored" if candidate.score is None else f"dev {candidate.score:.4f}"
            what = f"scaffold {candidate.scaffold[:12]}, adapter {candidate.adapter[:12] or 'none'}"
            said.append(f"  {name}: {candidate.lever} of generation {candidate.generation}, {score}, {what}")
    if state.update:
        said.append(f"  weight update: {state.update.requested.algorithm}, round {state.update.round} of {state.update.requested.rounds}")
    if open_shards:
        said.append(f"  waiting for {attempts:,} attempts of {len(open_shards)} requests")
    return said


def _fields(state: RunState) -> dict[str, Any]:
    """A state as JSON can hold it: the results of a shard as rows of item, attempt, trajectory and reward."""
    fields = msgspec.structs.asdict(state)
    for name in ("shards", "history"):
        fields[name] = {
            request: {
                "requested": shard.requested,
                "results": [(*place, *(result or (None, None))) for place, result in shard.results.items()],
            }
            for request, shard in fields[name].items()
        }
    return fields


def perform_again(directory: Path, name: str, kinds: str, as_json: bool) -> int:
    """Perform recorded effects again, and print how they compare; the exit code."""
    from replay.perform import perform, performed_lines  # with the services' own code

    run = read(directory, name)
    with tempfile.TemporaryDirectory(prefix="evolog-") as room, counting("performing again", "effects") as say:
        found = perform(run.everything, run.blobs, Path(room), kinds.split(","), lambda kind, done, total: say(done, total))
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "run": run.run, "performed": found}).decode())
    else:
        click.echo("\n".join(performed_lines(found)))
    if any(one.first for one in found):
        return 3
    return 1 if any(one.cannot and not one.performed for one in found) else 0


def swap_service(directory: Path, name: str, what: str, as_json: bool) -> None:
    """Print what would have come out differently with other code in a service's place; the run stays as it is."""
    from replay.swap import swap, swap_lines

    service, equals, path = what.partition("=")
    if not equals:
        raise UsageError(f"{what!r} is nothing to --swap: write verifier=PATH or feedback_agent=PATH.")
    run = read(directory, name)
    with tempfile.TemporaryDirectory(prefix="evolog-") as room, working(f"asking {path}"):
        found = swap(run.everything, run.blobs, Path(room), service, Path(path))
    click.echo(msgspec.json.encode(found).decode() if as_json else "\n".join(swap_lines(found)))


def export_run(directory: Path, name: str, target: Path, as_json: bool) -> None:
    """Write a run, log and blobs, into a folder."""
    run = read(directory, name)
    with working(f"exporting {run.run}"):
        manifest = folder.write(run, target, version())
    if as_json:
        click.echo(msgspec.json.encode(manifest).decode())
    else:
        click.echo(f"{run.run}: {manifest.events:,} events and {manifest.gold} of the auditor, {manifest.blobs} blobs, in {target}")


def import_run(directory: Path, source: Path, as_json: bool) -> None:
    """Take an exported run into a project directory, as files that every reading command finds by the run's name."""
    node = Node(directory)
    with working(f"checking {source}"):
        run = folder.read(source)
        blobs = folder.check_blobs(run)
        if any(path.is_symlink() for path in source.rglob("*")):
            raise UsageError(f"{source} holds links, and an export holds none: import it as it was exported.")
    if run.run in imported(node) or (node.nats_dir.is_dir() and run.run in with_logs(directory, _runs)):
        raise UsageError(f"There is a run {run.run!r} in {directory} already: import this one into another --dir.")
    node.imports.mkdir(mode=0o700, parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(dir=node.imports, prefix="."))
    try:
        shutil.copytree(source, room / run.run)
        (room / run.run).rename(node.imports / run.run)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    if as_json:
        click.echo(msgspec.json.encode(folder.manifest_of(node.imports / run.run)).decode())
    else:
        click.echo(f"{run.run}: {len(run.everything):,} events and {blobs} blobs; `evolog replay {run.run}` decides it again.")


async def _runs(log: Log, gold: Log) -> set[str]:
    del gold
    return set(await runs_of(log))


def read(directory: Path, name: str) -> History:
    """The run of that name, with a word on stderr while it is read."""
    with working(f"reading {name}"):
        return recorded(directory, name)
