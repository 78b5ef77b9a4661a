"""Replays as text: a run decided again, its state at a point, effects performed again or swapped, and a rebuilt
archive.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from replay.closing import Closing
from replay.replayer import DecisionDifference, ReplayResult
from runtime.run.state import Candidate, Flight, RunState
from services.host.visible import one_line, shortened

if TYPE_CHECKING:  # they come with tasks, policies and effects, which printing does not need
    from replay.perform import Performed
    from replay.swap import SwapReport
    from services.host.rebuild import RebuildSummary

AROUND = 60
"""Characters shown on each side of the point where two texts part."""


def replay_lines(result: ReplayResult) -> list[str]:
    """The outcome of deciding a run again: how much is the same, or the first difference."""
    if result.difference:
        return _difference_lines(result.difference)
    end = "to its end" if result.finished else "as far as it has come"
    lines = [
        f"{result.run}: {result.decisions:,} decisions on {result.events:,} events come out the same, byte for byte, "
        f"{end}."
    ]
    if result.next:
        lines.append(
            f"At sequence {result.next} this code decides, and nothing is recorded yet: the run goes on with `evolog "
            "up`."
        )
    return [*lines, *result.second, *closing_lines(result.closing)]


def closing_lines(closing: Closing) -> list[str]:
    """The digests that close a run, a line each."""
    return [
        f"EVOLOG closes with {closing.log} ({closing.events:,} events, to sequence {closing.sequence})",
        f"GOLD closes with   {closing.gold}",
    ]


def _difference_lines(difference: DecisionDifference) -> list[str]:
    """The first difference, with the text around the point where the two part."""
    shorter = min(len(difference.recorded), len(difference.decided))
    start = next(
        (index for index in range(shorter) if difference.recorded[index] != difference.decided[index]), shorter
    )
    recorded, decided = (_around(text, start) for text in (difference.recorded, difference.decided))
    return [
        f"first difference at sequence {difference.sequence}: {difference.why}.",
        f"  recorded: {recorded}",
        f"  decided:  {decided}",
    ]


def _around(text: str, start: int) -> str:
    """The text around a place, and which part of it that is."""
    first, last = max(0, start - AROUND), min(len(text), start + AROUND)
    if (first, last) == (0, len(text)):
        return text or "nothing"
    return f"{text[first:last] or 'nothing more'} (characters {first + 1:,} to {last:,} of {len(text):,})"


def state_lines(run: str, sequence: int, state: RunState) -> list[str]:
    """The state of a run's decider at a sequence: what it has spent, its population, and each generation under way."""
    rollouts, tokens, micro_usd = state.spent
    standing = "finished" if state.finished else "paused" if state.paused else f"{len(state.flights)} under way"
    lines = [
        f"{run} at sequence {sequence}: generation {state.generation}, {standing}",
        f"  spent: {rollouts:,} rollouts, {tokens:,} tokens, ${micro_usd / 1e6:.2f}",
    ]
    if state.best:
        lines.append(f"  best: {_candidate(state.best)}")
    kept = [str(candidate.generation) for candidate in state.population if not candidate.accepted]
    if kept:
        lines.append(f"  kept beside those that were accepted: generations {', '.join(kept)}")
    return lines + [line for flight in state.flights.values() for line in _flight_lines(flight)]


def _flight_lines(flight: Flight) -> list[str]:
    parents = " and ".join(f"generation {parent.generation}" for parent in (flight.parent, flight.second) if parent)
    lines = [f"  generation {flight.generation}, made from {parents or 'nothing'}: phase {flight.phase}"]
    if flight.candidate:
        lines.append(f"    judged now: {_candidate(flight.candidate)}")
    if flight.update:
        lines.append(
            f"    weight update: {flight.update.requested.algorithm}, round {flight.update.round} of "
            f"{flight.update.requested.rounds}"
        )
    if flight.reason:
        lines.append(f"    {one_line(flight.reason)}")
    waiting = [shard for shard in flight.shards.values() if not shard.complete]
    if waiting:
        attempts = sum(len(shard.requested.items) * shard.requested.attempts - len(shard.results) for shard in waiting)
        lines.append(f"    waiting for {attempts:,} attempts of {len(waiting)} requests")
    return lines


def _candidate(candidate: Candidate) -> str:
    score = "not scored" if candidate.score is None else f"dev {candidate.score:.4f}"
    parts = f"scaffold {candidate.scaffold[:12]}, adapter {candidate.adapter[:12] or 'none'}"
    return f"{candidate.lever} of generation {candidate.generation}, {score}, {parts}"


def state_fields(state: RunState) -> dict[str, Any]:
    """The state as values for JSON. The results of a shard are rows of item, attempt, trajectory and reward."""
    fields = msgspec.structs.asdict(state)
    fields["best"] = state.best
    fields["flights"] = {number: _flight_fields(flight) for number, flight in state.flights.items()}
    return fields


