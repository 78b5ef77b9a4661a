"""Facts, their names and their bytes."""

import base64
import codecs
import math
import time
from urllib.parse import quote

import msgspec
import pytest

from events import change, choice, codec, gold, judgement, population, rollouts, run, weights
from events.catalogue import BY_FACT, BY_TAG, SERVICES, published_by
from events.change import ProposalFailed
from events.choice import ContextAssembled
from events.codec import Event, Unreadable, UntypedEvent
from events.errors import UsageError
from events.fact import Fact, NotFinite, derive, derive_seed
from events.judgement import TrajectoryScored
from events.rollouts import ModelCalled, RolloutFailed
from events.run import DecisionMade, EventSetAside
from events.secret import MARKER, Scanner, Secret, SecretFound, encodings, of_environment
from events.subjects import check_run_name, run_of, tag_of
from tests.harness.facts import example

WIRE: dict[str, type[Fact]] = {
    "run_started": run.RunStarted,
    "decision_made": run.DecisionMade,
    "run_paused": run.RunPaused,
    "run_resumed": run.RunResumed,
    "run_cancelled": run.RunCancelled,
    "time_spent": run.TimeSpent,
    "child_run_requested": change.ChildRunRequested,
    "child_run_ordered": change.ChildRunOrdered,
    "child_run_finished": change.ChildRunFinished,
    "stage_evaluated": judgement.StageEvaluated,
    "candidate_rechecked": judgement.CandidateRechecked,
    "candidate_kept": population.CandidateKept,
    "artefact_published": population.ArtefactPublished,
    "audit_released": run.AuditReleased,
    "run_finished": run.RunFinished,
    "event_set_aside": run.EventSetAside,
    "parent_selected": choice.ParentSelected,
    "feedback_requested": choice.FeedbackRequested,
    "context_assembled": choice.ContextAssembled,
    "agent_called": choice.AgentCalled,
    "trial_finished": choice.TrialFinished,
    "lever_chosen": choice.LeverChosen,
    "scaffold_requested": change.ScaffoldRequested,
    "scaffold_proposed": change.ScaffoldProposed,
    "proposal_failed": change.ProposalFailed,
    "weight_update_requested": change.WeightUpdateRequested,
    "rollouts_requested": rollouts.RolloutsRequested,
    "model_called": rollouts.ModelCalled,
    "trajectory_recorded": rollouts.TrajectoryRecorded,
    "rollout_failed": rollouts.RolloutFailed,
    "trajectory_scored": judgement.TrajectoryScored,
    "judge_called": judgement.JudgeCalled,
    "scoring_failed": judgement.ScoringFailed,
    "cuda_scoring_requested": judgement.CudaScoringRequested,
    "label_estimated": judgement.LabelEstimated,
    "candidate_evaluated": judgement.CandidateEvaluated,
    "training_batch_sealed": weights.TrainingBatchSealed,
    "optimizer_step_applied": weights.OptimizerStepApplied,
    "adapter_published": weights.AdapterPublished,
    "adapter_served": weights.AdapterServed,
    "adapter_rejected": weights.AdapterRejected,
    "weight_update_finished": weights.WeightUpdateFinished,
    "weight_update_failed": weights.WeightUpdateFailed,
    "candidate_accepted": population.CandidateAccepted,
    "candidate_rejected": population.CandidateRejected,
    "gold_judge_called": gold.GoldJudgeCalled,
    "gold_model_called": gold.GoldModelCalled,
    "gold_scored": gold.GoldScored,
    "gold_failed": gold.GoldFailed,
    "policies_compared": gold.PoliciesCompared,
    "audit_finished": gold.AuditFinished,
    "pair_measured": gold.PairMeasured,
    "reference_measured": gold.ReferenceMeasured,
    "gold_described": gold.GoldDescribed,
    "dev_answers_scored": gold.DevAnswersScored,
    "drift_flagged": gold.DriftFlagged,
}
"""The tags as they are on logs since the first. A line may be added; none may be changed."""


def scored(reward: float = 1.0, trajectory: str = "t") -> TrajectoryScored:
    return TrajectoryScored(
        trajectory=trajectory, request="q", item="i", attempt=0, reward=reward, outcome="right", verifier="v"
    )


def event(fact: TrajectoryScored | None = None, run: str = "r") -> Event:
    return codec.event(fact or scored(), run=run, source="verifier", cause="c", time="2026-01-01T00:00:00Z")


