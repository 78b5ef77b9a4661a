"""Learning curves: an algorithm trains the tiny language model on its toy. Run as `python -m algorithms.learning.NAME`.

A round: sample 64 answers  ->  reward  ->  one weight update.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from algorithms.demos import toys
from algorithms.demos.toys import Toy, ToyQuestion
from algorithms.learning import algorithm as find
from algorithms.learning import test_time
from algorithms.learning.batch import Hyper, NothingToLearn, Rollout, demonstration
from algorithms.learning.update import TrainingState, update
from algorithms.models import sampling, tiny_lm
from algorithms.models.cache import cache_folder
from events.fact import derive_seed

SAMPLES = 64
"""Answers of a round, in equal parts for each question."""
TRACES_SEED = 0
"""The seed of the traces that the base policy is pre-trained on."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the curve: the mean and best reward of a round's answers, which were sampled before its update.

    `kl` (to the base) and `entropy` are of the last optimiser step so far, in nats a token. `note` says why there was
    no update, where there was none.
    """

    round: int
    reward: float
    best: float
    kl: float
    entropy: float
    seconds: float
    note: str = ""


def base_model(progress: Callable[[int, int, float], None] = lambda done, total, loss: None) -> tiny_lm.TinyLM:
    """The base policy of all toys.

    It is pre-trained once for a machine and cached; `progress` is as in `TinyLM.pretrain`.
    """
    return tiny_lm.TinyLM.load(tiny_lm.pretrain_cached(toys.traces(TRACES_SEED), cache_folder(), progress))


def learn(
    name: str,
    toy: Toy,
    base: tiny_lm.TinyLM,
    *,
    seed: int,
    rounds: int,
    hyper: Hyper,
    restart: bool = False,
    hints: bool = False,
    group: int = SAMPLES,
) -> Iterator[Round]:
    """The rounds of a run, from 0 to `rounds`; the last one samples and does not update.

    The answers of a question are compared in groups of `group`. With `restart`, every update starts from the base. With
    `hints`, questions that nobody answered rightly are asked again with the answer in sight, as STaR does. An algorithm
    that learns from copies of an item trains an adapter for each item; its rounds are means over them.
    """
    options: dict[str, Any] = {
        **{"seed": seed, "rounds": rounds, "hyper": hyper, "restart": restart, "hints": hints, "group": group}
    }
    if "copies" in find(name).needs and len(toy.questions) > 1:
        each = [learn(name, Toy(toy.name, (question,)), base, **options) for question in toy.questions]
        yield from map(_mean, zip(*each, strict=True))
        return
    algorithm = find(name)
    model = tiny_lm.TinyTrainee(base, None, derive_seed(seed, "adapter"), algorithm.critic)
    state: TrainingState | None = None
    kl, entropy = 0.0, 0.0
    for number in range(rounds + 1):
        began = time.perf_counter()
        sampler = model.sampler()
        count = SAMPLES // len(toy.questions)
        sampled = [
            r
            for question in toy.questions
            for r in answer_question(sampler, base, question, derive_seed(seed, number), count, number, group=group)
        ]
        rewards, note = [r.reward for r in sampled], ""
        if number < rounds:
            batch = sampled
            if hints:
                batch = batch + answer_with_hints(
                    sampler, base, toy, sampled, derive_seed(seed, "hint", number), number
                )
            if "copies" in algorithm.needs:
                batch = [copy for question in toy.questions for copy in demonstration_copies(base, question)]
            if restart:
                model, state = tiny_lm.TinyTrainee(base, None, derive_seed(seed, "adapter"), algorithm.critic), None
            parent = "" if restart else str(number)
            try:
                result = update(
                    model,
                    algorithm,
                    batch,
                    hyper,
                    seed=derive_seed(seed, "training", number),
                    parent=parent,
                    state=state,
                )
                state, kl, entropy = result.state, result.steps[-1].kl_to_base, result.steps[-1].entropy
            except NothingToLearn as nothing:
                note = str(nothing)
        seconds = time.perf_counter() - began
        mean = sum(rewards) / len(rewards)
        yield Round(round=number, reward=mean, best=max(rewards), kl=kl, entropy=entropy, seconds=seconds, note=note)


def _mean(rounds: Sequence[Round]) -> Round:
    def mean(field: str) -> float:
        return fmean(getattr(point, field) for point in rounds)

    return Round(
        round=rounds[0].round,
        reward=mean("reward"),
        best=max(point.best for point in rounds),
        kl=mean("kl"),
        entropy=mean("entropy"),
        seconds=sum(point.seconds for point in rounds),
        note=" ".join(point.note for point in rounds if point.note),
    )


def answer_question(
    sampler: sampling.Sampler,
    base: tiny_lm.TinyLM,
    question: ToyQuestion,
    seed: int,
    count: int,
    version: int,
    hint: str = "",
    group: int = SAMPLES,
) -> list[Rollout]:
    """`count` sampled answers to a question, each `group` of them a group.

    Given with a hint, they do not count as the policy's own.
    """
    prompt = base.encode(question.prompt + hint)
    completions = sampler.sample(
        [sampling.CompletionRequest(prompt=prompt, seed=seed, index=index, max_tokens=16) for index in range(count)]
    )
    return [
        Rollout(
            group=f"{question.prompt} {index // group}",
            item=question.prompt,
            prompt=question.prompt,
            tokens=completion.tokens,
            logprobs=completion.logprobs,
            reward=question.score(completion.text),
            answer=completion.text,
            real=base.encode_completion(question.truth),
            hint=hint_of(question),
            adapter=str(version),
            own=not hint,
        )
        for index, completion in enumerate(completions)
    ]


def hint_of(question: ToyQuestion) -> str:
    """The text that shows the true answer after the question's prompt."""
    return f" near {question.truth}"


