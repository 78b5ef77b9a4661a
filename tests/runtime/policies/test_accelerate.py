"""Several processes under an accelerate configuration against one, on the same recorded batch and weights.

Each process runs this file.
"""

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.harness.polling import wait_until

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file, save_file  # noqa: E402

from algorithms.demos import toys  # noqa: E402
from algorithms.learning import algorithm as find_algorithm  # noqa: E402
from algorithms.learning.batch import Algorithm, Hyper, NothingToLearn, Rollout, Selection, Step, Vote  # noqa: E402
from algorithms.learning.update import minibatches, prepare  # noqa: E402
from algorithms.models.tiny_lm import TinyLM, TinyTrainee  # noqa: E402
from events.errors import CheckFailed, Misconfigured  # noqa: E402
from runtime.policies import training_process, trl_backend  # noqa: E402
from runtime.policies.interface import SampleRequest  # noqa: E402
from runtime.policies.training import (  # noqa: E402
    RERAISED,
    Sources,
    TrainingAttempt,
    TrainingCall,
    TrainingOrder,
    TrainingResult,
    launch,
    raise_failure,
    train,
)
from services.host.settings import accelerate_config  # noqa: E402
from tests.harness.adapters import move_adapter  # noqa: E402

HERE = Path(__file__)
COMMON: Hyper = {"lr": 5e-5, "mismatch": 1e3, "max_grad_norm": 1e9, "batch_groups": 5, "epochs": 1}
CASES: dict[str, tuple[str, Hyper]] = {
    "mean over tokens": ("grpo", {"kl": 0.3, "kl_target": 1e-3}),
    "mean within each answer": ("grpo", {"kl": 0.3, "token_mean": 0}),
    "over a constant length": ("dr_grpo", {"kl": 0.3, "length": 7.5}),
    "weighted": ("entropic", {}),
    "pairs": ("dpo", {"beta": 0.7, "batch_groups": 2}),
    "cloning": ("best_of_n", {"best": 2}),
}


def algorithm(name: str) -> Algorithm:
    """The algorithm, with each row a unit of its own where they are not pairs: so minibatches are of an odd number of
    rows, and of one.
    """
    found = find_algorithm(name)

    def select(rollouts: Sequence[Rollout], hyper: Hyper) -> Selection:
        of = found.select(rollouts, hyper)
        return (
            of if of.units else msgspec.structs.replace(of, units=tuple((place,) for place in range(len(of.rollouts))))
        )

    return msgspec.structs.replace(found, select=select)


def batch(model: TinyTrainee) -> list[Rollout]:
    """11 answers of many lengths in 3 groups."""
    draw = torch.Generator().manual_seed(3)
    bare = [
        Rollout(
            group=f"g{place % 3}",
            item=f"i{place % 3}",
            prompt="what comes" + " next and then" * (place % 3),
            tokens=tuple(torch.randint(4, 250, (3 + (place * 5) % 8,), generator=draw).tolist()),
            logprobs=(),
            reward=(place * 7) % 11 / 10,
        )
        for place in range(11)
    ]
    with torch.no_grad():
        logp = model.outputs(bare).logp
    logp += 0.2 * torch.randn(logp.shape, generator=draw)
    return [
        msgspec.structs.replace(r, logprobs=tuple(logp[row, : len(r.tokens)].tolist())) for row, r in enumerate(bare)
    ]


def updates(room: Path, into: Path) -> None:
    """Each case's update of the room's adapter: its steps, and its weights with what steers them."""
    gc.collect()
    gc.freeze()  # each train() collects garbage, among all that torch and trl have imported
    entry = TinyTrainee(TinyLM.load(room / "base"), room / "entry", seed=0)
    into.mkdir()
    for case, (name, hyper) in CASES.items():
        model = copy.copy(entry)
        model.model = copy.deepcopy(entry.model)
        done = trl_backend.update(model, algorithm(name), rollouts_in(room), {**COMMON, **hyper}, seed=5, parent="")
        (into / case).write_bytes(msgspec.json.encode(done.steps))
        weights = torch.cat([parameter.detach().flatten() for parameter in model.adapter])
        save_file({"weights": weights, "kl": done.state.get("kl", torch.zeros(()))}, into / f"{case}.safetensors")
    gc.unfreeze()


