"""The contract of a task folder: its items, its verifier, its reference scaffold, and the edits that the rules agent
may make to it.

`task.py` defines NAME, DESCRIPTION, POLICY and GENERATIONS. It may define

    SIGNAL        where answers to train items cannot be scored: "comparisons" where rewards say only which of two
                  answers to an item is better, "none" where they say nothing (the verifier then gives each the same)
    SOLVED        the reward from which an item counts as solved, 1 unless it is set; None where none ever is
    MAX_TOKENS    the longest completion that a call of the policy gives, 64 unless it is set
    PRIVATE_PROMPTS  True where the items' prompts are not to be shown: exports, agents and events get digests
    SHARED_STATE  True lets attempts find what earlier ones have left in the scaffold's globals and work folder; without
                  it, each begins with what the scaffold's import and `prepare` have left, and nothing else
    SHARED_PROMPTS
                  why items of several splits may ask the same, a sentence; `evolog task check` finds fault otherwise

The scaffold's agent.py defines `solve(item, model, data)`. It may define `prepare(data)`, which is called once, before
any item is there. `item` is a `Question`.

`verifier.py` defines VERSION, and one of

    score(item, answer, label)              a `Scored`: the judgement of one answer (None: the scaffold gave none) to
                                            one `Item`; the label is None where the task has none for the item
    score_submission(items, answers, labels)
                                            a `Submission`: the judgement of all answers of one attempt at a shard, by
                                            item id. What failed to run is not among the answers. It is called when the
                                            last attempt of the shard is recorded, and no shard divides the items of a
                                            split or of a fold

Either may take one argument more, `tools` (`Tools`): with it, a verifier runs a candidate's code in the sandbox, and
asks its judge model. A `score(answer, label)` gets no item, and neither does a `score(answer, label, tools)`.
`verifier.py` may define

    OUTCOMES   what its outcomes mean, a sentence for each word; right, wrong and unparsed unless it is set
    REPEATS    how often a noisy verifier is called for each answer, once unless it is set: the reward is the mean, and
               the interval that of Student's t
    SECONDS    the longest that a call may take of its own time, 120 unless it is set
    NEEDS      what a host must have, of `Capability`
    JUDGE      the model that `tools.ask` asks, such as "anthropic:MODEL"

A run can be ordered with another verifier by its name, if the folder has it as `verifier_NAME.py`.

`data.py` defines `default_root()`, `get(root, source)`, `load(root, seed)` and `labels(root, seed)`: those of train and
dev, one for each item, or none at all for a task without labels. It may define

    traces(seed)                  (prompt, completion) pairs that a small language model is pre-trained on, for the
                                  policy tiny-lm: for each kind of prompt what a sensible answer looks like, and
                                  answers near a given one; no true answers of items
    copies(prompt, train, seed)   (prompt, completion) demonstrations for one item, from the train examples that it
                                  may see, as they are and under changes that keep the rule, for test-time training
    hint(label)                   what is added to a prompt to show the model the true answer, for STaR
    reference_answer(item, label) an answer that verifier and gold must accept, for `evolog task check`, where that is
                                  not the label; None where none is known

`gold.py` defines `labels(root, seed)`, the labels of test, or none at all. It may define

    score(item, answer, label)    the gold score of an answer, where that is not what `verifier.py` says; with fewer or
                                  more arguments as a verifier's, and `score_submission` in its place
    RELIABILITY                   how much of a difference in quality arrives in gold's scores on average, where that is
                                  known: from 0, nothing, to 1, all of it
    second_labels(root, seed)     labels of test's items by other raters, of as many items as have them, from which the
                                  auditor estimates that where it is not stated
    EXTRA_METRICS                 by name, functions like `score` whose figures are recorded too; no rule of the
                                  auditor uses them
    PERTURBATIONS                 by name, the changes under which the auditor asks test once more (`Perturbation`). A
                                  change may touch the items' prompts, the labels' order, and which items are asked.
                                  An item keeps its id, so that its answers before and after the change make a pair
    canaries(label, verifier, reward)
                                  by name, the reward of an answer that needs no skill, from the verifier of this
                                  VERSION, and its gold score; `reward(answer)` is that verifier's. An empty dict
                                  where the verifier is not known. It may take the item first
    ceiling(label, verifier)      the most that an answer can be expected to earn from the verifier of this VERSION;
                                  None if unknown. It may take the item first
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

FOLDS = 5
OUTCOMES = {
    "right": "the answer is right",
    "wrong": "the answer is wrong",
    "unparsed": "no answer could be read",
}
"""The outcomes of a verifier that names none of its own."""
Capability = Literal["cuda"]
"""What a verifier may need of its host: `cuda`, a CUDA device and a torch that can use it."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question without its answer."""

    id: str
    prompt: str
    group: str = ""
    """Near-duplicates, or parts of one document, share it; empty: the item stands for itself."""
    files: dict[str, str] = {}
    """Texts that belong to the prompt, by relative path."""
    metadata: dict[str, str] = {}
    """What verifier, gold and reports know of the item, and no scaffold sees."""
    name: str = ""
    """What the item is called in its files; a program of a task with a `Layout` answers by it."""

    def __hash__(self) -> int:
        return hash(self.id)


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """A train question with its answer, if it has one. Near-duplicates share a `group`, and a group lies in one `fold`
    (0 to FOLDS - 1).
    """

    id: str
    prompt: str
    label: str | None
    fold: int
    group: str
    files: dict[str, str] = {}
    metadata: dict[str, str] = {}
    name: str = ""


