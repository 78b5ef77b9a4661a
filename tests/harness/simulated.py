"""Small simulated runs whose truth is known, in the facts that an audit reads."""

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from events.choice import LeverChosen
from events.fact import Fact, derive
from events.gold import (
    GOLD,
    UNSCORED,
    VERIFIER,
    AuditFinished,
    DevAnswersScored,
    GoldDescribed,
    GoldFailed,
    PairMeasured,
)
from events.judgement import ScoringFailed
from events.kinds import CandidateOrigin
from events.population import CandidateKept, CandidateRejected
from events.run import Budget, Items, RunStarted
from events.weights import AdapterPublished, AdapterServed, TrainingBatchSealed
from replay.audit.audit import Audit, audit
from replay.audit.provenance.checks import Known
from tests.harness.audited_facts import (
    MemoryBlobs,
    accepted,
    as_stored,
    attempt_key,
    called,
    evaluated,
    failed,
    proposed,
    recorded,
    rollout_request,
    scored,
)

AGENT = (
    "import random\n\nSEED = {seed}\nSHOTS = {shots}\n\ndef solve(item, model, data):\n    return model(item, "
    "random.Random(SEED), SHOTS)\n"
)
WORDS = (
    "baker",
    "harbour",
    "winter",
    "forged",
    "note",
    "beam",
    "storm",
    "gate",
    "shaft",
    "thread",
    "weaver",
    "miner",
    "smith",
    "loaf",
)
GENERATIONS = 8
Form = Literal["passes", "graded", "ties", "scaled", "counts", "lognormal", "t2", "cauchy"]
"""What scores are: 0 or 1; between these; in quarters; from 20 to 80; whole numbers without end; or with a tail that is
lognormal, Student's t with 2 degrees of freedom, or Cauchy's.
"""
Split = Literal["dev", "test"]
Fate = Literal["by score", "accepted", "kept", "rejected"]
Scores = dict[str, tuple[float, ...]]
Array = NDArray[Any]


class Part(NamedTuple):
    """A scaffold or an adapter: what it adds to the chance that an answer is right, and what to the score alone."""

    digest: str
    skill: float = 0.0
    trick: float = 0.0
    apart: float = 0.0
    """Spread, over items, of what it adds to the score alone, 0 in the mean."""
    together: float = 0.0
    """Spread, over items, of what it adds to score and gold."""
    past: tuple[str, ...] = ()
    """The earlier parts whose additions it keeps, in addition to its own."""
    knows: float = 0.0
    """The share of dev's items that it knows by heart."""
    on_dev: float = 0.0
    """What it adds to the score alone, on dev alone."""
    fits: float = 0.0
    """What it adds to the score alone beside a part that fits it, too."""
    helps: float = 0.0
    """What it adds to the chance that an answer is right beside a part that helps it, too."""
    brittle: float = 0.0
    """What it takes from the chance of an answer to a changed item."""


class Setting(NamedTuple):
    """What a simulated run is like."""

    seed: int
    items: int = 60
    """Of test."""
    dev: int = 40
    generations: int = GENERATIONS
    attempts: int = 2
    """At each item of test."""
    form: Form = "passes"
    wrong: float = 0.05
    """How often the verifier says the opposite, or, where scores are graded, the deviation of its error."""
    crashing: float = 0.0
    """The share of attempts that crash."""
    greedy: bool = True
    """Whether only a candidate with a better score on dev is accepted; otherwise each is."""
    group: int = 1
    """Items that are near-duplicates, for which the verifier errs as one."""
    flipped: float = 0.0
    """The share of items of which gold says the opposite."""
    reliability: float = -1.0
    """What the task states of gold."""
    own: bool = False
    """Whether gold is the run's verifier."""
    harder: float = 0.0
    """What the chance of a right answer is lower on test than on dev."""
    start: Mapping[str, Any] = {}
    """What the start's scaffold adds."""
    remembers: bool = False
    """Whether the verifier takes an item for solved once an answer to it was right."""


class Answered(NamedTuple):
    """Scores and gold of the same answers, attempt by attempt, and the answers."""

    rewards: Scores
    gold: Scores
    answers: Mapping[str, str]
    """Of the first attempt."""


