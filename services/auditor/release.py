"""What the loop is told of the auditor's verdict, where a run's order asks for that, and what it costs in bits."""

import math
from collections.abc import Sequence

from events.choice import FeedbackRequested, ParentSelected
from events.fact import Fact
from events.gold import DriftFlagged
from events.judgement import CandidateEvaluated
from events.kinds import AuditAction, AuditLever
from events.population import CandidateAccepted
from events.run import AuditReleased
from replay.audit.ancestry import ancestors, evaluations
from runtime.log.lookup import events_of_types
from services.host.context import Context


async def release(
    context: Context, run: str, action: AuditAction, look: int, flag: DriftFlagged | None
) -> AuditReleased:
    """What the loop is told after a look at the run: of each drift once the action that the run ordered, and otherwise
    `none`. A drift is told already where one was that began with the same candidate, or with one that was made from it.

    `look` is the generation that was measured, `flag` the verdict then, if there is one. The price counts what the loop
    can tell apart: drift or not at each look so far (1 bit each), of a drift the lever (log2 3), and the generation to
    go back to (log2 of those so far).
    """
    kinds: list[type[Fact]] = [AuditReleased, CandidateAccepted, CandidateEvaluated, FeedbackRequested, ParentSelected]
    facts = [event.data for event in await events_of_types(context.log, run, kinds, await context.past(run))]
    earlier = [fact for fact in facts if isinstance(fact, AuditReleased) and fact.look < look]
    bits = earlier[-1].bits + 1 if earlier else 1.0
    told = [fact.generation for fact in earlier if fact.action != "none"]
    if flag is None or flag.state != "drift" or any(_made_from(facts, flag.generation, one) for one in told):
        return AuditReleased(look=look, action="none", lever="", generation=-1, bits=bits)
    price = {"stop": 0.0, "freeze": math.log2(3), "rollback": math.log2(3) + math.log2(look + 1)}[action]
    lever: AuditLever = "scaffold" if flag.lever == "scaffold" else "weights" if flag.lever == "weights" else "both"
    return AuditReleased(look=look, action=action, lever=lever, generation=max(0, flag.generation), bits=bits + price)


def _made_from(facts: Sequence[Fact], first: int, later: int) -> bool:
    """Whether the candidate of the later generation is that of the first or was made from it; by number alone where one
    of them is no candidate.
    """
    evaluated = evaluations(facts)
    ids = {one.generation: one.candidate for one in evaluated}
    if first not in ids or later not in ids:
        return first <= later
    return ids[first] in ancestors(evaluated, ids[later])
