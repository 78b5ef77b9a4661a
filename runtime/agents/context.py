"""The parts of an agent's prompt: which attempts, files and items it is shown, and how each is written.

All of it is bounded, and attempts are chosen by how they failed, not by which came first.

It is made from what is public (`Public`: labels of train alone), from attempts at train items, and from figures over
dev. Attempts at dev items are not shown, since a right answer is a label.
"""

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from runtime.agents.session import clipped
from tasks.contract import Example, Public

PROMPTS = Path(__file__).with_name("prompts")
TOKENS = 4_000
"""Tokens at the start for the trajectories, by `tokens_of`."""
ALIKE = 3
"""Most of them that failed alike at items of one label."""
SCAFFOLD, HISTORY, SAMPLES, LABELS, ARTEFACTS, DROPPED = 40_000, 12_000, 12_000, 6_000, 12_000, 16_000
"""Characters at the start for the scaffold's files, the history, sample items, the labels' names, what earlier
generations left, and the scaffolds that were rejected.
"""
OTHERS = 3_000
"""Characters of the descriptions of other tasks."""
BYTES_A_TOKEN = 3.5
"""For estimates: what a text takes is known once the model has answered."""
PROMPT, ANSWER = 1_500, 600
"""Characters of an item's prompt and of an answer, where several are shown; `read_trajectory` shows more."""


class ShownCall(msgspec.Struct, frozen=True):
    """One call of the policy within an attempt."""

    prompt: str
    choices: tuple[str, ...]
    text: str


class ShownAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt at a train item; without a reward it failed to run or to be scored."""

    id: str
    item: str
    attempt: int
    prompt: str
    label: str
    answer: str | None
    reward: float | None
    outcome: str
    """The verifier's word, or the kind of failure."""
    reason: str = ""
    details: str = ""
    """What the verifier says of the answer beyond its word."""
    calls: tuple[ShownCall, ...] = ()


def prompt(name: str) -> str:
    """One of the texts in `prompts`."""
    return (PROMPTS / f"{name}.md").read_text(encoding="utf-8")


def tokens_of(text: str) -> int:
    """About how many tokens a text takes."""
    return math.ceil(len(text.encode(errors="replace")) / BYTES_A_TOKEN)


def select_attempts(attempts: Sequence[ShownAttempt], limit: int, seed: int) -> list[ShownAttempt]:
    """Attempts whose descriptions fit about `limit` tokens: the ways of failing in turn, and within each the labels in
    turn. Of each item there is one at most, and of those that failed alike with one label `ALIKE`: the others say
    little more.

    What failed to run comes first, then the outcomes by what they earn, the least first; the same seed gives the same
    choice.
    """
    classes: dict[str, dict[str, list[ShownAttempt]]] = defaultdict(lambda: defaultdict(list))
    for attempt in attempts:
        classes[attempt.outcome][attempt.label].append(attempt)
    draw = random.Random(seed)
    ranks = {kind: _rank([one for by_label in classes[kind].values() for one in by_label]) for kind in classes}
    queues = {kind: _in_turn(classes[kind], draw) for kind in sorted(classes, key=lambda kind: (ranks[kind], kind))}
    chosen: list[ShownAttempt] = []
    items: set[str] = set()
    alike: Counter[tuple[str, str]] = Counter()
    tokens_left = limit
    waiting = {kind: deque(queue) for kind, queue in queues.items()}
    while waiting:
        for kind, queue in list(waiting.items()):
            while queue and (queue[0].item in items or alike[kind, queue[0].label] == ALIKE):
                queue.popleft()
            if not queue or tokens_of(describe_briefly(queue[0])) > tokens_left:
                del waiting[kind]
                continue
            attempt = queue.popleft()
            chosen.append(attempt)
            items.add(attempt.item)
            alike[kind, attempt.label] += 1
            tokens_left -= tokens_of(describe_briefly(attempt))
    return chosen


def _rank(attempts: Sequence[ShownAttempt]) -> float:
    """The mean reward of attempts that came to one outcome; below all rewards where they failed to run."""
    rewards = [attempt.reward for attempt in attempts if attempt.reward is not None]
    return fmean(rewards) if rewards else -math.inf


