"""How a fork goes on from its parent's state, and since when scores can be compared."""

from collections.abc import Iterable

from events.fact import Fact
from events.run import RunStarted
from runtime.run.state import RunState, new_candidate


def forked(state: RunState, run: str, before: RunStarted, started: RunStarted) -> None:
    """Go on in a new run from where its parent stood.

    Where scores mean something else now, the best candidate is judged anew, in a generation of its own that counts for none.
    """
    state.started, state.paused = started, False
    if not started.on_drift or scores_not_comparable(before, started):  # what was found is not asked about, or is about other scores
        state.frozen, state.green, state.halt = (), "", ""
    state.looked = state.kept[-1].generation if state.kept else -1  # what the parent kept is looked at in the parent, if at all
    if scores_not_comparable(before, started):
        basis = state.best or state.current
        state.best, state.update, state.shards, state.history, state.again, state.waiting = None, None, {}, {}, {}, 0
        state.kept = []
        state.stop = state.rejected = ""
        state.phase = "evaluate" if basis else "new"
        if basis:
            kept = started.base_model == before.base_model
            state.generation, state.rebaselined = state.generation + 1, state.rebaselined + 1
            state.current = new_candidate(run, state.generation, basis.scaffold, basis.adapter if kept else "", "start")
            state.current.state = basis.state if kept else ""
        return
    if state.update and "weights" not in started.levers:
        state.update, state.shards, state.history, state.again, state.waiting = None, {}, {}, {}, 0
        state.rejected, state.phase = "the fork may not change the weights", "next"
        return
    match state.phase:
        case "finished":
            state.stop, state.phase = "", "next"
        case "asked":
            state.phase = "next" if state.best else "new"
            state.generation -= 1 if state.best else 0
        case "playing":
            state.again = {key: shard.requested for key, shard in state.shards.items() if not shard.complete}
            state.waiting = 0
            state.phase = "again" if state.again else "playing"
        case "training" | "serving":
            state.phase = "seal"


def scores_not_comparable(before: RunStarted, started: RunStarted) -> bool:
    """Whether scores mean something else in a fork than in its parent, so that its best candidate is judged anew."""
    return any(getattr(before, name) != getattr(started, name) for name in ("verifier", "verifier_code", "base_model", "max_tokens"))


def comparable_from(facts: Iterable[Fact]) -> int:
    """The place, among the facts of a run and its past, since which scores mean what they mean at the end."""
    first, started = 0, None
    for place, fact in enumerate(facts):
        if isinstance(fact, RunStarted):
            first = place if started and scores_not_comparable(started, fact) else first
            started = fact
    return first
