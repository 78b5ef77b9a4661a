"""What a simulation has in place of scaffold processes, of a policy, and of gradient work."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from algorithms.learning.batch import NothingToLearn, Step
from events.change import ChildRunRequested
from events.choice import FeedbackRequested
from events.fact import Fact
from events.kinds import Lever, OnDrift, Schedule
from events.run import Budget
from events.subjects import LOG
from events.weights import Canary
from runtime.policies.bases import UNIFORM
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.training import Sources, TrainingOrder, TrainingResult
from runtime.rollouts.host import AttemptOutcome, ScaffoldCall, ScaffoldData, ScaffoldLimits
from tests.harness.faulty import LIFE, FaultyBlobs, Life
from tests.harness.tasks.tiny import data as tiny


class Setting(NamedTuple):
    """What a simulated run, or two at once, is like. `skill` is how often the policy is right, of 100."""

    seed: int
    skill: int = 40
    runs: tuple[str, ...] = ("r",)
    levers: tuple[Lever, ...] = ("scaffold", "weights")
    generations: int = 3
    budget: Budget = Budget()
    rough: int = 0
    """Of 100 answers, those that a scaffold or the verifier does not survive."""
    damaged: int = 0
    """The round whose adapter is rejected."""
    barren: int = 0
    """The round in which there is nothing to learn."""
    shard_size: int = 400
    on_drift: OnDrift = ""
    strategy: str = "chain"
    width: int = 1
    first_items: int = 0
    recheck: int = 0
    refills: int = 0
    max_lag: int = 0
    schedule: Schedule = "agent"
    nested: int = 0
    """The generation that is a run of its own."""
    paused: float = 0.0
    """Virtual seconds after which the operator pauses it for good; 0: he does not."""
    cancelled: float = 0.0
    """Virtual seconds after which he cancels it; 0: he does not."""

    @property
    def cut_short(self) -> bool:
        """Whether a clock says when it ends, so that another order of things leads to other decisions."""
        return bool(self.cancelled) or self.budget.seconds is not None

    @property
    def comparable(self) -> bool:
        """Whether it decides the same in whatever order things come."""
        return not self.cut_short and not self.max_lag


SETTINGS = (
    Setting(1),
    Setting(2, shard_size=6),
    Setting(3, skill=0, levers=("weights",), generations=2),
    Setting(4, budget=Budget(rollouts=50)),
    Setting(5, budget=Budget(tokens=60), shard_size=6),
    Setting(6, rough=12),
    Setting(7, damaged=2),
    Setting(8, barren=2, levers=("weights",)),
    Setting(9, runs=("one", "two"), generations=2),
    Setting(10, on_drift="rollback"),
    Setting(11, generations=5, width=4),
    Setting(12, generations=6, strategy="dgm", width=4, shard_size=6),
    Setting(13, generations=5, strategy="dgm", width=4, first_items=1, recheck=1, refills=1, rough=5),
    Setting(14, generations=6, strategy="dgm", width=4, schedule="alternate", budget=Budget(rollouts=130), damaged=2),
    Setting(15, generations=4, strategy="dgm", width=4, nested=2, budget=Budget(rollouts=260)),
    Setting(16, generations=4, strategy="dgm", first_items=1, recheck=1, refills=1),
    Setting(17, generations=6, strategy="best_of_k", width=4, rough=5),
    Setting(18, generations=3, strategy="best_of_k"),
    Setting(19, generations=5, strategy="dgm", width=4, on_drift="rollback", budget=Budget(tokens=400)),
    Setting(30, skill=3, levers=("weights",), generations=8, strategy="dgm", width=4, shard_size=6),
    Setting(32, skill=8, levers=("weights",), generations=8, strategy="dgm", width=4, shard_size=6),
    Setting(20, cancelled=3.0),
    Setting(21, generations=6, strategy="dgm", width=4, shard_size=6, cancelled=6.0),
    Setting(22, generations=4, strategy="dgm", width=4, nested=2, cancelled=6.0),
    Setting(23, generations=6, strategy="dgm", width=4, paused=3.0, cancelled=6.0),
    Setting(24, budget=Budget(seconds=4.0)),
    Setting(25, generations=6, strategy="best_of_k", width=4, budget=Budget(seconds=2.0)),
    Setting(26, generations=6, strategy="dgm", width=4, nested=2, budget=Budget(seconds=6.0)),
    Setting(33, skill=10, levers=("weights",), generations=4, shard_size=6, max_lag=1),
    Setting(34, levers=("weights",), generations=3, shard_size=6, max_lag=3, damaged=2, rough=5),
    Setting(35, generations=6, strategy="dgm", width=4, shard_size=6, max_lag=2, budget=Budget(rollouts=260)),
)


class InProcessScaffold:
    """A scaffold that runs in this process: `solve` begins anew whenever one of its calls is answered."""

    alive = True

    def __init__(
        self, folder: Path, data: ScaffoldData, work: Path, limits: ScaffoldLimits, kind: str, shared_state: bool
    ) -> None:
        life = LIFE.get()
        assert life
        names: dict[str, Any] = {}
        exec(FaultyBlobs(life, life.world.blobs).get_tree(folder.name)["agent.py"], names)
        self._solve, self._data = names["solve"], data

    def solve(
        self,
        items: Sequence[tuple[str, str]],
        attempts: int,
        answer_calls: Callable[[list[ScaffoldCall]], Sequence[Any]],
    ) -> list[AttemptOutcome]:
        """As `ScaffoldProcess.solve`; calls are asked for three at a time."""
        calls = CallBatcher()
        done: dict[tuple[str, int], AttemptOutcome] = {}
        while True:
            for item, prompt in items:
                for attempt in range(attempts):
                    if (item, attempt) not in done and (outcome := self._attempt(calls, item, prompt, attempt)):
                        done[item, attempt] = outcome
            asks = calls.take()
            if not asks:
                return [done[item, attempt] for item, _ in items for attempt in range(attempts)]
            for at in range(0, len(asks), 3):
                calls.release(asks[at : at + 3], answer_calls(asks[at : at + 3]))

    def _attempt(self, calls: "CallBatcher", item: str, prompt: str, attempt: int) -> AttemptOutcome | None:
        uses: list[tuple[int, int]] = []

        def complete(prompt: str, choices: Sequence[str] = ()) -> SimpleNamespace:
            ordinal, texts = calls.ask(item, prompt, tuple(choices))
            uses.append((ordinal, attempt))
            if not isinstance(texts, Sequence):
                raise RuntimeError(texts.reason)
            return SimpleNamespace(text=texts[attempt])

        try:
            answer = self._solve(
                SimpleNamespace(id=item, prompt=prompt), SimpleNamespace(complete=complete), self._data
            )
        except _Unanswered:
            return None
        except Exception as wrong:
            return AttemptOutcome(item, attempt, tuple(uses), kind="crashed", reason=str(wrong))
        return AttemptOutcome(item, attempt, tuple(uses), answer=answer)

    def close(self) -> None:
        """There is no process."""


class _Unanswered(BaseException):
    pass


class CallBatcher:
    """Collects the calls of a shard; the same call by all attempts at an item is one."""

    def __init__(self) -> None:
        self._ordinals: dict[tuple[str, str], int] = {}
        self._counts: Counter[str] = Counter()
        self._answers: dict[tuple[str, int], Any] = {}
        self._asks: list[ScaffoldCall] = []

    def ask(self, item: str, prompt: str, choices: tuple[str, ...]) -> tuple[int, Any]:
        """The call's number within the item, and its answer; raises `_Unanswered` until `release` has brought one."""
        if (item, prompt) not in self._ordinals:
            ordinal = self._ordinals[item, prompt] = self._counts[item]
            self._counts[item] += 1
            self._asks.append(ScaffoldCall(item, ordinal, prompt, choices, ()))
        ordinal = self._ordinals[item, prompt]
        if (item, ordinal) not in self._answers:
            raise _Unanswered
        return ordinal, self._answers[item, ordinal]

    def take(self) -> list[ScaffoldCall]:
        """The calls that nobody has taken yet."""
        asks, self._asks = self._asks, []
        return asks

    def release(self, asks: Sequence[ScaffoldCall], answers: Sequence[Any]) -> None:
        """Keep the answers of these calls."""
        self._answers |= {(ask.item, ask.ordinal): answer for ask, answer in zip(asks, answers, strict=True)}


