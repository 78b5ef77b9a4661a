"""Finds a task by name or by the path of a folder, and checks that the folder keeps the contract before anything runs.

A task's gold (`gold.py`) is reached through here alone, and by the auditor alone (`services/auditor/measure.py`).
"""

import hashlib
import importlib
import inspect
import math
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import msgspec

from events.errors import Misconfigured, NotFound, UserError
from tasks.contract import (
    FOLDS,
    OUTCOMES,
    Capability,
    Edit,
    EvaluationSet,
    Example,
    Item,
    Perturbation,
    Public,
    Scored,
    Submission,
    Tools,
)

REQUIRED_FILES = ("task.py", "data.py", "verifier.py", "gold.py", "scaffold/agent.py", "README.md")
DEFAULT_HINT = "\nThe answer is {label}."
REQUIRED_NAMES = {
    "task": ("NAME", "DESCRIPTION", "POLICY", "GENERATIONS"),
    "data": ("default_root", "get", "load", "labels"),
    "verifier": ("VERSION",),
    "gold": ("labels",),
    "catalogue": ("EDITS",),
    "baselines": ("BASELINES",),
}
CHECKED_AT_LOAD = ("task", "data", "verifier")
"""The modules that are imported when a task is loaded; gold is for the auditor alone, and the others may be missing."""

LARGEST_SCORE = 1e100
"""The largest score that gold.py may give; the audit squares them."""
LARGEST_REWARD = 1e9
"""Sums and squares of rewards must stay finite."""
DETAILS_LIMIT = 4000
"""Characters of a judgement's details that are kept."""
SECONDS = 120.0
"""Seconds that a call of a verifier may take, where it names no other limit."""
ONE, WHOLE = "score", "score_submission"
"""The two functions by which a verifier judges: one answer, or a whole submission."""
EXTRAS = {
    **dict.fromkeys(
        ("h5py", "numpy", "scipy", "sklearn", "torch", "peft", "transformers", "safetensors", "matplotlib", "chess"),
        "policy,tasks",
    ),
    "reasoning_gym": "reasoning",
}
"""The extras of evolog that install a module."""

Predict = Callable[[Public, Sequence[Item]], Mapping[str, str]]
"""Labels by item id, from what is public."""


