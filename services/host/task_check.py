"""Checks a task's folder before a run is trusted to it, and says in sentences what is wrong.

This is the operator's command, and reads gold: splits, labels and gold of two seeds are held against each other, and
reference answers, empty ones and odd ones are scored by verifier and gold. Scoring runs in child processes, as in a
run; programs of candidates run in the sandbox.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import combinations
from statistics import fmean, stdev
from typing import NamedTuple

from events.errors import Misconfigured, why
from runtime.effects.scoring import AnswerScorer, Failed, ScoringProcess
from runtime.policies import published
from services.host import task_sources
from services.host.capabilities import missing_capabilities
from tasks.contract import EvaluationSet, Example, Item, Public, Scored, Submission
from tasks.loading import Task, known, load

POLICIES = ("text-scorer", "tiny-lm")
"""The policies that are made here, from a task's data."""
TINY_LM = "tiny-lm"
"""The policy that is pre-trained on traces."""
VERIFIER, GOLD = "The verifier", "Gold"
OK, FINDING, NOTE = "ok", "finding", "note"
SEEDS = (0, 1)
SPLITS = ("train", "dev", "test")
ODD_ANSWERS = ("nan", "inf", "-1e400", "\u2028{[(", "x" * 20_000)
"""Answers that verifiers fall over, or make no number of."""
REPEATED = 20
"""Answers that are scored several times."""
GUESS = "0"
"""The answer that is judged again where a task has no reference answer."""
FEW_GROUPS = 10
"""A split of no more groups than this, with two items each or more, says little."""
SEVERAL = 5
"""How often a noisy verifier is called for each of them, at least."""
SHOWN = 3


class CheckResult(NamedTuple):
    """What one check of a task says."""

    check: str
    status: str
    """`OK`, `FINDING` or `NOTE`: what was not looked at, or is worth knowing."""
    sentence: str


class SeedData(NamedTuple):
    """All that a task gives for one seed; `labels` are those of every split, by item id."""

    seed: int
    public: Public
    labels: Mapping[str, str]

    def split(self, name: str) -> tuple[Item, ...]:
        """The items of a split."""
        return tuple(Item(one.id, one.prompt, one.group, one.files, one.metadata) for one in getattr(self.public, name))


class JudgedAnswers(NamedTuple):
    """A set of answers, one to each of some items, as verifier and gold judge it."""

    verifier: Mapping[str, Scored | Failed]
    gold: Mapping[str, float | Failed]
    """Empty where gold is the verifier."""
    total: float = 0.0
    """The verifier's reward of a whole submission."""


def check_task(
    path: str, items: int | None = None, say: Callable[[str], None] = lambda words: None
) -> list[CheckResult]:
    """What each check says of the task; it is sound where none is a finding.

    At most `items` of each split are scored; None for all. `say` is told what is being done. Raises NotFound where the
    task or its data are not there, and Misconfigured where the folder cannot be loaded.
    """
    task = load(path)
    say("reading the data of two seeds")
    data, faults = read_data(task)
    results = [*check_sources(task), *faults]
    if data:
        results += check_splits(task, data)
        results += check_baselines(task, data[0])
        with closing(ScoringProcess()) as scorer, closing(ScoringProcess()) as other:
            results += check_seeds(task, data, other)
            say("scoring reference answers")
            results += check_scores(task, data, scorer, other, items)
        say("searching installed packages")
        results += check_packages(data)
    return results


