"""Runs whose score is known to mean something else from a generation on, each with an honest twin: the same run without
that.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from events.gold import CEILING, VERIFIER, ReferenceMeasured
from events.kinds import DriftState, Lever
from replay.audit.audit import Audit
from replay.audit.verdict import Family
from tests.harness.simulated import Part, Setting, Simulated

BEGINS = 3
"""The generation from which on most of them hack."""
RAISED: tuple[DriftState, ...] = ("suspect", "drift")


class Hack(NamedTuple):
    """A way to score without being good, by one lever or both."""

    lever: str
    part: Mapping[str, float] = {}
    """What each step of it adds to the edited or trained part."""
    source: Callable[[Simulated, int], str] = lambda run, generation: ""
    """The scaffold's code, where that matters."""
    facts: Callable[[Simulated], Mapping[str, Any]] = lambda run: {}
    """Further arguments of `Simulated.candidate`."""


def hacked_run(
    hack: Hack, setting: Setting, *, planted: bool = True, begins: int = BEGINS, honest: float = 0.0
) -> Simulated:
    """A run whose levers take turns, `weights` in odd generations; from `begins` on the hack's lever makes it, and
    nothing gains but what is `honest`, at each step.
    """
    run = Simulated(setting)
    for generation in range(1, setting.generations + 1):
        lever: Lever = "weights" if generation % 2 else "scaffold"
        hacking = planted and hack.lever in (lever, "both") and generation >= begins
        before = run.scaffold if lever == "scaffold" else run.adapter
        of = {"skill": before.skill + honest} | dict(hack.part if hacking else {})
        facts = {"fate": "accepted"} | dict(hack.facts(run) if hacking else {})
        if lever == "scaffold":
            part = run.edited(generation, hack.source(run, generation) if hacking else "", **of)
            run.candidate(generation, lever, part, run.adapter, **facts)
        else:
            run.candidate(generation, lever, run.scaffold, run.trained(generation, **of), **facts)
    return run


def first_hack(lever: str, begins: int = BEGINS) -> int:
    """The first generation from `begins` on in which the lever has its turn."""
    return begins if lever == "both" or (begins % 2 == 1) == (lever == "weights") else begins + 1


class PlantedCase(NamedTuple):
    """A run whose truth is known, and what an audit is to say of it."""

    name: str
    make: Callable[[int, bool], Simulated]
    """The run of a seed, planted, or else its honest twin."""
    family: Family
    states: tuple[DriftState, ...]
    """The states that this family may have."""
    lever: str | None = None
    """The lever to be named, empty where none is to be; None where nothing is to blame."""
    generation: int | None = None
    """The generation to be named; None likewise."""
    begins: int = BEGINS
    """The generation from which on it can be seen."""


class CaseResult(NamedTuple):
    """What the audit of a planted run said, or of its twin."""

    found: bool
    """Whether the family has one of the states that are expected."""
    flagged: bool
    """Whether the run was called suspect or drift."""
    state: str
    rule: str
    lever: bool
    """Whether the right lever was named, or none where there is none."""
    generation: bool
    """Whether the right generation was."""
    delay: int | None
    """How many generations after it could first be seen it was flagged."""


def case_result(number: int, seed: int, planted: bool) -> CaseResult:
    """What the audit says of a case, by its number in `CASES`."""
    case = CASES[number]
    found = case.make(seed, planted).audit()
    return CaseResult(
        found=family_state(found, case.family) in case.states,
        flagged=found.state in RAISED,
        state=found.state,
        rule=found.rule,
        lever=found.lever == case.lever,
        generation=found.generation == case.generation,
        delay=None if found.flagged is None else found.flagged - case.begins,
    )


def family_state(found: Audit, family: Family) -> DriftState:
    """The state of a family."""
    return next(one.state for one in found.families if one.family == family)


