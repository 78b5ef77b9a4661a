"""What a task folder offers: its items, its verifier, its reference scaffold, and the edits that the rules agent may make to it."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Outcome = Literal["right", "wrong", "unparsed"]
FOLDS = 5


class Item(msgspec.Struct, frozen=True):
    """A question without its answer."""

    id: str
    prompt: str


class Example(msgspec.Struct, frozen=True):
    """A train question with its answer; near-duplicates share a `group`, and a group lies in one `fold` (0 to FOLDS - 1)."""

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
    """What a scaffold is handed beside the item: the labels' names, and train without the item's fold.

    `train` stays the same object for all items of one fold, so a fit can be kept.
    """

    labels: tuple[str, ...]
    train: tuple[Labelled, ...]


class Reply(msgspec.Struct, frozen=True):
    """What a model call returns to a scaffold: one completion's text, and nothing else of it."""

    text: str


class Model(Protocol):
    """The frozen or trained policy as a scaffold sees it; temperature and seed are the runtime's."""

    def complete(self, prompt: str, choices: Sequence[str] = (), bias: Sequence[float] = ()) -> Reply:
        """One completion. Raises ValueError for a call that is malformed or too long, RuntimeError for one that the policy refuses."""
        ...


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the trajectories of one candidate show. Shares and rates lie in [0, 1].

    `pass_at_1`, `pass_at_k`, `tied_groups`, `unparsed`, `offered`, `recall` and `wrong_though_offered` come from a probe of train items,
    `attempts` answers each at temperature 1; `dev` from dev at temperature 0.
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
    """The train examples that a scaffold may see: all but the item's fold for a train item, all (`fold=None`) for dev and test."""
    return public.train if fold is None else tuple(e for e in public.train if e.fold != fold)
