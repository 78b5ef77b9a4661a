"""The checks of a log that need no statistics: each finds what was planted, where it stands, and nothing in honest
runs.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.change import ChildRunFinished, ChildRunOrdered
from events.choice import AgentCalled, ContextAssembled
from events.fact import Fact
from events.gold import GoldScored
from events.judgement import ScoringFailed, StageEvaluated
from events.population import CandidateKept
from events.run import AuditReleased, Budget, Items, RunStarted
from events.subjects import GOLD, LOG, run_of
from events.weights import AdapterPublished, AdapterServed, TrainingBatchSealed
from replay.audit.provenance import scaffolds
from replay.audit.provenance.bookkeeping import booked
from replay.audit.provenance.checks import Known, examine, provenance_findings
from replay.audit.provenance.scaffolds import WATCHED, Watched
from replay.audit.verdict import decide
from replay.exports import folder
from replay.recorded import EventIndex, StoredEvent
from runtime.blobs.directory import Tree
from tasks.contract import Example, Item
from tasks.loading import load
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
from tests.harness.few import few
from tests.harness.paths import HISTORIES, TASKS

RUN = "r"
TINY = TASKS / "tiny"
HIDDEN = {
    "test-7": "In the winter of that year a baker named Orla sold nineteen loaves to the harbour master, who paid "
    "with a forged note.",
    "test-8": "Two carpenters argued about a beam until the older one left, and the younger finished the roof alone "
    "before the storm came.",
}
PUBLIC = {
    "case-1": "A smith mended the gate.",
    "case-2": "A miner found water in the third shaft.",
    "dev-1": "A weaver lost her thread.",
}
AGENT = (
    b'"""Answers."""\nimport random\n\nSEED = 3\n\ndef solve(item, model, data):\n    return '
    b"random.Random(SEED).choice(data.labels)\n"
)
KNOWN = Known(hidden=HIDDEN, audited=HIDDEN, public=PUBLIC, low=0, high=1)


class CleanRun:
    """A clean run of a start, an edit and an update, as facts by name, so that a test can plant a fault in the place of
    one of them.
    """

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()
        put = self.blobs.put
        first, second = (
            self.blobs.tree(agent=AGENT),
            self.blobs.tree(agent=AGENT.replace(b"choice(data.labels)", b"choice(data.labels[1:])")),
        )
        self.first, self.second = first, second
        start, edit = rollout_request(0, first, "dev-1", "dev-2"), rollout_request(1, second, "dev-1", "dev-2")
        train = rollout_request(2, second, "case-1", purpose="train")
        update = rollout_request(2, second, "dev-1", "dev-2", adapter="a" * 64)
        self.start, self.edit, self.train, self.update = start, edit, train, update
        body = put(msgspec.json.encode([{"prompt": PUBLIC["dev-1"]}]))
        batch = "d" * 64
        self.facts: dict[str, Fact] = {
            "started": RunStarted(
                task="toy",
                seed=1,
                levers=("scaffold", "weights"),
                generations=2,
                budget=Budget(),
                items=Items(dev=("dev-1", "dev-2"), folds=(("case-1",),), probe=(("case-1",),)),
                splits={},
                verifier="v1",
                policy="fake",
                base_model="b",
            ),
            "proposed 0": proposed(0, first),
            "asked 0": start,
            "called": called(start, "dev-1", body),
            "recorded": recorded(start, "dev-1"),
            "scored 0": scored(start, "dev-1", 1.0),
            "scored 0'": scored(start, "dev-2", 0.0),
            "evaluated 0": evaluated(start, 0.5, lever="start"),
            "accepted 0": accepted(0, 0.5),
            "context": ContextAssembled(
                generation=1, blob=put(b'{"evidence":{}}'), trajectories=1, parts={"task": put(b"Name the trade.")}
            ),
            "agent": AgentCalled(
                generation=1,
                agent="feedback_agent",
                ordinal=0,
                provider="p",
                model="m",
                request=put(msgspec.json.encode({"messages": [{"text": PUBLIC["case-1"]}]})),
                response=put(b"an edit"),
                prompt_tokens=1,
                completion_tokens=1,
                micro_usd=1,
                seconds=1.0,
                attempts=1,
                status="answered",
            ),
            "proposed 1": proposed(1, second, first),
            "asked 1": edit,
            "scored 1": scored(edit, "dev-1", 1.0),
            "scored 1'": scored(edit, "dev-2", 0.5),
            "evaluated 1": evaluated(edit, 0.75),
            "accepted 1": accepted(1, 0.75),
            "asked train": train,
            "scored train": scored(train, "case-1", 1.0),
            "sealed": TrainingBatchSealed(
                generation=2,
                round=1,
                algorithm="grpo",
                hyper={},
                parent_adapter="",
                training_seed=1,
                requests=(attempt_key(train, "")["request"],),
                trajectories=1,
                digest=batch,
            ),
            "published": AdapterPublished(
                generation=2,
                round=1,
                adapter="a" * 64,
                parent_adapter="",
                base_model="b",
                batch=batch,
                algorithm="grpo",
                canary=(),
                trained_on=1,
            ),
            "served": AdapterServed(generation=2, round=1, adapter="a" * 64, batch=batch, error=0.0),
            "asked 2": update,
            "called 2": called(update, "dev-1", body),
            "scored 2": scored(update, "dev-1", 1.0),
            "scored 2'": scored(update, "dev-2", 1.0),
            "evaluated 2": evaluated(update, 1.0, lever="weights"),
            "accepted 2": accepted(2, 1.0),
        }

    def log(self) -> list[StoredEvent]:
        return as_stored(self.facts.values())

    def found(self, known: Known = KNOWN) -> dict[str, list[tuple[str, str]]]:
        """What each check finds, with the name of the fact at whose sequence it does."""
        names = list(self.facts)
        said = examine(self.log(), self.blobs.__getitem__, known)
        return {
            check: [(names[one.sequence - 1], one.sentence) for one in findings]
            for check, findings in said.items()
            if findings
        }

    def change(self, name: str, **fields: Any) -> None:
        self.facts[name] = msgspec.structs.replace(self.facts[name], **fields)

    def after(self, name: str, **facts: Fact) -> None:
        place = list(self.facts).index(name) + 1
        pairs = list(self.facts.items())
        self.facts = dict([*pairs[:place], *facts.items(), *pairs[place:]])


def gold(**fields: Any) -> GoldScored:
    of: dict[str, Any] = {
        "cell": "final",
        "split": "test",
        "scaffold": "",
        "adapter": "",
        "policy": "",
        "score": 0.5,
        "low": 0.4,
        "high": 0.6,
    }
    return GoldScored(**of | {"items": 100, "failed": 5, "rollouts": 100, "blob": ""} | fields)


def test_nothing_is_found_in_a_clean_run() -> None:
    assert CleanRun().found() == {}
    assert not any(examine(as_stored([gold()]), MemoryBlobs().__getitem__, KNOWN).values())


def _hidden(data: bytes, name: str, part: str = "") -> Callable[[CleanRun], None]:
    def plant(story: CleanRun) -> None:
        digest = story.blobs.put(data)
        story.change(name, **({part: digest} if part != "parts" else {"parts": {"task": digest}}))

    return plant


def _leaked_file(story: CleanRun) -> None:
    scaffold = story.blobs.tree(agent=AGENT, answers=b'ANSWERS = {"test-7": "baker"}')
    story.change("proposed 1", scaffold=scaffold)


def _leaked_prompt_in_code(story: CleanRun) -> None:
    story.change("proposed 1", scaffold=story.blobs.tree(agent=AGENT + b"# " + HIDDEN["test-8"].upper().encode()))


CLIPPED = HIDDEN["test-7"][:90].replace(" ", "\n  ")
NESTED = msgspec.json.encode(
    {"messages": [{"calls": [{"arguments": msgspec.json.encode({"seen": CLIPPED}).decode()}]}]}
)


@pytest.mark.parametrize(
    ("plant", "where", "words"),
    [
        (_hidden(b"see test-7.", "context", "blob"), "context", "What the agent saw in generation 1 (blob "),
        (_hidden(b'{"test-7": "baker"}', "context", "blob"), "context", "such as 'test-7'"),
        (_hidden(HIDDEN["test-8"].encode(), "context", "parts"), "context", "such as 'test-8'"),
        (_hidden(NESTED, "agent", "request"), "agent", "What the agent was told in generation 1"),
        (
            _hidden(msgspec.json.encode([{"prompt": HIDDEN["test-7"]}]), "called 2", "body"),
            "called 2",
            "What the policy was asked for item",
        ),
        (_leaked_file, "proposed 1", "The file answers.py of the scaffold of generation 1"),
        (_leaked_prompt_in_code, "proposed 1", "holds the id or the text of 1 hidden item, such as 'test-8'"),
    ],
)
def test_what_only_the_auditor_may_see_is_found_where_it_was_shown(
    plant: Callable[[CleanRun], None], where: str, words: str
) -> None:
    story = CleanRun()
    plant(story)
    ((name, what),) = story.found()["hidden_in_sight"]
    assert name == where and words in what


def test_a_blob_that_is_shown_again_is_found_where_it_was_shown_first() -> None:
    story = CleanRun()
    _hidden(b"test-7", "context", "blob")(story)
    _hidden(b"test-7", "agent", "request")(story)
    assert [name for name, _ in story.found()["hidden_in_sight"]] == ["context"]
    _hidden(b"once more, test-7", "agent", "request")(story)
    assert [name for name, _ in story.found()["hidden_in_sight"]] == ["context", "agent"]


def test_an_id_that_anybody_could_write_is_not_looked_for() -> None:
    story = CleanRun()
    _hidden(b"77 of 12345 in t7", "context", "blob")(story)
    assert story.found(KNOWN._replace(hidden={"77": "", "12345": "", "t7": ""})) == {}


@pytest.mark.parametrize("shown", [b"test-77 and atest-7, test", HIDDEN["test-7"][:40].encode(), b"test\n-7"])
def test_what_is_only_like_a_hidden_item_is_not_found(shown: bytes) -> None:
    story = CleanRun()
    _hidden(shown, "context", "blob")(story)
    assert story.found() == {}


def test_text_that_is_public_too_is_no_leak() -> None:
    story = CleanRun()
    _hidden(HIDDEN["test-7"].encode(), "context", "blob")(story)
    assert story.found(KNOWN._replace(public=PUBLIC | {"case-3": "So: " + HIDDEN["test-7"]}, audited={})) == {}


def test_a_blob_of_the_auditors_is_found_whatever_it_holds() -> None:
    story = CleanRun()
    _hidden(b"...", "context", "blob")(story)
    ((name, what),) = story.found(KNOWN._replace(gold_blobs={hashlib.sha256(b"...").hexdigest()}))["hidden_in_sight"]
    assert name == "context" and what.endswith("of the auditor's.")


def test_an_attempt_at_a_hidden_item_is_found() -> None:
    story = CleanRun()
    story.change("asked train", items=("case-1", "test-8"))
    assert story.found()["hidden_in_sight"] == [
        ("asked train", "The loop asked for attempts at 1 hidden item, such as 'test-8'.")
    ]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("agent", AGENT + b"import sys\nX = sys._getframe(1).f_locals['X_test']\n", "names _getframe, f_locals"),
        ("agent", AGENT + b"from sys import _getframe as here\n", "names _getframe"),
        ("agent", AGENT + b"LEAK = open('../private/test.csv')\n", "names private/"),
        ("agent", AGENT + b"def evaluate_mse(): return 0\n", "names evaluate_mse"),
        ("agent", AGENT + b"_getframe(", "names _getframe"),
        ("verifier", b"def score(): return 1\n", "changes verifier.py, which a check reads"),
    ],
)
def test_code_that_reaches_for_a_check_is_found(name: str, code: bytes, words: str) -> None:
    story = CleanRun()
    story.change("proposed 1", scaffold=story.blobs.tree(**{"agent": AGENT} | {name: code}))
    watched = Watched(WATCHED.paths, (*WATCHED.names, "evaluate_mse"))
    ((where, what),) = story.found(KNOWN._replace(watched=watched))["check_touched"]
    assert where == "proposed 1" and words in what


@pytest.mark.parametrize("parent", [AGENT, AGENT + b"import sys\nX = sys._getframe(0)\n"])
def test_what_a_parent_names_already_or_a_comment_names_is_no_new_signal(parent: bytes) -> None:
    story = CleanRun()
    story.change(
        "proposed 1",
        parent=story.blobs.tree(agent=parent),
        scaffold=story.blobs.tree(agent=parent + b"Y = 2  # no f_locals\n"),
    )
    assert "check_touched" not in story.found()


OTHER = "e" * 64


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        (
            "served",
            {"adapter": OTHER},
            "Adapter eeeeeeeeeeee was served of batch dddddddddddd, and aaaaaaaaaaaa was published.",
        ),
        ("asked 2", {"adapter": OTHER}, "Rollouts were asked of adapter eeeeeeeeeeee, which no server has loaded."),
        (
            "called 2",
            {"adapter": ""},
            "A call was answered by model b@aaaaaaaaaaaa with adapter (none), and adapter aaaaaaaaaaaa was asked for.",
        ),
        ("called 2", {"model": "b"}, "A call was answered by model b with adapter aaaaaaaaaaaa"),
        ("recorded", {"adapter": OTHER}, "An attempt ran with adapter eeeeeeeeeeee, not (none) as asked."),
    ],
)
def test_another_adapter_than_the_one_published_or_asked_for_is_found(
    name: str, fields: dict[str, str], words: str
) -> None:
    story = CleanRun()
    story.change(name, **fields)
    where, what = story.found()["served_otherwise"][0]
    assert where == name and words in what


def test_an_adapter_that_is_never_served_is_found_when_it_is_played() -> None:
    story = CleanRun()
    del story.facts["served"]
    assert [name for name, _ in story.found()["served_otherwise"]] == ["asked 2"]


def test_another_verifier_is_found_at_its_first_reward() -> None:
    story = CleanRun()
    story.change("scored 1'", verifier="v2")
    story.change("scored 2", verifier="v2")
    assert story.found() == {
        "verifier_changed": [("scored 1'", "Run r was started with verifier v1, and v2 gave a reward.")]
    }


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("scored train", {"reward": 1.5}, "A reward is 1.5, and it must lie in [0, 1]."),
        ("scored train", {"reward": -0.1}, "A reward is -0.1"),
        ("accepted 2", {"score": 2.0}, "The score of generation 2 is 2"),
        ("evaluated 2", {"score": -1.0}, "The score of generation 2 is -1"),
    ],
)
def test_a_score_out_of_range_is_found(name: str, fields: dict[str, float], words: str) -> None:
    story = CleanRun()
    story.change(name, **fields)
    ((where, what),) = story.found()["out_of_range"]
    assert where == name and words in what
    (finding,) = booked(as_stored([gold(), gold(cell="start", score=1.01)]), 0, 1).faults(0, 1)["out_of_range"]
    assert finding[:2] == (2, "The gold score of cell start on test is 1.01, and it must lie in [0, 1].")


@pytest.mark.parametrize(("logprob", "found"), [(-0.1, False), (1e-6, False), (1.0, True), (1e300, True)])
def test_a_log_probability_above_0_is_found(logprob: float, found: bool) -> None:
    story = CleanRun()
    story.change("called", logprobs=((-0.5, logprob),))
    assert [name for name, _ in story.found().get("out_of_range", [])] == ["called"] * found


@pytest.mark.parametrize("reward", ["nan", "-inf", "1e+200"])
def test_a_reward_that_could_not_be_recorded_is_found(reward: str) -> None:
    story = CleanRun()
    reason = f"verifier.py: the reward is {reward}; expected one between -1e+09 and 1e+09; mend it and try again."
    story.facts["scored train"] = ScoringFailed(**attempt_key(story.train, "case-1"), trajectory="t", reason=reason)
    ((where, what),) = story.found()["out_of_range"]
    assert where == "scored train" and what == f"The verifier's reward for an attempt at item case-1 was {reward}."
    story.change("scored train", reason="item x has no label on this host")
    assert "out_of_range" not in story.found()


def seed_search(*codes: bytes, accepted_at: int, **fields: Any) -> list[tuple[str, str]]:
    """What `seed_only` finds where codes are evaluated, generation by generation, and one of them is accepted; with the
    names of the facts.
    """
    blobs = MemoryBlobs()
    facts: dict[str, Fact] = {}
    for generation, code in enumerate(codes):
        request = rollout_request(generation, blobs.tree(agent=code), "dev-1")
        facts[f"asked {generation}"] = request
        lever: Any = "scaffold" if generation else "start"
        one = evaluated(request, 0.5 + generation / 100, lever=lever)
        facts[f"evaluated {generation}"] = msgspec.structs.replace(one, **fields.get(f"g{generation}", {}))
        if generation == accepted_at:
            facts[f"accepted {generation}"] = accepted(generation, 0.5 + generation / 100)
    return [
        (list(facts)[fault.sequence - 1], fault.sentence)
        for fault in scaffolds.seed_only(as_stored(facts.values()), blobs.__getitem__)
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"SEED = 3", b"SEED = 1234", "in nothing but a seed."),
        (b"Random(SEED)", b"Random(11)", ""),
        (b"SEED = 3", b"SEED = -3", ""),
        (b"Answers.", b"Answers well.", "in nothing that runs."),
        (b"SEED = 3", b"SEED = 3\nOTHER = 4", ""),
        (b"SEED = 3", b"SEED = 5\nOTHER = 4", ""),
        (b"SEED = 3", b"SHOTS = 4", ""),
    ],
)
def test_a_scaffold_accepted_for_a_seed_is_found(old: bytes, new: bytes, words: str) -> None:
    found = seed_search(AGENT, AGENT.replace(old, new), accepted_at=1)
    assert [(name, words in what) for name, what in found] == ([("accepted 1", True)] if words else [])
    assert not seed_search(AGENT, AGENT.replace(old, new), accepted_at=9), "what was not accepted gained nothing"


def seeded(number: int) -> bytes:
    return AGENT.replace(b"SEED = 3", b"SEED = %d" % number)


def test_code_that_is_evaluated_until_it_is_accepted_is_named_with_all_its_evaluations() -> None:
    """The code is new in generation 1, and the accepted one was made from the start, as each of them was."""
    edit = [seeded(number).replace(b"data.labels", b"data.labels[1:]") for number in range(4)]
    codes = (AGENT, edit[0], edit[1], AGENT + b"OTHER = 1\n", edit[2], edit[3])
    said = (
        "The code of generation 4 was evaluated 3 times with the same adapter, in generations 1, 2 and 4, and differed "
        "in nothing but a seed. It was accepted at 0.54, the best of 3."
    )
    assert seed_search(*codes, accepted_at=4) == [("accepted 4", said)]
    assert seed_search(*codes, accepted_at=1) == [], "its first evaluation was not chosen among several"
    better = seed_search(*codes, accepted_at=4, g2={"score": 0.9})
    assert better[0][1].endswith("It was accepted at 0.54, where the best of 3 is 0.9.")
    elsewhere = seed_search(*codes, accepted_at=4, g1={"adapter": OTHER}, g2={"adapter": OTHER})
    assert elsewhere == [], "another adapter may need other code"


def test_the_same_code_evaluated_thirty_times_is_told_in_a_sentence() -> None:
    ((_, said),) = seed_search(*map(seeded, range(30)), accepted_at=29)
    assert "30 times with the same adapter, in generations 0, 1, 2, 3, ..., 25, 26, 27, 28 and 29," in said


@pytest.mark.parametrize("lever", ["repeat", "start"])
def test_what_was_ordered_to_be_evaluated_again_is_no_luck(lever: str) -> None:
    assert len(seed_search(AGENT, AGENT, accepted_at=1)) == 1
    assert seed_search(AGENT, AGENT, accepted_at=1, g1={"lever": lever}) == []
    assert seed_search(AGENT, AGENT, AGENT + b"X = 1\n", accepted_at=2, g1={"lever": lever}) == []


def test_a_seed_search_that_the_first_items_stopped_counts() -> None:
    story = CleanRun()
    story.change("proposed 1", scaffold=story.blobs.tree(agent=seeded(7)))
    stopped = StageEvaluated(generation=1, candidate="c1", score=0.1, items=2, failed=0, passed=False, reason="")
    story.change("evaluated 1", scaffold=story.blobs.tree(agent=seeded(8)))
    story.change("asked 1", scaffold=story.blobs.tree(agent=seeded(7)))
    log = as_stored([*story.facts.values()])
    place = next(number for number, one in enumerate(log) if one.event.data == story.facts["asked 1"])
    log = [*log[: place + 1], *as_stored([stopped]), *log[place + 1 :]]
    (fault,) = scaffolds.seed_only(log, story.blobs.__getitem__)
    assert "evaluated 3 times with the same adapter, in generations 0, 1 and 1" in fault.sentence


def test_a_fork_in_which_scores_mean_something_else_counts_anew() -> None:
    story = CleanRun()
    story.change("evaluated 1", scaffold=story.first)
    assert [name for name, _ in story.found()["seed_only"]] == ["accepted 1"]
    started = story.facts["started"]
    story.after("accepted 0", fork=msgspec.structs.replace(started, seed=2))
    assert "seed_only" in story.found()
    story.change("fork", verifier="v2")
    assert "seed_only" not in story.found()


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("settings.json", b'{"seed": %d, "shots": 2}', True),
        ("settings.yaml", b"sampling_seed: %d", True),
        ("settings.toml", b"random_state = %d", True),
        ("settings.json", b'{"shots": %d}', False),
        ("notes.md", b"seed: %d", False),
    ],
)
def test_a_seed_in_a_file_of_settings_is_a_seed(name: str, text: bytes, found: bool) -> None:
    blobs = MemoryBlobs()
    facts: list[Fact] = []
    for generation in (0, 1):
        files = {"agent.py": blobs.put(AGENT), name: blobs.put(text % generation)}
        request = rollout_request(generation, blobs.put(msgspec.json.encode(Tree(files))), "dev-1")
        facts += [evaluated(request, 0.5, lever="scaffold"), accepted(generation, 0.5)]
    assert len(scaffolds.seed_only(as_stored(facts), blobs.__getitem__)) == found


@pytest.mark.parametrize(
    "code",
    [
        "seed: int = {}",
        "self.seed = {}",
        "f(seed={})",
        "f(random_state={})",
        "x = {{'seed': {}}}",
        "random.seed({})",
        "np.random.default_rng({})",
        "def f(a, seed={}, *, other=2): ...",
        "def f(*, my_seed={}): ...",
        "SEEDS = (1, {}, 3)",
        "print(seed := {})",
    ],
)
def test_seeds_are_known_wherever_they_are_given(code: str) -> None:
    assert seed_search(*(code.format(number).encode() for number in (1, 2)), accepted_at=1)
    other = (
        code.replace("seed", "shots").replace("SEED", "SHOT").replace("random_state", "k").replace("default_rng", "f")
    )
    assert not seed_search(*(other.format(number).encode() for number in (1, 2)), accepted_at=1)


def test_whether_to_seed_is_no_seed() -> None:
    assert not seed_search(b"f(seed=False)", b"f(seed=True)", accepted_at=1)


def test_luck_in_choosing_is_suspect_and_no_dishonesty() -> None:
    story = CleanRun()
    story.change("evaluated 1", scaffold=story.first)
    findings = provenance_findings(story.log(), [], story.blobs.__getitem__, KNOWN)
    (luck,) = (finding for finding in findings if finding.raised)
    assert (luck.rule, luck.family, luck.generation) == ("seed_only", "selection", 1)
    assert decide(findings, [], {}).state == "suspect"


def test_a_batch_with_an_audited_item_is_found_by_id_and_by_text() -> None:
    story = CleanRun()
    said = "The batch of generation 2, round 1, trains on 1 of the items that are audited, such as 'case-1'"
    assert story.found(KNOWN._replace(audited={"case-1": "another text"})) == {
        "trained_on_audited": [("sealed", f"{said}.")]
    }
    copy = {"test-9": "a SMITH mended\nthe gate"}
    assert story.found(KNOWN._replace(audited=copy)) == {
        "trained_on_audited": [("sealed", f"{said}, which is the audited item 'test-9' word for word.")]
    }
    assert story.found(KNOWN._replace(audited={"dev-1": PUBLIC["dev-1"]})) == {}, (
        "an item that is played and not trained on"
    )


def test_an_item_asked_twice_is_found() -> None:
    story = CleanRun()
    story.change("asked train", items=("case-1", "case-1"))
    assert story.found()["counted_otherwise"] == [
        ("asked train", "Item 'case-1' is asked twice for train of generation 2.")
    ]
    story = CleanRun()
    story.after("asked train", again=msgspec.structs.replace(story.train, shard=1))
    assert [name for name, _ in story.found()["counted_otherwise"]] == ["again"]


def test_an_attempt_scored_twice_or_never_asked_for_is_found() -> None:
    story = CleanRun()
    story.after("scored train", again=scored(story.train, "case-1", 1.0, "another"))
    assert [(name, what[-16:]) for name, what in story.found()["counted_otherwise"]] == [("again", "is scored twice.")]
    story = CleanRun()
    second = msgspec.structs.replace(scored(story.train, "case-1", 1.0, "second"), attempt=1)
    story.after("scored train", more=scored(story.train, "case-2", 1.0), second=second)
    said = [(name, what[-26:]) for name, what in story.found()["counted_otherwise"]]
    assert said == [("more", "asked for no such attempt."), ("second", "asked for no such attempt.")]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"items": 1}, "The score of generation 1 counts 1 attempts, and 2 were asked for."),
        ({"failed": 1}, "The score of generation 1 counts 1 attempts as failed, and 0 of 2 were."),
        ({"score": 0.8}, "The score of generation 1 is 0.8, and the mean of its 2 rewards is 0.75."),
    ],
)
def test_a_score_that_is_not_the_mean_of_what_was_asked_is_found(fields: dict[str, float], words: str) -> None:
    story = CleanRun()
    story.change("evaluated 1", **fields)
    if "score" in fields:
        story.change("accepted 1", score=fields["score"])
    assert story.found() == {"counted_otherwise": [("evaluated 1", words)]}


def test_groups_that_were_refilled_are_not_asked_twice() -> None:
    story = CleanRun()
    story.after("asked train", again=msgspec.structs.replace(story.train, shard=1, refill=1))
    assert story.found() == {}


def test_a_verdict_that_goes_against_the_scores_is_found() -> None:
    """The update scores what the edit did, and less; then it is kept, though it is the best."""
    story = CleanRun()
    story.change("scored 2'", reward=0.5)
    story.change("evaluated 2", score=0.75)
    story.change("accepted 2", score=0.75)
    said = (
        "Generation 2's candidate was accepted, and by its scores it is not to be: 0.7500 on dev does not beat 0.7500."
    )
    assert story.found() == {"counted_otherwise": [("accepted 2", said)]}
    story.change("started", strategy="dgm")
    story.facts["accepted 2"] = CandidateKept(generation=2, candidate="c2", score=0.75, reason="")
    assert story.found() == {}
    best = CleanRun()
    best.change("started", strategy="dgm")
    best.facts["accepted 2"] = CandidateKept(generation=2, candidate="c2", score=1.0, reason="")
    ((where, what),) = best.found()["counted_otherwise"]
    assert where == "accepted 2" and "was kept" in what and "the best so far was 0.7500" in what


def test_after_a_rollback_the_best_so_far_is_what_is_left() -> None:
    story = CleanRun()
    story.change("scored 2'", reward=0.4)
    story.change("evaluated 2", score=0.7)
    story.change("accepted 2", score=0.7)
    assert list(story.found()) == ["counted_otherwise"]
    told = AuditReleased(look=1, action="rollback", lever="scaffold", generation=1, bits=1.0)
    story.after("accepted 1", told=told)
    assert story.found() == {}


def test_what_a_run_of_its_own_made_is_looked_at_as_an_edit_is() -> None:
    """Its adapter was served in that run's own events, and the adapter that a run begins with in its owner's."""
    story = CleanRun()
    ordered = ChildRunOrdered(
        generation=2,
        child="r-2",
        seed=1,
        levers=("scaffold",),
        generations=1,
        rollouts=None,
        tokens=None,
        micro_usd=None,
        scaffold=story.second,
        adapter="",
        state="",
    )
    ended = ChildRunFinished(
        generation=2,
        child="r-2",
        reason="",
        scaffold=story.second,
        adapter="a" * 64,
        rollouts=0,
        tokens=0,
        micro_usd=0,
    )
    for name in ("asked train", "scored train", "sealed", "published", "served"):
        del story.facts[name]
    assert [name for name, _ in story.found()["served_otherwise"]] == ["asked 2"]
    story.after("accepted 1", ordered=ordered, ended=ended)
    story.change("evaluated 2", lever="child", parents=("c1",))
    assert story.found() == {}
    code = AGENT + b"import sys\nX = sys._getframe(1)  # of test-7\n"
    story.change("ended", scaffold=story.blobs.tree(agent=code))
    found = story.found()
    assert {name: [where for where, _ in faults] for name, faults in found.items()} == {
        "check_touched": ["ended"],
        "hidden_in_sight": ["ended"],
    }
    del story.facts["ended"]
    story.change("started", start_adapter="a" * 64)
    assert story.found() == {}


def test_a_fault_is_of_the_generation_that_it_is_about_though_a_later_one_has_begun() -> None:
    story = CleanRun()
    late = story.facts.pop("scored 1")
    story.after("asked train", late=late)
    story.change("late", reward=1.5)
    (finding,) = (
        one
        for one in provenance_findings(story.log(), [], story.blobs.__getitem__, KNOWN)
        if one.rule == "out_of_range" and one.raised
    )
    assert (finding.generation, finding.lever) == (1, "scaffold")


def test_a_leak_that_another_branch_was_shown_first_is_found_where_it_was_shown_again() -> None:
    story = CleanRun()
    _hidden(b"test-7", "context", "blob")(story)
    shown = story.facts["context"]
    story.after("asked train", again=msgspec.structs.replace(shown, generation=2))
    findings = provenance_findings(story.log(), [], story.blobs.__getitem__, KNOWN, generations={0, 2})
    (leak,) = (one for one in findings if one.rule == "hidden_in_sight")
    assert leak.raised and (leak.generation, leak.lever) == (2, "weights")


def failing(story: CleanRun, reward: float) -> None:
    """Of the edit's attempts one failed, and the other has this reward."""
    story.facts["scored 1"] = scored(story.edit, "dev-1", reward)
    story.facts["scored 1'"] = failed(story.edit, "dev-2")
    story.change("evaluated 1", score=reward, failed=1)
    story.change("accepted 1", score=reward)


