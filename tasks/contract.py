"""The contract of a task folder: its items, its verifier, its reference scaffold, and the edits that the rules agent
may make to it.

`task.py` defines NAME, DESCRIPTION, POLICY and GENERATIONS. It defines SIGNAL where answers to train items cannot be
scored: "comparisons" where rewards say only which of two answers to an item is better, "none" where they say nothing
(the verifier then gives each the same). MAX_TOKENS is the longest completion that a call of the policy gives, 64 unless
it is set. SHARED_STATE = True lets attempts find what earlier ones have left in the scaffold's globals and work folder;
without it, each begins with what the scaffold's import and `prepare` have left, and nothing else.

The scaffold's agent.py defines `solve(item, model, data)`. It may define `prepare(data)`, which is called once, before
any item is there.

`verifier.py` defines VERSION and `score(answer, label)`, which gives a `Scored`. A run can be ordered with another
verifier by its name, if the folder has it as `verifier_NAME.py`.

`data.py` defines `default_root()`, `get(root, source)`, `load(root, seed)` and `labels(root, seed)`. It may define

    traces(seed)                  (prompt, completion) pairs that a small language model is pre-trained on, for the
                                  policy tiny-lm: for each kind of prompt what a sensible answer looks like, and
                                  answers near a given one; no true answers of items
    copies(prompt, train, seed)   (prompt, completion) demonstrations for one item, from the train examples that it
                                  may see, as they are and under changes that keep the rule, for test-time training
    hint(label)                   what is added to a prompt to show the model the true answer, for STaR

`gold.py` defines `labels(root)`, the labels of test. It may define

    score(answer, label)          the gold score of an answer, from 0 to 1, where that is not what `verifier.py` says
    EXTRA_METRICS                 by name, functions like `score` whose figures are recorded too; no rule of the
                                  auditor uses them
    PERTURBATIONS                 by name, the changes under which the auditor asks test once more (`Perturbation`). A
                                  change may touch the items' prompts, the labels' order, and which items are asked.
                                  An item keeps its id, so that its answers before and after the change make a pair
    canaries(label, verifier, reward)
                                  by name, the reward of an answer that needs no skill, from the verifier of this
                                  VERSION, and its gold score; `reward(answer)` is that verifier's. An empty dict
                                  where the verifier is not known
    ceiling(label, verifier)      the most that an answer can be expected to earn from the verifier of this VERSION;
                                  None if unknown
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Outcome = Literal["right", "wrong", "unparsed"]
FOLDS = 5


class Item(msgspec.Struct, frozen=True):
    """A question without its answer."""

    id: str
    prompt: str


class Example(msgspec.Struct, frozen=True):
    """A train question with its answer; near-duplicates share a `group`, and a group lies in one `fold` (0 to FOLDS -
    1).
    """

    id: str
    prompt: str
    label: str
    fold: int
    group: str


class Public(msgspec.Struct, frozen=True):
    """All that the loop may see of a task: answers of train only, and a sha256 for each split.

    Ids are unique over all splits, labels among themselves; labels, train and dev hold one at least.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]
    digests: dict[str, str]


class Scored(msgspec.Struct, frozen=True):
    """A verifier's judgement of one answer; the reward lies in [-1e9, 1e9]."""

    reward: float
    outcome: Outcome


class Labelled(Protocol):
    """A train question with its answer, as a scaffold sees it: nothing else of the `Example`."""

    @property
    def prompt(self) -> str: ...

    @property
    def label(self) -> str: ...


class Data(msgspec.Struct, frozen=True):
    """What a scaffold gets with each item: the labels' names, and train without the item's fold.

    What is fitted to `train` in `prepare(data)` is there for every attempt at the items of a fold.
    """

    labels: tuple[str, ...]
    train: tuple[Labelled, ...]


class Reply(msgspec.Struct, frozen=True):
    """What a model call returns to a scaffold: the text of one completion."""

    text: str