def check_sources(task: Task) -> Iterator[CheckResult]:
    """Whether gold is read by nobody but the auditor, as far as the folder's sources say, and both levers are there."""
    scaffold, broken = task.scaffold(), []
    found = task_sources.ways_to_gold(task.folder) + task_sources.ways_out_of_scaffold(scaffold, "scaffold/")
    for sentence in _misnamed(task):
        yield CheckResult("names", FINDING, sentence)
    if task_sources.has_no_solve(scaffold):
        broken.append("scaffold/agent.py defines no solve(item, model, data): no item can be answered.")
    for edit in task.edits():
        try:
            files = dict(edit.apply(scaffold))
            found += task_sources.ways_out_of_scaffold(files, f"the edit {edit.name}: ")
            if task_sources.has_no_solve(files):
                broken.append(f"The agent.py of the edit {edit.name} defines no solve(item, model, data).")
        except Exception as wrong:
            broken.append(f"The edit {edit.name} cannot be made ({why(wrong)}).")
    for way in dict.fromkeys(found):
        yield CheckResult("gold", FINDING, f"{way}: gold is the auditor's, and a scaffold sees nothing of its task.")
    if not found:
        yield CheckResult("gold", OK, "No module but gold.py names gold, and no scaffold imports what its task holds.")
    if task.policy == TINY_LM:
        try:
            task.traces(0)
        except Misconfigured as wrong:
            broken.append(f"The policy cannot be made: {wrong}")
    yield from (CheckResult("levers", FINDING, sentence) for sentence in broken)
    if not broken and task.edits():
        yield CheckResult("levers", OK, f"Each edit of the catalogue can be made ({len(task.edits())}).")
    elif not broken:
        yield CheckResult("levers", NOTE, "There is no catalogue.py, so the rules agent has no edit to make.")


def _misnamed(task: Task) -> Iterator[str]:
    """What has a name that is another's, that nobody knows, or that is misspelt, in sentences."""
    if task.name in known() and not task.package.startswith("tasks."):
        yield (
            f"NAME is {task.name!r}, which is a task that comes with evolog, and whose data and scores would be taken "
            "for this one's: give it another."
        )
    if ":" not in task.policy and task.policy not in (*POLICIES, *published.MODELS):
        names = ", ".join((*POLICIES, *published.MODELS))
        yield f"POLICY is {task.policy!r}, and there is no such policy: name one of {names}, or hf:PATH."
    yield from task_sources.misspelt(task.folder)


def check_baselines(task: Task, one: SeedData) -> Iterator[CheckResult]:
    """Whether each baseline gives an answer to every item of dev and test."""
    for name, predict in task.baselines().items():
        for split in ("dev", "test"):
            try:
                predict(one.public, one.split(split))
            except Exception as wrong:
                fault = f"The baseline {name!r} gives no answers for {split} ({why(wrong).rstrip('.')})."
                yield CheckResult("baselines", FINDING, fault)
                break


def read_data(task: Task) -> tuple[list[SeedData], list[CheckResult]]:
    """The data of those seeds that the task loads for, and why it does not for the others.

    Raises Misconfigured where this host lacks a package that the task needs.
    """
    data, faults = [], defaultdict[str, list[int]](list)
    for seed in SEEDS:
        try:
            public, known = task.public(seed), task.labels(seed)
        except Misconfigured as wrong:
            if isinstance(wrong.__cause__, ModuleNotFoundError):  # what is missing is this host's
                raise
            faults[f"the task does not load: {wrong}"].append(seed)
            continue
        try:
            hidden = task.gold(seed)
        except Misconfigured as wrong:
            faults[f"gold does not fit test: {wrong}"].append(seed)
            continue
        data.append(SeedData(seed, public, {**known, **hidden}))
    sentences = (f"With seed {' and '.join(map(str, seeds))} {fault}" for fault, seeds in faults.items())
    return data, [CheckResult("seeds", FINDING, sentence) for sentence in sentences]


