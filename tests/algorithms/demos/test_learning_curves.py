"""Every algorithm learns its toy with the tiny language model; where the best is rare, weighing it escapes what traps
the mean, in a group that is large enough.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

import click
import pytest

pytest.importorskip("peft")

from algorithms import learning
from algorithms.demos import curves, toys
from algorithms.models import tiny_lm
from tests.harness.paths import ROOT

T7 = 2.365
"""The 97.5 % quantile of Student's t with seven degrees of freedom."""


@pytest.fixture(scope="module")
def base(models: Path) -> Iterator[tiny_lm.TinyLM]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(models))
        yield curves.base_model()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, toy, rounds, hyper, gain",
    [
        pytest.param("ppo", toys.dense(), 5, {}, 0.1, marks=pytest.mark.long),
        ("grpo", toys.dense(), 5, {}, 0.1),
        pytest.param("dr_grpo", toys.dense(), 5, {}, 0.1, marks=pytest.mark.long),
        pytest.param("rloo", toys.dense(), 5, {}, 0.1, marks=pytest.mark.long),
        pytest.param("reinforce", toys.dense(), 5, {}, 0.1, marks=pytest.mark.long),
        pytest.param("entropic", toys.dense(), 5, {}, 0.1, marks=pytest.mark.long),
        ("best_of_n", toys.dense(), 4, {"best": 8.0}, 0.1),
        ("dpo", toys.dense(), 5, {"epochs": 4.0}, 0.07),
        pytest.param("spin", toys.dense(), 5, {"epochs": 4.0}, 0.05, marks=pytest.mark.long),
        pytest.param("gspo", toys.dense(), 7, {}, 0.1, marks=pytest.mark.long),
        pytest.param("max_rl", toys.quiz(), 4, {}, 0.2, marks=pytest.mark.long),
        ("opsd", toys.dense(), 5, {}, 0.1),
        pytest.param("ttrl", toys.quiz(), 4, {}, 0.2, marks=pytest.mark.long),
        ("star", toys.sparse(), 2, {}, 0.3),
        ("test_time", toys.shifted(), 4, {"epochs": 4.0, "lr": 2e-3}, 0.1),
    ],
)
def test_each_algorithm_learns_its_toy(
    base: tiny_lm.TinyLM, name: str, toy: toys.Toy, rounds: int, hyper: dict[str, float], gain: float
) -> None:
    star = name == "star"
    curve_of = list(curves.learn(name, toy, base, seed=0, rounds=rounds, hyper=hyper, restart=star, hints=star))
    assert curve_of[-1].reward > curve_of[0].reward + gain, [round(one.reward, 3) for one in curve_of]
    assert curve_of[-1].kl > 0


def test_the_curves_cover_every_algorithm() -> None:
    marks = [mark for mark in vars(test_each_algorithm_learns_its_toy)["pytestmark"] if mark.name == "parametrize"]
    assert {getattr(row, "values", row)[0] for row in marks[0].args[1]} == set(learning.NAMES)


@pytest.mark.slow
def test_a_curve_is_the_same_for_a_seed_and_another_for_another(base: tiny_lm.TinyLM) -> None:
    one, same, other = (
        [r.reward for r in curves.learn("ppo", toys.dense(), base, seed=s, rounds=2, hyper={})] for s in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.slow
def test_a_round_with_nothing_to_learn_from_says_so_and_changes_nothing(base: tiny_lm.TinyLM) -> None:
    sparse = toys.sparse(target=(0, 99))
    rounds = list(curves.learn("grpo", sparse, base, seed=0, rounds=2, hyper={}))
    assert rounds[0].note.startswith("In each of 1 groups") and rounds[2].kl == 0.0


@pytest.mark.long
def test_the_module_draws_its_curve_and_writes_it_to_a_file(models: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "algorithms.learning.grpo",
        "--rounds",
        "2",
        "--plot",
        str(tmp_path / "curves.png"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(models)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "grpo on the toy dense, seed 0: reward" in done.stdout and "KL to base" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_plot_that_cannot_be_written_is_a_sentence(base: tiny_lm.TinyLM, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="The plot could not be written"):
        curves.save_picture(
            "title",
            list(curves.learn("grpo", toys.dense(), base, seed=0, rounds=1, hyper={})),
            tmp_path / "no" / "such.png",
        )


def played(name: str, toy_name: str, seed: int, rounds: int, group: int) -> list[float]:
    """The rewards of one curve, in a process of its own."""
    toy, base = getattr(toys, toy_name)(), curves.base_model()
    curve_of = curves.learn(name, toy, base, seed=seed, rounds=rounds, hyper={}, group=group)
    return [one.reward for one in curve_of]


def final_rewards(
    models: Path, name: str, toy: str, rounds: int, seeds: int = 8, group: int = curves.SAMPLES
) -> list[float]:
    """The mean reward of the last three rounds for each seed, with 64 answers a round in groups of `group`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(models))
        curves.base_model()
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            runs = [pool.submit(played, name, toy, seed, rounds, group) for seed in range(seeds)]
            return [fmean(run.result()[-3:]) for run in runs]


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % t interval of the mean of eight."""
    half = T7 * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


@pytest.mark.long
@pytest.mark.parametrize("group", [4, 8, 16, 64])
def test_entropic_weighting_escapes_the_basin_that_traps_grpo_in_one_group_of_64_alone(
    models: Path, group: int
) -> None:
    grpo, entropic = (final_rewards(models, name, "deceptive", 25, group=group) for name in ("grpo", "entropic"))
    print(f"\ndeceptive, 25 rounds, 8 seeds, groups of {group}: grpo {report(grpo)}, entropic {report(entropic)}")
    assert sum(reward < 0.6 for reward in grpo) >= 4
    if group == 64:
        assert interval(entropic)[0] > interval(grpo)[1] and sum(reward > 0.8 for reward in entropic) >= 7
    else:
        assert sum(reward < 0.6 for reward in entropic) >= 4


@pytest.mark.long
def test_on_binary_rewards_the_two_do_not_differ(models: Path) -> None:
    grpo, entropic = (final_rewards(models, name, "sparse", 40) for name in ("grpo", "entropic"))
    print(f"\nsparse, 40 rounds, 8 seeds: grpo {report(grpo)}, entropic {report(entropic)}")
    low, high = interval([a - b for a, b in zip(entropic, grpo, strict=True)])
    print(f"entropic - grpo, seed by seed: [{low:.3f}, {high:.3f}]")
    assert low > -0.1 and high < 0.1


def report(rewards: list[float]) -> str:
    low, high = interval(rewards)
    return f"{fmean(rewards):.3f} [{low:.3f}, {high:.3f}] ({json.dumps([round(reward, 2) for reward in rewards])})"