def rollouts_in(room: Path) -> list[Rollout]:
    return msgspec.msgpack.decode((room / "rollouts").read_bytes(), type=list[Rollout])


def accelerate_file(folder: Path, kind: str = "MULTI_CPU", processes: int = 2) -> Path:
    path = folder / "accelerate.yaml"
    path.write_text(f"distributed_type: '{kind}'\nnum_processes: {processes}\nuse_cpu: true\n")
    return path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter that is some way from it, and rollouts."""
    room = tmp_path_factory.mktemp("room")
    base = TinyLM.pretrain(toys.traces(0, 2000), seed=0, steps=10)
    base.save(room / "base")
    entry = TinyTrainee(base, None, seed=1)
    move_adapter(entry.model, 0.02, seed=0)
    entry.save(room / "entry", "card")
    (room / "rollouts").write_bytes(msgspec.msgpack.encode(batch(entry)))
    return room


@pytest.fixture(scope="module")
def both(room: Path) -> Path:
    """What one process and each of two made of all cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE.parent))
        launch(accelerate_file(room), room, HERE.stem)
    updates(room, room / "alone")
    return room


def steps(folder: Path, case: str) -> list[Step]:
    return msgspec.json.decode((folder / case).read_bytes(), type=list[Step])


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(case: str, both: Path) -> None:
    alone, first, second = (load_file(both / name / f"{case}.safetensors") for name in ("alone", "0", "1"))
    assert torch.equal(first["weights"], second["weights"]) and torch.equal(first["kl"], second["kl"])
    entry = TinyTrainee(TinyLM.load(both / "base"), both / "entry", seed=0)
    went = alone["weights"] - torch.cat([parameter.detach().flatten() for parameter in entry.adapter])
    assert float(went.abs().max()) > 4e-5
    assert float((alone["weights"] - first["weights"]).abs().max()) < 1e-5
    assert float(first["kl"]) == pytest.approx(float(alone["kl"]), rel=1e-5)
    one, two = steps(both / "alone", case), steps(both / "0", case)
    assert len(one) == len(two) >= 2
    for mine, theirs in zip(one, two, strict=True):
        for field in set(Step.__struct_fields__) - {"seconds"}:
            assert getattr(theirs, field) == pytest.approx(getattr(mine, field), rel=1e-5, abs=1e-5), field


