"""What an executor makes of a request for rollouts."""

from msgspec.structs import replace

from events.rollouts import RolloutsRequested
from runtime.run.loading import LoadedRun
from services.executor import requested_shard
from tasks.loading import load
from tests.harness.facts import event_of, proposed, started
from tests.harness.given import given
from tests.harness.paths import TOY


def test_no_two_draws_of_an_item_share_its_name() -> None:
    """A child run has its owner's seed, since that is the splits', and a refill its round's number."""
    task = load(str(TOY))
    loaded = LoadedRun(started(), task, task.public(0))
    child = loaded._replace(started=replace(started(), draw_seed=5))
    requested = given(started(), proposed()).of(RolloutsRequested)[0]
    shards = [
        requested_shard(event_of(asked), asked, run)
        for run, asked in ((loaded, requested), (child, requested), (loaded, replace(requested, refill=1)))
    ]
    assert len({shard.draw for shard in shards}) == 3
