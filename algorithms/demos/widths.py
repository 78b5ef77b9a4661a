"""What a few optimiser steps on noise do to bases of several widths: `python -m algorithms.demos.widths`.

Each base is a Llama with random weights. It samples some answers, these get random rewards, and GRPO goes over them a
few times. Nothing can be learned, so what has moved is the step size alone.
"""

from collections.abc import Iterator, Mapping, Sequence

import click
import msgspec
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from algorithms.learning import algorithm
from algorithms.learning.batch import REFERENCE_WIDTH, Rollout, Step
from algorithms.learning.update import settings, update
from algorithms.models.causal_lm import CausalTrainee, linear_layers

VOCABULARY, HEAD, PROMPT, LENGTH, GROUP, GROUPS = 256, 64, 8, 12, 8, 2
"""Tokens of the vocabulary; the width of a head; tokens of the prompt and of an answer; answers and groups."""
GATED = 8 / 3
"""The width of a feed-forward layer over the base's, Llama's."""


class TokenNumbers:
    """A tokenizer whose texts are token ids, such as "3 14"."""

    name = "random"

    def encode(self, prompt: str, plain: bool = False) -> tuple[int, ...]:
        """The ids of a prompt."""
        return tuple(map(int, prompt.split()))

    def encode_completion(self, text: str) -> tuple[int, ...]:
        """The ids of a completion."""
        return self.encode(text)

    def encode_choices(self, choices: Sequence[str], plain: bool = False) -> tuple[int, ...]:
        """The first id of each choice."""
        return tuple(self.encode(choice)[0] for choice in choices)


def random_base(width: int, layers: int, seed: int) -> CausalTrainee:
    """A Llama of this hidden size with random weights, under a fresh adapter."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        intermediate_size=int(width * GATED),
        max_position_embeddings=PROMPT + LENGTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return CausalTrainee(TokenNumbers(), model, linear_layers(model), None, seed)


def noise(base: CausalTrainee, seed: int) -> list[Rollout]:
    """Answers that the base sampled, with random rewards."""
    draw = torch.Generator().manual_seed(seed)
    prompt = torch.randint(VOCABULARY, (PROMPT,), generator=draw)
    ids = prompt.repeat(GROUP * GROUPS, 1)
    with torch.no_grad():
        for _ in range(LENGTH):
            chances = torch.softmax(base.model(ids, logits_to_keep=1).logits[:, -1], 1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], 1)
    rollouts = [
        Rollout(
            group=str(row // GROUP),
            item="noise",
            prompt=" ".join(map(str, prompt.tolist())),
            tokens=tuple(tokens),
            logprobs=(0.0,) * LENGTH,
            reward=float(torch.rand((), generator=draw)),
        )
        for row, tokens in enumerate(ids[:, PROMPT:].tolist())
    ]
    with torch.no_grad():
        logp = base.outputs(rollouts).logp
    return [
        msgspec.structs.replace(rollout, logprobs=tuple(row))
        for rollout, row in zip(rollouts, logp.tolist(), strict=True)
    ]


def after(steps: int, width: int, layers: int, hyper: Mapping[str, float], seed: int = 0) -> Step:
    """The report of the step that comes after `steps` steps on noise; `hyper` are GRPO's that differ from defaults."""
    base = random_base(width, layers, seed)
    order = {**hyper, "epochs": steps + 1.0}
    return update(base, algorithm("grpo"), noise(base, seed), order, seed=seed, parent="").steps[steps]


def rows(widths: tuple[int, ...], layers: int, steps: int) -> Iterator[str]:
    """A row of a table for each width: by the rate that all bases once had, by the default without warm-up, and by the
    default.
    """
    yield f"| width | layers | learning rate | warm-up | KL after {steps} steps | tokens out of the clip range |"
    yield "|---|---|---|---|---|---|"
    for width in widths:
        ways: list[dict[str, float]] = [{}]
        if width > REFERENCE_WIDTH:
            ways = [{"lr": 1e-3, "warmup": 0}, {"warmup": 0}, {}]
        for hyper in ways:
            found, step = settings(algorithm("grpo"), hyper, width), after(steps, width, layers, hyper)
            yield (
                f"| {width} | {layers} | {found['lr']:.3g} | {found['warmup']:g} | {step.kl_to_base:.3f} | "
                f"{step.clip_share:.0%} |"
            )


@click.command()
@click.option("--width", "widths", multiple=True, type=click.IntRange(HEAD), default=(128, 576, 896, 2048))
@click.option("--layers", default=2, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=4, show_default=True, type=click.IntRange(1))
def main(widths: tuple[int, ...], layers: int, steps: int) -> None:
    """Print what a few steps on noise do to random bases of several widths."""
    for row in rows(widths, layers, steps):
        click.echo(row)


if __name__ == "__main__":
    main()
