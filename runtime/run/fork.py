"""The state in which a fork begins, made of its parent's, and the index from which its scores can be compared.

A fork's past is folded first. Then its own `run_started` takes the place of its parent's, and what the past had asked
for without an answer is asked for again, in the fork's name.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from events.fact import Fact
from events.run import RunStarted
from runtime.run.state import RunState, in_phase, new_candidate


def forked(state: RunState, run: str, before: RunStarted, started: RunStarted) -> RunState:
    """The state in which a fork begins; `state` and `before` are its parent's.

    Where scores mean something else in the fork, its first generation changes nothing and evaluates the best candidate
    again. That generation counts for none.
    """
    rebaseline = scores_not_comparable(before, started)
    # what the parent accepted is audited in the parent, if at all
    state = replace(
        state,
        started=started,
        paused=False,
        last_audited_generation=state.accepted[-1].generation if state.accepted else -1,
    )
    if rebaseline or not started.on_drift:  # what the auditor found is about other scores, or is not asked about
        state = replace(state, frozen=(), rollback_to="", audit_stop_reason="")
    if rebaseline:
        return _rebaselined(state, run, keep_adapter=started.base_model == before.base_model)
    if state.update and "weights" not in started.levers:
        return in_phase(_without_rollouts(state), "next", rejection="the fork may not change the weights")
    match state.phase:
        case "finished":
            return in_phase(state, "next", stop_reason="")
        case "proposing" if state.best:
            return in_phase(state, "next", generation=state.generation - 1)
        case "proposing":
            return in_phase(state, "new")
        case "playing":
            unanswered = {id: shard.requested for id, shard in state.shards.items() if not shard.complete}
            return in_phase(state, "reissue" if unanswered else "playing", reissued=unanswered, waiting=0)
        case "training" | "serving":
            return in_phase(state, "seal")
        case (
            "new" | "evaluate" | "reissue" | "seal" | "round_done" | "next"
        ):  # at a barrier, from which the fork decides by itself
            return state
        case _:
            assert_never(state.phase)


def _rebaselined(state: RunState, run: str, *, keep_adapter: bool) -> RunState:
    basis = state.best or state.current
    state = replace(_without_rollouts(state), best=None, accepted=(), stop_reason="", rejection="")
    if basis is None:
        return in_phase(state, "new")
    generation = state.generation + 1
    adapter, optimizer_state = (basis.adapter, basis.optimizer_state) if keep_adapter else ("", "")
    current = new_candidate(run, generation, basis.scaffold, adapter, "start", optimizer_state)
    return in_phase(state, "evaluate", generation=generation, rebaselined=state.rebaselined + 1, current=current)


def _without_rollouts(state: RunState) -> RunState:
    return replace(state, update=None, shards={}, history={}, reissued={}, waiting=0)


def scores_not_comparable(before: RunStarted, started: RunStarted) -> bool:
    """Whether scores mean something else in a fork than in its parent: another verifier, base model, or length of
    completions.
    """
    return any(
        getattr(before, name) != getattr(started, name)
        for name in ("verifier", "verifier_code", "base_model", "max_tokens")
    )


def comparable_from(facts: Iterable[Fact]) -> int:
    """The index, among the facts of a run and its past, from which on scores mean what they mean at the end."""
    first, started = 0, None
    for index, fact in enumerate(facts):
        if isinstance(fact, RunStarted):
            first = index if started and scores_not_comparable(started, fact) else first
            started = fact
    return first
