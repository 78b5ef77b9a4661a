"""Proposes the first scaffold of a run. The rules back end takes the task's reference scaffold as it is."""

from collections.abc import Sequence

from events.change import ProposalFailed, ScaffoldProposed, ScaffoldRequested
from events.codec import Event
from events.errors import CheckFailed, Misconfigured, NotFound
from events.fact import Fact
from runtime.worker import answer, work
from services.context import Context


async def serve(context: Context) -> None:
    """Answer requests for first scaffolds."""

    async def perform(events: list[Event]) -> Sequence[Event]:
        outputs = []
        for event in events:
            assert isinstance(event.data, ScaffoldRequested)
            fact: Fact
            try:
                files = (await context.load(event.run)).task.scaffold()
                fact = ScaffoldProposed(
                    generation=event.data.generation,
                    scaffold=context.blobs.put_tree({path: text.encode() for path, text in files.items()}),
                    parent="",
                    summary="the task's reference scaffold",
                    reason="a run of the rules agent starts from the reference",
                )
            except (NotFound, CheckFailed, Misconfigured) as wrong:
                fact = ProposalFailed(generation=event.data.generation, reason=str(wrong))
            outputs.append(answer(fact, event, "meta_agent"))
        return outputs

    await work(context.log, perform, source="meta_agent", scanner=context.scanner)