class Layout(msgspec.Struct, frozen=True):
    """The folder that a program gets as `--dataset_dir`, for a task whose programs expect their own.

    A table is a CSV file with a head, or a JSON list of objects, as its name ends. An item's `files` hold its table of
    one row; a program finds the rows of its items in one table.
    """

    items: str
    """The table of the items to answer, by relative path."""
    train: str
    """The table of the train examples that a scaffold may see: the same columns, and the label's."""
    id: str
    """The column of the items' names."""
    label: str
    """The column of labels."""
    files: dict[str, bytes] = {}
    """All other files, by relative path."""
    sample: str = ""
    """The CSV file that shows the form of an answer, if there is one."""
    examples: str = ""
    """Further rows of the train table, with their labels, as a table of its own: examples that are no items."""


class Public(msgspec.Struct, frozen=True):
    """All that the loop may see of a task: answers of train only, and a sha256 for each split.

    Ids are unique over all splits, labels among themselves; train and dev hold one item at least. `labels` is empty
    where answers are no choice among labels.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]
    digests: dict[str, str]
    layout: Layout | None = None
    """What programs find, where that is not the layout of `runtime/rollouts/README.md`."""


class Scored(msgspec.Struct, frozen=True):
    """A verifier's judgement of one answer; the reward lies in [-1e9, 1e9]."""

    reward: float
    outcome: str
    """A word of the verifier's OUTCOMES."""
    details: str = ""
    """What an agent may be told of the judgement of a train item, such as a compiler's message."""
    interval: tuple[float, float] | None = None
    """The 95 % interval of the reward, where it was measured."""
    micro_usd: int = 0
    """What the judgement cost, in millionths of a US dollar."""


class Submission(msgspec.Struct, frozen=True):
    """A verifier's judgement of a whole submission. An item without a judgement of its own gets that of the whole."""

    total: Scored
    items: dict[str, Scored] = {}


class ProgramRun(msgspec.Struct, frozen=True):
    """What came of a program that ran in the sandbox."""

    exit_code: int
    """Negative where a signal or a limit ended it."""
    output: str
    """Standard output, cut at 1 MiB."""
    errors: str
    """Standard error, cut at 64 KiB."""
    seconds: float
    files: dict[str, bytes] = {}
    """Those files that were asked for, if it wrote them."""
    failure: str = ""
    """The limit that it broke, in a sentence."""


class Tools(Protocol):
    """What the runtime does for a verifier."""

    def run(
        self,
        files: Mapping[str, str | bytes],
        arguments: Sequence[str],
        *,
        seconds: float = 10.0,
        memory: int = 1 << 30,
        outputs: Sequence[str] = (),
        cuda: bool = False,
    ) -> ProgramRun:
        """Run `python ARGUMENTS` in the sandbox, in a folder that holds these files; `memory` is in bytes.

        Raises NotHere where this host cannot give the sandbox: a verifier must let that pass.
        """
        ...

    def ask(self, prompt: str, max_tokens: int = 1024) -> str:
        """The answer of the judge model; each call is recorded, and found again when a judgement is repeated.

        Raises TryAgain where the model does not answer: a verifier must let that pass.
        """
        ...