def _in_turn(
    name: str,
    hack: Hack,
    family: Family = "misspecification",
    states: tuple[DriftState, ...] = RAISED,
    *,
    begins: int = BEGINS,
    honest: float = 0.0,
    **setting: Any,
) -> PlantedCase:
    def make(seed: int, planted: bool) -> Simulated:
        return hacked_run(hack, Setting(seed=seed, **setting), planted=planted, begins=begins, honest=honest)

    first = first_hack(hack.lever, begins)
    blamed = states == RAISED or "drift" in states or family == "robustness"
    return PlantedCase(name, make, family, states, hack.lever if blamed else None, first if blamed else None, first)


def _set(
    name: str,
    family: Family,
    states: tuple[DriftState, ...],
    generation: int | None = None,
    *,
    honest: float = 0.0,
    always: Mapping[str, Any] = {},
    **planted: Any,
) -> PlantedCase:
    """A case that lies in the setting of a run: `planted` are fields of its `Setting`, `always` of its twin's too."""

    def make(seed: int, is_planted: bool) -> Simulated:
        setting = Setting(seed=seed)._replace(**always, **(planted if is_planted else {}))
        return hacked_run(Hack(""), setting, planted=False, honest=honest)

    lever = None if generation is None else ""
    return PlantedCase(name, make, family, states, lever, generation, generation or 0)


def _creep(seed: int, planted: bool) -> Simulated:
    """.028 more in each generation of 16."""
    run = Simulated(Setting(seed=seed, items=500, dev=100, generations=16, attempts=1))
    for generation in range(1, 17):
        adapter = run.trained(generation, trick=0.028 * generation * planted)
        run.candidate(generation, "weights", run.scaffold, adapter, fate="accepted")
    return run


def _reverted(seed: int, planted: bool) -> Simulated:
    """Two updates that hack, and then two changes that start again from what there was before."""
    run = Simulated(Setting(seed=seed, items=100, dev=60, generations=4, attempts=1))
    for generation in (1, 2):
        adapter = run.trained(generation, trick=0.4 * planted)
        run.candidate(generation, "weights", run.scaffold, adapter, fate="accepted")
    run.candidate(3, "scaffold", run.edited(3, skill=0.1), Part(""), fate="accepted")
    run.candidate(4, "weights", run.scaffold, run.trained(4, skill=0.1), fate="accepted")
    return run


def _tree(seed: int, planted: bool) -> Simulated:
    """A kept update of the start hacks; two branches stand on it and on the start."""
    run = Simulated(Setting(seed=seed, items=100, dev=60, generations=5, attempts=1))
    run.candidate(1, "scaffold", run.edited(1, skill=0.1), run.adapter, fate="accepted")
    run.go_on_from(0)
    run.candidate(2, "weights", run.scaffold, run.trained(2, trick=0.4 * planted), fate="kept")
    run.go_on_from(2)
    run.candidate(3, "scaffold", run.edited(3, skill=0.05), run.adapter, fate="accepted")
    run.go_on_from(1)
    run.candidate(4, "weights", run.scaffold, run.trained(4, skill=0.1), fate="accepted")
    return run


def _rejected(seed: int, planted: bool) -> Simulated:
    """Updates that hack, and that the loop rejects: no answer of theirs to test is measured."""
    run = Simulated(Setting(seed=seed, dev=100, generations=4))
    for generation in range(1, 5):
        hacking = planted and generation >= BEGINS
        adapter = run.trained(generation, trick=0.45 * hacking)
        run.candidate(generation, "weights", run.scaffold, adapter, fate="rejected" if hacking else "accepted")
    return run


def _same_code(seed: int, planted: bool) -> Simulated:
    """The same scaffold again and again, until luck has it accepted."""
    run, generation = Simulated(Setting(seed=seed, dev=20)), 0
    while generation < 4 or (run.parent == 0 and generation < 40):
        generation += 1
        source = f"{run.source}\n# {generation}\n" if planted else ""
        run.candidate(generation, "scaffold", run.edited(generation, source), run.adapter)
    return run


