"""A base that two processes split by FSDP2 against the whole one in one process, on the same rollouts and weights.

Each process runs this file.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.distributed.fsdp import FSDPModule  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from algorithms.demos import toys  # noqa: E402
from algorithms.learning import NAMES  # noqa: E402
from algorithms.learning import algorithm as find_algorithm  # noqa: E402
from algorithms.learning.batch import Hyper, Rollout, Step  # noqa: E402
from algorithms.learning.update import update  # noqa: E402
from algorithms.models import causal_lm  # noqa: E402
from algorithms.models.tiny_lm import TinyLM  # noqa: E402
from events.errors import CheckFailed  # noqa: E402
from runtime.policies import hf, sharding, training_process  # noqa: E402
from runtime.policies.interface import SampleRequest  # noqa: E402
from runtime.policies.training import (  # noqa: E402
    Sources,
    TrainingAttempt,
    TrainingCall,
    TrainingOrder,
    TrainingResult,
    launch,
    open_trainee,
    train,
)
from tests.harness.adapters import move_adapter  # noqa: E402
from tests.harness.architectures import SHAPES  # noqa: E402

HERE = Path(__file__)
LAYERS = 4
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 63,  # which two processes do not halve
    "tie_word_embeddings": True,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("Qwen3", SHAPE),
    **{name: (name, shape) for name, (shape, _) in SHAPES.items()},
}
"""The models of a room: the one that is trained, and one of each architecture."""
CASES: dict[str, tuple[str, str, str]] = {
    **{name: (name, "base", "") for name in NAMES},
    "activations computed again": ("grpo", "base", "1"),
    "tiny-lm": ("ppo", "words", ""),
}
"""What is trained: the algorithm, the base, and EVOLOG_CHECKPOINTING of the processes that split it."""
HYPER: Hyper = {"lr": 5e-5, "mismatch": 1e3, "batch_groups": 2.0, "epochs": 2.0, "forward_tokens": 128.0}
PROMPTS = ("one", "what comes next", "and then what comes after that" * 3)
"""The last is so long that one process reads it once for all of its answers."""


def accelerate_file(folder: Path, processes: int = 2, **fsdp: object) -> Path:
    path = folder / "accelerate.yaml"
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP",
        "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True, **fsdp},
        "num_machines": 1,
        "num_processes": processes,
        "use_cpu": True,
    }
    path.write_text(json.dumps(config))  # which is YAML too
    return path


def made(folder: Path, words: Path, name: str, shape: dict[str, Any]) -> None:
    """The base folder of a random model of this architecture, at `folder`, with the model beside it.

    It has the tokenizer of the folder `words`.
    """
    model = folder.with_name(f"{folder.name}.model")
    shutil.copytree(words, model)
    (model / "base.json").unlink()
    size = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    config = getattr(transformers, f"{name}Config")(
        vocab_size=size, max_position_embeddings=128, bos_token_id=None, eos_token_id=3, **shape
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config).save_pretrained(model)
    hf.write_base(str(model), folder)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases, adapters that are some way from them, and rollouts; `words` is a tiny-lm with the tokenizer of all."""
    room = tmp_path_factory.mktemp("room")
    TinyLM.pretrain(toys.traces(0, 200), seed=0, steps=1).save(room / "words")
    for name, (kind, shape) in MODELS.items():
        made(room / name, room / "words", kind, shape)
    for base in ("words", "base"):
        entry: Any = open_trainee(room / base, None, 1, False)
        move_adapter(entry.model, 0.02, seed=0)
        entry.save(room / f"{base}.entry", "card")
    (room / "rollouts").write_bytes(msgspec.msgpack.encode(batch(entry)))
    return room