@pytest.mark.parametrize("case", CASES)
def test_the_cases_hold_minibatches_that_do_not_divide_and_of_one(case: str, room: Path) -> None:
    name, hyper = CASES[case]
    entry = TinyTrainee(TinyLM.load(room / "base"), room / "entry", seed=0)
    ready = prepare(entry, algorithm(name), rollouts_in(room), {**COMMON, **hyper}, parent="")
    width = 2 if name == "dpo" else 1
    units = {len(places) // width for places in minibatches(ready.selected, ready.hyper, 5)}
    assert units == ({1, 2} if name == "dpo" else {1, 5})


def attempts(room: Path) -> list[TrainingAttempt]:
    return [
        TrainingAttempt(
            id=str(place),
            group=r.group,
            item=r.item,
            adapter="parent",
            answer="",
            reward=r.reward,
            calls=(TrainingCall(SampleRequest(prompt=r.prompt), r.tokens, r.logprobs),),
        )
        for place, r in enumerate(rollouts_in(room))
    ]


def round_of(room: Path, out: Path, accelerate: Path | None, state: Path | None = None) -> TrainingResult:
    out.mkdir()
    order = TrainingOrder(
        base=room / "base",
        parent="parent",
        parent_folder=room / "entry",
        state=state,
        algorithm="grpo",
        hyper={"lr": 1e-4, "epochs": 1.0, "mismatch": 1e3},
        seed=1,
        about={"events": "none"},
        back_end="trl",
        accelerate=accelerate,
    )
    return train(order, attempts(room), Sources(str, lambda items: {}), out / "adapter", out / "state")


@pytest.mark.long
def test_a_round_by_two_processes_leaves_what_one_does(room: Path, tmp_path: Path) -> None:
    one = round_of(room, tmp_path / "one", None)
    two = round_of(room, tmp_path / "two", accelerate_file(tmp_path))
    assert (one.processes, two.processes, two.back_end, two.trained_on) == (1, 2, "trl", 11)
    for name in ("adapter/adapter_model.safetensors", "state"):
        mine, theirs = (load_file(tmp_path / by / name) for by in ("one", "two"))
        assert set(mine) == set(theirs)
        assert max(float((mine[key].double() - theirs[key].double()).abs().max()) for key in mine) < 1e-5
    for name in ("adapter/README.md", "adapter/adapter_config.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    for first, second in zip(one.canary, two.canary, strict=True):
        assert second.logprobs == pytest.approx(first.logprobs, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["adapter", "state"]


@pytest.mark.long
def test_what_a_user_did_wrong_comes_out_of_a_launch_as_it_was_said(room: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no tensors")
    with pytest.raises(
        CheckFailed, match=r"^The training state state is damaged \(.*\); order the update without it\.$"
    ):
        round_of(room, tmp_path / "out", accelerate_file(tmp_path, "NO", 1), tmp_path / "state")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_launch_that_ends_without_a_word_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)^accelerate launch with .* ended with code 1:.*No module named 'nowhere'"
    ):
        launch(accelerate_file(tmp_path, "NO", 1), tmp_path, "nowhere.at.all")


VOTES = (Vote(group="g", item="i", answer="4", votes=2, answers=3),)
WRONGS = [
    NothingToLearn("why, and what next.", VOTES),
    *(kind("why, and what next.") for kind in RERAISED if kind is not NothingToLearn),
]


@pytest.mark.parametrize("wrong", WRONGS, ids=lambda wrong: type(wrong).__name__)
def test_an_error_is_the_same_after_it_was_written_and_read(wrong: Exception, tmp_path: Path) -> None:
    training_process.write_failure(tmp_path, wrong)
    training_process.write_failure(tmp_path, ValueError("the other process is gone"))
    with pytest.raises(type(wrong), match=str(wrong)) as raised:
        raise_failure(tmp_path)
    assert type(raised.value) is type(wrong) and getattr(raised.value, "votes", ()) == getattr(wrong, "votes", ())


def test_an_error_that_nobody_expects_is_named(tmp_path: Path) -> None:
    training_process.write_failure(tmp_path, MemoryError("8 GiB"))
    with pytest.raises(RuntimeError, match=r"^MemoryError: 8 GiB$"):
        raise_failure(tmp_path)


ORPHANED = """
from pathlib import Path
from runtime.policies.training import launch
launch(Path("accelerate.yaml"), Path.cwd(), "asleep")
"""
ASLEEP = """
import os, sys, time
from pathlib import Path
from runtime.policies import training_process
def asleep(room, rank, count):
    (room / f"pid.{rank}").write_text(str(os.getpid()))
    time.sleep(600)
training_process.main(Path(sys.argv[1]), asleep)
"""


FSDP2 = "{distributed_type: FSDP, fsdp_config: {fsdp_version: 2}}"


def ended(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_processes_end_with_the_one_that_launched_them(tmp_path: Path) -> None:
    accelerate_file(tmp_path)
    (tmp_path / "asleep.py").write_text(ASLEEP)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[3]), str(tmp_path)])}
    parent = subprocess.Popen([sys.executable, "-c", ORPHANED], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: len(list(tmp_path.glob("pid.*"))) == 2, "both ranks are asleep", 60)
        ranks = [int(path.read_text()) for path in tmp_path.glob("pid.*")]
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: all(map(ended, ranks)), "both ranks have ended", 60)


