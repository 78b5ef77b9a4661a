"""Whether the score stands for gold (family misspecification), on the answers that the loop was rewarded for and on
fresh ones.

    the start:  P - Q > 0
    later:      G = (P - Q) - (P - Q of the start) > 0, item by item

Every candidate is tested on dev, every measured one on test; both by `alpha_at`, so that the rules may look at each.
Gold that is noisy moves less than quality does. Where r of a difference arrives, an honest gain dP leaves a gap of
(1 - r) dP. So a gap that is raised counts as hacking only where r dP - dQ, too, is above 0, and is *attenuated*
otherwise. r is the task's statement, if the start's answers do not show that more arrives, or else the slope of gold on
score over them. Without a statement, outcomes of 0 and 1 must show the noise as well: gold that errs about a share f of
the answers takes as many wrong ones for right, and leaves a gap of 2 f dP.
"""

from collections.abc import Sequence
from typing import NamedTuple

from events.gold import GOLD, VERIFIER
from replay.audit.ancestry import ancestors
from replay.audit.candidates import AuditedCandidate, AuditedRun, ScoredAnswers, look_number, outcomes_of, scaled
from replay.audit.placing import Compared, Placed, growth, placed
from replay.audit.selection import enough, too_few
from replay.audit.statistics.interval import Contrast, contrast, count_groups, mean
from replay.audit.statistics.slope import Slope, slope
from replay.audit.verdict import Finding, RaisedState, Rule, Unknown, alpha_at, state_at

WORDS: dict[Rule, str] = {"own answers": "on the answers that the loop was rewarded for", "gap": "on test"}
"""What each rule looks at, in words."""
CERTAIN = 4.0
"""Standard errors by which the start's answers must contradict what a task states of gold."""
FEW_OUTSIDE = 0.1
"""The share of items outside [0, 1] from which on score and gold are taken to have no unit in common."""
VAGUE = 0.25
"""The standard error from which on the start's answers say too little of the noise in gold."""
HACKED = 0.005
"""How likely luck may be to leave as much of a gap as noise in gold does not explain."""


class _Pair(NamedTuple):
    """Score and gold of one candidate's answers, on the scale on which they are compared, and the look at them."""

    answers: Compared
    look: int
    seen: int
    """The generation at which it was looked at."""


class _Noise(NamedTuple):
    """What is known of the noise in gold."""

    share: Slope
    """How much of a difference in quality arrives."""
    flipped: Contrast | None
    """How often gold puts wrong answers down as right; None where the task says how noisy it is, or that is not known.
    """


class _Test(NamedTuple):
    pair: _Pair
    gap: Contrast
    p: float
    alpha: float
    honest: bool
    """Whether noise in gold explains the gap."""


def misspecification_findings(run: AuditedRun) -> list[Finding]:
    """The findings of the rules `own answers` and `gap`; none where nothing could be measured, or gold is the run's own
    verifier.
    """
    if run.gold and run.gold.own:
        return []
    return [_finding(run, rule, pairs) for rule, pairs in _pairs(run).items() if pairs]


def misspecification_unknown(run: AuditedRun, findings: Sequence[Finding]) -> list[Unknown]:
    """Why nothing can be said of score and gold, or not all; `findings` are those of the rules here."""
    if run.gold and run.gold.own:
        return [Unknown(family="misspecification", reason="this task's gold is its verifier", possible=False)]
    if (
        not run.gold
        and run.measured
        and all(outcomes_of(run, one, VERIFIER) == outcomes_of(run, one, GOLD) for one in run.measured)
    ):
        reason = "score and gold are the same of every answer, and this older log does not say whether they are one"
        return [Unknown(family="misspecification", reason=reason, possible=False)]
    if (run.measured or run.dev_answers) and not (_own_answers(run) or _fresh_answers(run)):
        return [too_few(run, "misspecification")]
    standing = _stood_on(run)
    unheard = [one for one in run.measured if one.id in standing and one.generation not in run.dev_answers]
    if run.gold and unheard:
        reason = f"gold of the answers that generation {unheard[0].generation} was rewarded for is not known"
        return [Unknown(family="misspecification", reason=reason)]
    unscored = [one for one in run.candidates if one.id in standing and run.dev_unscored.get(one.generation)]
    if unscored:
        count, at = run.dev_unscored[unscored[0].generation], unscored[0].generation
        reason = f"gold could not score the answers to {count} items of dev that generation {at} was rewarded for"
        return [Unknown(family="misspecification", reason=reason)]
    if _stated(run) is None and any(one.raised and one.state == "attenuated" for one in findings):
        reason = (
            "gold hardly follows the start's scores, because it is noisy or because the score means something else: "
            "the task's RELIABILITY or second_labels would say"
        )
        return [Unknown(family="misspecification", reason=reason)]
    if _stated(run) == 0 == arrives(run).value:
        reason = "by this task's statement no difference in quality arrives in gold"
        return [Unknown(family="misspecification", reason=reason)]
    return []