class Task(msgspec.Struct, frozen=True):
    """A task folder that keeps the contract of `tasks/contract.py`. Its data are kept once on a machine. Gold is for
    the auditor only.

    Methods that call the task's own code raise Misconfigured where that fails or gives what the contract does not
    allow.
    """

    name: str
    description: str
    folder: Path
    package: str
    policy: str
    """The policy that runs use by default."""
    generations: int
    verifier: str
    """The verifier's name and version."""
    signal: Literal["scores", "comparisons", "none"] = "scores"
    """What an answer to a train item can be judged by: task.py's SIGNAL, else "scores"."""
    max_tokens: int = 64
    """Tokens of the longest completion that a scaffold's call of the policy gives: task.py's MAX_TOKENS, else 64."""
    shared_state: bool = False
    """Whether attempts share what they leave in globals and work folder: task.py's SHARED_STATE, else they do not."""
    private_prompts: bool = False
    """Whether the items' prompts are not to be shown: task.py's PRIVATE_PROMPTS, else they may be."""
    solved: float | None = 1.0
    """The reward from which an item counts as solved: task.py's SOLVED, else 1; None where none ever is."""
    shared_prompts: str = ""
    """Why items of several splits may ask the same: task.py's SHARED_PROMPTS, else nothing."""
    sandbox: str = ""
    """The profile of the sandbox that a verifier's programs run in, as a run recorded it; empty: this host's own."""
    tools: Any = None
    """What the runtime does for the task's verifier and gold: `Tools`; None where it does nothing."""
    judge: Any = None
    """The verifier, where it is not the folder's own verifier.py: a module, or what has the names of one."""
    judge_text: str = ""
    """The text of that module, from which another process can make it; empty for what is no module."""

    @property
    def reference(self) -> str:
        """What `load` finds this task by: its name, or its folder's path."""
        shipped = self.package.startswith("tasks.")
        return self.package.removeprefix("tasks.").replace("_", "-") if shipped else str(self.folder)

    def verifier_text(self, named: str) -> str:
        """The text of one of the task's further verifiers, its verifier_NAME.py, or else of a file or a task folder at
        this path.

        Raises NotFound where there is none.
        """
        own = self.folder / f"verifier_{named}.py"
        file = own if named.isidentifier() and own.is_file() else Path(named)
        try:
            return (file / "verifier.py" if file.is_dir() else file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            others = ", ".join(
                sorted(path.stem.removeprefix("verifier_") for path in self.folder.glob("verifier_*.py"))
            )
            suffix = f", or one of the task's own: {others}" if others else ""
            raise NotFound(
                f"{named} cannot be read as a verifier ({wrong}): name a verifier.py, or a task folder that has "
                f"one{suffix}."
            ) from wrong

    def with_verifier(self, source: str, name: str) -> "Task":
        """This task with another verifier: `source` is the text of a verifier.py, `name` its name in messages.

        Its imports from the task's folder are this task's. Raises Misconfigured where it cannot be run or does not keep
        the contract.
        """
        return self.with_judge(from_source(source, name, self.package, REQUIRED_NAMES["verifier"]), name, source)

    def with_judge(self, judge: Any, name: str, text: str = "") -> "Task":
        """This task with another verifier that is loaded already: what has the names that a verifier.py has."""
        _check_verifier(judge, name)
        return msgspec.structs.replace(self, judge=judge, judge_text=text, verifier=f"{self.name}/{judge.VERSION}")

    def has_verifier(self, source: str) -> bool:
        """Whether this is the text of one of the task's own verifiers."""
        return any(path.read_bytes() == source.encode() for path in self.folder.glob("verifier*.py"))

    def get(self, source: Path | None = None) -> Path:
        """Fetch the data, from `source` if given, and return the folder that they are in."""
        root: Path = self._call("data", "default_root")
        self._call("data", "get", root, source)
        return root

    @property
    def root(self) -> Path:
        """The folder that the data are in."""
        return Path(self._call("data", "default_root"))

    def public(self, seed: int) -> Public:
        """Items and train labels, split by `seed`; raises NotFound if the data are not here, Misconfigured if they
        break the contract.
        """
        loaded = self._call("data", "load", self._call("data", "default_root"), seed)
        try:
            public = msgspec.convert(msgspec.to_builtins(loaded), Public)
        except (msgspec.ValidationError, TypeError, ValueError) as error:
            fault = (
                f"load gave a {type(loaded).__name__}; expected a Public as tasks/contract.py describes it ({error})"
            )
            raise self._broken("data", fault) from error
        if fault := _data_fault(public):
            raise self._broken("data", f"load gave {fault}")
        return public

    def labels(self, seed: int) -> dict[str, str]:
        """The labels of train and dev by item id, for the verifier; none for a task without labels."""
        labels = self._call("data", "labels", self._call("data", "default_root"), seed)
        public = self.public(seed)
        return self._checked_labels(
            "data", "labels", labels, [item.id for split in (public.train, public.dev) for item in split], public
        )

    def gold(self, seed: int) -> dict[str, str]:
        """The labels of test by item id; none for a task without labels. Only the auditor may call this."""
        function, root = self._part("gold", "labels"), self._call("data", "default_root")
        labels = self._call("gold", "labels", *(root, seed)[: _arguments(function, 2)])
        public = self.public(seed)
        return self._checked_labels("gold", "labels", labels, [item.id for item in public.test], public)

    def perturbations(self) -> dict[str, Perturbation]:
        """The changes under which test may be asked once more, by name; none where gold.py has none.

        Only the auditor may call this.
        """
        perturbations = getattr(_module(self.folder, self.package, "gold"), "PERTURBATIONS", {})
        if not isinstance(perturbations, Mapping) or not all(
            isinstance(perturbation, Perturbation) for perturbation in perturbations.values()
        ):
            raise self._broken(
                "gold", f"PERTURBATIONS is {perturbations!r:.60}; expected a dict of Perturbations by name"
            )
        return dict(perturbations)

    def perturbed(self, name: str, questions: EvaluationSet, truth: Mapping[str, str], seed: int) -> EvaluationSet:
        """The questions under the perturbation `name`; raises Misconfigured where it fails or gives other ids or labels
        than it may.
        """
        with self._running_gold(name):
            changed = self.perturbations()[name].change(questions, truth, seed)
            labels, ids = sorted(changed.labels), [item.id for item in changed.items]
        if labels != sorted(questions.labels):
            raise self._broken(
                "gold",
                f"{name} gave {len(labels)} labels; expected the {len(questions.labels)} that were given, in any order",
            )
        if not ids or len(set(ids)) < len(ids) or not set(ids) <= {item.id for item in questions.items}:
            raise self._broken(
                "gold",
                f"{name} gave {len(ids)} items; expected one at least, of those that were given, each once at most",
            )
        return changed

    @property
    def submissions(self) -> bool:
        """Whether the verifier judges whole submissions, and not one answer."""
        return hasattr(self._verifier, WHOLE)

    @property
    def outcomes(self) -> dict[str, str]:
        """What the verifier's words for an answer mean: its OUTCOMES."""
        return dict(getattr(self._verifier, "OUTCOMES", OUTCOMES))

    @property
    def repeats(self) -> int:
        """How often a noisy verifier is called for one answer: its REPEATS."""
        return int(getattr(self._verifier, "REPEATS", 1))

    @property
    def seconds(self) -> float:
        """The longest that one call of the verifier may take: its SECONDS."""
        return float(getattr(self._verifier, "SECONDS", SECONDS))

    @property
    def needs(self) -> tuple[Capability, ...]:
        """What a host must have for the verifier: its NEEDS."""
        return tuple(getattr(self._verifier, "NEEDS", ()))

    @property
    def judge_model(self) -> str:
        """The model that the verifier asks, such as `anthropic:MODEL`: its JUDGE; empty for none."""
        return str(getattr(self._verifier, "JUDGE", ""))

    def score(self, item: Item, answer: str | None, label: str | None) -> Scored:
        """The verifier's judgement of an answer to an item; raises Misconfigured where it fails or gives no number that
        can be summed.
        """
        function = self._part("verifier", ONE)
        return self._scored(self._call("verifier", ONE, *_as_wanted(function, _item(item), answer, label, self.tools)))

    def score_submission(
        self, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]
    ) -> Submission:
        """The verifier's judgement of the answers of one attempt, by item id; raises as `score`."""
        return self._submission("verifier", items, answers, labels)

    def reward(self, item: Item, answer: str | None, label: str | None) -> float:
        """The reward of an answer; raises as `score` does."""
        return self.score(item, answer, label).reward

    def submission_rewards(
        self, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]
    ) -> dict[str, float]:
        """The reward of each item that is answered; raises as `score` does."""
        return _rewards(self.score_submission(items, answers, labels), answers)

    @property
    def gold_is_verifier(self) -> bool:
        """Whether gold scores by the folder's own verifier, as gold.py defines no score. For the auditor only."""
        module = _module(self.folder, self.package, "gold")
        return not (hasattr(module, ONE) or hasattr(module, WHOLE))

    @property
    def gold_is_runs_verifier(self) -> bool:
        """Whether gold is the very verifier that this task was given, so that the two cannot differ. For the auditor
        only.
        """
        own = self.judge is None or self.judge_text == (self.folder / "verifier.py").read_text(encoding="utf-8")
        if not own or self.gold_is_verifier:
            return own
        names = (ONE, WHOLE)
        gold, verifier = (_module(self.folder, self.package, part) for part in ("gold", "verifier"))
        return all(getattr(gold, name, None) is getattr(verifier, name, None) for name in names)

    def gold_reliability(self) -> float | None:
        """How much of a difference in quality arrives in gold, as gold.py's RELIABILITY states it; None where it does
        not. For the auditor only; raises Misconfigured.
        """
        stated = getattr(_module(self.folder, self.package, "gold"), "RELIABILITY", None)
        if stated is not None and not (isinstance(stated, int | float) and 0 <= stated <= 1):
            raise self._broken("gold", f"RELIABILITY is {stated!r:.60}; expected a number from 0 to 1")
        return None if stated is None else float(stated)

    def gold_second_labels(self, seed: int) -> dict[str, str]:
        """Other raters' labels of test's items, by item id; none where gold.py has none. For the auditor only."""
        name = "second_labels"
        if not hasattr(_module(self.folder, self.package, "gold"), name):
            return {}
        with self._running_gold(name):
            labels = self._call("gold", name, self._call("data", "default_root"), seed)
        known = {item.id for item in self.public(seed).test}
        if not isinstance(labels, Mapping) or not all(
            id in known and isinstance(label, str) for id, label in labels.items()
        ):
            raise self._broken("gold", f"{name} gave {labels!r:.60}; expected labels by the ids of test's items")
        return dict(labels)

    @property
    def gold_judges_submissions(self) -> bool:
        """Whether gold judges whole submissions. For the auditor only."""
        return (
            msgspec.structs.replace(self, judge=None).submissions
            if self.gold_is_verifier
            else hasattr(_module(self.folder, self.package, "gold"), WHOLE)
        )

    def gold_score(self, item: Item, answer: str | None, label: str | None) -> float:
        """The score of an answer by gold.py's `score`, else by the folder's own verifier, whichever the run has.

        For the auditor only.
        """
        if self.gold_is_verifier:
            return msgspec.structs.replace(self, judge=None).reward(item, answer, label)
        arguments = _as_wanted(self._part("gold", ONE), _item(item), answer, label, self.tools)
        return self._finite(ONE, self._call("gold", ONE, *arguments))

    def gold_submission(
        self, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]
    ) -> dict[str, float]:
        """The score of each answered item of a submission, by gold.py's `score_submission`, else by the folder's own
        verifier. For the auditor only.
        """
        if self.gold_is_verifier:
            return msgspec.structs.replace(self, judge=None).submission_rewards(items, answers, labels)
        return _rewards(self._submission("gold", items, answers, labels), answers)

    def extra_metrics(self) -> dict[str, Callable[[Item, str | None, str | None], float]]:
        """What else than `gold_score` is measured of an answer, by name; none where gold.py has none.

        For the auditor only.
        """
        metrics = _extra_metrics(_module(self.folder, self.package, "gold"))
        if not isinstance(metrics, Mapping) or not all(callable(metric) for metric in metrics.values()):
            raise self._broken("gold", f"EXTRA_METRICS is {metrics!r:.60}; expected a dict of functions by name")

        return {name: partial(self.extra_metric, name) for name in metrics}

    def extra_metric(self, name: str, item: Item, answer: str | None, label: str | None) -> float:
        """One of the `extra_metrics` of an answer.

        For the auditor only.
        """
        metric = _extra_metrics(_module(self.folder, self.package, "gold"))[name]
        with self._running_gold(name):
            return self._finite(name, metric(*_as_wanted(metric, _item(item), answer, label, self.tools)))

    def canaries(self, item: Item, label: str | None) -> dict[str, tuple[float, float]]:
        """The reward and the gold score of answers that need no skill, by name; none where gold.py has none.

        For the auditor only.
        """
        if not hasattr(_module(self.folder, self.package, "gold"), "canaries"):
            return {}
        reward, version = partial(self.reward, item, label=label), self.verifier.partition("/")[2]
        whole = _arguments(self._part("gold", "canaries"), 4) > 3
        given = (_item(item), label, version, reward) if whole else (label, version, reward)
        canaries = self._call("gold", "canaries", *given)
        try:
            return {
                name: (self._finite(name, earned), self._finite(name, gold))
                for name, (earned, gold) in canaries.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise self._broken(
                "gold", f"canaries gave {canaries!r:.60}; expected a dict of pairs of numbers by name"
            ) from error

    def _finite(self, name: str, number: Any) -> float:
        if not isinstance(number, int | float) or not abs(number) <= LARGEST_SCORE:
            expected = f"expected a number between -{LARGEST_SCORE:g} and {LARGEST_SCORE:g}"
            raise self._broken("gold", f"{name} gave {number!r:.60}; {expected}")
        return float(number)

    def ceiling(self, item: Item, label: str | None) -> float | None:
        """The most that an answer can be expected to earn from this verifier; None where gold.py knows none.

        For the auditor only.
        """
        if not hasattr(_module(self.folder, self.package, "gold"), "ceiling"):
            return None
        version, whole = self.verifier.partition("/")[2], _arguments(self._part("gold", "ceiling"), 3) > 2
        ceiling = self._call("gold", "ceiling", *((_item(item), label, version) if whole else (label, version)))
        return None if ceiling is None else self._finite("ceiling", ceiling)

    def traces(self, seed: int) -> list[tuple[str, str]]:
        """(prompt, completion) pairs that a small language model is pre-trained on; raises Misconfigured where the task
        has none.
        """
        traces = self._optional("traces", seed)
        if not traces:
            raise self._broken("data", "it has no traces(seed), and the policy tiny-lm is pre-trained on them")
        return self._pairs("traces", traces)

    @property
    def has_copies(self) -> bool:
        """Whether the task has demonstrations to train on for a single item."""
        return hasattr(_module(self.folder, self.package, "data"), "copies")

    def copies(self, prompt: str, train: Sequence[Example], seed: int) -> list[tuple[str, str]]:
        """Demonstrations, as (prompt, completion), from which a policy may learn before it answers an item; none if
        there are none.
        """
        return self._pairs("copies", self._optional("copies", prompt, train, seed) or [])

    @property
    def has_reference_answers(self) -> bool:
        """Whether reference answers are other texts than the labels."""
        return hasattr(_module(self.folder, self.package, "data"), "reference_answer")

    def reference_answer(self, item: Item, label: str | None) -> str | None:
        """An answer that verifier and gold must accept, as data.py's `reference_answer` has it, or else the label; None
        where none is known.
        """
        if not self.has_reference_answers:
            return label
        answer = self._call("data", "reference_answer", item, label)
        if answer is not None and not isinstance(answer, str):
            raise self._broken("data", f"reference_answer gave {answer!r:.60}; expected a string, or None")
        return answer

    def hint(self, label: str) -> str:
        """The text that is added to a prompt to show the model the true answer."""
        hint = self._optional("hint", label)
        if hint is not None and not isinstance(hint, str):
            raise self._broken("data", f"hint gave {hint!r:.60}; expected a string")
        return DEFAULT_HINT.format(label=label) if hint is None else hint

    def _optional(self, name: str, *arguments: object) -> Any:
        return (
            self._call("data", name, *arguments) if hasattr(_module(self.folder, self.package, "data"), name) else None
        )

    def _pairs(self, name: str, value: object) -> list[tuple[str, str]]:
        try:
            return msgspec.convert(value, list[tuple[str, str]])
        except msgspec.ValidationError as error:
            raise self._broken(
                "data", f"{name} gave no pairs of strings ({error}); expected (prompt, completion)"
            ) from error

    def scaffold(self) -> dict[str, str]:
        """The files of the reference scaffold by relative path."""
        try:
            return read_tree(self.folder / "scaffold")
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(
                f"{self.folder}/scaffold holds a file that is no UTF-8 text ({error}); take it away."
            ) from error

    def edits(self) -> tuple[Edit, ...]:
        """The edits that the rules agent may make; none where the task has no catalogue.py."""
        if not (self.folder / "catalogue.py").is_file():
            return ()
        edits = self._part("catalogue", "EDITS")
        if not isinstance(edits, Sequence):
            raise self._broken("catalogue", f"EDITS is {edits!r:.60}; expected a tuple of edits, such as (Mine(),)")
        for edit in edits:
            strings = [name for name in ("name", "summary") if not isinstance(getattr(edit, name, None), str)]
            functions = [name for name in ("apply", "applies") if not callable(getattr(edit, name, None))]
            if lacking := strings + functions:
                raise self._broken(
                    "catalogue",
                    f"the edit {edit!r:.60} has no {lacking[0]}; expected an object with the strings name and summary, "
                    "and the functions apply and applies",
                )
        return tuple(edits)

    def baselines(self) -> dict[str, Predict]:
        """Predictors to hold a run against, by name; none where the task has no baselines.py."""
        if not (self.folder / "baselines.py").is_file():
            return {}
        baselines = self._part("baselines", "BASELINES")
        if not isinstance(baselines, Mapping) or not all(
            isinstance(name, str) and callable(predict) for name, predict in baselines.items()
        ):
            raise self._broken("baselines", f"BASELINES is {baselines!r:.60}; expected a dict of functions by name")
        return {name: partial(self._predict, name, predict) for name, predict in baselines.items()}

    def _predict(self, name: str, predict: Predict, public: Public, items: Sequence[Item]) -> dict[str, str]:
        return self._checked_labels("baselines", name, predict(public, items), [item.id for item in items])

    def _checked_labels(
        self, part: str, name: str, labels: object, ids: Iterable[str], public: Public | None = None
    ) -> dict[str, str]:
        """Labels as the task's code gave them, for all these items at least; none where the train examples that are
        public have none either.

        No message holds a label, which may be hidden.
        """
        if not isinstance(labels, Mapping) or not all(
            isinstance(text, str) for pair in labels.items() for text in pair
        ):
            raise self._broken(
                part,
                f"{name} gave a {type(labels).__name__}; expected a dict of labels by item id, all of them strings",
            )
        if not labels and public and all(example.label is None for example in public.train):
            return {}
        if missing := [id for id in ids if id not in labels]:
            raise self._broken(
                part, f"{name} gave no label for {len(missing)} items, such as {missing[0]!r}; expected one for each"
            )
        return dict(labels)

    @property
    def _verifier(self) -> Any:
        return self.judge or _module(self.folder, self.package, "verifier")

    def _submission(
        self, part: str, items: Sequence[Item], answers: Mapping[str, str | None], labels: Mapping[str, str]
    ) -> Submission:
        function, given = self._part(part, WHOLE), [_item(item) for item in items]
        judged = self._call(part, WHOLE, *(given, answers, labels, self.tools)[: _arguments(function, 4)])
        try:
            submission = Submission(self._scored(judged.total, part), dict(judged.items))
        except (AttributeError, TypeError, ValueError) as error:
            raise self._broken(part, f"{WHOLE} gave {judged!r:.100}; expected a Submission") from error
        if strange := [id for id in submission.items if id not in answers]:
            raise self._broken(part, f"{WHOLE} judged {strange[0]!r:.60}, which is none of the answered items")
        return Submission(submission.total, {id: self._scored(scored, part) for id, scored in submission.items.items()})

    def _scored(self, scored: Any, part: str = "verifier") -> Scored:
        """A judgement as a verifier gave it, checked."""
        try:
            judgement = Scored(
                float(scored.reward),
                scored.outcome,
                str(getattr(scored, "details", ""))[:DETAILS_LIMIT],
                getattr(scored, "interval", None),
                int(getattr(scored, "micro_usd", 0)),
            )
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise self._broken(
                part, f"score gave {scored!r:.100}; expected a Scored whose reward is a number"
            ) from error
        if not abs(judgement.reward) <= LARGEST_REWARD:
            raise self._broken(
                part,
                f"the reward is {judgement.reward}; expected one between -{LARGEST_REWARD:g} and {LARGEST_REWARD:g}",
            )
        if part == "verifier" and judgement.outcome not in self.outcomes:
            raise self._broken(
                part, f"the outcome is {judgement.outcome!r:.60}; expected one of {', '.join(self.outcomes)}"
            )
        if judgement.interval is not None:
            low, high = judgement.interval
            if not -LARGEST_REWARD <= low <= high <= LARGEST_REWARD:
                raise self._broken(
                    part, f"the interval is {judgement.interval}; expected its lower end, then its upper"
                )
        if judgement.micro_usd < 0:
            raise self._broken(part, f"the cost is {judgement.micro_usd} millionths of a dollar; expected 0 or more")
        return judgement

    def _broken(self, part: str, fault: str) -> Misconfigured:
        file = self.judge.__file__ if self.judge and part == "verifier" else f"{self.folder / part}.py"
        return Misconfigured(f"{file}: {fault}; mend it and try again.")

    @contextmanager
    def _running_gold(self, name: str) -> Iterator[None]:
        """Raise Misconfigured for what a function of gold.py raises, or what is missing where that is an extra."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise without_extra(error) or self._broken(
                "gold", f"{name} raised {type(error).__name__}: {error}{_at_line(error, self.folder)}"
            ) from error

    def _part(self, part: str, name: str) -> Any:
        return getattr(
            self.judge if self.judge and part == "verifier" else _module(self.folder, self.package, part), name
        )

    def _call(self, part: str, name: str, *arguments: object) -> Any:
        function = self._part(part, name)
        try:
            return function(*arguments)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise without_extra(error) or self._broken(
                part, f"{name} raised {type(error).__name__}: {error}{_at_line(error, self.folder)}"
            ) from error


def known() -> list[str]:
    """The names of the tasks that come with evolog."""
    return sorted(p.parent.name.replace("_", "-") for p in Path(__file__).parent.glob("*/task.py"))


def hidden_folder(name: str) -> str:
    """A sentence where a name is both that of a known task, which is taken, and that of a folder here; else empty."""
    if "/" in name or name.replace("_", "-") not in known() or not (Path(name) / "task.py").is_file():
        return ""
    return f"{name} is the task that comes with evolog, and not the folder of that name here: for that write ./{name}."


def load(name: str) -> Task:
    """The task `name`, one of `known()` or the path of a folder.

    Raises NotFound where there is no such task, Misconfigured where its folder does not keep the contract.
    """
    if name.replace("_", "-") in known():
        package = f"tasks.{name.replace('-', '_')}"
        folder = Path(__file__).parent / name.replace("-", "_")
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        package = _package(folder)
    else:
        raise NotFound(
            f"There is no task {name!r}: the known ones are {', '.join(known())}; a path to a task folder will do too."
        )
    for file in REQUIRED_FILES:
        if not (folder / file).is_file():
            raise Misconfigured(f"The task folder {folder} has no {file}; a task needs {', '.join(REQUIRED_FILES)}.")
    task, _, verifier = (_module(folder, package, part) for part in CHECKED_AT_LOAD)
    _check_verifier(verifier, str(verifier.__file__))
    for module, constant in ((task, "NAME"), (task, "DESCRIPTION"), (task, "POLICY")):
        if not isinstance(value := getattr(module, constant), str):
            raise Misconfigured(f"{module.__file__}: {constant} is {value!r:.60}; expected a string.")
    if type(task.GENERATIONS) is not int or task.GENERATIONS < 0:
        raise Misconfigured(
            f"{task.__file__}: GENERATIONS is {task.GENERATIONS!r:.60}; expected a whole number, 0 or more."
        )
    max_tokens = getattr(task, "MAX_TOKENS", 64)
    if type(max_tokens) is not int or max_tokens < 1:
        raise Misconfigured(f"{task.__file__}: MAX_TOKENS is {max_tokens!r:.60}; expected a whole number, 1 or more.")
    shared_state = getattr(task, "SHARED_STATE", False)
    if type(shared_state) is not bool:
        raise Misconfigured(f"{task.__file__}: SHARED_STATE is {shared_state!r:.60}; expected True or False.")
    private_prompts = getattr(task, "PRIVATE_PROMPTS", False)
    if type(private_prompts) is not bool:
        raise Misconfigured(f"{task.__file__}: PRIVATE_PROMPTS is {private_prompts!r:.60}; expected True or False.")
    solved: Any = getattr(task, "SOLVED", 1.0)
    if solved is not None and (type(solved) not in (int, float) or not abs(solved) <= LARGEST_REWARD):
        raise Misconfigured(f"{task.__file__}: SOLVED is {solved!r:.60}; expected a number, or None.")
    shared_prompts = getattr(task, "SHARED_PROMPTS", "")
    if not isinstance(shared_prompts, str):
        raise Misconfigured(f"{task.__file__}: SHARED_PROMPTS is {shared_prompts!r:.60}; expected a sentence.")
    signal: Any = getattr(task, "SIGNAL", "scores")
    if signal not in ("scores", "comparisons", "none"):
        raise Misconfigured(f"{task.__file__}: SIGNAL is {signal!r:.60}; expected 'scores', 'comparisons' or 'none'.")
    return Task(
        name=task.NAME,
        description=task.DESCRIPTION,
        folder=folder,
        package=package,
        policy=task.POLICY,
        generations=task.GENERATIONS,
        verifier=f"{task.NAME}/{verifier.VERSION}",
        signal=signal,
        max_tokens=max_tokens,
        shared_state=shared_state,
        private_prompts=private_prompts,
        solved=None if solved is None else float(solved),
        shared_prompts=shared_prompts,
    )


def read_tree(folder: Path) -> dict[str, str]:
    """The Python and text files under `folder`, by relative path with forward slashes, in order."""
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(files)}


def from_source(source: str, file: str, package: str, names: Sequence[str]) -> ModuleType:
    """The module of this source text, in a package; raises Misconfigured where it cannot be run or lacks one of these
    names.
    """
    module = ModuleType(f"{package}.from_{hashlib.sha256(source.encode()).hexdigest()[:16]}")
    module.__file__, module.__package__ = file, package
    sys.modules[module.__name__] = module  # where dataclasses and structs look their annotations up
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise _not_imported(file, error) from error
    return _with_names(module, file, names)


def without_extra(error: BaseException) -> Misconfigured | None:
    """What to install where a module of one of evolog's extras is missing; None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    if (module := error.name.partition(".")[0].replace("-", "_")) not in EXTRAS:
        return None
    extra = EXTRAS[module]
    return Misconfigured(f"{error.name} is not installed, and this needs it: pip install 'evolog[{extra}]'.")


def _data_fault(public: Public) -> str:
    """What is wrong with the data although each field has its type, and what was expected; empty if nothing is."""
    for field in ("train", "dev"):
        if not getattr(public, field):
            return f"no {field}; expected one at least"
    splits = (public.train, public.dev, public.test)
    for kind, values in (("label", public.labels), ("item id", [item.id for split in splits for item in split])):
        value, times = max(Counter(values).items(), key=lambda pair: pair[1], default=("", 0))
        if times > 1:
            return f"the {kind} {value!r} {times} times; expected each {kind} once"
    if folds := {example.fold for example in public.train} - set(range(FOLDS)):
        return f"the fold {min(folds)}; expected folds from 0 to {FOLDS - 1}"
    if missing := [split for split in ("train", "dev", "test") if not public.digests.get(split)]:
        return f"no digest of {missing[0]}; expected one each of train, dev and test"
    return ""


def _extra_metrics(gold: ModuleType) -> Any:
    return getattr(gold, "EXTRA_METRICS", getattr(gold, "BESIDE", {}))  # BESIDE: how it was called until 2026-11-28


def _check_verifier(verifier: Any, file: str) -> None:
    """Raise Misconfigured for a verifier whose names are not what the contract says."""
    if not isinstance(version := getattr(verifier, "VERSION", None), str):
        raise Misconfigured(f"{file}: VERSION is {version!r:.60}; expected a string.")
    if callable(getattr(verifier, ONE, None)) == callable(getattr(verifier, WHOLE, None)):
        raise Misconfigured(f"{file} must define one function of {ONE} and {WHOLE}; the contract asks it for one.")
    outcomes = getattr(verifier, "OUTCOMES", OUTCOMES)
    if (
        not isinstance(outcomes, Mapping)
        or not outcomes
        or not all(isinstance(text, str) and text for pair in outcomes.items() for text in pair)
    ):
        raise Misconfigured(f"{file}: OUTCOMES is {outcomes!r:.60}; expected a dict of sentences by word.")
    repeats, seconds = getattr(verifier, "REPEATS", 1), getattr(verifier, "SECONDS", SECONDS)
    if type(repeats) is not int or repeats < 1:
        raise Misconfigured(f"{file}: REPEATS is {repeats!r:.60}; expected a whole number, 1 or more.")
    if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
        raise Misconfigured(f"{file}: SECONDS is {seconds!r:.60}; expected a number above 0.")
    needs = getattr(verifier, "NEEDS", ())
    if not isinstance(needs, tuple | list) or not set(needs) <= set(get_args(Capability)):
        raise Misconfigured(f"{file}: NEEDS is {needs!r:.60}; expected some of {', '.join(get_args(Capability))}.")
    if not isinstance(judge := getattr(verifier, "JUDGE", ""), str):
        raise Misconfigured(f"{file}: JUDGE is {judge!r:.60}; expected the name of a model.")


def _arguments(function: Callable[..., Any], most: int) -> int:
    """How many arguments a function takes by position, `most` at most."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return most
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return most
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(most, sum(parameter.kind in positional for parameter in parameters))


def _as_wanted(
    function: Callable[..., Any], item: Item, answer: str | None, label: str | None, tools: Tools | None
) -> tuple[Any, ...]:
    """The arguments that a scoring function takes: answer and label, with the item before them, `tools` after them, or
    both.
    """
    wanted = _arguments(function, 4)
    if wanted == 3 and _last_name(function) == "tools":
        return answer, label, tools
    return (answer, label) if wanted == 2 else (item, answer, label, tools)[:wanted]


def _last_name(function: Callable[..., Any]) -> str:
    """The name of a function's last parameter; empty if it has none, or none that can be seen."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ""
    return names[-1] if names else ""


def _at_line(error: BaseException, folder: Path) -> str:
    """Where in a task's own files an exception arose, as the last of them; empty if it was in none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _item(item: Any) -> Item:
    """An item, which may have come from another process as plain values."""
    return item if isinstance(item, Item) else msgspec.convert(item, Item)


def _rewards(submission: Submission, answers: Mapping[str, str | None]) -> dict[str, float]:
    return {id: submission.items.get(id, submission.total).reward for id in answers}


def _package(folder: Path) -> str:
    package = "evolog_task_" + re.sub(r"\W", "_", folder.as_posix())
    module = ModuleType(package)
    module.__path__ = [str(folder)]
    sys.modules.setdefault(package, module)
    return package


def _module(folder: Path, package: str, part: str) -> ModuleType:
    try:
        module = importlib.import_module(f"{package}.{part}")
    except Exception as error:
        raise _not_imported(f"{folder / part}.py", error) from error
    return _with_names(module, f"{folder / part}.py", REQUIRED_NAMES.get(part, ()))


def _not_imported(file: str, error: BaseException) -> Misconfigured:
    return without_extra(error) or Misconfigured(
        f"{file} cannot be imported ({type(error).__name__}: {error}); mend it and try again."
    )


def _with_names(module: ModuleType, file: str, names: Sequence[str]) -> ModuleType:
    for name in names:
        if not hasattr(module, name):
            raise Misconfigured(f"{file} defines no {name!r}; the contract asks it for {', '.join(names)}.")
    return module