def check_splits(task: Task, data: Sequence[SeedData]) -> Iterator[CheckResult]:
    """Whether splits and folds are disjoint, by content and by group."""
    faults = 0
    for one in data:
        for first, second in combinations(SPLITS, 2):
            for sentence, status in _overlap(task, one, first, second):
                faults += status == FINDING
                yield CheckResult("splits", status, f"{sentence} (seed {one.seed})")
        for kind, key in (("group", _group_of), ("prompt", _content)):
            folds: dict[object, set[int]] = defaultdict(set)
            for example in one.public.train:
                folds[key(example)].add(example.fold)
            divided = sum(len(of) > 1 for of in folds.values())
            if divided and not (kind == "prompt" and task.shared_prompts):
                faults += 1
                sentence = f"{divided} {kind}s of train lie in more than one fold, so a scaffold can look answers up"
                yield CheckResult("splits", FINDING, f"{sentence} (seed {one.seed}): keep each in one fold.")
        for split in SPLITS:
            if blank := [item.id for item in one.split(split) if not item.prompt.strip() and not item.files]:
                faults += 1
                sentence = f"{len(blank)} items of {split} ask nothing, such as {blank[0]} (seed {one.seed})"
                yield CheckResult("splits", FINDING, f"{sentence}: give each a prompt or files, or leave it out.")
    if not faults:
        ways = "by group" if task.shared_prompts else "by content and by group"
        yield CheckResult("splits", OK, f"The splits are disjoint {ways}, for {_seed_words(data)}.")
    for split in ("dev", "test"):
        items = data[0].split(split)
        groups = {_group_of(item) for item in items}
        if len(groups) <= FEW_GROUPS and len(items) >= 2 * len(groups) > 0:
            sentence = f"The {len(items)} items of {split} lie in {len(groups)} groups of near-duplicates"
            remedy = "its score says little, and its interval is too narrow: bring more that differ, or group less."
            yield CheckResult("splits", NOTE, f"{sentence} (seed {data[0].seed}): {remedy}")
    if task.shared_prompts:
        yield CheckResult("splits", NOTE, f"Items of several splits may ask the same: {task.shared_prompts}")


def _overlap(task: Task, one: SeedData, first: str, second: str) -> Iterator[tuple[str, str]]:
    """What two splits share, in sentences, and whether that is a finding."""
    for kind, key in (("group", _group_of), ("content", _content)):
        if kind == "content" and task.shared_prompts:
            continue
        known = {key(item): item.id for item in one.split(first)}
        shared = [item for item in one.split(second) if key(item) in known]
        if not shared:
            continue
        what = "are in a group with items" if kind == "group" else "ask the same as items"
        pair = f"{shared[0].id} and {known[key(shared[0])]}"
        sentence = f"{len(shared)} items of {second} {what} of {first}, such as {pair}"
        remedy = _left_out_by(task, one, shared) if second == "test" else ""
        if remedy:
            yield f"{sentence}; the perturbation {remedy} of gold.py asks test without them", NOTE
        else:
            yield f"{sentence}: keep such items in one split", FINDING


def _left_out_by(task: Task, one: SeedData, items: Sequence[Item]) -> str:
    """The name of a perturbation of gold that asks test without these items; empty if there is none."""
    test, ids = EvaluationSet(one.public.labels, one.public.test), {item.id for item in items}
    for name, perturbation in task.perturbations().items():
        if not perturbation.preserves:
            left = task.perturbed(name, test, one.labels, one.seed).items
            if not ids & {item.id for item in left} and 2 * len(left) > len(test.items):
                return name
    return ""


def _labels_not_on_offer(one: SeedData) -> list[str]:
    """The items whose label is none of those on offer, though labels of their split are: where none is, they are names
    of something else, as denoise's of its files.
    """
    found, offered = list[str](), {*one.public.labels}
    for split in (one.public.train, one.public.dev, one.public.test):
        ids = [item.id for item in split if item.id in one.labels]
        strange = [id for id in ids if one.labels[id] not in offered]
        found += strange if len(strange) < len(ids) else []
    return found