@pytest.mark.parametrize("tag", BY_TAG)
def test_no_field_has_the_name_of_a_column_that_every_event_has(tag: str) -> None:
    """Of the archive's tables: where the event stands, which it is, when it was stored, and what it answers."""
    assert {"seq", "run", "id", "time", "cause"}.isdisjoint(BY_TAG[tag].fact.__struct_fields__)


def test_an_event_comes_back_from_its_bytes() -> None:
    assert codec.decode(codec.encode(event())) == event()


def test_the_same_event_has_the_same_bytes() -> None:
    assert codec.encode(event()) == codec.encode(codec.decode(codec.encode(event())))


def test_an_event_is_a_cloud_event() -> None:
    told = msgspec.json.decode(codec.encode(event()))
    assert told["specversion"] == "1.0" and told["type"] == "trajectory_scored"
    assert told["subject"] == f"evolog.r.{told['id']}.trajectory_scored"


def test_an_id_follows_from_run_type_and_key_and_from_nothing_else() -> None:
    assert event(scored(0.0)).id == event(scored(1.0)).id
    assert len({event().id, event(run="other").id, event(scored(trajectory="u")).id}) == 3
    assert derive("a", "bc") != derive("ab", "c")


@pytest.mark.parametrize("tag", BY_TAG)
def test_an_event_of_any_type_is_read_the_short_way_by_the_id_that_follows_from_its_key(tag: str) -> None:
    told = codec.event(
        example(BY_TAG[tag].fact), run="r", source=BY_TAG[tag].publishers[0], cause="c", time="2026-01-01T00:00:00Z"
    )
    found = codec.plain_at(told.subject, codec.encode(told))
    assert isinstance(found, UntypedEvent) and (found.id, found.tag) == (told.id, tag)
    other = msgspec.structs.replace(told, run="other")
    with pytest.raises(Unreadable, match="follows from its key"):
        codec.plain_at(other.subject, codec.encode(other))


def test_a_seed_follows_from_its_key_and_fits_in_63_bits() -> None:
    assert derive_seed(1, "train", 2) == derive_seed(1, "train", 2) != derive_seed(2, "train", 2)
    assert 0 <= derive_seed(1) < 2**63


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_where_the_fact_is_made(number: float) -> None:
    with pytest.raises(NotFinite, match=r"TrajectoryScored\.reward"):
        scored(number)


@pytest.mark.parametrize("numbers", [(0.5, math.nan), (math.inf, -math.inf), (2.0, math.inf)])
def test_so_is_one_among_many(numbers: tuple[float, ...]) -> None:
    with pytest.raises(NotFinite, match=r"ModelCalled\.logprobs"):
        example(ModelCalled, logprobs=((-1.0,), numbers))


def test_finite_numbers_are_not_refused_because_their_sum_is_too_large() -> None:
    assert example(ModelCalled, logprobs=((1e308, 1e308),)).logprobs


def test_a_secret_has_no_bytes() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"key": Secret("hunter2hunter2")})
    assert "hunter2" not in repr(Secret("hunter2hunter2"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda told: told | {"type": "trajectory_guessed"}, "unknown event type"),
        (lambda told: told | {"version": 9}, "version 9"),
        (lambda told: told | {"data": {"reward": "high"}}, "another shape"),
        (lambda told: told | {"data": told["data"] | {"colour": "red"}}, "another shape"),
        (lambda told: told | {"subject": "evolog.r.x.trajectory_scored"}, "subject"),
        (
            lambda told: told | {"source": "trainer"},
            "source is 'trainer', and trajectory_scored comes from verifier alone",
        ),
        (lambda told: {"hello": 1}, "not a CloudEvent"),
    ],
)
def test_what_cannot_be_read_says_why(change: "object", reason: str) -> None:
    assert callable(change)
    told = change(msgspec.json.decode(codec.encode(event())))
    with pytest.raises(Unreadable, match=reason):
        codec.decode(msgspec.json.encode(told))
    with pytest.raises(Unreadable):
        codec.plain_at(event().subject, msgspec.json.encode(told))


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"[]", b"{", b"nan"])
def test_bytes_that_are_no_json_are_unreadable_and_nothing_worse(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode(payload)


def test_an_event_that_stands_elsewhere_than_it_says_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="stands on"):
        codec.decode_at("evolog.other.x.trajectory_scored", codec.encode(event()))


