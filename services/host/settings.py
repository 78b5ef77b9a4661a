"""The settings that services read from the environment."""

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.errors import Misconfigured
from events.kinds import BackEnd

if TYPE_CHECKING:
    from runtime.rollouts.host import ScaffoldLimits

IDLE_TIMEOUT_VARIABLE = "EVOLOG_SCAFFOLD_SILENCE"
HOST_PATIENCE_VARIABLE = "EVOLOG_HOST_PATIENCE"
SCORING_LIMIT_VARIABLE = "EVOLOG_VERIFIER_SECONDS"
START_ATTEMPTS_VARIABLE = "EVOLOG_START_ATTEMPTS"
CACHE_VARIABLE = "EVOLOG_BLOB_CACHE"
START_ATTEMPTS = 16
"""Most attempts at each test item that the auditor asks of a run's start, unless that is set. For LawBench they are a
sixth of what a run plays itself.
"""
REPLICAS_VARIABLE = "EVOLOG_NATS_REPLICAS"
TRAINER_VARIABLE = "EVOLOG_TRAINER"
ACCELERATE_VARIABLE = "EVOLOG_ACCELERATE"
VARIABLES = frozenset(
    {
        IDLE_TIMEOUT_VARIABLE,
        HOST_PATIENCE_VARIABLE,
        SCORING_LIMIT_VARIABLE,
        START_ATTEMPTS_VARIABLE,
        REPLICAS_VARIABLE,
        TRAINER_VARIABLE,
        ACCELERATE_VARIABLE,
        "EVOLOG_ALLOW_UNSANDBOXED",
        CACHE_VARIABLE,
        "EVOLOG_CGROUP",
        "EVOLOG_CHECKPOINTING",
        "EVOLOG_DIR",
        "EVOLOG_ENGINE_URL",
        "EVOLOG_EXECUTOR_JITTER",
        "EVOLOG_LOG_LEVEL",
        "EVOLOG_NATS_SERVER",
        "EVOLOG_NATS_URL",
        "EVOLOG_POLICY_URL",
        "EVOLOG_PRICES",
        "EVOLOG_READY_FD",
        "EVOLOG_SANDBOX_ALLOW",
    }
)
"""All variables of evolog that are read, but for those that set a command's flags. Another one is mistyped."""
FOR_TESTS = "EVOLOG_TEST_"
"""Begins the names of variables that tests give to their own programs."""
DATA_PARALLEL = ("NO", "MULTI_CPU", "MULTI_GPU")
"""The ways of accelerate in which each process holds the whole model."""
SPLIT = "FSDP"
"""The way of accelerate in which each process holds a part of the model."""
NOT_SPLIT = {
    "offload_params": "weights stay on the devices, so name more of them as num_processes",
    "cpu_offload": "weights stay on the devices, so name more of them as num_processes",
    "activation_checkpointing": "EVOLOG_CHECKPOINTING=1 does that",
}
"""What a configuration may ask of FSDP and does not get, with advice."""


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
    """The accelerate configuration under which gradient work is launched, as EVOLOG_ACCELERATE names it; None for none.

    One of DATA_PARALLEL goes with trl, one that splits the model with the native back end. Raises Misconfigured for one
    that cannot be used, or not with this back end.
    """
    value = os.environ.get(ACCELERATE_VARIABLE)
    if not value:
        return None
    back_end = trainer_back_end()
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
    match config.get("distributed_type"):
        case kind if kind in DATA_PARALLEL:
            if back_end != "trl":
                raise Misconfigured(
                    f"{ACCELERATE_VARIABLE} is {value} and the trainer is {back_end}; set {TRAINER_VARIABLE}=trl too, "
                    f"or unset {ACCELERATE_VARIABLE}. The native trainer takes {SPLIT} alone, of version 2."
                )
        case kind if kind == SPLIT:
            if back_end != "native":
                raise Misconfigured(
                    f"{ACCELERATE_VARIABLE} is {value}, which splits the model, and each process of {back_end} needs "
                    f"the whole; set {TRAINER_VARIABLE}=native, or {ACCELERATE_VARIABLE} to a file of MULTI_GPU."
                )
            _require_plain_split(value, config)
        case kind:
            raise Misconfigured(
                f"{value} has distributed_type {kind!r}; expected one of {', '.join(map(repr, DATA_PARALLEL))}, in "
                f"which each process holds the whole model, or {SPLIT!r} of version 2, in which each holds a part: "
                "write one with `accelerate config`."
            )
    if (machines := config.get("num_machines", 1)) != 1:
        raise Misconfigured(
            f"{value} has num_machines {machines!r}; expected 1, since training goes over the devices of one host."
        )
    return path