def check_seeds(task: Task, data: Sequence[SeedData], other: AnswerScorer) -> Iterator[CheckResult]:
    """Whether each split and its gold follow from the seed, and from the same one. `other` calls another process."""
    faults = []
    for one in data:
        strange = _labels_not_on_offer(one)
        if strange:
            faults.append(
                f"{len(strange)} items have a label that is none of those on offer, such as {strange[0]} (seed "
                f"{one.seed}): correct it, or name it among the labels of load."
            )
    for one, again in zip(data, other(task.public, [(one.seed,) for one in data]), strict=True):
        if isinstance(again, Failed):
            faults.append(f"load fails in another process for seed {one.seed} ({again.reason}).")
        elif again != one.public:
            faults.append(f"load gives other items each time for seed {one.seed}: draw by the seed alone.")
    if len(data) == 2:
        first, second = data
        for split in SPLITS:
            same = first.split(split) == second.split(split)
            if not same and first.public.digests[split] == second.public.digests[split]:
                faults.append(
                    f"The digest of {split} is the same for both seeds though its items are not: take the kit's digest."
                )
        if first.split("test") != second.split("test"):
            if not task_sources.takes_seed(task.folder):
                faults.append("The test split is drawn by seed, and labels of gold.py take none: give them the seed.")
            elif _moved(first, second, "test") == 0 and max(_moved(first, second, s) or 0 for s in ("train", "dev")):
                faults.append(
                    "The test split is drawn by seed, and gold.py has the same labels for both seeds, unlike those of "
                    "train and dev: let labels use the seed."
                )
        if contradicted := _contradicted(first, second):
            faults.append(
                f"{len(contradicted)} prompts have one label with seed 0 and another with seed 1, such as that of "
                f"{contradicted[0]}: labels must follow the items."
            )
    yield from (CheckResult("seeds", FINDING, fault) for fault in faults)
    if not faults and len(data) == len(SEEDS):
        yield CheckResult("seeds", OK, "Every split and its gold load for seeds 0 and 1, and agree with each other.")


def _moved(first: SeedData, second: SeedData, split: str) -> float | None:
    """Of the ids that both seeds have in a split with other content, the share whose label differs too; None where
    there are none.
    """
    content = {item.id: _content(item) for item in first.split(split)}
    changed = [item.id for item in second.split(split) if item.id in content and content[item.id] != _content(item)]
    labelled = [id for id in changed if id in first.labels and id in second.labels]
    return fmean(first.labels[id] != second.labels[id] for id in labelled) if labelled else None


def _contradicted(first: SeedData, second: SeedData) -> list[str]:
    """The items of the second seed whose content has one label only with the first seed, and that another."""
    known: dict[object, set[str]] = defaultdict(set)
    for split in SPLITS:
        for item in first.split(split):
            if item.id in first.labels:
                known[_content(item)].add(first.labels[item.id])
    own: dict[object, set[str]] = defaultdict(set)
    names: dict[object, str] = {}
    for split in SPLITS:
        for item in second.split(split):
            if item.id in second.labels:
                own[_content(item)].add(second.labels[item.id])
                names[_content(item)] = item.id
    return [names[content] for content, labels in own.items() if content in known and not labels & known[content]]


def check_scores(
    task: Task, data: Sequence[SeedData], scorer: AnswerScorer, other: AnswerScorer, most: int | None = None
) -> Iterator[CheckResult]:
    """Whether verifier and gold accept reference answers, reward no empty ones, give finite scores, and the same again.

    `scorer` and `other` score in processes of their own; at most `most` items of a split are scored, None for all.
    """
    if why := _cannot_score(task):
        yield CheckResult("references", NOTE, f"{why}: nothing was scored.")
        return
    faults: dict[str, dict[str, list[str]]] = {check: defaultdict(list) for check in ("references", "empty", "finite")}

    def add(check: str, found: Iterable[tuple[str, str]]) -> None:
        for cause, sentence in found:
            faults[check][cause].append(sentence)

    counted = dict.fromkeys(("references", "empty"), 0)
    repeated: list[tuple[Sequence[Item], Mapping[str, str | None], Mapping[str, str]]] = []
    for one in data:
        for split in SPLITS:
            for items in _shards(task, one, split, most):
                place = f"{split}, seed {one.seed}"
                empty = _judged(task, scorer, items, dict.fromkeys([i.id for i in items], ""), one.labels)
                none = _judged(task, scorer, items, dict.fromkeys([i.id for i in items]), one.labels)
                counted["empty"] += len(items)
                for name, judged in (("an empty answer", empty), ("no answer", none)):
                    add("empty", _rewarded(task, name, judged, place))
                references = _references(task, items, one.labels)
                if references:
                    judged = _judged(task, scorer, items, references, one.labels)
                    counted["references"] += len(references)
                    add("references", _refused(task, judged, empty, place))
                    if task.submissions and len(items) > 1:
                        add("references", _one_is_enough(task, scorer, items, references, one.labels, judged))
                if one is data[0]:
                    add("finite", _falls_over(task, scorer, items, one.labels, place))
                    repeated.append((items, references or {items[0].id: GUESS}, one.labels))
    sentences = {
        "references": f"Verifier and gold accept all {counted['references']} reference answers.",
        "empty": f"The empty answer and none at all earn nothing, for {counted['empty']} items.",
        "finite": f"{len(ODD_ANSWERS)} odd answers to an item of each split, such as 'nan', have finite scores.",
    }
    for check, found in faults.items():
        if found:
            yield from (CheckResult(check, FINDING, _once(places)) for places in found.values())
        elif check == "references" and not counted["references"]:
            why = "The task has no labels, and its data.py no reference_answer: no reference answer was tried."
            yield CheckResult(check, NOTE, why)
        else:
            yield CheckResult(check, OK, sentences[check])
    yield from _repeats(task, scorer, other, repeated)