def _in_turn(by_label: Mapping[str, list[ShownAttempt]], draw: random.Random) -> list[ShownAttempt]:
    """One attempt of each label, then a second of each, and so on, in an order that is drawn."""
    columns = []
    for label in sorted(by_label):
        column = sorted(by_label[label], key=lambda attempt: (attempt.item, attempt.attempt))
        draw.shuffle(column)
        columns.append(column)
    draw.shuffle(columns)
    return [
        column[depth] for depth in range(max(map(len, columns), default=0)) for column in columns if depth < len(column)
    ]


def describe_briefly(attempt: ShownAttempt) -> str:
    """An attempt in a few lines."""
    last = attempt.calls[-1] if attempt.calls else None
    offered = (
        ""
        if last is None or not last.choices
        else f"; {len(last.choices)} choices{_among(attempt.label, last.choices)}"
    )
    lines = [
        f"### {attempt.id} (item {attempt.item}, attempt {attempt.attempt}): {attempt.outcome}",
        *([f"truth: {attempt.label}"] if attempt.label else []),
        f"answer: {'none' if attempt.answer is None else clipped(attempt.answer, ANSWER)}",
        f"reward: {'none' if attempt.reward is None else f'{attempt.reward:g}'}; calls of the model: "
        f"{len(attempt.calls)}{offered}",
        *([f"failure: {clipped(attempt.reason, ANSWER)}"] if attempt.reason else []),
        *([f"the verifier says: {clipped(attempt.details, ANSWER)}"] if attempt.details else []),
        f"item: {clipped(attempt.prompt, PROMPT)}",
    ]
    return "\n".join(lines)


def describe_fully(attempt: ShownAttempt) -> str:
    """An attempt with all its calls."""
    calls = [
        f"#### call {number}\nprompt:\n{call.prompt}\nchoices ({len(call.choices)}): "
        f"{clipped(', '.join(call.choices), 4000) or 'none'}\n"
        f"completion:\n{call.text}"
        for number, call in enumerate(attempt.calls, 1)
    ]
    return "\n\n".join([describe_briefly(attempt), *calls])


def _label_line(example: Example) -> str:
    return "" if example.label is None else f"\n  label: {example.label}"


def _among(label: str, choices: Sequence[str]) -> str:
    if not label:
        return ""
    return f", the truth is number {choices.index(label) + 1}" if label in choices else ", the truth is not among them"


def sample_items(public: Public, limit: int, seed: int) -> str:
    """Train items as many as fit: one of each label, with it; any where there are no labels."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in public.train:
        by_label[example.label or example.id].append(example)
    draw = random.Random(seed)
    firsts = [draw.choice(by_label[label]) for label in sorted(by_label)]
    draw.shuffle(firsts)
    lines: list[str] = []
    for example in firsts:
        line = f"- {clipped(example.prompt, PROMPT)}{_label_line(example)}"
        if sum(map(len, lines)) + len(line) > limit:
            break
        lines.append(line)
    return "\n".join(lines)


def task_text(description: str, public: Public, policy: str) -> str:
    """What the task is, from what is public; `policy` says what answers it, in sentences."""
    with_labels = "without" if all(example.label is None for example in public.train) else "with"
    labels = f"\n{len(public.labels)} labels: {clipped(', '.join(public.labels), LABELS)}" if public.labels else ""
    return (
        f"{description}\n\n{len(public.train)} train items {with_labels} labels, {len(public.dev)} dev items that "
        f"candidates are judged on.{labels}\n\n### The policy\n{policy}"
    )


def scaffold_text(files: Mapping[str, str], limit: int = SCAFFOLD, prefix: str = "") -> str:
    """The files of a scaffold, with a prefix to their paths; those that do not fit are named."""
    parts: list[str] = []
    for path in sorted(files, key=lambda path: (path != "agent.py", path)):
        text = f"#### {prefix}{path}\n```\n{files[path]}\n```"
        characters_left = limit - sum(map(len, parts))
        parts.append(
            text
            if len(text) <= characters_left
            else f"#### {prefix}{path}: {len(files[path]):,} characters, not shown; read_scaffold shows them"
        )
    return "\n".join(parts)
