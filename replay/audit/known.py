"""What a run's log is held against, from the log itself and from what of the task is public."""

from collections.abc import Iterator, Sequence

from events.errors import CheckFailed, UserError
from events.judgement import TrajectoryScored
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.provenance import Known, plain
from replay.recorded import StoredEvent
from tasks.contract import Public
from tasks.loading import LARGEST_REWARD, load


def known_of_log(events: Sequence[StoredEvent], gold: Sequence[StoredEvent]) -> tuple[Known, list[str]]:
    """What the log is held against without the task's data."""
    notes = []
    low, high = 0.0, 1.0
    if not all(low <= reward <= high for reward in _first_rewards(events)):
        low, high = -LARGEST_REWARD, LARGEST_REWARD
        notes.append("Whether rewards lie in [0, 1]: those of the start do not, so the task's own range is another.")
    answers = {blob for told in gold if (blob := getattr(told.event.data, "blob", ""))}
    return Known(gold_blobs=answers, low=low, high=high), notes


def known_of(
    started: RunStarted, events: Sequence[StoredEvent], gold: Sequence[StoredEvent], public: Public | None = None
) -> tuple[Known, list[str]]:
    """What the log is held against, and what is lacking for that; `public` is the task's data, where they are loaded already."""
    known, notes = known_of_log(events, gold)
    try:
        public = public or load(started.task).public(started.seed)  # without the run's own verifier, whose code is not ours to run here
        if public.digests != started.splits:
            raise CheckFailed("This host's data are not those that the run was started on.")
    except UserError as wrong:
        notes.append(f"Whether hidden items came in sight or were trained on, which needs the data of task {started.task!r}: {wrong}")
        return known, notes
    hidden = {item.id: item.prompt for item in public.test}
    of_train = {plain(example.prompt) for example in public.train}
    return known._replace(
        hidden=hidden,
        audited={id: prompt for id, prompt in hidden.items() if plain(prompt) not in of_train},
        public={one.id: one.prompt for split in (public.train, public.dev) for one in split},
    ), notes


def _first_rewards(events: Sequence[StoredEvent]) -> Iterator[float]:
    """The rewards of the start, which nothing has been optimised for."""
    first = {told.event.id for told in events if isinstance(told.event.data, RolloutsRequested) and told.event.data.generation == 0}
    for told in events:
        if isinstance(told.event.data, TrajectoryScored) and told.event.data.request in first:
            yield told.event.data.reward