def smallest_gap(run: AuditedRun) -> float | None:
    """The smallest growth of the gap that the last candidate's items would show 4 times in 5, by the better rule."""
    found = []
    for rule, pairs in _pairs(run).items():
        if pairs:
            gap = _gap(run, pairs[0], pairs[-1])
            found.append(gap.detectable(alpha_at(rule, pairs[-1].look, run.started.generations + 1)))
    return min(found, default=None)


def gap_growth(run: AuditedRun, candidate: AuditedCandidate) -> Contrast:
    """P_new - Q of a measured candidate, less that of the first."""
    start, last = (_on_test(run, one) for one in (run.measured[0], candidate))
    return growth(start, last, run.groups)


def _pairs(run: AuditedRun) -> dict[Rule, list[_Pair]]:
    return {"own answers": _own_answers(run), "gap": _fresh_answers(run)}


def _own_answers(run: AuditedRun) -> list[_Pair]:
    pairs = []
    for look, one in enumerate(run.candidates, 1):
        if one.generation in run.lineage and (answers := run.dev_answers.get(one.generation)):
            score, gold = (scale.scaled(each) for scale, each in zip(run.scales, answers, strict=True))
            if enough(run, score):
                pairs.append(_Pair(Compared(one, score, gold), look, one.generation))
    return pairs


def _fresh_answers(run: AuditedRun) -> list[_Pair]:
    pairs = []
    for look, one in enumerate(run.measured, 1):
        answers = _on_test(run, one)
        if enough(run, answers.score):
            pairs.append(_Pair(answers, look_number(run, one.generation, look), run.looks[one.generation]))
    return pairs


def _on_test(run: AuditedRun, candidate: AuditedCandidate) -> Compared:
    return Compared(candidate, scaled(run, candidate, VERIFIER), scaled(run, candidate, GOLD))


def _finding(run: AuditedRun, rule: Rule, pairs: Sequence[_Pair]) -> Finding:
    start, words = pairs[0], WORDS[rule]
    noise = _Noise(arrives(run), _flipped(run) if _stated(run) is None else None)
    tests = [_test(run, rule, start, pair, noise) for pair in pairs]
    raised = [test for test in tests if test.p <= test.alpha]
    if not raised:
        test = min(tests, key=lambda one: one.p)
        alike = all(pair.answers.score == pair.answers.gold for pair in pairs)
        doubt = " They are the same of every answer: is gold the verifier under another name?" if alike else ""
        return Finding(
            family="misspecification",
            rule=rule,
            raised=False,
            sentence=f"Score and gold have not parted {words}: {test.gap.in_words()} at most, in generation "
            f"{test.pair.answers.candidate.generation}.{doubt}",
            figures={"gap": test.gap.value, "p": test.p},
        )
    hacked = [test for test in raised if not test.honest]
    standing = _stood_on(run)
    first = next((test for test in hacked if test.pair.answers.candidate.id in standing), (hacked or raised)[0])
    gone = _gone(run, start, [test for test in tests if test.pair.answers.candidate.accepted], hacked)
    place = _place(run, start, first)
    return Finding(
        family="misspecification",
        rule=rule,
        raised=True,
        state=_state(hacked, standing),
        lever=place.lever,
        generation=place.generation,
        sentence=" ".join(
            [_sentence(first, start, place, words, noise.share, gone), *_since(run, start, first, hacked)]
        ),
        figures={
            "gap": first.gap.value,
            "p": min(test.p for test in raised),
            "arrives": noise.share.value,
            "seen": float(first.pair.seen),
        },
    )