def test_what_is_set_aside_keeps_its_bytes_and_its_place() -> None:
    aside = codec.set_aside(7, "evolog.r.x.trajectory_scored", b"\xff", "no JSON", source="controller", time="")
    assert aside and isinstance(aside.data, EventSetAside)
    assert (aside.data.sequence, aside.data.bytes, aside.data.reason) == (7, "/w==", "no JSON")
    assert codec.decode(codec.encode(aside)) == aside


def test_every_type_has_one_tag_and_a_publisher_that_exists() -> None:
    assert len(BY_TAG) == len(BY_FACT)
    for entry in BY_TAG.values():
        assert entry.publishers and set(entry.publishers) <= {*SERVICES, "operator"}


def test_every_type_has_the_tag_that_is_on_the_wire() -> None:
    assert {tag: entry.fact for tag, entry in BY_TAG.items()} == WIRE


def test_a_class_can_be_renamed_and_its_tag_and_ids_stay() -> None:
    class RunOrdered(Fact, frozen=True):
        TAG = "run_started"

    assert RunOrdered.tag() == "run_started"
    assert codec.event_id("r", RunOrdered) == codec.event_id("r", run.RunStarted)


def test_a_fact_without_a_tag_of_its_own_is_refused_when_its_class_is_made() -> None:
    with pytest.raises(TypeError, match="Untagged is a fact without a TAG"):

        class Untagged(Fact, frozen=True):
            pass

    with pytest.raises(TypeError, match="Heir is a fact without a TAG"):

        class Heir(TrajectoryScored, frozen=True):
            pass


def test_a_word_outside_a_closed_set_is_unreadable() -> None:
    failed = RolloutFailed(request="q", item="i", attempt=0, purpose="dev", kind="crashed", reason="")
    told = msgspec.json.decode(codec.encode(codec.event(failed, run="r", source="executor", cause="", time="")))
    told["data"]["kind"] = "tired"
    with pytest.raises(Unreadable, match=r"another shape.*'tired'"):
        codec.decode(msgspec.json.encode(told))


def test_the_archivist_publishes_nothing_and_only_the_auditor_gold() -> None:
    assert published_by("archivist") == []
    assert {service for service in SERVICES for stream, _ in published_by(service) if stream == "GOLD"} == {"auditor"}


def test_keys_name_fields_that_exist() -> None:
    for fact in BY_FACT:
        assert set(fact.KEY) <= set(fact.__struct_fields__), fact


def test_all_decisions_of_a_run_stand_on_one_subject() -> None:
    subjects = set()
    for number in (1, 2):
        made = DecisionMade(number=number, input="i", decider=1, digest="d", outputs=0)
        subjects.add(codec.event(made, run="r", source="controller", cause="", time="").subject)
    assert subjects == {"evolog.r.head.decision_made"}


def test_subjects_are_taken_apart() -> None:
    assert run_of("evolog.r.x.t") == "r" and tag_of("evolog.r.x.t") == "t" and run_of("evolog.r.x") == ""


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", "x" * 65, "-a", "ü"])
def test_a_run_is_named_by_one_plain_token(name: str) -> None:
    with pytest.raises(UsageError):
        check_run_name(name)


KEY = 'sk-ant-Zz9/"plain key"+0123456789'


def planted(how: str, before: str) -> str:
    """The key as a careless or a cunning program would write it, with something in front of it."""
    text = before + KEY + " and on"
    match how:
        case "as it is":
            return text
        case "reversed":
            return text[::-1]
        case "rot13":
            return codecs.encode(text, "rot13")
        case "hexadecimal":
            return text.encode().hex()
        case "upper-case hexadecimal":
            return text.encode().hex().upper()
        case "base64":
            return base64.b64encode(text.encode()).decode()
        case "URL-safe base64":
            return base64.urlsafe_b64encode(text.encode()).decode()
        case "percent-encoded":
            return quote(text)
        case "escaped":
            return "".join(f"\\u{ord(of):04x}" for of in text)
    raise AssertionError(how)


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("how", encodings("x" * 8))
def test_a_planted_key_is_found_in_nine_encodings(how: str, before: str) -> None:
    assert len(encodings(KEY)) == 9
    scanner = Scanner([Secret("another one"), Secret(KEY)])
    failed = RolloutFailed(request="q", item="i", attempt=0, purpose="dev", kind="crashed", reason=planted(how, before))
    inside = codec.encode(codec.event(failed, run="r", source="executor", cause="", time=""))
    for payload in (planted(how, before).encode(), inside):
        with pytest.raises(SecretFound):
            scanner.check(payload)
    clean = scanner.redacted(failed)
    scanner.check(msgspec.json.encode(clean))
    assert MARKER in clean.reason and scanner.redact(failed.reason) == clean.reason