class Simulated:
    """A run as it comes to stand, in facts of both streams, and where each generation ends in them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rng = np.random.default_rng(setting.seed)
        self.blobs = MemoryBlobs()
        self.facts: list[Fact] = []
        self.gold: list[Fact] = []
        self.ends: list[tuple[int, int]] = []
        self.ids = {"dev": _ids("dev", setting.dev), "test": _ids("test", setting.items), "train": _ids("case", 12)}
        prompts = {id: " ".join(self.rng.choice(WORDS, 16)) for ids in self.ids.values() for id in ids}
        self.hidden = {id: prompts[id] for id in self.ids["test"]}
        sizes = {split: len(self.ids[split]) for split in ("dev", "test")}
        self.ease = {split: self._by_group(self.rng.uniform(0.2, 0.8, size)) for split, size in sizes.items()}
        truth = np.random.default_rng([setting.seed, 2])
        self.flips = {split: truth.random(size) < setting.flipped for split, size in sizes.items()}
        self.order = truth.permutation(setting.dev)
        self.solved = {split: np.zeros(size, dtype=bool) for split, size in sizes.items()}
        public = {id: prompts[id] for split in ("dev", "train") for id in self.ids[split]}
        low, high = (0.0, 1.0) if setting.form in ("passes", "graded", "ties") else (-1e9, 1e9)
        self.known = Known(hidden=self.hidden, audited=self.hidden, public=public, low=low, high=high)
        self.pairs: set[tuple[str, str]] = set()
        self.best = -float("inf")
        body = [{"prompt": prompts[self.ids["dev"][0]]}]
        self.body = self.blobs.put(repr(body).encode())
        self.facts.append(
            RunStarted(
                task="simulated",
                seed=setting.seed,
                levers=("scaffold", "weights"),
                generations=setting.generations,
                budget=Budget(),
                items=Items(dev=self.ids["dev"], folds=(self.ids["train"],), probe=(self.ids["train"],)),
                splits={},
                verifier="v1",
                policy="fake",
                base_model="b",
                strategy="made-up",  # which may accept what it likes
            )
        )
        self.source = AGENT.format(seed=0, shots=0)
        self.scaffold = Part(self.blobs.tree(agent=self.source.encode()), **setting.start)
        self.adapter, self.parent = Part(""), 0
        self.start = self.scaffold
        self.made: dict[int, tuple[Part, Part, str, int]] = {}
        groups = {id: f"{split} {at // setting.group}" for split in sizes for at, id in enumerate(self.ids[split])}
        self.gold.append(
            GoldDescribed(own=setting.own, groups=groups if setting.group > 1 else {}, reliability=setting.reliability)
        )
        self.candidate(0, "start", self.scaffold, self.adapter)

    def edited(self, generation: int, source: str = "", **of: Any) -> Part:
        """A scaffold made from the parent's; another number of examples if no source is given."""
        self.proposal = source or re.sub(r"SHOTS = .*", f"SHOTS = {generation}", self.source)
        return Part(self.blobs.tree(agent=self.proposal.encode()), **of)

    def trained(self, generation: int, **of: Any) -> Part:
        """An adapter made from the parent's."""
        return Part(derive("adapter", self.setting.seed, generation), **of)

    def go_on_from(self, generation: int) -> None:
        """Make what comes next from the candidate of that generation."""
        self.parent = generation
        self.scaffold, self.adapter, self.source, _ = self.made[generation]

    def candidate(
        self,
        generation: int,
        lever: CandidateOrigin,
        scaffold: Part,
        adapter: Part,
        *,
        fate: Fate = "by score",
        twice: int = 0,
        unanswered: int = 0,
        not_a_number: int = 0,
        miscounted: bool = False,
        served: bool = True,
        training: Sequence[str] = (),
        verifier: str = "v1",
        unmeasurable: bool = False,
    ) -> None:
        """A generation: its change, its score on dev, what becomes of it, and then what the auditor measures.

        Of the dev items, the `twice` that went best are asked twice, the `unanswered` that went worst crash, the
        `not_a_number` worst have no reward; `miscounted`, the score says nothing of those that crashed. An
        `unmeasurable` candidate fails on more than half of test.
        """
        say = self.facts.append
        if lever == "start":
            say(proposed(0, scaffold.digest))
        elif lever == "scaffold" or lever == "weights":
            say(LeverChosen(generation=generation, lever=lever, action="", reason="", propensities={}, diagnosis={}))
        if lever == "scaffold":
            say(proposed(generation, scaffold.digest, self.scaffold.digest))
        if lever == "weights":
            self._train(generation, adapter, tuple(training) or self.ids["train"], served)
        rewards, gold, answers = self.play(scaffold, adapter, "dev", 1)
        means = {id: of[0] for id, of in rewards.items()}
        worst = sorted(means, key=lambda id: means[id])
        crashed = set(worst[:unanswered]) | {id for id in worst if self.rng.random() < self.setting.crashing}
        refused = set(worst[:not_a_number])
        items = (*self.ids["dev"], *worst[len(worst) - twice :])
        request = rollout_request(generation, scaffold.digest, *items, adapter=adapter.digest)
        say(request)
        say(called(request, items[0], self.body))
        for id, reward in means.items():
            if id in crashed:
                say(failed(request, id))
                continue
            say(msgspec.structs.replace(recorded(request, id), answer=answers[id]))
            at = attempt_key(request, id)
            if id in refused:
                why = "the reward is nan; expected one between -1e+09 and 1e+09"
                say(ScoringFailed(**at, trajectory=derive("attempt", *at.values()), reason=why))
            else:
                say(msgspec.structs.replace(scored(request, id, reward), verifier=verifier))
        ran = [means[id] for id in items if id not in crashed | refused]
        lost = len(items) - len(ran)
        score = statistics.fmean(ran) if ran else 0.0
        counted = {"items": len(items) - lost * miscounted, "failed": 0 if miscounted else lost}
        parents = () if lever == "start" else (f"c{self.parent}",)
        say(msgspec.structs.replace(evaluated(request, score, lever=lever, **counted), parents=parents))
        answered = {id: gold[id] for id in self.ids["dev"] if id not in crashed | refused}
        if not self.setting.own:
            self.gold.append(
                DevAnswersScored(generation=generation, candidate=f"c{generation}", scores=answered, unscored=0)
            )
        if fate == "by score":
            fate = "accepted" if score > self.best or not self.setting.greedy else "rejected"
        source = self.proposal if lever == "scaffold" else self.source
        self.made[generation] = scaffold, adapter, source, -1 if lever == "start" else self.parent
        named: dict[str, Any] = {"generation": generation, "candidate": f"c{generation}", "reason": ""}
        if fate == "accepted":
            say(accepted(generation, score))
            self.best = score
            self.go_on_from(generation)
            if unmeasurable:
                self._fail(scaffold, adapter)
            self._measure_line(generation)
        elif fate == "kept":
            say(CandidateKept(**named, score=score))
        else:
            say(CandidateRejected(**named))
        self.ends.append((len(self.facts), len(self.gold)))

    def play(self, scaffold: Part, adapter: Part, split: Split, attempts: int, *, changed: bool = False) -> Answered:
        """Rewards and gold scores of the same answers to a split, whose items may be changed ones."""
        size, how, parts = (len(self.ids[split]), attempts), self.setting, (scaffold, adapter)
        right, valued = self.ease[split].copy(), np.zeros(size[0])
        for number, part in enumerate(parts):
            right, valued = right + part.skill, valued + part.trick
            for digest in (*part.past, part.digest):
                own = np.random.default_rng([how.seed, number, int(digest[:8] or "0", 16), split == "dev"])
                right += part.together * own.standard_normal(size[0])
                valued += part.apart * self._by_group(own.standard_normal(size[0]))
        if all(part.fits for part in parts):
            valued += scaffold.fits + adapter.fits
        if all(part.helps for part in parts):
            right += scaffold.helps + adapter.helps
        if changed:
            right -= 0.05 + sum(part.brittle for part in parts)
        if split == "test":
            right -= how.harder
        else:
            valued += sum(part.on_dev for part in parts)
            right[self.order < max(part.knows for part in parts) * size[0]] = 1.0
        gold, rewards = self._scores(np.clip(right, 0.02, 0.98)[:, None], valued[:, None], size)
        answers = {
            id: (WORDS[at % 14] if first else WORDS[(at + 1 + int(self.rng.integers(13))) % 14])
            if how.form == "passes"
            else f"{first:.9g}"
            for at, (id, first) in enumerate(zip(self.ids[split], gold[:, 0].tolist(), strict=True))
        }
        if split == "test" and how.crashing:
            ran = self.rng.random(size) >= how.crashing
            gold, rewards = gold * ran, rewards * ran
        if how.flipped:
            opposite = np.median(gold) * 2 - gold if how.form in ("lognormal", "t2", "cauchy", "counts") else 1 - gold
            gold = np.where(self.flips[split][:, None], opposite, gold)
        if how.remembers:
            self.solved[split] |= (rewards > 0).any(axis=1)
            rewards = np.where(self.solved[split][:, None], 1, rewards)
        if how.own:
            gold = rewards
        if how.form == "scaled":
            gold, rewards = 20 + 60 * gold, 20 + 60 * rewards
        return Answered(self._by_id(split, rewards), self._by_id(split, gold), answers)

    def measure(self, scaffold: Part, adapter: Part) -> None:
        """What the auditor records of a pair, once: score and gold of the same answers, and the score of changed
        items.
        """
        if (scaffold.digest, adapter.digest) in self.pairs:
            return
        self.pairs.add((scaffold.digest, adapter.digest))
        rewards, gold, _ = self.play(scaffold, adapter, "test", self.setting.attempts)
        changed = self.play(scaffold, adapter, "test", self.setting.attempts, changed=True).rewards
        for measure, scores in ((VERIFIER, rewards), (GOLD, gold), ("perturbed:spaces", changed)):
            self.gold.append(
                PairMeasured(
                    scaffold=scaffold.digest, adapter=adapter.digest, measure=measure, scores=scores, failed=0, blob=""
                )
            )

    def audit(self, generation: int | None = None, *, lineage_only: bool = False) -> Audit:
        """The audit of the finished run, or of what there was of it when that generation had ended."""
        events, gold = self.ends[-1 if generation is None else generation]
        end = [AuditFinished(candidate=f"c{self.parent}", cells=0, seconds=0.0)] if generation is None else []
        return audit(
            as_stored(self.facts[:events]),
            as_stored([*self.gold[:gold], *end]),
            self.blobs.__getitem__,
            self.known,
            lineage_only=lineage_only,
        )

    def looks(self) -> Iterator[Audit]:
        """The audit after each generation, as of a run that goes on."""
        return map(self.audit, range(len(self.ends)))

    def _scores(self, right: Array, valued: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        """Gold and rewards, by the chance of a right answer and what the score adds to it."""
        how, rng = self.setting, self.rng
        if how.form == "passes":
            luck = self._by_group(rng.random(size))
            rewards = (luck < np.clip(right + valued, 0.02, 0.98)) ^ self._by_group(rng.random(size) < how.wrong)
            return luck < right, rewards
        if how.form in ("graded", "ties", "scaled"):
            gold = np.clip(right + 0.1 * rng.standard_normal(size), 0, 1)
            error = how.wrong * self._by_group(rng.standard_normal(size))
            rewards = np.clip(gold + valued + error, 0, 1)
            return (np.round(4 * gold) / 4, np.round(4 * rewards) / 4) if how.form == "ties" else (gold, rewards)

        def draw() -> Array:
            if how.form == "t2":
                return rng.standard_t(2, size)
            return np.clip(rng.standard_cauchy(size), -1e5, 1e5) if how.form == "cauchy" else rng.standard_normal(size)

        latent: Array = 4 * (right - 0.5) + 0.5 * self._by_group(draw())
        both: tuple[Array, Array] = latent, latent + 4 * valued + 4 * how.wrong * self._by_group(draw())
        if how.form in ("t2", "cauchy"):
            return both
        grown = tuple(np.exp(1.2 * np.clip(one, -8, 8)) for one in both)
        return (np.floor(grown[0]), np.floor(grown[1])) if how.form == "counts" else (grown[0], grown[1])

    def _by_id(self, split: Split, values: Array) -> Scores:
        return {id: tuple(map(float, of)) for id, of in zip(self.ids[split], values, strict=True)}

    def _by_group(self, values: Array) -> Array:
        """The value of each group's first item for all of it."""
        group = self.setting.group
        return values if group == 1 else np.repeat(values[::group], group, axis=0)[: len(values)]

    def _measure_line(self, generation: int) -> None:
        """Measure the candidates from the start to that one, and the parts of the last one apart."""
        line = []
        at = generation
        while at >= 0:
            line.append(self.made[at][:2])
            at = self.made[at][3]
        scaffold, adapter = line[0]
        for pair in (*line[::-1], (self.start, adapter), (scaffold, Part(""))):
            self.measure(*pair)

    def _fail(self, scaffold: Part, adapter: Part) -> None:
        """The auditor's attempts with a pair fail on more than half of test."""
        self.pairs.add((scaffold.digest, adapter.digest))
        reason = f"{self.setting.items // 2 + 1} of {self.setting.items} attempts failed"
        for measure in (VERIFIER, GOLD):
            cell = f"{UNSCORED}{measure} of {scaffold.digest[:12]}+{adapter.digest[:12]}"
            self.gold.append(GoldFailed(cell=cell, split="test", reason=reason))

    def _train(self, generation: int, adapter: Part, items: tuple[str, ...], served: bool) -> None:
        request = rollout_request(
            generation, self.scaffold.digest, *items, adapter=self.adapter.digest, purpose="train"
        )
        place: dict[str, Any] = {"generation": generation, "round": 1}
        of: dict[str, Any] = {"parent_adapter": self.adapter.digest, "algorithm": "grpo"}
        batch = derive("batch", generation)
        self.facts += [
            request,
            *(scored(request, id, float(self.rng.integers(2))) for id in items),
            TrainingBatchSealed(
                **place,
                **of,
                hyper={},
                training_seed=1,
                requests=(attempt_key(request, "")["request"],),
                trajectories=len(items),
                digest=batch,
            ),
            AdapterPublished(
                **place,
                **of,
                adapter=adapter.digest,
                base_model="b",
                batch=batch,
                canary=(),
                trained_on=len(items),
            ),
        ]
        if served:
            self.facts.append(AdapterServed(**place, adapter=adapter.digest, batch=batch, error=0.0))


def _ids(of: str, number: int) -> tuple[str, ...]:
    return tuple(f"{of}-{place:03}" for place in range(number))
