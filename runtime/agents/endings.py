"""How an agent's conversation may end: the tools' arguments, and what makes them unfit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from algorithms.learning import NAMES, algorithm
from events.errors import UsageError
from events.kinds import Lever, Memory, Resample
from events.secret import Scanner
from runtime.agents.changes import Base, Changes, Edits, Files, Removed
from runtime.agents.proposal import try_out, validate_source
from runtime.agents.session import UnfitRequest, arguments_of
from runtime.rollouts.host import ScaffoldLimits
from runtime.status import UNHEARD, Waits, waiting
from tasks.contract import Public

ROUNDS = 10
"""Most rounds that one weight update may be ordered for."""
CHILD_GENERATIONS = 20
"""Most generations of a child run."""


class ProposeScaffold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End: change the scaffold. Files that are not named stay as they are."""

    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=300, description="What changes, in one sentence.")]
    report: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=8000, description="What the evidence shows, why this helps, what to expect."
        ),
    ]
    files: Files = []
    edits: Edits = []
    remove: Removed = []
    base: Base = ""


class RequestWeightUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End: train the policy's weights on rollouts of the present scaffold."""

    algorithm: Annotated[
        str, msgspec.Meta(description="One of those described.", extra_json_schema={"enum": list(NAMES)})
    ]
    rounds: Annotated[int, msgspec.Meta(ge=1, le=ROUNDS, description="Rounds of rollouts and training.")]
    reason: Annotated[
        str, msgspec.Meta(min_length=1, max_length=4000, description="Why this algorithm and these settings.")
    ]
    hyper: Annotated[dict[str, float], msgspec.Meta(description="Hyper-parameters that differ from the defaults.")] = {}
    resample: Annotated[
        Resample,
        msgspec.Meta(description="Whether later rounds play all train items or those not yet solved."),
    ] = "all"
    memory: Annotated[
        Memory, msgspec.Meta(description="What a round trains on: its own rollouts, or all of this update's.")
    ] = "round"
    restart: Annotated[bool, msgspec.Meta(description="Train each round from the base model again.")] = False
    hints: Annotated[
        bool, msgspec.Meta(description="Play unsolved items once more with the true answer in sight (star).")
    ] = False


class RequestChildRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End: have a run of its own find the change, where it takes several steps in a row. It judges the present
    candidate anew and changes it generation by generation; what it ends with is your change. Its rollouts are taken
    from yours.
    """

    levers: Annotated[list[Lever], msgspec.Meta(min_length=1, description="The levers that it may pull.")]
    generations: Annotated[int, msgspec.Meta(ge=1, le=CHILD_GENERATIONS, description="Generations, at most.")]
    reason: Annotated[
        str, msgspec.Meta(min_length=1, max_length=4000, description="Why several changes in a row are needed.")
    ]
    rollouts: Annotated[
        int | None, msgspec.Meta(description="Rollouts that it may ask for; null: what the budget leaves you.")
    ] = None


class ChildRunLimits(NamedTuple):
    """What a child run may be ordered with."""

    levers: tuple[Lever, ...]
    rollouts: int
    """The fewest that it can do anything with: it judges its start and one candidate."""

    def order(self, arguments: str) -> RequestChildRun:
        """The order; raises `UnfitRequest` for a lever that is not on offer, or too few rollouts."""
        request = arguments_of(RequestChildRun, arguments)
        if unknown := [lever for lever in request.levers if lever not in self.levers]:
            raise UnfitRequest(f"The lever {unknown[0]!r} is not yours to give; there are {', '.join(self.levers)}.")
        if request.rollouts is not None and request.rollouts < self.rollouts:
            raise UnfitRequest(
                f"{request.rollouts:,} rollouts are too few: to judge its start and one candidate, a child run takes "
                f"{self.rollouts:,}."
            )
        return request


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End: nothing more is to be gained; the run finishes with the best candidate so far."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]


class Proposal(NamedTuple):
    """A scaffold that has been validated and tried."""

    files: dict[str, str]
    summary: str
    report: str


Ending = Proposal | RequestWeightUpdate | RequestChildRun | Stop


class Inspector(NamedTuple):
    """What proposals are checked against: the present files, what is public, folders that none may name, and where to
    try one out.
    """

    present: Mapping[str, str]
    public: Public
    hidden: tuple[Path, ...]
    work: Path
    scanner: Scanner
    limits: ScaffoldLimits = ScaffoldLimits()
    sandbox: str = ""
    """The run's profile."""
    must_change: bool = True
    changes: Changes | None = None
    """What a proposal may be made from; None: the present files alone."""
    judged: Callable[[Mapping[str, str]], str] = lambda files: ""
    """What became of a scaffold if it was judged before, in words; empty for a new one."""
    waits: Waits = UNHEARD
    """Where it is said that a proposal is being tried out."""

    def proposal(self, arguments: str) -> Proposal:
        """The proposed scaffold with secrets struck out; raises `UnfitRequest` for one that would not answer."""
        request = arguments_of(ProposeScaffold, arguments)
        changes = self.changes or Changes(self.present)
        files = changes.apply(request.base, request.files, request.edits, request.remove)
        files = self.scanner.redacted(files)
        if self.must_change and files == dict(self.present):
            raise UnfitRequest(
                "Nothing is changed by this proposal; write the files that differ, or choose another ending."
            )
        validate_source(files, self.hidden)
        if before := self.judged(files):
            raise UnfitRequest(f"This scaffold is no new one: {before} Propose another, or choose another ending.")
        with waiting(self.waits, "the proposed scaffold, which is tried out in the sandbox"):
            try_out(files, self.public, self.work, self.scanner, self.limits, self.sandbox)
        return Proposal(files, request.summary, request.report)


def weight_update(arguments: str) -> RequestWeightUpdate:
    """The order for a weight update; raises `UnfitRequest` for an algorithm or a hyper-parameter that there is not."""
    request = arguments_of(RequestWeightUpdate, arguments)
    if request.algorithm not in NAMES:
        raise UnfitRequest(f"There is no algorithm {request.algorithm!r}; there are {', '.join(NAMES)}.")
    try:
        from algorithms.learning.update import settings  # torch, and only here

        settings(algorithm(request.algorithm), request.hyper)
    except UsageError as wrong:
        raise UnfitRequest(str(wrong)) from wrong
    except ModuleNotFoundError:
        pass  # this host has no torch: the trainer's word will do
    return request


def stop(arguments: str) -> Stop:
    """The reason to stop."""
    return arguments_of(Stop, arguments)


KINDS: Mapping[str, type[msgspec.Struct]] = {
    "propose_scaffold": ProposeScaffold,
    "request_weight_update": RequestWeightUpdate,
    "request_child_run": RequestChildRun,
    "stop": Stop,
}


def endings(
    inspector: Inspector, names: tuple[str, ...], child_runs: ChildRunLimits | None = None
) -> dict[str, Callable[[str], Ending]]:
    """What checks each of these endings."""
    every: dict[str, Callable[[str], Ending]] = {
        "propose_scaffold": inspector.proposal,
        "request_weight_update": weight_update,
        "stop": stop,
        **({"request_child_run": child_runs.order} if child_runs else {}),
    }
    return {name: every[name] for name in names}
