"""What an agent is told of the policy that its scaffold asks: kind, size, what it understands, choices and bias,
context and price.
"""

import json
from pathlib import Path
from typing import Any

from events.run import RunStarted

_BIAS = (
    "`bias` is added to the choices' logits, in nats at temperature 1: a bias of 1 multiplies a choice's odds against "
    "the others by 2.7, one of 3 by 20, one of 6 by 400."
)
_FREE = "It runs on this machine: its calls cost no money. Tokens and rollouts count in the run's budget."


def policy_text(started: RunStarted) -> str:
    """The policy of a run, in sentences."""
    kind, weights = started.policy, "weights" in started.levers
    trained = (
        "Weight updates train a LoRA adapter of rank 32 on it."
        if weights
        else "Its weights stay as they are: the run has no such lever."
    )
    length = f"A completion has at most {started.max_tokens} tokens."
    match kind:
        case "text-scorer":
            said = (
                "text-scorer: a linear classifier over hashed character n-grams, with a head of low rank whose scores "
                "start from the labels' names. It is no language model: it follows no instructions and reads no "
                "examples; whatever words stand in the prompt count alike. A completion is always one of the task's "
                "labels, in one token, and the prompt may have any length. So the levers over it are which text it "
                f"is given, which labels are on offer (`choices`), and `bias`. {_BIAS}"
            )
        case "tiny-lm":
            said = (
                "tiny-lm: a transformer of 0.8 million parameters with a tokenizer of its own, pre-trained on "
                "traces of this task and on nothing else. It goes on as those traces do, and follows no instructions: "
                "prompts of another form than the task's own give noise. Its context is 512 tokens, prompt and "
                f"completion. With `choices` it picks one of them. {_BIAS} {length}"
            )
        case _:
            said = f"{_model(kind)} {_BIAS} {length}"
    return f"{said} {trained} {_FREE}"


def _model(kind: str) -> str:
    name = kind.removeprefix("hf:")
    config = _config(Path(name))
    size = _size(config)
    context = config.get("max_position_embeddings")
    chat = any(word in name.lower() for word in ("instruct", "chat", "-it", "smollm2"))
    follows = (
        "Its name says that it is trained to follow instructions; small ones do so poorly, so keep them short."
        if chat
        else "Its name does not say that it follows instructions: show the form of the answer, and try it with "
        "`ask_policy`."
    )
    return (
        f"{name}: a language model of transformers{size}, which reads a prompt as a user's turn in its chat template, "
        f"or with `plain=True` as a text that goes on. {follows}"
        + (f" Its context holds {context:,} tokens, prompt and completion." if isinstance(context, int) else "")
        + " It takes each choice by its first token, so choices must begin differently."
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _size(config: dict[str, Any]) -> str:
    """About how many parameters a configuration makes, by the usual shape of a decoder."""
    hidden, layers, words = (config.get(name) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    if not (isinstance(hidden, int) and isinstance(layers, int) and isinstance(words, int)):
        return ""
    between = config.get("intermediate_size")
    inner = between if isinstance(between, int) else 4 * hidden
    millions = (layers * (4 * hidden**2 + 3 * hidden * inner) + words * hidden) / 1e6
    return f" of about {millions:,.0f} million parameters" if millions >= 1 else " of less than a million parameters"
