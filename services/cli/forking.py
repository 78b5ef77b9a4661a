"""`evolog fork`: a new run that shares another's past by reference, up to a sequence, and goes its own way."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from algorithms.learning import NAMES
from events.errors import UsageError
from events.run import RunStarted
from events.subjects import check_run_name
from replay.history import History
from replay.replayer import point
from runtime.blobs.directory import Blobs
from runtime.log import lineage
from runtime.run import budget as budgets
from runtime.sandbox.choose import provide
from services.cli.replaying import read
from services.cli.running import ON_DRIFT, Order, base_of, begin, carry_out, check, other_verifier
from services.host.node import Node
from services.host.sources import find_export
from tasks.loading import load

LEVERS = {"both": ("scaffold", "weights"), "scaffold": ("scaffold",), "weights": ("weights",)}
SETTINGS = ("agent", "algorithm", "budget", "generations", "group_size", "levers", "max_tokens", "on_drift", "policy", "verifier")
"""What a fork may change."""


def fork_run(directory: Path, name: str, at: str, settings: Sequence[str], new_name: str, *, detach: bool, as_json: bool) -> int:
    """Begin a fork and follow it to its end; the exit code."""
    node = Node(directory)
    changes = parse(settings)
    if new_name:
        check_run_name(new_name)

    if find_export(node, name) is not None:
        raise UsageError(f"Run {name} is here as files, and a fork shares its parent's log: fork it where it was run.")
    parent = read(directory, name)
    sequence = point(parent.messages, at)
    started = planned(node, parent, sequence, changes)
    if str(sequence) != at:
        click.echo(f"evolog: {parent.run} is forked at sequence {sequence}", err=True)
    called = new_name or _name_of(parent.run)
    return carry_out(node, lambda out: begin(node, called, started, detach=detach, out=out), detach=detach, as_json=as_json)


def parse(settings: Sequence[str]) -> dict[str, str]:
    """The settings by name; raises `UsageError` for one that is no `key=value`, or that a fork cannot change."""
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in SETTINGS or key in found:
            raise UsageError(f"{setting!r} is nothing to --set: write key=value, each once, the key being one of {', '.join(SETTINGS)}.")
        found[key] = value
    return found


def planned(node: Node, parent: History, sequence: int, changes: dict[str, str]) -> RunStarted:
    """The event that begins the fork; raises what is wrong with a change."""
    before = parent.started
    if changes.get("levers", "both") not in LEVERS:
        raise UsageError(f"levers={changes['levers']} is none; expected {', '.join(LEVERS)}.")
    if changes.get("algorithm", NAMES[0]) not in NAMES:
        raise UsageError(f"There is no algorithm {changes['algorithm']!r}; there are {', '.join(NAMES)}.")
    if changes.get("on_drift", "off") not in ("off", *ON_DRIFT):
        raise UsageError(f"on_drift={changes['on_drift']} is none; expected off, {', '.join(ON_DRIFT)}.")
    levers = LEVERS[changes["levers"]] if "levers" in changes else before.levers
    order = Order(
        task=before.task,
        levers="both" if len(levers) > 1 else levers[0],
        seed=before.seed,
        generations=_whole(changes, "generations", before.generations, least=0),
        budget=changes.get("budget", ""),
        policy=changes.get("policy", before.policy),
        sandbox="none" if before.sandbox == "none" else "",
        max_tokens=_whole(changes, "max_tokens", before.max_tokens, least=1),
        agent=changes.get("agent", before.agent),
    )
    check(order, node)
    blobs, task = Blobs(node.blobs), load(before.task)
    base, code, verifier = before.base_model, before.verifier_code, before.verifier
    if "policy" in changes:
        base = base_of(order.policy, task, task.public(before.seed), blobs)
    if "verifier" in changes:
        verifier, code = other_verifier(changes["verifier"], task, blobs)
    return msgspec.structs.replace(
        before,
        parent_run=parent.run,
        parent_sequence=sequence,
        parent_digest=lineage.digest([*parent.past, *(stored for stored in parent.messages if stored.sequence <= sequence)]),
        levers=levers,
        generations=order.generations,
        budget=budgets.parse(changes["budget"]) if "budget" in changes else before.budget,
        policy=order.policy,
        base_model=base,
        agent=order.agent,
        sandbox=provide(order.sandbox).text,
        max_tokens=order.max_tokens,
        group_size=_whole(changes, "group_size", before.group_size, least=1),
        algorithm=changes.get("algorithm", before.algorithm),
        verifier=verifier,
        verifier_code=code,
        on_drift=changes.get("on_drift", before.on_drift).replace("off", ""),
    )


def _whole(changes: dict[str, str], key: str, before: int, least: int) -> int:
    value = changes.get(key, str(before))
    if not (value.isascii() and value.isdecimal()) or int(value) < least:
        raise UsageError(f"{key}={value} is no whole number of at least {least}.")
    return int(value)


def _name_of(parent: str) -> str:
    return f"{parent[:55]}-f{secrets.token_hex(2)}"