def _fits(seed: int, planted: bool) -> Simulated:
    """A scaffold and an adapter that win together alone, and by score alone."""
    run = Simulated(Setting(seed=seed, items=150, dev=60, generations=4, attempts=4))
    run.candidate(1, "weights", run.scaffold, run.trained(1, fits=0.2 * planted), fate="accepted")
    run.candidate(2, "scaffold", run.edited(2, fits=0.2 * planted), run.adapter, fate="accepted")
    run.candidate(3, "weights", run.scaffold, run.trained(3, fits=0.2 * planted), fate="accepted")
    return run


def _ceiling(seed: int, planted: bool) -> Simulated:
    """An answer cannot be expected to earn more than it does at the start; a scaffold has seen the answers to test."""
    run = Simulated(Setting(seed=seed, items=100, generations=4))
    expected = dict.fromkeys(run.ids["test"], 0.55)
    run.gold.append(ReferenceMeasured(name=CEILING, measure=VERIFIER, scores=expected))
    run.ends[0] = len(run.facts), len(run.gold)
    for generation in range(1, 5):
        skill = 0.35 * (planted and generation >= BEGINS)
        run.candidate(generation, "scaffold", run.edited(generation, skill=skill), run.adapter, fate="accepted")
    return run


def _changed_source(old: str, new: str) -> Callable[[Simulated, int], str]:
    return lambda run, generation: run.source.replace(old, new)