def _require_plain_split(value: str, config: Mapping[str, Any]) -> None:
    """Raise Misconfigured for a configuration that asks for more than FSDP2 itself, or for FSDP1, or where there is no
    accelerate.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise Misconfigured(
            f"{ACCELERATE_VARIABLE} is {value}, and accelerate is not installed: pip install 'evolog[train]'."
        )
    ways = {str(key).removeprefix("fsdp_"): way for key, way in _mapping(config.get("fsdp_config")).items()}
    if str(version := ways.get("version")) != "2":
        raise Misconfigured(
            f"{value} has distributed_type {SPLIT!r} and fsdp_version {version!r}; expected fsdp_version 2 in its "
            "fsdp_config, since FSDP1 and DeepSpeed are not supported: write one with `accelerate config`."
        )
    for name, advice in NOT_SPLIT.items():
        if str(ways.get(name, False)).lower() not in ("false", "none"):
            raise Misconfigured(f"{value} has fsdp_{name} {ways[name]!r}; expected false: {advice}.")
    for name, size in _mapping(config.get("parallelism_config")).items():
        if str(name).endswith("_size") and "dp_shard" not in name and size not in (None, 1):
            raise Misconfigured(
                f"{value} has {name} {size!r}; expected 1, since all processes split the model, and only so."
            )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def scaffold_limits() -> "ScaffoldLimits":
    """What scaffolds may use; EVOLOG_SCAFFOLD_SILENCE sets the longest, in seconds, that one may go without a word.

    Raises `Misconfigured` where that is no number of seconds.
    """
    from runtime.rollouts.host import ScaffoldLimits  # every command knows these settings, and few use them

    return ScaffoldLimits(idle_timeout=_seconds(IDLE_TIMEOUT_VARIABLE, ScaffoldLimits().idle_timeout))


def host_patience() -> float:
    """Seconds for which work is tried again where its host lacks a blob, a model or a task's data.

    Raises `Misconfigured` where EVOLOG_HOST_PATIENCE is no number of seconds.
    """
    from runtime.log.worker import HOST_PATIENCE

    return _seconds(HOST_PATIENCE_VARIABLE, HOST_PATIENCE)


def scoring_limit() -> float | None:
    """Seconds that a verifier may take for one answer, whatever its task says; None leaves it to the task.

    Raises `Misconfigured` where EVOLOG_VERIFIER_SECONDS is no number of seconds.
    """
    return _seconds(SCORING_LIMIT_VARIABLE, 0.0) if SCORING_LIMIT_VARIABLE in os.environ else None


def start_attempts() -> int:
    """Most attempts at each test item that the auditor asks of a run's start; 0: none.

    Raises `Misconfigured` where EVOLOG_START_ATTEMPTS is no such number.
    """
    return whole_number(
        START_ATTEMPTS_VARIABLE, START_ATTEMPTS, f"of attempts, such as {START_ATTEMPTS}, or 0 for none"
    )


def replicas(nats_url: str | None) -> int:
    """On how many servers of a cluster each stream stands, as EVOLOG_NATS_REPLICAS says it: 1, 3 or 5.

    Raises `Misconfigured` for another number, and for several with the embedded server (no `nats_url`), which is alone.
    """
    count = whole_number(REPLICAS_VARIABLE, 1, "of servers: 1, 3 or 5")
    if count not in (1, 3, 5):
        raise Misconfigured(f"{REPLICAS_VARIABLE} is {count}; expected 1, 3 or 5: an even number bears no more losses.")
    if count > 1 and not nats_url:
        raise Misconfigured(
            f"{REPLICAS_VARIABLE} is {count}, and the embedded nats-server is alone: name the servers of your cluster "
            "with --nats tls://A:4222,tls://B:4222,tls://C:4222, or unset it."
        )
    return count


def whole_number(variable: str, default: int, kind: str) -> int:
    """The whole number that a variable holds; raises `Misconfigured` where it holds something else. `kind` says what it
    is a number of, with an example.
    """
    value = os.environ.get(variable, str(default))
    if not (value.isascii() and value.isdigit()):
        raise Misconfigured(f"{variable} is {value!r}; expected a whole number {kind}: correct it, or unset it.")
    return int(value)


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