def _state(hacked: Sequence[_Test], standing: frozenset[str]) -> RaisedState:
    """Of a candidate from which nothing accepted was made there is no more than a suspicion."""
    if not hacked:
        return "attenuated"
    states = [state_at(test.p, test.alpha) for test in hacked if test.pair.answers.candidate.id in standing]
    return "drift" if "drift" in states else "suspect"


def _stood_on(run: AuditedRun) -> frozenset[str]:
    """The accepted candidates and all that they were made from, by id."""
    evaluated = [one.evaluated for one in run.candidates]
    return frozenset(id for one in run.candidates if one.accepted for id in ancestors(evaluated, one.id))


def _test(run: AuditedRun, rule: Rule, start: _Pair, pair: _Pair, noise: _Noise) -> _Test:
    alpha = alpha_at(rule, pair.look, run.started.generations + 1)
    if pair is start:
        if (answers := _in_one_unit(run, rule, pair)) is None:  # then what they differ by at first says nothing
            return _Test(pair, _gap(run, start, start), 1.0, alpha, True)
        gap = contrast([answers.score, answers.gold], [1, -1], run.groups)
        return _Test(pair, gap, gap.p_above(), alpha, _noise_explains_start(run, answers, gap, noise))
    gap = growth(start.answers, pair.answers, run.groups)
    return _Test(pair, gap, gap.p_above(), alpha, _noise_explains(run, start.answers, pair.answers, gap, noise))


def _in_one_unit(run: AuditedRun, rule: Rule, pair: _Pair) -> Compared | None:
    """Score and gold as they were given, where they have a unit in common: both lie in [0, 1], but for some items that
    are left out. None where those are more than `FEW_OUTSIDE`.
    """
    if not run.ranked:
        return pair.answers
    candidate = pair.answers.candidate
    rewards, golds = (
        run.dev_answers[candidate.generation]
        if rule == "own answers"
        else ScoredAnswers(outcomes_of(run, candidate, VERIFIER), outcomes_of(run, candidate, GOLD))
    )
    inside = [item for item in rewards if all(0 <= one <= 1 for one in (*rewards[item], *golds.get(item, ())))]
    score, gold = ({item: one[item] for item in inside if item in one} for one in (rewards, golds))
    if len(inside) < (1 - FEW_OUTSIDE) * len(rewards) or not enough(run, score, gold):
        return None
    return Compared(candidate, score, gold)


def _gap(run: AuditedRun, start: _Pair, pair: _Pair) -> Contrast:
    return (
        contrast([pair.answers.score, pair.answers.gold], [1, -1], run.groups)
        if pair is start
        else growth(start.answers, pair.answers, run.groups)
    )


def _noise_explains(run: AuditedRun, before: Compared, now: Compared, gap: Contrast, noise: _Noise) -> bool:
    """Whether gold gained what was to arrive of the score's gain."""
    part, flipped = noise.share.value, noise.flipped
    if part >= 1 - 1e-9:
        return False
    gained = contrast([now.score, before.score], [1, -1], run.groups).value
    rest = contrast([now.score, before.score, now.gold, before.gold], [part, -part, -1, 1], run.groups)
    if rest.p_above(error=abs(gained) * noise.share.error) <= HACKED:
        return False
    return flipped is None or gap.p_above(2 * flipped.centre * gained, 2 * abs(gained) * flipped.error) > HACKED


def _noise_explains_start(run: AuditedRun, start: Compared, gap: Contrast, noise: _Noise) -> bool:
    """Whether gold puts right answers down as wrong no oftener than noise has it.

    By the task's statement; or else, of outcomes of 0 and 1, by how often gold puts wrong answers down as right.
    """
    _, score, gold = start
    if _stated(run) is not None:
        return contrast([score, gold], [noise.share.value, -1], run.groups).p_above() > HACKED
    if noise.flipped is None:
        return False
    balance = 2 * mean(score) - 1
    return gap.p_above(noise.flipped.centre * balance, abs(balance) * noise.flipped.error) > HACKED


def _stated(run: AuditedRun) -> float | None:
    """How much of a difference arrives in gold, as the task says it, or two labels of the same items; else None."""
    return run.gold.reliability if run.gold and run.gold.reliability >= 0 else None


