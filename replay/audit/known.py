"""What the provenance checks compare a run's log with: read from the log itself, and from the public data
of its task.
"""

from collections.abc import Iterator, Sequence

from events.errors import CheckFailed, UserError
from events.judgement import TrajectoryScored
from events.rollouts import RolloutsRequested
from events.run import RunStarted
from replay.audit.provenance.checks import Known
from replay.audit.provenance.leaks import normalized
from replay.recorded import StoredEvent
from runtime.run.loading import TaskAccess
from tasks.contract import Public
from tasks.loading import LARGEST_REWARD


def known_of_log(events: Sequence[StoredEvent], gold: Sequence[StoredEvent]) -> tuple[Known, list[str]]:
    """What the log alone says, without the task's data; with sentences that name what is not checked for that."""
    notes = []
    low, high = 0.0, 1.0
    if not all(low <= reward <= high for reward in _first_rewards(events)):
        low, high = -LARGEST_REWARD, LARGEST_REWARD
        notes.append("Whether rewards lie in [0, 1]: those of the start do not, so the task's own range is another.")
    gold_blobs = {blob for stored in gold if (blob := getattr(stored.event.data, "blob", ""))}
    return Known(gold_blobs=gold_blobs, low=low, high=high), notes


def known_of(
    started: RunStarted,
    events: Sequence[StoredEvent],
    gold: Sequence[StoredEvent],
    public: Public | None = None,
    access: TaskAccess = TaskAccess(),
) -> tuple[Known, list[str]]:
    """What the log and the task's data say, with sentences that name what cannot be checked.

    `public` are the task's data, where they are loaded already; without them they are loaded, if this host has those of
    the run, and `access` allows it.
    """
    known, notes = known_of_log(events, gold)
    try:
        # without the run's own verifier, which nothing here asks
        public = public or access.load_task(started.task).public(started.seed)
        if public.digests != started.splits:
            raise CheckFailed("This host's data are not those that the run was started on.")
    except UserError as wrong:
        notes.append(
            f"Whether hidden items came in sight or were trained on, which needs the data of task {started.task!r}: "
            f"{wrong}"
        )
        return known._replace(missing="the data of the task cannot be had here"), notes
    hidden = {item.id: item.prompt for item in public.test}
    train = {normalized(example.prompt) for example in public.train}
    return known._replace(
        hidden=hidden,
        audited={id: prompt for id, prompt in hidden.items() if normalized(prompt) not in train},
        public={item.id: item.prompt for split in (public.train, public.dev) for item in split},
    ), notes


def _first_rewards(events: Sequence[StoredEvent]) -> Iterator[float]:
    """The rewards of the start, for which nothing was optimised."""
    requests = {
        stored.event.id
        for stored in events
        if isinstance(stored.event.data, RolloutsRequested) and stored.event.data.generation == 0
    }
    for stored in events:
        if isinstance(stored.event.data, TrajectoryScored) and stored.event.data.request in requests:
            yield stored.event.data.reward