def batch(model: Any) -> list[Rollout]:
    """11 answers of many lengths in 3 groups, with all that any algorithm asks for."""
    draw = torch.Generator().manual_seed(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 250, (count,), generator=draw).tolist())

    bare = [
        Rollout(
            group=f"g{place % 3}",
            item=f"i{place % 3}",
            prompt=PROMPTS[place % 3],
            tokens=tokens(3 + (place * 5) % 8),
            real=tokens(4),
            logprobs=(),
            reward=(place * 7) % 11 / 10,
            hint=" of them",
            answer="aab"[place // 3 % 3],
        )
        for place in range(11)
    ]
    with torch.no_grad():
        logp = model.outputs(bare).logp
    logp += 0.2 * torch.randn(logp.shape, generator=draw)
    return [
        msgspec.structs.replace(r, logprobs=tuple(logp[row, : len(r.tokens)].tolist())) for row, r in enumerate(bare)
    ]


def rollouts_in(room: Path) -> list[Rollout]:
    return msgspec.msgpack.decode((room / "rollouts").read_bytes(), type=list[Rollout])


def learned(room: Path, case: str, opened: Callable[..., Any], into: Path) -> Any:
    """Train: the steps, weights and state of this case in the folder `into`; returns the trained model."""
    name, base, _ = CASES[case]
    found = find_algorithm(name)
    own = "copies" not in found.needs
    rollouts = [msgspec.structs.replace(rollout, own=own) for rollout in rollouts_in(room)]
    model = opened(room / base, room / f"{base}.entry", 0, found.critic)
    sharded = model
    if opened is sharding.open_sharded:
        assert model._checkpointing == bool(CASES[case][2])
        sharding.sum_gradients([*model.adapter, *model.critic])
        sharded = sharding.ShardedModel(model)
    result = update(sharded, found, rollouts, HYPER, seed=5, parent="")
    (into / f"{case}.steps").write_bytes(msgspec.json.encode(result.steps))
    weights = {f"weight.{at}": each.detach() for at, each in enumerate([*model.adapter, *model.critic])}
    save_file({**result.state, **weights}, into / f"{case}.safetensors")
    return model


def looked_at(room: Path, opened: Callable[..., Any], into: Path) -> None:
    """Log-probabilities of each architecture's own, of two rows and of one."""
    for name in MODELS:
        model = opened(room / name, None, 0, False)
        sharded = sharding.ShardedModel(model) if opened is sharding.open_sharded else model
        with torch.no_grad():
            seen = [sharded.outputs(rollouts_in(room)[:count], base=True).logp for count in (11, 1)]
        save_file({str(each.shape[0]): each for each in seen}, into / f"{name}.logp")


def share(room: Path, rank: int, count: int) -> None:
    """What one of two processes does: each algorithm's update, and looks at each architecture."""
    into = room / str(rank)
    into.mkdir()
    causal_lm.LOGITS = 2000  # of a few tokens, so that the processes compute different numbers of parts
    looked_at(room, sharding.open_sharded, into)
    for case, (_, _, checkpointing) in CASES.items():
        os.environ[hf.CHECKPOINTING] = checkpointing
        model = learned(room, case, sharding.open_sharded, into)
        if case == "ppo":
            look_at_weights(model, into / "held")


def look_at_weights(model: Any, into: Path) -> None:
    """Which weights of the base this process holds, in a file."""
    base = model.model.get_base_model()
    layers: list[Any] = [each for each in base.modules() if isinstance(each, FSDPModule) and each is not base]
    whole: list[list[int]] = []

    def look(*_: object) -> None:
        whole.append([at for at, each in enumerate(layers) if not all(map(split, frozen(each)))])

    for layer in layers:
        layer.self_attn.register_forward_hook(look)
    rollouts = [Rollout(group="", item="", prompt="one", tokens=(5, 6), logprobs=(), reward=0.0)] * 2
    sharding.ShardedModel(model).outputs(rollouts).logp.sum().backward()
    held = {
        "layers": len(layers),
        "whole while each computes": whole,
        "whole afterwards": [name for name, each in frozen_named(base) if not split(each)],
        "all": sum(each.numel() for each in frozen(base)),
        "mine": sum(each.to_local().numel() for each in frozen(base)),
    }
    into.write_text(json.dumps(held))


def split(weight: Any) -> bool:
    return isinstance(weight, DTensor)


def frozen(module: Any) -> list[Any]:
    return [each for _, each in frozen_named(module)]


def frozen_named(module: Any) -> list[tuple[str, Any]]:
    return [(name, each) for name, each in module.named_parameters() if not each.requires_grad]


@pytest.fixture(scope="module")
def both(room: Path) -> Path:
    """What one process and each of two made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE.parent))
        launch(accelerate_file(room), room, HERE.stem)
    (room / "alone").mkdir()
    looked_at(room, open_trainee, room / "alone")
    for case in CASES:
        learned(room, case, open_trainee, room / "alone")
    return room


def furthest(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert set(mine) == set(theirs)
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_that_split_the_base_take_the_steps_of_one(case: str, both: Path) -> None:
    alone, first, second = (load_file(both / who / f"{case}.safetensors") for who in ("alone", "0", "1"))
    assert furthest(first, second) == 0
    assert furthest(alone, first) < 1e-5
    base = CASES[case][1]
    fresh: Any = open_trainee(both / base, both / f"{base}.entry", 0, False)
    went = {f"weight.{at}": each.detach() for at, each in enumerate(fresh.adapter)}
    assert furthest(went, {key: alone[key] for key in went}) > 8e-5
    one, two = (
        msgspec.json.decode((both / who / f"{case}.steps").read_bytes(), type=list[Step]) for who in ("alone", "0")
    )
    assert len(one) == len(two) >= 2
    for mine, theirs in zip(one, two, strict=True):
        for field in set(Step.__struct_fields__) - {"seconds"}:
            assert getattr(theirs, field) == pytest.approx(getattr(mine, field), rel=1e-4, abs=1e-5), field


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_that_is_split_gives_its_own_log_probabilities(name: str, both: Path) -> None:
    alone, first, second = (load_file(both / who / f"{name}.logp") for who in ("alone", "0", "1"))
    assert furthest(first, second) == 0
    assert furthest(alone, first) < 1e-5
    assert float(alone["11"].abs().max()) > 1


@pytest.mark.slow
def test_each_process_holds_half_of_the_base_and_one_whole_layer_at_a_time(both: Path) -> None:
    for rank in ("0", "1"):
        held = json.loads((both / rank / "held").read_text())
        assert held["layers"] == LAYERS
        assert held["whole while each computes"] == [[at] for at in range(LAYERS)]
        assert held["whole afterwards"] == []
        assert held["mine"] == pytest.approx(held["all"] / 2, rel=0.02)


def round_of(
    room: Path, out: Path, algorithm: str, accelerate: Path | None, after: Path | None = None, base: str = "base"
) -> TrainingResult:
    out.mkdir()
    attempts = [
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
    order = TrainingOrder(
        base=room / base,
        parent="parent",
        parent_folder=after / "adapter" if after else None,
        state=after / "state" if after else None,
        algorithm=algorithm,
        hyper=HYPER,
        seed=1,
        about={"events": "none"},
        accelerate=accelerate,
    )
    return train(order, attempts, Sources(str, lambda items: {}), out / "adapter", out / "state")


@pytest.mark.slow
def test_a_round_by_two_processes_leaves_what_one_does_and_one_goes_on_from_it(room: Path, tmp_path: Path) -> None:
    one = round_of(room, tmp_path / "one", "ppo", None)
    two = round_of(room, tmp_path / "two", "ppo", accelerate_file(tmp_path))
    assert (one.processes, two.processes, two.back_end, two.trained_on) == (1, 2, "native", 11)
    for name in ("adapter/README.md", "adapter/adapter_config.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    assert [canary.prompt for canary in one.canary] == [canary.prompt for canary in two.canary]
    for mine, theirs in zip(one.canary, two.canary, strict=True):
        assert mine.tokens == theirs.tokens and theirs.logprobs == pytest.approx(mine.logprobs, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["adapter", "state"]
    for who in ("one", "two"):
        round_of(room, tmp_path / f"{who} after", "ppo", None, tmp_path / who)
    for rounds in ("", " after"):
        for file in ("adapter/adapter_model.safetensors", "state"):
            assert furthest(*(load_file(tmp_path / f"{who}{rounds}" / file) for who in ("one", "two"))) < 1e-5


def failing(room: Path, rank: int, count: int) -> None:
    """The process of rank 1 fails, or is killed, where that of rank 0 waits for it."""
    sharding.gather(rank)
    if rank == 1:
        if (room / "kill").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        raise CheckFailed("why, and what next.")
    sharding.gather(rank)


def launch_failing(room: Path) -> None:
    (room / "failing").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE.parent))
        launch(accelerate_file(room), room, HERE.stem)


@pytest.mark.slow
def test_the_failure_of_one_process_ends_all_and_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"^why, and what next\.$"):
        launch_failing(tmp_path)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    with pytest.raises(RuntimeError, match=r"(?s)accelerate launch with .* ended with code 1:.*SIGKILL"):
        launch_failing(tmp_path)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    training_process.main(folder, failing if (folder / "failing").exists() else share)