def _flight_fields(flight: Flight) -> dict[str, Any]:
    fields = msgspec.structs.asdict(flight)
    for name in ("shards", "history"):
        fields[name] = {
            request: {
                "requested": shard.requested,
                "results": [(*key, *(result or (None, None))) for key, result in shard.results.items()],
            }
            for request, shard in fields[name].items()
        }
    return fields


def performed_lines(performed: "Sequence[Performed]") -> list[str]:
    """The outcome of performing effects again, by kind, with the first difference of each."""
    lines = []
    for kind in performed:
        differ = kind.performed - kind.same
        lines.append(
            f"{kind.kind}: {kind.performed:,} performed again, "
            f"{f'{differ:,} come out differently' if differ else 'all the same'}"
        )
        if not kind.performed:
            lines[-1] = f"{kind.kind}: none performed again"
        if kind.first:
            lines.append(f"  first at sequence {kind.first.sequence}, {kind.first.field}:")
            lines += [f"    recorded {kind.first.recorded}", f"    now      {kind.first.now}"]
        lines += [f"  {count:,} cannot be performed again: {reason}" for reason, count in kind.cannot.items()]
    return lines


def swap_lines(swapped: "SwapReport") -> list[str]:
    """What would have come out differently with other code in a service's place."""
    lines = _verifier_lines(swapped) if swapped.service == "verifier" else _rules_lines(swapped)
    return lines + [f"  {count:,} could not be: {reason}" for reason, count in swapped.cannot.items()]


def _verifier_lines(swapped: "SwapReport") -> list[str]:
    lines = [
        f"{swapped.run}: {swapped.performed:,} trajectories scored by {swapped.name} ({swapped.path}) in place of "
        f"{swapped.recorded_name}; "
        f"{swapped.differ:,} rewards differ"
    ]
    lines += [
        f"  {row.purpose:<6} {row.differ:>7,} of {row.attempts:>7,} differ, mean {_number(row.recorded)} -> "
        f"{_number(row.now)}"
        for row in swapped.rewards
    ]
    if not swapped.differ:
        return [*lines, "Nothing would have come out differently."]
    lines.append("such as")
    for one in swapped.examples:
        answer = "no answer" if one.answer is None else shortened(repr(one.answer), AROUND)
        lines.append(
            f"  {one.item} ({one.purpose}, sequence {one.sequence}), {answer}: {_number(one.recorded)} -> "
            f"{_number(one.now)}"
        )
    lines.append("candidates on dev")
    for score in swapped.scores:
        lines.append(
            f"  {score.generation:>3}  {score.lever:<9} {_number(score.recorded)} -> {_number(score.now)}  "
            f"{score.standing}, as recorded"
        )
    if swapped.turn:
        lines.append(f"The first to come out differently, at sequence {swapped.turn.sequence}: {swapped.turn.words}.")
        lines.append(
            f"What follows from it is not recorded; `{swapped.fork}` plays on from before the first reward that "
            "differs."
        )
    elif not swapped.unknown:
        lines.append("Every decision would have been the same.")
    return [*lines, swapped.unknown] if swapped.unknown else lines


def _rules_lines(swapped: "SwapReport") -> list[str]:
    lines = [
        f"{swapped.run}: {swapped.performed:,} requests for feedback answered by {swapped.path}, each as the run had "
        "come to it; "
        f"{swapped.differ:,} choices differ"
    ]
    for choice in swapped.choices:
        lines.append(f"  generation {choice.generation}, sequence {choice.sequence}")
        lines.append(f"    recorded {choice.recorded_lever} {choice.recorded_action}: {choice.recorded_reason}")
        lines.append(f"    now      {choice.lever} {choice.action}: {choice.reason}")
    return lines


def _number(value: float | None) -> str:
    return "  none" if value is None else f"{value:.4f}"


def rebuild_lines(summary: "RebuildSummary") -> list[str]:
    """The outcome of rebuilding an archive."""
    scope = f"run {summary.run}" if summary.run else "all runs"
    rate = summary.events / summary.seconds if summary.seconds else 0
    lines = [
        f"{summary.into}: {scope} up to sequence {summary.sequence:,}; {summary.events:,} events read in "
        f"{summary.seconds:.1f} s ({rate:,.0f} a second), {summary.tables} tables filled",
        f"{summary.decisions:,} decisions checked: "
        + (f"{summary.broken['text']}" if summary.broken else "their hash chains hold"),
        *(f"{closing.run}: {line}" for closing in summary.closings for line in closing_lines(closing)),
    ]
    lines += [summary.gap] if summary.gap else []
    lines += [f"{summary.parquet}: the tables as Parquet, one folder a run"] if summary.parquet else []
    return lines