class PolicyStandIn:
    """A policy that is right the more often the longer its adapter was trained.

    Asked again for what is recorded, it answers otherwise.
    """

    def __init__(self, life: Life, setting: Setting) -> None:
        self._life, self._setting = life, setting

    def sample(self, model: str, requests: Sequence[SampleRequest]) -> list[Sampled]:
        """As `CompletionSource.sample`."""
        self._life.compute()
        return [self._completions(model, request) for request in requests]

    def _completions(self, model: str, request: SampleRequest) -> Sampled:
        trained = adapter(self._life, model)["trained"]
        again = request.seed in self._life.world.streams[LOG].sampled
        words = request.prompt.split()
        texts = []
        for number in range(request.n):
            draw = random.Random(f"{model} {request.prompt} {request.hint} {request.seed} {number} {again}")
            skill = 90 if request.hint else self._setting.skill + 20 * trained + 10 * (len(words) > 1)
            right = draw.randrange(100) < skill
            label = tiny.label_of(words[0])
            text = label if right else draw.choice([other for other in tiny.LABELS if other != label])
            if draw.randrange(100) < self._setting.rough:
                text = draw.choice(("unspeakable", "unscorable"))
            texts.append(text if not again else f"{text}, or so")
        count = range(request.n)
        return Sampled(tuple(texts), tuple((number,) for number in count), tuple((-1.0,) for _ in count), len(words))


