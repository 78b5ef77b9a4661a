"""TriMul: the operation by hand, what judges a kernel, and kernels that cheat in the sandbox."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from events.errors import Misconfigured, NotHere
from runtime.effects.tools import SandboxTools
from runtime.run.order import RunOrder
from services.host import capabilities, orders
from services.host.node import Node
from tasks import loading
from tasks.contract import Evidence, Item, ProgramRun
from tasks.trimul import cases, catalogue, data, gold, measure, verifier, verifier_cuda
from tasks.trimul.baselines import text
from tasks.trimul.sandboxed import workload as workloads
from tasks.trimul.sandboxed.workload import Workload, compare, draw, reference
from tasks.trimul.scaffold import schedule
from tests.harness import planted_kernels as planted

SMALLEST = (Workload(8, 1, 16, "binary"), Workload(8, 1, 16))
ITEM = Item("i", "", metadata={"workload": "8 1 16 none normal", "split": "8 1 16 binary normal,8 1 16 none normal"})


def silent(prompt: str, most: int) -> str:
    raise AssertionError("no kernel is judged by a model")


TOOLS = SandboxTools(silent)


def by_hand() -> dict[str, Any]:
    """One position of two channels; half of the hidden channels see the first, the others nothing."""
    seen = np.zeros((128, 2))
    seen[:64, 0] = 1
    nothing = np.zeros((128, 2))
    return {
        "x": np.array([[[[3.0, 1.0]]]]),
        "mask": np.ones((1, 1, 1)),
        "norm.weight": np.ones(2),
        "norm.bias": np.zeros(2),
        "left_proj.weight": seen,
        "right_proj.weight": seen,
        **{f"{name}.weight": nothing for name in ("left_gate", "right_gate", "out_gate")},
        "to_out_norm.weight": np.ones(128),
        "to_out_norm.bias": np.zeros(128),
        "to_out.weight": np.vstack(
            [np.r_[np.full(64, 1 / 64), np.zeros(64)], np.r_[np.zeros(64), np.full(64, 1 / 64)]]
        ),
    }


def test_the_result_by_hand() -> None:
    # LN(3, 1) = (a, -a), a = 1 / sqrt(1 + 1e-5). Gates are sigm(0) = 1/2: l = r = a/2, and o = a^2/4 or 0. LN of these
    # two, as many of each: +-(a^2/8) / sqrt((a^2/8)^2 + 1e-5). Times the output's gate of 1/2.
    eighth = 1 / (1 + 1e-5) / 8
    half = eighth / (eighth**2 + 1e-5) ** 0.5 / 2
    assert reference(by_hand()) == pytest.approx(np.array([[[[half, -half]]]]))
    assert half == pytest.approx(0.49984, abs=1e-5)


def test_the_mask_enters_both_sides() -> None:
    masked = {**by_hand(), "mask": np.full((1, 1, 1), 0.5)}
    quarter = 1 / (1 + 1e-5) / 8 / 4
    half = quarter / (quarter**2 + 1e-5) ** 0.5 / 2
    assert reference(masked)[0, 0, 0, 0] == pytest.approx(half)


def test_each_output_sums_over_k_of_its_row_and_its_column() -> None:
    inputs = draw(Workload(3, 2, 4, "fractional"), 1)
    wide = {name: array.astype(float) for name, array in inputs.items()}

    def norm(x: Any, name: str) -> Any:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * wide[f"{name}.weight"] + wide[f"{name}.bias"]

    def side(name: str, b: int, i: int, k: int) -> Any:
        x = norm(wide["x"][b, i, k], "norm")
        gate = 1 / (1 + np.exp(-wide[f"{name}_gate.weight"] @ x))
        return wide[f"{name}_proj.weight"] @ x * wide["mask"][b, i, k] * gate

    for b, i, j in ((0, 0, 2), (1, 2, 1)):
        total = sum(side("left", b, i, k) * side("right", b, j, k) for k in range(3))
        gate = 1 / (1 + np.exp(-wide["out_gate.weight"] @ norm(wide["x"][b, i, j], "norm")))
        assert reference(inputs)[b, i, j] == pytest.approx(wide["to_out.weight"] @ (norm(total, "to_out_norm") * gate))


def test_an_element_may_be_off_by_the_tolerance_and_no_more() -> None:
    true = np.array([0.0, 10.0, np.nan, np.inf])
    assert compare(np.array([0.0199, 10.2199, np.nan, np.inf]), true) == pytest.approx((0, 0.22 / 0.22), abs=5e-3)
    assert compare(np.array([0.0201, 10.3, np.nan, np.inf]), true).wrong == 2
    assert compare(np.array([0.0, 10.0, 0.0, -np.inf]), true) == (2, float("inf"))
    assert compare(np.array([np.nan, 10.0, np.nan, np.inf]), true) == (1, float("inf"))
    assert compare(np.zeros(3), true).wrong == 4


def test_zeros_are_almost_all_wrong() -> None:
    inputs = draw(Workload(32, 1, 128), 0)
    true = reference(inputs)
    assert 0.9 < compare(np.zeros(true.shape), true).wrong / true.size < 1


def test_a_seed_fixes_all_inputs_and_weights() -> None:
    one, other, same = (draw(Workload(4, 1, 8, "binary", "cauchy"), seed) for seed in (1, 2, 1))
    assert all((one[name] == same[name]).all() for name in one)
    assert all((one[name] != other[name]).any() for name in one)
    assert one["mask"].dtype == np.int64 and one["x"].dtype == np.float32


def test_each_mask_and_distribution_is_what_it_is_called() -> None:
    def drawn(mask: str, distribution: str) -> dict[str, Any]:
        return draw(Workload(7, 2, 8, mask, distribution), 0)

    assert (drawn("none", "normal")["mask"] == 1).all()
    assert set(drawn("binary", "normal")["mask"].ravel().tolist()) == {0, 1}
    assert 0 < drawn("fractional", "normal")["mask"].min() < drawn("fractional", "normal")["mask"].max() < 1
    assert (drawn("empty_rows", "normal")["mask"].sum(axis=2) == 0)[:, ::3].all()
    assert (np.ptp(drawn("none", "constant_rows")["x"], axis=-1) == 0).all()
    assert (drawn("none", "lognormal")["x"] > 0).all()
    with pytest.raises(ValueError, match="expected none, binary"):
        drawn("some", "normal")


def test_the_leaderboards_shapes_and_those_that_nobody_has_seen() -> None:
    assert len(cases.TESTS) == 18 and len(cases.BENCHMARKS) == 7
    assert sum(case.distribution == "cauchy" for case in cases.TESTS) == 7
    assert sum(case.mask == "binary" for case in cases.TESTS) == 7
    assert {case.n for case in cases.TESTS} == {32, 64, 128, 256, 768, 1024}
    for seen, unseen in (((*cases.TESTS, *cases.BENCHMARKS), cases.UNSEEN), (cases.SMALL, cases.SMALL_UNSEEN)):
        assert not set(seen) & set(unseen)
        assert {case.mask for case in unseen} >= {"fractional", "empty_rows"}
        assert {case.distribution for case in unseen} >= {"constant_rows", "lognormal", "cauchy"}
        assert any(case.dim == 192 for case in unseen) and any(case.bs == 3 for case in unseen)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_share_no_shape_and_have_no_labels(seed: int) -> None:
    task = loading.load("trimul")
    public = task.public(seed)
    prompts = [item.prompt for split in (public.train, public.dev, public.test) for item in split]
    assert set(prompts) == {case.text for case in cases.SMALL} and len(public.train) == 25
    folds = {example.fold: example.prompt for example in public.train}
    assert len(folds) == 5 and all(folds[example.fold] == example.prompt for example in public.train)
    assert not {item.prompt for item in public.train} & {item.prompt for item in (*public.dev, *public.test)}
    assert task.labels(seed) == task.gold(seed) == {} and task.solved is None and task.needs == ()
    assert data.workload_of(public.dev[0]) in data.neighbours(public.dev[0])
    assert data.splits(seed) != data.splits(seed + 1)


def test_the_verifier_for_a_gpu_says_what_it_needs() -> None:
    task = loading.load("trimul")
    assert task.with_verifier(task.verifier_text("cuda"), "cuda").needs == ("cuda",)


def test_a_run_that_needs_a_gpu_is_refused_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(capabilities.HAS, "cuda", lambda: False)
    order = RunOrder(task="trimul", levers="both", seed=0, generations=1, budget="", verifier="cuda")
    with pytest.raises(Misconfigured, match=r"needs a CUDA device.*leave --verifier out, as trimul/cpu-1 needs none"):
        orders.check(order, Node(tmp_path))


def test_a_schedule_of_the_references_words_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    shape = Workload(5, 2, 12, "binary")
    inputs = draw(shape, 3)
    true = reference(inputs)
    weights = {name: torch.from_numpy(array) for name, array in inputs.items() if name not in ("x", "mask")}
    arguments = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["mask"]), weights, {"dim": 12, "hidden_dim": 128}
    margins = {}
    for words in (
        "apart einsum f32 masked",
        "joined bmm f32 masked",
        "joined rows f32 masked",
        "apart bmm mixed masked",
    ):
        made: dict[str, Any] = {}
        exec(schedule.source(words) or "", made)
        out = made["custom_kernel"](arguments)
        assert out.dtype == torch.float32
        margins[words] = compare(out.numpy(), true).margin
    *exact, coarse = margins.values()
    assert max(exact) < 0.01 < coarse, margins
    exec(schedule.source("apart bmm f32 unmasked") or "", made)
    assert compare(made["custom_kernel"](arguments).numpy(), true).margin > 1


@pytest.mark.parametrize("words", ["", "apart einsum f32", "apart einsum bf16 masked", "einsum apart f32 masked"])
def test_what_is_no_schedule_has_no_source(words: str) -> None:
    assert schedule.source(words) is None


def test_policy_and_scaffold_know_the_same_words() -> None:
    assert data.WORDS == schedule.PLACES
    assert all(schedule.source(words) for _, words in data.traces(0, 50))


def case(
    candidate: list[int], theirs: list[int], null: int, margin: float = 0.1, wrong: int = 0
) -> measure.Measurement:
    repeats = [
        {"seed": 0, "size": 4, "candidate": ours, "reference": other, "null": null}
        for ours, other in zip(candidate, theirs, strict=True)
    ]
    found = [(workloads.Difference(wrong, margin), 1000)] * len(repeats)
    return measure.judged([{"workload": list(SMALLEST[0]), "repeats": repeats, "clocks": ["", ""]}], found)


def test_the_reward_is_the_references_time_over_the_kernels_without_what_a_call_costs_anyhow() -> None:
    measured = case([1_000_000, 4_000_000, 3_000_000, 9_000_000], [1, 9_000_000, 5_000_000, 6_000_000], 1_000_000)
    scored = measure.speedup(measured, measured.cases)  # the first repeat warms up; (5 - 1) / (3 - 1), of the least
    assert scored.reward == pytest.approx(2.0) and scored.outcome == "fast" and scored.interval is None
    slow, fast = [5_000_000] * 3, [3_000_000] * 3
    measured = case([1, *slow, *fast], [1, *fast, *fast], 1_000_000)
    scored = measure.speedup(measured, measured.cases)  # two blocks: 2/4 and 2/2
    assert scored.reward == pytest.approx(0.5**0.5) and scored.outcome == "slow"
    assert scored.interval == pytest.approx(measure.interval([0.5, 1.0]))


def test_no_kernel_takes_no_time_at_all() -> None:
    measured = case([0, 1_000_000], [0, 5_000_000], 1_000_001)
    assert measured.cases[0].candidate == pytest.approx((20.0,))


def test_one_wrong_element_earns_nothing() -> None:
    measured = case([2, 2], [9, 9], 1, margin=1.5, wrong=1)
    scored = measure.speedup(measured, measured.cases)
    assert (scored.reward, scored.outcome) == (0, "wrong")
    assert "2 of 2,000 elements" in scored.details and "1.5 times what is allowed" in scored.details


def test_the_score_on_a_gpu_is_1500_over_microseconds() -> None:
    times = [
        measure.CaseTimes(shape, (us, us), (), 0, 10, 0.5, ("", "1980 MHz"))
        for shape, us in zip(SMALLEST, (500.0, 2000.0), strict=True)
    ]
    scored = verifier_cuda.speed(measure.Measurement("", "", tuple(times)))
    assert scored.reward == pytest.approx(1.5) and scored.outcome == "fast" and "1980 MHz" in scored.details
    assert scored.interval == pytest.approx((1.5, 1.5))


def test_intervals_are_students_of_logarithms() -> None:
    low, high = measure.interval([1.0, np.e**2]) or (0, 0)
    assert np.log([low, high]) == pytest.approx([1 - 12.706, 1 + 12.706], rel=1e-3)
    assert measure.interval([1.0]) is None


@pytest.mark.parametrize(
    ("ran", "outcome"),
    [
        (ProgramRun(-1, "", "", 1.0, failure="it took longer than 60 s"), "failed_to_run"),
        (ProgramRun(-9, "", "started\n", 1.0), "failed_to_run"),
        (
            ProgramRun(0, json.dumps({"outcome": "failed_to_compile", "details": "line 1"}), "", 1.0),
            "failed_to_compile",
        ),
    ],
)
def test_what_failed_has_an_outcome(ran: ProgramRun, outcome: str) -> None:
    assert measure.read(ran)["outcome"] == outcome


@pytest.mark.parametrize(("errors", "words"), [("unprotected", "Landlock"), ("No module named 'torch'", "torch")])
def test_a_host_that_cannot_time_judges_nothing(errors: str, words: str) -> None:
    with pytest.raises(NotHere, match=words):
        measure.read(ProgramRun(1, "", errors, 1.0))
    with pytest.raises(NotHere, match="tools"):
        verifier.score(ITEM, planted.REFERENCE, None, None)


def test_the_reference_answer_is_the_reference_kernel() -> None:
    item = data.load(data.default_root(), 0).dev[0]
    assert data.reference_answer(item, None) == text("reference")


def test_no_answer_is_no_program() -> None:
    assert verifier.score(ITEM, None, None, None).outcome == verifier_cuda.score(ITEM, "", None, None).outcome
    assert verifier.score(ITEM, None, None, None).outcome == "failed_to_compile"


def test_the_edit_asks_again() -> None:
    (edit,) = catalogue.EDITS
    assert "TRIES = 3\n" in edit.apply(loading.load("trimul").scaffold())["agent.py"]
    with pytest.raises(Misconfigured, match="TRIES"):
        edit.apply({"agent.py": ""})
    seen, earned = (
        Evidence(
            dev=0,
            unparsed=0,
            pass_at_1=0,
            pass_at_k=0,
            attempts=8,
            tied_groups=0,
            labels=0,
            offered=0,
            recall=0,
            wrong_though_offered=0,
            train_items=25,
            rewarded=rewarded,
        )
        for rewarded in (0.6, 0.95)
    )
    assert "40%" in (edit.applies(seen) or "") and edit.applies(earned) is None


def sandboxed(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A program of the sandbox's, imported as it is there."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(Path(measure.__file__).with_name("sandboxed")))
    return importlib.import_module(name)


def test_the_program_that_checks_on_a_gpu_agrees_with_the_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    module = sandboxed("workload_cuda", monkeypatch)
    inputs = draw(Workload(5, 2, 8, "fractional"), 4)
    true = reference(inputs).reshape(10, 5, 8)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    assert module.reference_parts(tensors, [[1, 0, 3], [7, 2, 5]]).numpy() == pytest.approx(
        np.concatenate([true[1, 0:3], true[7, 2:5]])
    )
    assert module.reference_parts(tensors, []).numpy() == pytest.approx(true.reshape(-1, true.shape[-1]))


def test_what_is_compared_of_a_gpus_outputs_fits_what_a_program_may_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = sandboxed("layout", monkeypatch)
    for asked, repeats in ((cases.TESTS, 1), (cases.BENCHMARKS, verifier_cuda.REPEATED), (cases.UNSEEN, 1)):
        limit = measure.SAMPLED["cuda"] // (len(asked) * (1 + repeats))
        total = 0
        for workload in asked:
            parts = layout.drawn_parts(workload.bs * workload.n, workload.n, workload.dim, limit)
            sizes = [4 * workload.dim * (to - at) for _, at, to in parts]
            assert 0 < sum(sizes) <= limit and all(0 <= at < to <= workload.n for _, at, to in parts)
            total += (1 + repeats) * sum(sizes)
        assert total <= 64 << 20  # FILES of runtime/effects/tool_runner.py


def test_inputs_lie_behind_each_other_in_the_shared_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = sandboxed("layout", monkeypatch)
    places = layout.offsets(Workload(3, 1, 5, "binary"))
    assert (places["x"], places["mask"], places["norm.weight"]) == (0, 256, 512)  # 180 and 72 bytes
    assert places["end"] - places["out"] == 3 * 3 * 5 * 4


def outcome_of(source: str, shapes: tuple[Workload, ...] = SMALLEST, repeats: int = 2) -> measure.Measurement:
    return measure.measure(TOOLS, source, shapes, (repeats,) * len(shapes))


@pytest.mark.slow
def test_a_kernel_is_checked_and_timed_in_the_sandbox() -> None:
    pytest.importorskip("torch")
    found = outcome_of(planted.REFERENCE)
    assert found.outcome == "" and [len(each.candidate) for each in found.cases] == [2, 2]
    assert all(each.compared == 3 * 8 * 8 * 16 and each.margin < 0.01 for each in found.cases)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("IN_A_THREAD", "wrong", "elements"),
        ("BY_POINTER", "wrong", "elements"),
        ("IN_THE_HARNESS", "failed_to_run", "Permission"),
        ("OVER_THE_OUTPUTS", "failed_to_run", "file of its outputs"),
        ("AGAINST_THE_REFERENCE", "", ""),
    ],
)
def test_a_planted_kernel_gets_what_it_deserves(name: str, outcome: str, words: str) -> None:
    pytest.importorskip("torch")
    found = outcome_of(getattr(planted, name))
    assert found.outcome == outcome and words in found.details, found


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("NO_PROGRAM", "failed_to_compile", "SyntaxError"),
        ("RAISES", "failed_to_run", "line 2: ValueError: no such tile"),
        ("PATCHED_CHECKS", "wrong", "elements"),
        ("NO_ENTRY", "failed_to_compile", "custom_kernel"),
        ("DIES", "failed_to_run", "by itself"),
        ("KILLS", "failed_to_run", ""),
        ("FILLS", "failed_to_run", ""),
        ("OTHER_TYPE", "failed_to_run", "expected torch.float32"),
        ("REPLAY", "wrong", "elements"),
        ("INPUT", "wrong", "elements"),
        ("COARSE", "wrong", "elements"),
        ("UNMASKED", "wrong", "mask binary"),
        ("ON_ITS_OUTPUT", "failed_to_run", "Permission"),
    ],
)
def test_another_planted_kernel_gets_what_it_deserves(name: str, outcome: str, words: str) -> None:
    found = outcome_of(getattr(planted, name))
    assert found.outcome == outcome and words in found.details, found


@pytest.mark.long
@pytest.mark.parametrize("name", ["LAZY", "PATCHED_CLOCKS", "SLOW", "IN_A_PROCESS"])
def test_time_that_a_kernel_hides_is_counted(name: str) -> None:
    scored = verifier.score(ITEM, getattr(planted, name), None, TOOLS)
    assert (scored.outcome, scored.reward > 0.0) == ("slow", True), scored


@pytest.mark.long
def test_what_is_right_only_where_it_is_timed_has_no_gold() -> None:
    item = loading.load("trimul").public(0).dev[0]
    assert verifier.score(item, planted.FOR_THESE_SHAPES, None, TOOLS).outcome in ("slow", "fast")
    assert gold.score(item, planted.FOR_THESE_SHAPES, None, TOOLS) == 0
    assert gold.score(item, planted.REFERENCE, None, TOOLS) > 0
    assert gold.margin(item, planted.REFERENCE, None, TOOLS) < 0.01


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("joined", (Workload(64, 1, 128),)),  # at smaller ones bfloat16 comes near the tolerance
        ("tiled", (Workload(32, 1, 128, "binary"), Workload(33, 2, 64, "none", "cauchy"))),
    ],
)
def test_our_own_kernels_are_right(name: str, shapes: tuple[Workload, ...]) -> None:
    """The one in Triton runs under its interpreter: its semantics are shown, and nothing of its speed."""
    found = outcome_of(text(name), shapes, 1)
    assert found.outcome == "" and max(each.margin for each in found.cases) < 1, found