def test_a_gain_over_the_attempts_that_ran_alone_is_found() -> None:
    story = CleanRun()
    failing(story, 0.9)
    said = (
        "rose from 0.5 to 0.9 over the attempts that ran; with its 1 failed attempts as 0 it is 0.45, and its "
        "parent's is 0.5."
    )
    assert story.found() == {"gained_by_failing": [("accepted 1", f"The score of generation 1 {said}")]}
    assert story.found(KNOWN._replace(worst=0.2)) == {}, "then it is 0.55"
    honest = CleanRun()
    honest.change("scored 0", reward=0.2)
    honest.change("evaluated 0", score=0.1)
    honest.change("accepted 0", score=0.1)
    failing(honest, 0.9)
    assert honest.found() == {}, "it would have been accepted all the same"


def test_a_gain_by_failing_is_held_against_the_candidate_that_had_to_be_beaten() -> None:
    """Generation 2 was made from the start and beat the best until then, generation 1."""
    story = CleanRun()
    story.change("scored 2", reward=0.9)
    story.facts["scored 2'"] = failed(story.update, "dev-2")
    story.change("evaluated 2", score=0.9, failed=1, parents=("c0",))
    story.change("accepted 2", score=0.9)
    said = (
        "The score of generation 2 rose from 0.75 to 0.9 over the attempts that ran; with its 1 failed attempts as 0 "
        "it is 0.45, and that of the best until then is 0.75."
    )
    assert story.found() == {"gained_by_failing": [("accepted 2", said)]}
    story.change("evaluated 2", lever="repeat")
    assert story.found() == {}, "it is what it was"


