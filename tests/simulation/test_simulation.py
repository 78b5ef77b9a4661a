"""Hundreds of runs in which everything goes wrong, and proof that they find mistakes: some are planted, and found.

A mistake is planted by changing a line of the services' own code while the simulation runs. `make sim` runs as many
seeds as one likes.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.harness import invariants
from tests.harness.faulty import FAULTS

pytest.importorskip("torch")

import runtime.log.worker
import services.archivist
import services.feedback_agent
from events import codec
from events.choice import ParentSelected
from events.codec import Event
from events.fact import derive
from events.rollouts import CallUse, TrajectoryRecorded
from events.run import Budget, RunFinished, RunStarted
from events.subjects import GOLD, LOG
from replay.archive.projection import Archive
from runtime.log.port import Stored, readable
from runtime.rollouts.calls import CallRecorder
from runtime.run.controller import Controller
from runtime.run.decide import _settling
from runtime.run.decider import Decision
from runtime.run.evolve import _with_child
from runtime.run.state import with_flight
from tests.harness.stand_ins import SETTINGS, Setting
from tests.simulation import simulation
from tests.simulation.simulation import (
    Broken,
    System,
    Tried,
    broken,
    digest,
    setting_of,
    simulate,
    tried,
    try_all,
    undisturbed,
)

FEW, MANY, MORE = range(5), range(1597, 1654), range(5, 160)
"""Seeds that are tried by `make test`, by `make test-slow` (those that draw each setting at least once), and by `make
test-long`; `make sim` tries as many as one likes.
"""
SHORT = 68
"""A seed that draws the first setting, whose undisturbed run many tests need."""
PLANTED = 60
"""Seeds among which a planted mistake must be found; without it they are among those that are green."""
FOUND_BY = {
    "an id that is drawn and not derived": 3,
    "a state that is carried outside the log": 2,
    "two candidates that share a slot": 25,
}
"""The seed that is tried first where others would take long to find a mistake."""
ANSWERED = "Every request is answered or failed"
AS_RECORDED = "Answers are recorded before they are released"


NARROW = SETTINGS[:10]
"""One candidate at a time, by the chain: most mistakes can be made there, and a run takes less time."""


class Mistake(NamedTuple):
    """Lines of functions, what they become, and the invariant that this breaks; `rates` are those of faults that bring
    it about, `settings` those of runs in which it can be.
    """

    lines: tuple[tuple[Callable[..., Any], str, str], ...]
    breaks: str
    rates: Mapping[str, float] | None = None
    settings: Sequence[Setting] = NARROW


WIDE = [setting for setting in SETTINGS if setting.width > 1 and setting.comparable]
CUT_SHORT = [setting for setting in SETTINGS if setting.cut_short]
STEP = "codec.event(fact, run=cause.run, source=source, cause=cause.id, time=now())"
MISTAKES = {
    "acknowledged before it is appended": Mistake(
        (
            (
                runtime.log.worker.step,
                "        if events:\n",
                "        await asyncio.gather(*[of.ack() for of in deliveries])\n        if events:\n",
            ),
        ),
        ANSWERED,
    ),
    # and read by those who take each id as it comes
    "an id that is drawn and not derived": Mistake(
        (
            (
                runtime.log.worker.answer,
                f"return {STEP}",
                f"return __import__('tests.simulation.test_simulation', fromlist=['x']).with_drawn_id({STEP})",
            ),
            (codec._decode, "if decoded.id != (id := event_id(decoded.run, entry.fact, *data.key())):", "if False:"),
        ),
        "No optimiser step is taken twice",
    ),
    "an append that expects no sequence": Mistake(
        ((Decision.messages, "[head_sequence] + [0] * (len(subjects) - 1)", "[None] * len(subjects)"),),
        "Everything happens once",
    ),
    "a state that is carried outside the log": Mistake(
        (
            (
                services.feedback_agent.serve,
                "history = await events_of_types(context.log, event.run, HISTORY_TYPES, past)",
                "history = [of for of in await events_of_types(context.log, event.run, HISTORY_TYPES, past)"
                " if of.tag != 'lever_chosen' or of.id in vars(context)]",
            ),
            (
                services.feedback_agent.serve,
                "outputs += [answer(fact, event, AGENT) for fact in facts]",
                "outputs += [answer(fact, event, AGENT) for fact in facts]; vars(context).update({of.id: '' for of "
                "in outputs})",
            ),
        ),
        "Every run ends as the undisturbed one",
    ),
    "a retry that samples again": Mistake(
        (
            (CallRecorder.record, "recorded = dict(log.find(list(ids.values())))", "recorded = {}"),
            (
                CallRecorder.record,
                "if calls and log.record(list(calls.values())):",
                "if log.record(list(calls.values())) and False:",
            ),
        ),
        AS_RECORDED,
    ),
    # the simulation found this one, in seeds 216 and 438, before it was planted
    "an executor that was second and goes on with what it was told": Mistake(
        (
            (
                CallRecorder.record,
                "if calls and log.record(list(calls.values())):",
                "if calls and log.record(list(calls.values())) and False:",
            ),
        ),
        AS_RECORDED,
        {"again": 1.0, "slow": 0.05},
    ),
    # which only a population can have
    "two candidates that share a slot": Mistake(
        (
            (
                with_flight,
                "    flights = {**state.flights, flight.generation: flight}\n",
                "    flights = {n: each for n, each in state.flights.items() if n % 3 != flight.generation % 3}\n"
                "    flights[flight.generation] = flight\n",
            ),
        ),
        "Generations are settled once and in order",
        settings=WIDE,
    ),
    "a child run that is counted twice": Mistake(
        ((_with_child, "flight.rollouts + ended.rollouts", "flight.rollouts + 2 * ended.rollouts"),),
        "Nothing counts twice",
        settings=[setting for setting in WIDE if setting.nested],
    ),
    "a child run that outlives its owner": Mistake(
        ((Controller._cancel_child, "if child not in self._closed:", "if False:"),),
        "No run outlives its owner",
        settings=[setting for setting in CUT_SHORT if setting.nested],
    ),
    "a decision that depends on which candidate was finished first": Mistake(
        (
            (
                _settling,
                "next(iter(state.flights.values()), None)",
                "next((each for each in state.flights.values() if each.phase in ('failed', 'stopped') or each.phase == "
                "'playing' and not each.waiting), None)",
            ),
        ),
        "Every run ends as the undisturbed one",
        settings=WIDE,
    ),
}


def with_drawn_id(event: Event) -> Event:
    """Which another try gives another."""
    if event.tag != "optimizer_step_applied":
        return event
    return msgspec.structs.replace(event, id=codec.event_id(event.run, type(event.data), *event.data.key(), event.time))


@contextlib.contextmanager
def planted(mistake: Mistake) -> Iterator[None]:
    """The functions, with these lines changed, wherever they are known already.

    An undisturbed run that is compared with has to be made before that.
    """
    codes = {function: function.__code__ for function, _, _ in mistake.lines}
    try:
        for function in codes:
            source = textwrap.dedent(inspect.getsource(function))
            for of, right, wrong in mistake.lines:
                if of is function:
                    assert source.count(right) == 1, (
                        f"{right!r} is no longer in {function}; plant the mistake where it belongs now"
                    )
                    source = source.replace(right, wrong)
            names = dict(function.__globals__)
            exec(source, names)
            function.__code__ = names[function.__name__].__code__
        yield
    finally:
        for function, code in codes.items():
            function.__code__ = code


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """What goes wrong on purpose is no news."""
    logger = logging.getLogger("evolog")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def all_hold(seeds: range) -> Counter[str]:
    """How often each type of event came in these seeds, in which each fault did; raises what broke."""
    happened, events = Counter[str](), Counter[str]()
    for done in try_all(seeds):
        if done.broken:
            raise done.broken
        happened += done.happened
        events += done.events
    assert happened.keys() == {*FAULTS, "kill", "power", "outage", "clock", "pause", "resume"}
    assert events["run_finished"] == events["audit_finished"] > len(seeds)
    return events


def test_every_invariant_holds_whatever_goes_wrong() -> None:
    all_hold(FEW)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [MANY, pytest.param(MORE, marks=pytest.mark.long)], ids=["many", "more"])
def test_every_invariant_holds_in_many_seeds_and_everything_happens(seeds: range) -> None:
    events = all_hold(seeds)
    rare = {
        "rollout_failed",
        "scoring_failed",
        "adapter_rejected",
        "weight_update_failed",
        "candidate_rejected",
        "candidate_kept",
        "stage_evaluated",
        "candidate_rechecked",
        "child_run_finished",
        "event_set_aside",
    }
    assert rare <= events.keys()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(mistake: str) -> None:
    found = []
    settings = MISTAKES[mistake].settings
    for seed in sorted(range(PLANTED), key=lambda seed: seed != FOUND_BY.get(mistake)):
        undisturbed(setting_of(seed, settings))
        with planted(MISTAKES[mistake]):
            try:
                simulate(seed, MISTAKES[mistake].rates, settings=settings)
            except Broken as wrong:
                found.append((seed, wrong.sentences))
                if any(sentence.startswith(MISTAKES[mistake].breaks) for sentence in wrong.sentences):
                    return
    pytest.fail(f"{PLANTED} seeds did not find that; found instead: {found}")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_without_faults_the_mistakes_would_not_be_seen(mistake: str) -> None:
    calm = undisturbed(SETTINGS[0])
    with planted(MISTAKES[mistake]):
        system = undisturbed.__wrapped__(SETTINGS[0])
        assert not broken(system, calm)


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(one, marks=[pytest.mark.slow] if place % 3 else [], id=f"{one.strategy} {one.seed}")
        for place, one in enumerate(WIDE)
    ],
)
def test_executors_of_other_delays_lead_to_the_same_decisions(setting: Setting, tmp_path: Path) -> None:
    calm = readable(undisturbed(setting).log())
    orders = {tuple(event.id for event in calm if event.source == "controller")}
    for delays in (1, 2):
        system = System(setting, None, tmp_path / str(delays), delays=delays)
        system.run()
        assert not system.trouble
        events = readable(system.log())
        invariants.same_decisions(events, calm)
        invariants.check_all(system.log(), system.log(GOLD), calm)
        orders.add(tuple(event.id for event in events if event.source == "controller"))
    assert len(orders) > 1 or setting.strategy == "best_of_k"


@pytest.mark.parametrize("slower", [1, 10])
@pytest.mark.parametrize("setting", CUT_SHORT, ids=[f"{setting.strategy} {setting.seed}" for setting in CUT_SHORT])
def test_a_run_that_a_clock_ends_comes_to_an_end_with_what_it_has(
    setting: Setting, slower: int, tmp_path: Path
) -> None:
    """Cancelled, paused before that or not, or its time is up; with a child run under way, that ends with it."""
    if slower > 1:
        budget = Budget(seconds=slower * setting.budget.seconds) if setting.budget.seconds else Budget()
        setting = setting._replace(paused=slower * setting.paused, cancelled=slower * setting.cancelled, budget=budget)
    system = System(setting, None, tmp_path, delays=slower - 1)
    system.run()
    assert not system.trouble and not broken(system, system)
    events = readable(system.log())
    ends = {event.run: event.data for event in events if isinstance(event.data, RunFinished)}
    owner = ends.pop("r")
    assert owner.reason == ("cancelled: enough" if setting.cancelled else "budget exhausted")
    assert 1 <= owner.generations <= setting.generations
    under_way = {event.data.generation for event in events if isinstance(event.data, ParentSelected)}
    assert under_way, "it ended before there was anything to end"
    assert bool(ends) == bool(setting.nested) and all("has ended" in end.reason for end in ends.values())


def test_the_same_seed_gives_the_same_log_to_the_byte(tmp_path: Path) -> None:
    """In another process too, where sets of strings have another order."""
    code = (
        "import logging; from tests.simulation.simulation import digest, simulate; logging.disable(); "
        "print(digest(simulate(3)))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert digest(simulate(3)) == other.stdout.strip() != digest(simulate(4)), other.stderr


def test_a_seed_that_fails_says_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Tried(Counter(), Counter(), Broken(7, ["This and that."], ["1.000 executor 0: append: crash"]))
    monkeypatch.setattr(simulation, "try_all", lambda seeds: iter([failed]))
    monkeypatch.setattr(sys, "argv", ["simulation.py", "1", "--first", "7"])
    assert simulation.main() == 1
    said = capsys.readouterr().err
    assert (
        "Seed 7: This and that.\nOnce more, with what happened: make sim SEED=7 SEEDS=1\n" in said
        and "append: crash" in said
    )


def fails(*of: object) -> None:
    """An invariant that is broken."""
    raise TypeError("this and that")


def test_a_seed_that_ends_of_anything_else_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not tried(SHORT).broken  # with the undisturbed run of its setting
    monkeypatch.setattr(invariants, "no_step_twice", fails)
    assert str(tried(SHORT).broken).splitlines() == [
        "TypeError: this and that",
        f"Once more, with what happened: make sim SEED={SHORT} SEEDS=1",
    ]
    monkeypatch.setattr(simulation, "undisturbed", undisturbed.__wrapped__)
    assert [line[:30] for line in str(tried(SHORT).broken).splitlines()] == [
        "The undisturbed run is whole, ",
        "Once more, with what happened:",
    ]


def test_a_seed_that_never_ends_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def spin(*_: object) -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except Exception:  # whatever is raised here
                continue

    monkeypatch.setattr(simulation, "LIMIT", 1.0)
    monkeypatch.setattr(services.archivist, "follow", spin)
    assert "Endless: it did not end within 1.0 s" in str(tried(SHORT).broken)


def changed(system: System, tag: str, **fields: object) -> list[Stored]:
    """The log with the last event of a type changed, and its id where that follows from what was changed."""
    stored = list(system.log())
    place = max(place for place, of in enumerate(stored) if of.subject.endswith(f".{tag}"))
    event = codec.decode(stored[place].data)
    fact = msgspec.structs.replace(event.data, **fields)
    event = codec.event(fact, run=event.run, source=event.source, cause=event.cause, time=event.time)
    stored[place] = msgspec.structs.replace(stored[place], subject=event.subject, data=codec.encode(event))
    return stored


def population_checks() -> list[tuple[Callable[[], object], str]]:
    """Changes to a run with several generations under way, and to one with a child run, and what is said of them."""
    system = undisturbed(next(setting for setting in WIDE if setting.strategy == "dgm"))
    owner = undisturbed(next(setting for setting in WIDE if setting.nested))
    start = derive("r", "candidate", 0)

    def sound(tag: str, **fields: object) -> Callable[[], object]:
        return lambda: invariants.population_is_sound(readable(changed(system, tag, **fields)))

    return [
        (sound("parent_selected", probabilities={start: 0.9}), "Probabilities add up to 1, but"),
        (sound("parent_selected", second="nobody"), "Parents are of the population, but"),
        (sound("candidate_evaluated", parents=("nobody",)), "Parents are of the population, but"),
        (sound("candidate_evaluated", candidate=start), "A generation has one candidate, but"),
        (sound("candidate_rejected", generation=99), "Generations are settled once and in order, but"),
        (sound("parent_selected", generation=9), "Generations begin one after the other, but"),
        (sound(RunStarted.tag(), width=0), "At most 0 generations are under way, but"),
        (
            lambda: invariants.nothing_counts_twice(readable(changed(owner, "child_run_finished", rollouts=999))),
            "Nothing counts twice, but",
        ),
        (
            lambda: invariants.budget_is_kept(readable(changed(owner, "child_run_finished", rollouts=999))),
            "The budget is kept, but",
        ),
        (
            lambda: invariants.every_request_is_answered(
                [event for event in readable(owner.log()) if event.tag != "child_run_finished"]
            ),
            "Every request is answered or failed, but not",
        ),
    ]


def test_what_was_changed_in_a_log_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = undisturbed(SETTINGS[0])
    log, gold = system.log(), system.log(GOLD)
    events = readable(log)
    reward = changed(system, "trajectory_scored", reward=0.25)
    step = next(of for of in reversed(events) if of.tag == "optimizer_step_applied")
    drawn = [msgspec.structs.replace(of, subject=of.subject.replace(step.id, "0" * 24)) for of in log]
    uncalled = (CallUse(call="0" * 24, completion=0),)
    checks: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: invariants.check_all(reward, gold, None), "The chain of decisions holds, but"),
        (
            lambda: invariants.nothing_counts_twice(readable(changed(system, "candidate_evaluated", score=0.1))),
            "The score of run r",
        ),
        (lambda: invariants.chains_hold(reward), "The chain of decisions holds, but"),
        (lambda: invariants.decisions_follow(reward), "Decisions follow from the log, but"),
        (lambda: invariants.same_decisions(readable(reward), events), "Every run ends as the undisturbed one, but"),
        (
            lambda: invariants.budget_is_kept(readable(changed(system, RunStarted.tag(), budget=Budget(rollouts=9)))),
            "The budget is kept, but",
        ),
        (
            lambda: invariants.budget_is_kept(readable(changed(system, RunStarted.tag(), budget=Budget(tokens=9)))),
            "The budget is kept, but",
        ),
        (lambda: invariants.every_request_is_answered(events[:-1]), "Every request is answered or failed, but not"),
        (lambda: invariants.causes_come_first(events[1:]), "Causes come first, but"),
        (
            lambda: invariants.once_only([*log, msgspec.structs.replace(log[-1], sequence=len(log) + 1)]),
            "Everything happens once, but",
        ),
        (lambda: invariants.once_only(drawn), "Every message can be read or is set aside, but"),
        (lambda: invariants.no_step_twice([*events, step]), "No optimiser step is taken twice, but"),
        (lambda: invariants.no_step_twice(readable(changed(system, step.tag, step=9))), "Run r left out a step of"),
        (lambda: invariants.no_step_twice(readable(changed(system, step.tag, batch="0" * 64))), "Run r trained in"),
        (
            lambda: invariants.causes_come_first(readable(changed(system, TrajectoryRecorded.tag(), calls=uncalled))),
            "A call is recorded before its answer is released, but",
        ),
        (lambda: invariants.audited_once(events, readable(gold[:-1])), "Every finished run is audited once, but"),
        *population_checks(),
    )
    for check, words in checks:
        with pytest.raises(AssertionError) as raised:
            check()
        assert str(raised.value).startswith(words)
    monkeypatch.setattr(system.world.rows[LOG], "rows", log[:-1])
    assert broken(system, system) == [f"Archives follow the log, but that of EVOLOG has {len(log) - 1} of {len(log)}."]
    one, other = Archive(tmp_path / "one"), Archive(tmp_path / "other")
    one.apply(log)
    other.apply(reward)
    with pytest.raises(AssertionError, match="Every projection rebuilds identically, but"):
        invariants.same_tables(one, other)
    for archive in (one, other):
        archive.close()
