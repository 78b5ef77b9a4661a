"""Who stood where when a candidate was judged: the population as a run's log tells it, and verdicts against it."""

from algorithms.search.catalogue import STRATEGIES
from algorithms.search.strategy import Trial
from events.choice import ParentSelected
from events.fact import Fact
from events.judgement import CandidateEvaluated, CandidateRechecked
from events.population import CandidateAccepted, CandidateKept
from events.run import AuditReleased, RunStarted
from replay.audit.ancestry import Evaluations
from runtime.run.evolve import drifted
from runtime.run.fork import scores_not_comparable
from runtime.run.state import Candidate, bar_of, members


class Standings:
    """The population of a run, which takes its facts one after the other."""

    def __init__(self) -> None:
        self._evaluations = Evaluations()
        self._started: RunStarted | None = None
        self._population: tuple[Candidate, ...] = ()
        self._rolled_back: frozenset[str] = frozenset()
        self._rechecked: dict[str, CandidateRechecked] = {}
        self.evaluated: dict[str, CandidateEvaluated] = {}
        """The evaluations so far, by candidate, with their parents."""

    @property
    def best(self) -> CandidateEvaluated | None:
        """The best so far, which was accepted last; None before the first."""
        return self.evaluated.get(self._champion.id) if self._champion else None

    @property
    def start(self) -> CandidateEvaluated | None:
        """The start that scores are comparable with; None before it was evaluated."""
        return next((one for one in reversed(self.evaluated.values()) if one.lever == "start"), None)

    def take(self, fact: Fact) -> list[str]:
        """Take the next fact; sentences that say what is wrong with it."""
        if evaluated := self._evaluations.take(fact):
            self.evaluated[evaluated.candidate] = evaluated
        match fact:
            case RunStarted() as started:
                self._start(started)
            case AuditReleased(action="rollback", generation=generation):
                self._rolled_back |= drifted(self._population, generation)
            case ParentSelected():
                self._population, self._rolled_back = self._remaining, frozenset()
            case CandidateRechecked(candidate=candidate):
                self._rechecked[candidate] = fact
            case CandidateAccepted() | CandidateKept():
                return self._judged(fact)
        return []

    @property
    def _remaining(self) -> tuple[Candidate, ...]:
        return tuple(one for one in self._population if one.id not in self._rolled_back)

    @property
    def _champion(self) -> Candidate | None:
        return next((one for one in reversed(self._remaining) if one.accepted), None)

    def _start(self, started: RunStarted) -> None:
        """A run begins; of a fork whose scores mean something else nobody stays."""
        anew = self._started is not None and scores_not_comparable(self._started, started)
        self._population = () if anew else self._population
        self._rolled_back = frozenset() if anew or not started.on_drift else self._rolled_back
        self._started = started

    def _judged(self, verdict: CandidateAccepted | CandidateKept) -> list[str]:
        evaluated, accepted = self.evaluated.get(verdict.candidate), isinstance(verdict, CandidateAccepted)
        wrong = self._wrong(verdict, evaluated) if evaluated else []
        probed = self._started is not None and any(self._started.items.probe)
        member = Candidate(
            verdict.candidate,
            verdict.generation,
            scaffold=evaluated.scaffold if evaluated else "",
            adapter=evaluated.adapter if evaluated else "",
            lever=evaluated.lever if evaluated else "start",
            parents=evaluated.parents if evaluated else (),
            score=verdict.score,
            bar=self._bar(verdict),
            train=evaluated.pass_at_1 if evaluated and probed else None,
            accepted=accepted,
        )
        self._population = (*self._population, member)
        return wrong

    def _bar(self, verdict: CandidateAccepted | CandidateKept) -> float | None:
        """What a second look gives the candidate; None without one."""
        before, second = self._champion, self._rechecked.get(verdict.candidate)
        return bar_of(before) + second.difference if before and second else None

    def _wrong(self, verdict: CandidateAccepted | CandidateKept, evaluated: CandidateEvaluated) -> list[str]:
        """How a verdict goes against the scores, by the rule of the run's strategy, where that is known here."""
        generation, score = verdict.generation, evaluated.score
        if verdict.score != score:
            return [f"The verdict on generation {generation} gives it {verdict.score:g}, and its score is {score:g}."]
        if self._started is None or self._started.strategy not in STRATEGIES:
            return []
        score = score if (bar := self._bar(verdict)) is None else bar
        train = evaluated.pass_at_1 if any(self._started.items.probe) else None
        trial = Trial(score, {}, train, failed=0, items=1)  # that few enough failed is another matter
        due = STRATEGIES[self._started.strategy].judge(trial, members(self._remaining))
        said = "accept" if isinstance(verdict, CandidateAccepted) else "keep"
        if due.standing == said:
            return []
        done = "accepted" if said == "accept" else "kept"
        return [f"Generation {generation}'s candidate was {done}, and by its scores it is not to be: {due.reason}."]
