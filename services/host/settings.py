"""The settings that services read from the environment."""

import importlib.util
import math
import os
from pathlib import Path

from events.errors import Misconfigured
from events.kinds import BackEnd
from runtime.log.worker import HOST_PATIENCE
from runtime.rollouts.host import ScaffoldLimits

IDLE_TIMEOUT_VARIABLE = "EVOLOG_SCAFFOLD_SILENCE"
HOST_PATIENCE_VARIABLE = "EVOLOG_HOST_PATIENCE"
SCORING_LIMIT_VARIABLE = "EVOLOG_VERIFIER_SECONDS"
TRAINER_VARIABLE = "EVOLOG_TRAINER"
ACCELERATE_VARIABLE = "EVOLOG_ACCELERATE"
DATA_PARALLEL = ("NO", "MULTI_CPU", "MULTI_GPU")
"""The ways of accelerate in which each process holds the whole model."""


def trainer_back_end() -> BackEnd:
    """Whose trainer does the gradient work where both can, as EVOLOG_TRAINER says; raises Misconfigured for one that
    there is not.
    """
    match os.environ.get(TRAINER_VARIABLE) or "native":
        case "native":
            return "native"
        case "trl":
            if importlib.util.find_spec("trl") is None:
                raise Misconfigured(
                    f"{TRAINER_VARIABLE} is trl, and trl is not installed: pip install 'evolog[train]'."
                )
            return "trl"
        case value:
            raise Misconfigured(f"{TRAINER_VARIABLE} is {value!r}; expected native or trl.")


def accelerate_config() -> Path | None:
    """The accelerate configuration under which trl's gradient work is launched, as EVOLOG_ACCELERATE names it; None for
    none.

    Raises Misconfigured for one that cannot be used, and where the back end is not trl.
    """
    value = os.environ.get(ACCELERATE_VARIABLE)
    if not value:
        return None
    if (back_end := trainer_back_end()) != "trl":
        raise Misconfigured(
            f"{ACCELERATE_VARIABLE} is {value} and the trainer is {back_end}; "
            f"set {TRAINER_VARIABLE}=trl too, or unset {ACCELERATE_VARIABLE}."
        )
    yaml = importlib.import_module("yaml")
    path = Path(value).resolve()
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as wrong:
        why = " ".join(str(wrong).split())
        raise Misconfigured(
            f"{ACCELERATE_VARIABLE} is {value}, which cannot be read ({why}); write one with `accelerate config`."
        ) from wrong
    if not isinstance(config, dict):
        raise Misconfigured(
            f"{ACCELERATE_VARIABLE} is {value}, which holds no YAML mapping; write one with `accelerate config`."
        )
    if (kind := config.get("distributed_type")) not in DATA_PARALLEL:
        raise Misconfigured(
            f"{value} has distributed_type {kind!r}; expected one of {', '.join(map(repr, DATA_PARALLEL))}, in which "
            "each process holds "
            "the whole model: write one with `accelerate config`."
        )
    if (machines := config.get("num_machines", 1)) != 1:
        raise Misconfigured(
            f"{value} has num_machines {machines!r}; expected 1, since training goes over the devices of one host."
        )
    return path


def scaffold_limits() -> ScaffoldLimits:
    """What scaffolds may use; EVOLOG_SCAFFOLD_SILENCE sets the longest, in seconds, that one may go without a word.

    Raises `Misconfigured` where that is no number of seconds.
    """
    return ScaffoldLimits(idle_timeout=_seconds(IDLE_TIMEOUT_VARIABLE, ScaffoldLimits().idle_timeout))


def host_patience() -> float:
    """Seconds for which work is tried again where its host lacks a blob, a model or a task's data.

    Raises `Misconfigured` where EVOLOG_HOST_PATIENCE is no number of seconds.
    """
    return _seconds(HOST_PATIENCE_VARIABLE, HOST_PATIENCE)


def scoring_limit() -> float | None:
    """Seconds that a verifier may take for one answer, whatever its task says; None leaves it to the task.

    Raises `Misconfigured` where EVOLOG_VERIFIER_SECONDS is no number of seconds.
    """
    return _seconds(SCORING_LIMIT_VARIABLE, 0.0) if SCORING_LIMIT_VARIABLE in os.environ else None


def _seconds(variable: str, default: float) -> float:
    value = os.environ.get(variable)
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise Misconfigured(
            f"{variable} is {value!r}; expected seconds above 0, such as {default:g}: correct it, or unset it."
        )
    return seconds