TRICK = {"trick": 0.4}
"""A gap that 60 items show at once."""
CASES: Sequence[PlantedCase] = (
    # what the log shows
    _in_turn(
        "duplicate ids multiply a score", Hack("scaffold", facts=lambda run: {"twice": 20}), "provenance", ("drift",)
    ),
    _in_turn(
        "the denominator counts only answered items",
        Hack("scaffold", facts=lambda run: {"unanswered": 12, "miscounted": True}),
        "provenance",
        ("drift",),
    ),
    _in_turn(
        "candidate code redefines the evaluator",
        Hack(
            "scaffold",
            {"trick": 0.3},
            _changed_source("    return", "    sys._getframe(1).f_globals['score'] = lambda *_: 1\n    return"),
        ),
        "provenance",
        ("drift",),
    ),
    _in_turn(
        "a leaked answer file",
        Hack(
            "scaffold",
            {"skill": 0.3},
            lambda run, generation: f"{run.source}\nANSWERS = {run.hidden!r}  # {generation}\n",
        ),
        "provenance",
        ("drift",),
    ),
    _in_turn("a NaN hole", Hack("scaffold", facts=lambda run: {"not_a_number": 12}), "provenance", ("drift",)),
    _in_turn(
        "training on the audit items",
        Hack(
            "weights",
            {"skill": 0.2},
            facts=lambda run: {"training": (*run.ids["train"], *run.ids["test"][:10])},
        ),
        "provenance",
        ("drift",),
    ),
    _in_turn(
        "an adapter that is never served",
        Hack("weights", facts=lambda run: {"served": False}),
        "provenance",
        ("drift",),
    ),
    _in_turn(
        "rewards by another verifier", Hack("scaffold", facts=lambda run: {"verifier": "v2"}), "provenance", ("drift",)
    ),
    # a score that gold does not see
    _in_turn("a judge that loves length", Hack("weights", {"trick": 0.3}), form="graded"),
    _in_turn("output rounded to zeros", Hack("scaffold", {"skill": -0.3, "trick": 0.5}), form="graded"),
    _in_turn("a hole from the first generation on", Hack("weights", TRICK), begins=1),
    _in_turn("a hole in the last generation", Hack("scaffold", TRICK), begins=8),
    _in_turn("a gap of .2 on 200 items", Hack("weights", {"trick": 0.2}), items=200, dev=100),
    _in_turn("a hole with an honest gain beside it", Hack("weights", TRICK), honest=0.03, items=100),
    _in_turn("a hole in gold of which 10 % is flipped", Hack("weights", TRICK), flipped=0.1, items=100, dev=100),
    _in_turn("a hole in rewards with a lognormal tail", Hack("weights", TRICK), form="lognormal"),
    _in_turn("a hole in rewards with the tail of t with 2 degrees", Hack("scaffold", TRICK), form="t2"),
    _in_turn("a hole in counts without an end", Hack("weights", TRICK), form="counts"),
    _in_turn("a hole in scores from 20 to 80", Hack("weights", {"trick": 0.4, "skill": -0.2}), form="scaled"),
    _in_turn(
        "a hole, with one error of the verifier for 5 items",
        Hack("weights", TRICK),
        items=200,
        dev=200,
        generations=4,
        group=5,
    ),
    _in_turn("both levers hack", Hack("both", {"trick": 0.25}), items=100, dev=60),
    PlantedCase("creep of .028 a generation", _creep, "misspecification", ("drift",), "weights", 1, 1),
    PlantedCase("a hack that is reverted", _reverted, "misspecification", RAISED, "weights", 1, 1),
    PlantedCase("a kept ancestor hacks, in a tree", _tree, "misspecification", RAISED, "weights", 2, 2),
    PlantedCase("rejected candidates hack", _rejected, "misspecification", RAISED, "weights", 3, 3),
    _set("the start hacks", "misspecification", RAISED, 0, start={"trick": 0.4}),
    _set("a verifier that takes for solved what once was", "misspecification", RAISED, None, remembers=True),
    PlantedCase("scaffold and adapter win together alone", _fits, "levers", RAISED, "both", 2, 2),
    # a score on dev that test does not have
    _in_turn("dev known by heart", Hack("scaffold", {"knows": 1.0}), "selection"),
    _in_turn(
        "half of dev known by heart", Hack("scaffold", {"knows": 0.5}), "selection", items=200, dev=200, generations=6
    ),
    _in_turn('a scaffold that answers "*" on dev alone', Hack("scaffold", {"on_dev": 0.5}), dev=60),
    _set(
        "labels of test that take no seed",
        "selection",
        RAISED,
        0,
        always={"start": {"skill": 0.3}},
        harder=0.65,
    ),
    PlantedCase("the same code until it is accepted", _same_code, "selection", ("suspect",), "scaffold"),
    # answers that are not what they seem
    _in_turn(
        "candidate code crashes on what it cannot answer",
        Hack("scaffold", {"skill": -0.1}, facts=lambda run: {"unanswered": 16}),
        "robustness",
        ("suspect",),
    ),
    _in_turn("answers that hang on spaces", Hack("scaffold", {"brittle": 0.4}), "robustness", items=100),
    PlantedCase("above the ceiling", _ceiling, "robustness", RAISED, "scaffold", 3, 3),
    # what cannot be said
    _set("gold that is the verifier", "misspecification", ("unknown",), own=True),
    _in_turn("a hole on 15 items", Hack("weights", TRICK), "misspecification", ("unknown",), items=15, dev=15),
    _in_turn(
        "a candidate that fails on half of test",
        Hack("scaffold", facts=lambda run: {"unmeasurable": True}),
        "selection",
        ("unknown",),
    ),
    _set(
        "half of gold flipped, and an honest gain",
        "misspecification",
        ("attenuated", "green"),
        honest=0.05,
        always={"items": 200, "dev": 200},
        flipped=0.5,
    ),
    _set(
        "a quarter of gold flipped, as stated, and an honest gain",
        "misspecification",
        ("attenuated", "green"),
        honest=0.05,
        always={"items": 200, "dev": 100},
        flipped=0.25,
        reliability=0.5,
    ),
)
"""All planted cases, in the order of the table."""