@pytest.mark.parametrize(
    "form",
    [
        "%{0:02x}",
        "%{0:02X}",
        "%25{0:02X}",
        "%2525{0:02x}",
        "\\u{0:04x}",
        "\\u{0:04X}",
        "\\U{0:04x}",
        "\\\\u{0:04X}",
        "\\u{{{0:x}}}",
        "\\U{0:08X}",
        "\\x{0:02x}",
        "\\X{0:02X}",
        "%5cu{0:04x}",
        "%5C%5Cu{0:04X}",
    ],
)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_key_is_found_in_any_case_of_an_escape_also_where_a_part_alone_is_escaped(form: str, every: int) -> None:
    key = "Sk-Jz*/k_[4+é"
    scanner = Scanner([Secret(key)])
    escaped = "".join(
        letter if place % every or (ord(letter) > 127 and form.startswith("%")) else form.format(ord(letter))
        for place, letter in enumerate(key)
    )
    for written in (escaped, codecs.encode(escaped, "unicode_escape").decode() if "\\" in form else escaped):
        text = f"my key is {written}, and on"
        with pytest.raises(SecretFound):
            scanner.check(text.encode())
        with pytest.raises(SecretFound):
            scanner.check(msgspec.json.encode({"report": text}))
        assert scanner.redact(text) == f"my key is {MARKER}, and on"


@pytest.mark.parametrize(
    "written",
    [
        "".join(f"{ord(letter):02{'xX'[place % 2]}}" for place, letter in enumerate(KEY)),
        base64.b64encode(b"?>~" + KEY.encode() + b"?>~").decode().replace("/", "\\/"),
    ],
)
def test_a_key_is_found_in_mixed_case_hexadecimal_and_in_escaped_base64(written: str) -> None:
    scanner = Scanner([Secret(KEY)])
    with pytest.raises(SecretFound):
        scanner.check(written.encode())
    scanner.check(scanner.redact(written).encode())


def test_what_json_keeps_is_redacted_string_by_string() -> None:
    """A key that begins as an escape ends: in the bytes, a mark in its place would leave no JSON."""
    scanner = Scanner([Secret("number-one")])
    arguments = msgspec.json.encode({"report": "\number-one\number-one"}).decode()
    value = {"calls": [{"arguments": arguments}], "number-one": (1, 2.5, None, True)}
    clean = scanner.redacted(value)
    assert clean[MARKER] == [1, 2.5, None, True]
    assert not scanner.finds(msgspec.json.encode(clean))
    fact = ProposalFailed(generation=1, reason="no number-one")
    assert scanner.redacted(fact) == ProposalFailed(generation=1, reason=f"no {MARKER}")


def test_what_the_rules_agent_saw_has_the_bytes_that_it_had() -> None:
    assembled = ContextAssembled(generation=1, blob="b", trajectories=3)
    bytes_of = codec.encode(codec.event(assembled, run="r", source="feedback_agent", cause="", time=""))
    assert msgspec.json.decode(bytes_of)["data"] == {"generation": 1, "blob": "b", "trajectories": 3}
    assert codec.decode(bytes_of).data == assembled


def test_what_holds_no_key_is_left_as_it_is() -> None:
    scanner = Scanner([Secret(KEY), Secret("EMPTY")])
    for payload in (b"EMPTY 100% \\u00e9 sk-ant-", codec.encode(event())):
        scanner.check(payload)
        assert scanner.redact(payload.decode()) == payload.decode()


def test_keys_of_the_environment_are_secrets() -> None:
    found = of_environment(
        {"ANTHROPIC_API_KEY": " sk-1 ", "ANTHROPIC_AUTH_TOKEN": "t", "OPENAI_API_KEY": "", "PATH": "/bin"}
    )
    assert [secret.reveal() for secret in found] == ["sk-1", "t"]


def test_backslashes_are_searched_in_time_by_their_number() -> None:
    scanner = Scanner([Secret("sk-ant-0123456789")])
    backslashes = "\\" * 200_000
    began = time.process_time()
    assert not scanner.finds(f"{backslashes}q \\x41".encode())
    assert scanner.finds(f"{backslashes}x73k-ant-0123456789".encode())
    assert scanner.redact(f"{backslashes}q sk-ant-0123456789") == f"{backslashes}q {MARKER}"
    assert time.process_time() - began < 5