def answer_with_hints(
    sampler: sampling.Sampler, base: tiny_lm.TinyLM, toy: Toy, sampled: Sequence[Rollout], seed: int, version: int
) -> list[Rollout]:
    """Answers, given with the true one in sight, to the questions that `sampled` has no right answer to."""
    solved = {r.item for r in sampled if r.reward >= 1}
    unsolved = [question for question in toy.questions if question.prompt not in solved]
    return [
        r
        for q in unsolved
        for r in answer_question(sampler, base, q, seed, SAMPLES // len(toy.questions), version, hint_of(q))
    ]


def demonstration_copies(base: tiny_lm.TinyLM, question: ToyQuestion) -> list[Rollout]:
    """The question's demonstrations, and copies of them with all numbers moved, as rollouts to learn from."""
    augment = [partial(toys.move_pair, by=by) for by in (-9, -5, 5, 9)]
    pairs = test_time.copies(question.demonstrations, lambda context, question: question, augment)
    return [demonstration(question.prompt, prompt, base.encode_completion(completion)) for prompt, completion in pairs]


def main(
    name: str, toy: Toy, *, rounds: int = 20, hyper: Hyper | None = None, restart: bool = False, hints: bool = False
) -> None:
    """The command line of an algorithm's module: run it on a toy and print the curve."""

    @click.command(help=f"Run {name} on a toy and draw reward and KL.")
    @click.option("--seed", default=0, show_default=True, help="Of the adapter, the samples and the minibatches.")
    @click.option(
        "--rounds", "count", default=rounds, show_default=True, type=click.IntRange(1), help="Weight updates."
    )
    @click.option("--toy", "toy_name", default=toy.name, show_default=True, type=click.Choice(toys.NAMES))
    @click.option(
        "--group",
        default=SAMPLES,
        show_default=True,
        type=click.IntRange(1),
        help="Answers that are compared with each other.",
    )
    @click.option(
        "--plot",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the curve to this file too (.png, .svg, .pdf).",
    )
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a round on stdout, and no drawing.")
    def command(seed: int, count: int, toy_name: str, group: int, plot: Path | None, as_json: bool) -> None:
        if plot and not plot.parent.is_dir():
            raise click.BadParameter(
                f"there is no folder {plot.parent}; give a file in one that is there", param_hint="--plot"
            )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        curve: list[Round] = []
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("pre-training the tiny language model", total=None)
            base = base_model(lambda done, total, loss: progress.update(task, completed=done, total=total))
            progress.reset(task, description=name, total=count + 1)
            chosen = toy if toy_name == toy.name else getattr(toys, toy_name)()
            options: dict[str, Any] = {"hyper": hyper or {}, "restart": restart, "hints": hints, "group": group}
            for point in learn(name, chosen, base, seed=seed, rounds=count, **options):
                curve.append(point)
                progress.update(task, advance=1, description=f"{name}: reward {point.reward:.3f}, KL {point.kl:.3f}")
                if as_json:
                    click.echo(msgspec.json.encode(point).decode())
        title = f"{name} on the toy {toy_name}, seed {seed}"
        if not as_json:
            print_curve(title, curve)
        if plot:
            save_picture(title, curve, plot)

    command()


def print_curve(title: str, rounds: Sequence[Round]) -> None:
    """Print reward and KL by round in the terminal."""
    import plotext

    numbers = [point.round for point in rounds]
    for label, values, colour in (
        ("reward", [r.reward for r in rounds], "green"),
        ("KL to base, nats a token", [r.kl for r in rounds], "orange"),
    ):
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plot_size(90, 14)
        plotext.title(f"{title}: {label}")
        plotext.plot(numbers, values, color=colour, marker="braille")
        click.echo(plotext.build())
    first, last = rounds[0], rounds[-1]
    idle = sum(bool(point.note) for point in rounds)
    click.echo(
        f"{title}: reward {first.reward:.3f} -> {last.reward:.3f} in {len(rounds) - 1} rounds of {SAMPLES} answers, "
        f"KL {last.kl:.3f}, "
        f"{sum(point.seconds for point in rounds):.1f} s"
        + (f"; {idle} rounds had nothing to learn from" if idle else "")
    )


def save_picture(title: str, rounds: Sequence[Round], path: Path) -> None:
    """Save reward and KL by round as a picture; raises ClickException where the file cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    numbers = [point.round for point in rounds]
    upper.plot(numbers, [point.reward for point in rounds], color="tab:green")
    upper.set(title=title, ylabel="mean reward")
    lower.plot(numbers, [point.kl for point in rounds], color="tab:orange")
    lower.set(xlabel="round", ylabel="KL to base, nats a token")
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as wrong:
        raise click.ClickException(
            f"The plot could not be written to {path} ({wrong}); give --plot a .png, .svg or .pdf in a folder that "
            "is there."
        ) from wrong
    click.echo(f"wrote {path}", err=True)