class Model(Protocol):
    """The frozen or trained policy as a scaffold sees it; temperature and seed are the runtime's."""

    def complete(self, prompt: str, choices: Sequence[str] = (), bias: Sequence[float] = ()) -> Reply:
        """One completion.

        Raises ValueError for a call that is malformed or too long, RuntimeError for one that the policy refuses.
        """
        ...


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the trajectories of one candidate show. Shares and rates lie in [0, 1].

    Most fields come from a probe of train items, with `attempts` answers each at temperature 1; a group is the answers
    to one item. The others are `dev` (dev items at temperature 0), `labels`, and what counts the run's items and
    rollouts.
    """

    dev: float
    unparsed: float
    pass_at_1: float
    pass_at_k: float
    attempts: int
    tied_groups: float
    labels: int
    offered: float
    """Mean number of choices offered to the model (all labels where the scaffold names none)."""
    recall: float
    """Share of the probe's answers whose true label was among the choices offered."""
    wrong_though_offered: float
    """Share of the probe's answers that were wrong although the true label was offered."""
    train_items: int
    found: float = 0.0
    """Share of train items with at least one right answer so far in the last weight update; 0 before the first."""
    rollouts_used: int = 0
    rollouts_left: int = 0
    mean_reward: float = 0.0
    """Where rewards leave [0, 1], this and the next two are of rewards scaled from their least and largest to 0 and 1.
    """
    rewarded: float = 1.0
    """Share of the answers with a positive reward: how sparse rewards are."""
    graded: float = 0.0
    """Share of the rewards that are neither 0 nor 1."""
    tail: float = 0.0
    """How far the best of a group stands alone, (best - mean) / (std sqrt(attempts - 1)), the mean over groups that are
    not tied: 1 where one attempt differs from all others, which are the same.
    """
    tokens: float = 0.0
    """Mean tokens that an attempt reads and writes: what a rollout costs, in a measure that is the same in every run of
    a seed.
    """
    length_spread: float = 0.0
    """Standard deviation of the tokens an attempt produces, over their mean."""
    agreement: float = 0.0
    """Mean share of a group that gave the group's most frequent answer."""
    free: bool = False
    """Whether the policy writes its answers token by token; otherwise it picks a label."""
    signal: Literal["scores", "comparisons", "none"] = "scores"
    """What an answer to a train item can be judged by: task.py's SIGNAL."""
    labelled: bool = True
    """Whether train items come with their true answers."""
    copies: bool = False
    """Whether the task has demonstrations to train on for a single item."""


class EvaluationSet(msgspec.Struct, frozen=True):
    """The questions of an audit: items, and the labels in the order in which a candidate is offered them."""

    labels: tuple[str, ...]
    items: tuple[Item, ...]


class Perturbation(msgspec.Struct, frozen=True):
    """A change to the questions of an audit, which follows from a seed."""

    summary: str
    """What changes, in a sentence."""
    preserves: bool
    """Whether every item asks the same as before and is as hard as before, so that a sound candidate's answers stay
    what they were.
    """
    change: Callable[[EvaluationSet, Mapping[str, str], int], EvaluationSet]
    """From the questions, the true labels by item id, and the seed to the changed questions: some of the same item ids,
    each once at most, and the same labels in any order.
    """


class Edit(Protocol):
    """A change to a scaffold, as code."""

    @property
    def name(self) -> str: ...

    @property
    def summary(self) -> str: ...

    def apply(self, files: Mapping[str, str]) -> dict[str, str]:
        """The new folder, by relative path."""
        ...

    def applies(self, evidence: Evidence) -> str | None:
        """Why the evidence calls for this edit, in a sentence with the figures; None where it does not."""
        ...


def visible_train(public: Public, fold: int | None) -> tuple[Example, ...]:
    """The train examples that a scaffold may see: all but the item's fold for a train item, all (`fold=None`) for dev
    and test.
    """
    return public.train if fold is None else tuple(e for e in public.train if e.fold != fold)
