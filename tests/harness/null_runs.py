"""Simulated runs without drift: random edits and updates after which the score means what it always did."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from events.gold import CEILING, VERIFIER, ReferenceMeasured
from events.kinds import Lever
from replay.audit.audit import Audit
from tests.harness.simulated import Form, Setting, Simulated

CHANGES = ("still", "together", "apart", "adrift", "gaining", "helping")
"""What the edits of a run do: nothing; move score and gold alike; part them at each item by what is 0 on average over
items, anew with each edit or adding up; make answers better; do so where scaffold and adapter are both new.
"""


class NullResult(NamedTuple):
    """What the audit of a null run said."""

    state: str
    rules: Sequence[tuple[str, str, str]]
    """Family, rule and state of each finding that was raised."""
    families: Sequence[tuple[str, str]]
    """The state of each family."""


def null_run(
    seed: int,
    *,
    forms: Sequence[Form] = ("passes", "graded"),
    items: tuple[int, int] = (20, 100),
    dev: tuple[int, int] = (20, 60),
    generations: tuple[int, int] = (3, 12),
    changes: Sequence[str] = CHANGES,
    tree: bool = False,
    flipped: Sequence[float] = (0.0,),
    stated: bool = False,
    **more: Any,
) -> Simulated:
    """A run of random edits, of which sizes and kinds are drawn from these; `more` are further fields of its
    `Setting`.

    Of `flipped`, the share of items of which gold says the opposite, gold's reliability is `stated`, or is not.
    """
    draw = np.random.default_rng([seed, 1])
    wrong_labels = float(draw.choice(flipped))
    setting = Setting(
        seed=seed,
        items=int(draw.integers(items[0], items[1] + 1)),
        dev=int(draw.integers(dev[0], dev[1] + 1)),
        generations=int(draw.integers(generations[0], generations[1] + 1)),
        attempts=int(draw.choice([1, 2, 4])),
        form=draw.choice(list(forms)),
        crashing=float(draw.choice([0.0, 0.05])),
        greedy=bool(draw.integers(2)),
        flipped=wrong_labels,
        reliability=1 - 2 * wrong_labels if stated else -1.0,
    )._replace(**more)
    kind = draw.choice(list(changes))
    scaffolds = float(draw.choice([0.0, 0.5, 0.5, 1.0]))  # one lever alone makes moves enough for an exchange rate
    run = Simulated(setting)
    if kind == "still" and setting.form == "passes" and setting.group == 1:
        _at_the_ceiling(run)
    for generation in range(1, setting.generations + 1):
        if tree:
            run.go_on_from(int(draw.choice(list(run.made))))
        gain = 0.04 if kind == "gaining" else 0.05 * float(draw.standard_normal()) * (kind == "together")
        lever: Lever = "scaffold" if draw.random() < scaffolds else "weights"
        before = run.scaffold if lever == "scaffold" else run.adapter
        of = {
            "skill": before.skill + gain,
            "together": 0.1 * (kind == "together"),
            "apart": 0.1 * (kind in ("apart", "adrift")),
            "helps": 0.15 * (kind == "helping"),
            "past": (*before.past, before.digest) if kind == "adrift" else (),
        }
        if lever == "scaffold":
            pair = run.edited(generation, **of), run.adapter
        else:
            pair = run.scaffold, run.trained(generation, **of)
        kept = tree and draw.random() < 0.5
        run.candidate(generation, lever, *pair, fate="kept" if kept else "by score")
    return run


NULLS: dict[str, Callable[[int], Simulated]] = {
    "random edits": null_run,
    "few items": lambda seed: null_run(seed, items=(12, 19), dev=(12, 19)),
    "few items of test": lambda seed: null_run(seed, items=(20, 30)),
    "ties": lambda seed: null_run(seed, forms=("ties", "counts")),
    "lognormal": lambda seed: null_run(seed, forms=("lognormal",)),
    "Student's t, 2 degrees": lambda seed: null_run(seed, forms=("t2",)),
    "Cauchy": lambda seed: null_run(seed, forms=("cauchy",)),
    "clusters of 5": lambda seed: null_run(
        seed, items=(100, 200), dev=(100, 150), generations=(2, 5), group=5, wrong=0.1
    ),
    "clusters of 10": lambda seed: null_run(
        seed, items=(200, 300), dev=(200, 250), generations=(2, 4), group=10, wrong=0.1
    ),
    "noisy gold": lambda seed: null_run(seed, items=(40, 150), flipped=(0.1, 0.25, 0.5)),
    "noisy gold, stated": lambda seed: null_run(seed, items=(40, 150), flipped=(0.1, 0.25, 0.5), stated=True),
    "failing attempts": lambda seed: null_run(seed, crashing=0.2),
    "trees": lambda seed: null_run(seed, tree=True, generations=(6, 16)),
    "300 generations": lambda seed: null_run(
        seed, items=(20, 40), dev=(20, 30), generations=(300, 300), changes=CHANGES[:4]
    ),
}
"""Null runs by kind."""
LONG = "300 generations"
"""The kind of which a run takes ten times as long as of any other."""


def null_result(kind: str, seed: int) -> NullResult:
    """What the audit of the null run of this kind says."""
    return result_of(NULLS[kind](seed).audit())


def result_of(found: Audit) -> NullResult:
    """What is counted of an audit."""
    return NullResult(
        found.state,
        [(one.family, one.rule, one.state) for one in found.findings if one.raised],
        [(one.family, one.state) for one in found.families],
    )


def _at_the_ceiling(run: Simulated) -> None:
    """Every candidate lies at the ceiling, and none above it."""
    wrong = run.setting.wrong
    right = np.clip(run.ease["test"], 0.02, 0.98)
    expected = right * (1 - wrong) + (1 - right) * wrong
    scores = dict(zip(run.ids["test"], expected.tolist(), strict=True))
    run.gold.append(ReferenceMeasured(name=CEILING, measure=VERIFIER, scores=scores))
    run.ends[0] = len(run.facts), len(run.gold)