@pytest.mark.parametrize(
    ("trainer", "text", "words"),
    [
        (
            "native",
            "distributed_type: MULTI_GPU",
            r"is .*accelerate\.yaml and the trainer is native; set EVOLOG_TRAINER=trl too, or unset",
        ),
        ("trl", None, r"cannot be read \(.*No such file.*\); write one with `accelerate config`"),
        ("trl", "a: [", r"cannot be read \(while parsing .*\); write one with"),
        ("trl", "- MULTI_GPU", "holds no YAML mapping; write one with"),
        (
            "trl",
            "distributed_type: DEEPSPEED",
            r"has distributed_type 'DEEPSPEED'; expected one of 'NO', 'MULTI_CPU', 'MULTI_GPU', in which each",
        ),
        ("native", "distributed_type: DEEPSPEED", "or 'FSDP' of version 2, in which each holds a part"),
        ("trl", FSDP2, r"splits the model, and each process of trl needs the whole; set EVOLOG_TRAINER=native, or"),
        ("native", "distributed_type: FSDP", "and fsdp_version None; expected fsdp_version 2"),
        ("native", "{distributed_type: FSDP, fsdp_config: 2}", "and fsdp_version None; expected fsdp_version 2"),
        ("native", FSDP2.replace("version: 2", "version: 1"), "and fsdp_version 1; expected fsdp_version 2"),
        ("native", FSDP2.replace("2}", "2, fsdp_offload_params: true}"), "has fsdp_offload_params True; expected fal"),
        (
            "native",
            FSDP2.replace("2}", "2, fsdp_activation_checkpointing: 'true'}"),
            r"has fsdp_activation_checkpointing 'true'; expected false: EVOLOG_CHECKPOINTING=1 does that\.",
        ),
        ("native", FSDP2.replace("{dist", "{num_machines: 2, dist"), "has num_machines 2; expected 1, since training"),
        (
            "native",
            FSDP2.replace("{dist", "{parallelism_config: {parallelism_config_tp_size: 2}, dist"),
            "has parallelism_config_tp_size 2; expected 1",
        ),
        ("trl", "num_processes: 8", "has distributed_type None; expected one of"),
        (
            "trl",
            "{distributed_type: MULTI_GPU, num_machines: 2}",
            "has num_machines 2; expected 1, since training goes over",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_in_words(
    trainer: str, text: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / "accelerate.yaml").write_text(text)
    monkeypatch.setenv("EVOLOG_TRAINER", trainer)
    monkeypatch.setenv("EVOLOG_ACCELERATE", str(tmp_path / "accelerate.yaml"))
    with pytest.raises(Misconfigured, match=words):
        accelerate_config()


def test_a_configuration_is_optional_and_found_from_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLOG_TRAINER", "trl")
    assert accelerate_config() is None
    accelerate_file(tmp_path, "MULTI_GPU", 8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVOLOG_ACCELERATE", "accelerate.yaml")
    assert accelerate_config() == tmp_path / "accelerate.yaml"


def test_the_native_trainer_takes_a_configuration_that_splits_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(
        "{distributed_type: FSDP, num_machines: 1, fsdp_config: {fsdp_version: 2, fsdp_offload_params: false}, "
        "parallelism_config: {parallelism_config_dp_shard_size: 8, parallelism_config_tp_size: 1}}"
    )
    monkeypatch.setenv("EVOLOG_ACCELERATE", str(path))
    assert accelerate_config() == path
    monkeypatch.setenv("EVOLOG_TRAINER", "native")
    assert accelerate_config() == path


if __name__ == "__main__":
    training_process.main(Path(sys.argv[1]), lambda room, rank, count: updates(room, room / str(rank)))