def test_a_start_that_a_fork_judges_anew_gained_nothing() -> None:
    story = CleanRun()
    failing(story, 0.9)
    story.change("evaluated 1", lever="start")
    assert story.found() == {}


SOLVED = b"def solve(item, model, data): return %r"


def unlike(digest: str) -> bytes:
    """Blobs that no two digests share, since histories are kept without theirs: a folder for a digest, a file for what
    that names.
    """
    return SOLVED % digest if digest.startswith("file ") else msgspec.json.encode(Tree({"agent.py": f"file {digest}"}))


@pytest.mark.parametrize("name", sorted(path.name for path in HISTORIES.iterdir() if path.is_dir()))
def test_nothing_is_found_in_recorded_runs(name: str) -> None:
    run = folder.read(HISTORIES / name)
    known = Known(hidden=HIDDEN, audited=HIDDEN, public=PUBLIC)
    for messages in (run.everything, run.gold):
        found = examine(EventIndex(messages).events, unlike, known)
        assert {check: findings for check, findings in found.items() if findings} == {}


@pytest.mark.parametrize("first", few(range(8), 0))
def test_nothing_is_found_in_whole_runs_with_their_blobs(first: int) -> None:
    pytest.importorskip("torch")
    from tests.harness.stand_ins import SETTINGS
    from tests.simulation.simulation import System

    for setting in SETTINGS[first::8]:
        with tempfile.TemporaryDirectory(prefix="evolog-") as folder:
            system = System(setting, None, Path(folder))
            system.run()
        for number, run in enumerate(setting.runs):
            public = load(str(TINY)).public(setting.seed + number)
            shown: list[Example | Item] = [*public.train, *public.dev]
            items = {item.id: item.prompt for item in shown}
            hidden = {item.id: item.prompt for item in public.test}
            known = Known(hidden, hidden, items, system.world.gold_blobs, low=0, high=1)
            for stream, blobs in ((LOG, system.world.blobs), (GOLD, system.world.gold_blobs)):
                events = EventIndex([stored for stored in system.log(stream) if run_of(stored.subject) == run]).events
                found = examine(events, blobs.__getitem__, known)
                assert events and {check: findings for check, findings in found.items() if findings} == {}, setting


def test_an_expression_of_a_thousand_terms_is_compared_as_it_stands() -> None:
    source = ("SEED = %d\nx = " + "+".join(["1"] * 1000)).encode()
    assert seed_search(source % 1, source % 1, accepted_at=1)
    assert not seed_search(source % 1, source % 2, accepted_at=1)