class ServedModelsStandIn:
    """The models of a policy server, as `check_adapters` asks for them."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def find(self, name: str) -> Any:
        """A policy that shows log-probabilities, which are off where its adapter is damaged."""
        self._life.compute()
        log_prob = -9.0 if adapter(self._life, name)["damaged"] else -1.0
        return SimpleNamespace(log_probs=lambda prompt: [log_prob])


def adapter(life: Life, model: str) -> dict[str, Any]:
    """The card of a model's adapter: in how many rounds it was trained, and whether it is damaged."""
    digest = model.partition("@")[2]
    if digest in ("", UNIFORM):
        return {"trained": 0, "damaged": False}
    card: dict[str, Any] = msgspec.json.decode(FaultyBlobs(None, life.world.blobs).get_tree(digest)["adapter.json"])
    return card


def choose(setting: Setting, chosen: Callable[..., list[Fact]], *seen: Any) -> list[Fact]:
    """What the rules choose; in the generation that is to be a run of its own, that run."""
    requested = seen[-1]
    assert isinstance(requested, FeedbackRequested)
    if requested.generation != setting.nested:
        return chosen(*seen)
    wanted = ChildRunRequested(
        generation=requested.generation, levers=requested.levers, generations=2, rollouts=None, reason="to look deeper"
    )
    return [wanted]


def train(
    setting: Setting, order: TrainingOrder, attempts: Sequence[Any], sources: Sources, out: Path, state_out: Path
) -> TrainingResult:
    """As `training.train`: the adapter is a digest of all that it should follow from."""
    life = LIFE.get()
    assert life
    life.compute()
    sources.label(attempts[0].item)
    if setting.barren and order.about["events"].endswith(f"round {setting.barren}"):
        raise NothingToLearn("every group is tied")
    state = order.state.read_bytes() if order.state else b""
    inputs = msgspec.json.encode(
        [order.parent, order.algorithm, dict(order.hyper), order.seed, state.decode(), attempts]
    )
    out.mkdir()
    trained = {
        "trained": adapter(life, f"base@{order.parent}")["trained"] + 1,
        "damaged": bool(setting.damaged) and order.about["events"].endswith(f"round {setting.damaged}"),
        "seen": hashlib.sha256(inputs).hexdigest(),
    }
    (out / "adapter.json").write_bytes(msgspec.json.encode(trained))
    state_out.write_bytes(msgspec.json.encode({"after": trained["seen"]}))
    halves: dict[str, Any] = dict.fromkeys(Step.__struct_fields__, 0.5)
    steps = tuple(Step(**halves | {"loss": 1.0 / (2 + number), "tokens": number}) for number in range(3))
    return TrainingResult(steps, (Canary("canary", (-1.0,)),), len(attempts), 0, (), "native")