def _once(sentences: Sequence[str]) -> str:
    """The first of sentences that say the same of several splits, with how many more there are."""
    more = len(sentences) - 1
    return sentences[0] + (f" So it is in {more} more place{'s' if more > 1 else ''}." if more else "")


def _cannot_score(task: Task) -> str:
    if task.judge_model:
        return "The verifier asks a judge model, which costs money"
    if lacking := missing_capabilities(task.needs):
        return f"The verifier needs {', '.join(lacking)}, which this host lacks"
    return ""


def _shards(task: Task, one: SeedData, split: str, most: int | None) -> list[Sequence[Item]]:
    """The items of a split that are scored, as a verifier is given them together: a submission's are whole."""
    items = one.split(split)
    if not task.submissions:
        step = max(1, len(items) // most) if most else 1
        return [items[::step][:most]] if items else []
    if split != "train":
        return [items] if items else []
    folds: dict[int, list[Item]] = defaultdict(list)
    for example, item in zip(one.public.train, items, strict=True):
        folds[example.fold].append(item)
    return list(folds.values())


def _references(task: Task, items: Sequence[Item], labels: Mapping[str, str]) -> dict[str, str | None]:
    given = {item.id: task.reference_answer(item, labels.get(item.id)) for item in items}
    return {id: answer for id, answer in given.items() if answer is not None}


def _judged(
    task: Task,
    scorer: AnswerScorer,
    items: Sequence[Item],
    answers: Mapping[str, str | None],
    labels: Mapping[str, str],
) -> JudgedAnswers:
    asked = [item for item in items if item.id in answers]
    triples = [(item, answers[item.id], labels.get(item.id)) for item in asked]
    whole = [(list(items), dict(answers), {item.id: labels[item.id] for item in items if item.id in labels})]
    total = 0.0
    verifier: dict[str, Scored | Failed]
    if task.submissions:
        (submission,) = scorer(task.score_submission, whole)
        if isinstance(submission, Submission):
            total = submission.total.reward
            verifier = {item.id: submission.items.get(item.id, submission.total) for item in asked}
        else:
            verifier = {item.id: submission for item in asked}
    else:
        verifier = dict(zip([item.id for item in asked], scorer(task.score, triples), strict=True))
    if task.gold_is_verifier:
        return JudgedAnswers(verifier, {}, total)
    gold: Mapping[str, float | Failed]
    if task.gold_judges_submissions:
        (scores,) = scorer(task.gold_submission, whole)
        gold = {item.id: scores for item in asked} if isinstance(scores, Failed) else dict(scores)
    else:
        gold = dict(zip([item.id for item in asked], scorer(task.gold_score, triples), strict=True))
    return JudgedAnswers(verifier, gold, total)


def _rewarded(task: Task, name: str, judged: JudgedAnswers, place: str) -> Iterator[tuple[str, str]]:
    """The cause and a sentence for each judge that fails at answers which are none, or rewards them."""
    for judge, scores in ((VERIFIER, judged.verifier), (GOLD, judged.gold)):
        failed = {id: one.reason for id, one in scores.items() if isinstance(one, Failed)}
        if failed:
            sentence = f"{judge} fails at {name} to {_some(failed)} of {place} ({next(iter(failed.values()))})."
            yield f"{judge} fails at {name}", sentence
        earned = {id: _number(one) for id, one in scores.items() if not isinstance(one, Failed)}
        bar = task.solved if judge == VERIFIER and task.solved is not None else 1.0
        paid = {id: score for id, score in earned.items() if score > 0 or score >= bar}
        if paid:
            most = max(paid.values())
            sentence = (
                f"{judge} rewards {name} to {_some(paid)} of {place}: it earns up to {most:g}, and should earn 0."
            )
            yield f"{judge} rewards {name}", sentence


def _refused(task: Task, judged: JudgedAnswers, empty: JudgedAnswers, place: str) -> Iterator[tuple[str, str]]:
    """Which reference answers are not accepted: each must earn more than an empty one, and a label must solve its
    item.
    """
    for judge, scores, nothing in (
        (VERIFIER, judged.verifier, empty.verifier),
        (GOLD, judged.gold, empty.gold),
    ):
        failed = {id: one.reason for id, one in scores.items() if isinstance(one, Failed)}
        if failed:
            reason = next(iter(failed.values()))
            yield f"{judge} fails", f"{judge} fails at the reference answer to {_some(failed)} of {place} ({reason})."
        solved = task.solved if judge == VERIFIER and not task.has_reference_answers else None
        poor = {}
        for id, one in scores.items():
            least = nothing.get(id)
            if isinstance(one, Failed) or isinstance(least, Failed) or least is None:
                continue
            if _number(one) <= _number(least) or (solved is not None and _number(one) < solved):
                poor[id] = _number(one)
        if poor:
            word = "reference answer" if task.has_reference_answers else "label"
            earned = f"it earns {max(poor.values()):g} at most"
            if solved is not None:
                earned += f", and an item counts as solved from {solved:g}"
            yield f"{judge} refuses", f"{judge} does not accept the {word} of {_some(poor)} of {place}: {earned}."


def _one_is_enough(
    task: Task,
    scorer: AnswerScorer,
    items: Sequence[Item],
    references: Mapping[str, str | None],
    labels: Mapping[str, str],
    full: JudgedAnswers,
) -> Iterator[tuple[str, str]]:
    id = next(iter(references))
    one = _judged(task, scorer, items, {id: references[id]}, labels)
    if full.total > 0 and one.total >= full.total:
        sentence = f"A submission that answers {id} alone earns {one.total:g}, as much as a whole one"
        yield "alone", f"{sentence}: count what is not answered as wrong."


def _falls_over(
    task: Task, scorer: AnswerScorer, items: Sequence[Item], labels: Mapping[str, str], place: str
) -> Iterator[tuple[str, str]]:
    for answer in ODD_ANSWERS:
        judged = _judged(task, scorer, items, {items[0].id: answer}, labels)
        for judge, scores in ((VERIFIER, judged.verifier), (GOLD, judged.gold)):
            for one in scores.values():
                if isinstance(one, Failed):
                    shown = f"{answer[:12]!r}{'...' if len(answer) > 12 else ''}"
                    sentence = f"{judge} gives no finite score to the answer {shown} to an item of {place}"
                    yield f"{judge} {one.reason}", f"{sentence} ({one.reason})."


def _repeats(
    task: Task,
    scorer: AnswerScorer,
    other: AnswerScorer,
    repeated: Sequence[tuple[Sequence[Item], Mapping[str, str | None], Mapping[str, str]]],
) -> Iterator[CheckResult]:
    """Whether the same answer has the same score again, in the same process and in another; else how noisy it is.

    A verifier that gives an interval with each score may give another the next time.
    """
    calls = SEVERAL if task.repeats > 1 else 3
    spreads: dict[str, float] = {}
    noisy, measured = dict[str, None](), dict[str, None]()
    for items, answers, labels in repeated:
        few = answers if task.submissions else dict(list(answers.items())[: REPEATED // len(SPLITS)])
        sheets = [few]
        if len(few) > 1 and not task.submissions:  # each item's answer given to its neighbour too
            sheets.append(dict(zip(few, [*list(few.values())[1:], next(iter(few.values()))], strict=True)))
        for sheet in sheets:
            rounds = [_judged(task, scorer if n % 2 else other, items, sheet, labels).verifier for n in range(calls)]
            for id in sheet:
                scores = [one[id] for one in rounds]
                rewards = [one.reward for one in scores if isinstance(one, Scored)]
                if len(rewards) == calls:
                    spreads[id] = max(spreads.get(id, 0.0), stdev(rewards))
                scored = [one for one in scores if isinstance(one, Scored)]
                if len({(one.reward, one.outcome) for one in scored}) > 1:
                    (measured if all(one.interval for one in scored) else noisy)[id] = None
    worst = max(spreads.values(), default=0.0)
    if task.repeats > 1:
        of_mean = worst / task.repeats**0.5
        sentence = f"One call of the noisy verifier has a standard deviation of up to {worst:.3g} in {calls} calls, and"
        yield CheckResult("noise", OK, f"{sentence} the mean of its {task.repeats} repeats one of {of_mean:.3g}.")
    elif noisy:
        yield CheckResult(
            "noise",
            FINDING,
            f"The verifier gives the same answer different scores for {_some(noisy)} (standard deviation up to "
            f"{worst:.3g}): make it deterministic, or let REPEATS say how often to call it.",
        )
    elif measured:
        sentence = (
            f"The verifier gives an interval with each score; those of {_some(measured)} have a standard deviation"
        )
        yield CheckResult("noise", OK, f"{sentence} of up to {worst:.3g} in {calls} calls.")
    else:
        where = f"in {calls} calls and two processes, for {len(spreads)} items"
        only = all(set(answers.values()) == {GUESS} for _, answers, _ in repeated)
        what = f" of the answer {GUESS!r}; no reference answer was tried" if only else ""
        yield CheckResult("noise", NOTE if only else OK, f"The verifier says the same again, {where}{what}.")


def check_packages(data: Sequence[SeedData]) -> Iterator[CheckResult]:
    """Whether answers of test can be had from installed packages that the sandbox shows."""
    one = data[0]
    try:
        found = task_sources.answers_in_packages(one.split("test"), one.labels)
    except (TimeoutError, FileNotFoundError) as wrong:
        why = "took too long" if isinstance(wrong, TimeoutError) else "needs grep, which is not installed"
        yield CheckResult("packages", NOTE, f"The search of installed packages {why}: they were not looked at.")
        return
    for file, ids in found.files.items():
        sentence = f"The prompts of {len(ids)} test items, such as {ids[0]}, stand in {file}, which the sandbox shows"
        if file in found.labelled:
            yield CheckResult("packages", FINDING, f"{sentence}, and so do their answers: uninstall that package.")
        else:
            yield CheckResult("packages", NOTE, f"{sentence}; no labels of theirs do.")
    folders = ", ".join(map(str, found.folders)) or "no folder"
    shorter = f", {found.looked_for} that are long enough" if found.looked_for < len(one.public.test) else ""
    looked = f"the prompts of {len(one.public.test)} test items{shorter}, in the text files of {folders}"
    if not found.files:
        yield CheckResult("packages", OK if found.looked_for else NOTE, f"Looked for {looked}: none is there.")
    else:
        yield CheckResult("packages", NOTE, f"Looked for {looked}.")


def _content(item: Item | Example) -> object:
    """What an item asks, whatever its spaces and capitals."""
    return (" ".join(item.prompt.casefold().split()), tuple(sorted(item.files.items())))


def _group_of(item: Item | Example) -> object:
    """An item's group; an item without one is its own."""
    return item.group or ("item", item.id)


def _number(scored: Scored | float) -> float:
    return scored.reward if isinstance(scored, Scored) else scored


def _some(ids: Mapping[str, object]) -> str:
    """ "3 items (a, b, c)", with the first few named."""
    names = ", ".join(list(ids)[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
    return f"{len(ids)} item{'s' if len(ids) > 1 else ''} ({names})"


def _seed_words(data: Sequence[SeedData]) -> str:
    return " and ".join(f"seed {one.seed}" for one in data)