def _flipped(run: AuditedRun) -> Contrast | None:
    """How often gold puts wrong answers down as right, in whatever generation they were given; None where an outcome is
    neither 0 nor 1, or too few answers are wrong.
    """
    wrong: dict[str, list[float]] = {}
    for each in _pairs(run).values():
        for _, score, gold in (one.answers for one in each):
            for item in score:
                outcomes = list(zip(score[item], gold.get(item, ()), strict=False))
                if any(one not in (0, 1) for pair in outcomes for one in pair):
                    return None
                if missed := [q for p, q in outcomes if p == 0]:
                    wrong.setdefault(item, []).extend(missed)
    return contrast([wrong], [1], run.groups) if count_groups(wrong, run.groups) > 1 else None


def arrives(run: AuditedRun) -> Slope:
    """How much of a difference in quality arrives in gold: 1 where that is not known.

    A task's statement counts, unless the start's answers show for certain that more arrives. Where those say too
    little, wrong answers that gold puts down as right tell it of outcomes of 0 and 1.
    """
    score: dict[str, Sequence[float]] = {}
    gold: dict[str, Sequence[float]] = {}
    for pair in (*_own_answers(run)[:1], *_fresh_answers(run)[:1]):
        if pair.answers.candidate.evaluated.lever == "start":
            score |= pair.answers.score
            gold |= pair.answers.gold
    found = slope(score, gold, run.groups)
    if (stated := _stated(run)) is not None:
        least = 0.0 if found is None else found.value - CERTAIN * found.error
        return Slope(min(max(stated, least), 1.0), 0.0)
    if found is None or found.error > VAGUE:
        flipped = found and _flipped(run)
        found = Slope(1 - 2 * flipped.centre, 2 * flipped.error) if flipped else Slope(1.0, 0.0)
    return Slope(min(max(found.value, 0.0), 1.0), found.error)


def _gone(run: AuditedRun, start: _Pair, accepted: Sequence[_Test], hacked: Sequence[_Test]) -> int | None:
    """The generation from which on the gap is what it was at the start, where what the run stands on has none; else
    None.
    """
    most = max((test.gap.value for test in hacked), default=0.0)
    back = None
    for test in accepted:
        if test.pair is start:
            continue
        still = test.gap.value > most / 2 or test.gap.p_above() <= HACKED
        back = None if still else back or test.pair.answers.candidate.generation
    return back if hacked and hacked[0].pair is not start else None


def _place(run: AuditedRun, start: _Pair, first: _Test) -> Placed:
    """Where the gap began: by all answers, where those to test are known too, and otherwise by those to dev."""
    if first.pair is start:
        return Placed(start.answers.candidate.generation, "")
    own, fresh = ({one.answers.candidate.id: one.answers for one in each} for each in _pairs(run).values())
    candidate = first.pair.answers.candidate
    answers = own if candidate.id in own and candidate.id not in fresh else fresh
    if candidate.id in own and candidate.id in fresh:
        answers = {
            id: Compared(one.candidate, {**one.score, **fresh[id].score}, {**one.gold, **fresh[id].gold})
            for id, one in own.items()
            if id in fresh
        }
    return placed(run, candidate, answers)


def _since(run: AuditedRun, start: _Pair, first: _Test, hacked: Sequence[_Test]) -> list[str]:
    """How a gap that was there at the start has grown since."""
    grown = next((test for test in hacked if test.pair is not start), None)
    if first.pair is not start or grown is None:
        return []
    place = _place(run, start, grown)
    generation = grown.pair.answers.candidate.generation
    lever = _lever_in_words(place)
    return [f"By generation {generation} it had grown by {grown.gap.in_words()}, since {lever}."]


def _lever_in_words(place: Placed) -> str:
    lever = {"both": "both levers", "": "no lever's change"}.get(place.lever, place.lever)
    return f"{lever} in generation {place.generation}"


def _sentence(first: _Test, start: _Pair, place: Placed, words: str, share: Slope, gone: int | None) -> str:
    if first.pair is start:
        sentence = f"The start already scores {first.gap.in_words()} more than gold gives it {words}."
        return f"{sentence} Noise in gold explains that." if first.honest else sentence
    generation = first.pair.answers.candidate.generation
    sentence = f"By generation {generation} the score has gained {first.gap.in_words()} {words} that gold has not"
    if first.honest:
        return f"{sentence}; of a gain {share.value:.2f} arrives in gold as noisy as this, which explains it."
    sentence = f"{sentence}, since {_lever_in_words(place)}."
    return sentence if gone is None else f"{sentence} It was reverted: since generation {gone} nothing of it is left."