class Question(Protocol):
    """An item as a scaffold sees it."""

    @property
    def id(self) -> str:
        """A name that tells nothing: the same item has another in each generation, round and purpose."""
        ...

    @property
    def prompt(self) -> str: ...

    @property
    def files(self) -> Mapping[str, str]:
        """Texts that belong to the prompt, by relative path."""
        ...


class Labelled(Protocol):
    """A train question with its answer, as a scaffold sees it: nothing else of the `Example`."""

    @property
    def prompt(self) -> str: ...

    @property
    def label(self) -> str | None: ...

    @property
    def files(self) -> Mapping[str, str]: ...


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

    def complete(
        self, prompt: str, choices: Sequence[str] = (), bias: Sequence[float] = (), plain: bool = False
    ) -> Reply:
        """One completion: one of `choices` if there are any, `bias` added to their logits.

        A language model reads a `plain` prompt as text that goes on, and any other as a user's turn in a chat. It takes
        a choice by its first token.

        Raises ValueError for a call that is malformed or too long, RuntimeError for one that the policy refuses.
        """
        ...


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the trajectories of one candidate show. Shares and rates lie in [0, 1].

    Most fields come from a probe of train items, with `attempts` answers each at temperature 1; a group is the answers
    to one item. The others are `dev` (dev items at temperature 0), `labels`, and what counts the run's items and
    rollouts. No field but `dev` has the reward's unit: rewards that are all a million times as large give the same
    figures. Rewards that rounding alone sets apart are the same (`algorithms/statistics.py`, `tied`).
    """

    dev: float
    unparsed: float
    pass_at_1: float
    """Share of the answers that were right. Of rewards on two levels the upper one is right, whichever they are; of
    others, those from `solved` on, or the largest where no reward solves.
    """
    pass_at_k: float
    """Share of the groups with a right answer."""
    attempts: int
    tied_groups: float
    """Share of the groups whose rewards are all the same."""
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
    """The mean of the rewards as shares of what is typically the best of a group. Of two levels, 0 is the lower and 1
    the upper. Of others, 1 is the upper quartile of the best rewards of those groups that earn something; 0 is no
    reward, or the median of the groups' lower tenths where that is negative. What lies beyond counts as 0 or 1, so no
    outlier moves the mean far.
    """
    rewarded: float = 1.0
    """Share of the answers that earn something: how sparse rewards are. Of two levels, the upper one earns; of others,
    what is positive. Where there are negative rewards and none is 0, what is above the least, if several have that.
    """
    graded: float = 0.0
    """Share of the rewards that are on neither of the two commonest levels: 0 where rewards have two values. Where as
    many are elsewhere as on the second level, it is none, and the share is of the rewards off the first.
    """
    clonable: float = 1.0
    """Share of the groups with a positive reward that is better than another of the group."""
    tail: float = 0.0
    """How far the best of a group stands alone, (best - mean) / (std sqrt(attempts - 1)), the mean over groups of three
    and more that are not tied: 1 where one attempt differs from all others, which are the same.
    """
    tail_by_chance: float = 0.0
    """The same for rewards that are drawn uniformly, in groups of those sizes."""
    tokens: float = 0.0
    """Mean tokens that an attempt reads and writes: what a rollout costs, in a measure that is the same in every run of
    a seed.
    """
    length_spread: float = 0.0
    """Standard deviation of the tokens an attempt produces, over their mean."""
    agreement: float = 0.0
    """Mean share of a group that gave the group's most frequent answer."""
    elected: float = 0.0
    """Share of the groups that elect an answer by majority against others: it has two votes, and more than chance gives
    (`algorithms/statistics.py`, `elected`).
    """
    guesses_agree: float = 1.0
    """How likely guesses agree as much over all groups (`algorithms/statistics.py`, `guesses_agree`). Guesses are among
    the choices on offer; free ones among as many answers as make answers to different items agree so often
    (`effective_answers`).
    """
    true_answers: float = 0.0
    """Share of the answers that are the true one word for word."""
    free: bool = False
    """Whether the policy writes its answers token by token; otherwise it picks a label."""
    chosen: float = 0.0
    """Share of the answers before which the model was offered choices."""
    signal: Literal["scores", "comparisons", "none"] = "scores"
    """What an answer to a train item can be judged by: task.py's SIGNAL."""
    solved: float | None = 1.0
    """The reward from which an item counts as solved: task.py's SOLVED. None where none ever is."""
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
