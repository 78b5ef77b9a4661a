"""Which language model is behind the agents, what it takes to reach it, and how often it is asked again.

An agent is named `rules`, `anthropic:MODEL` or `openai:MODEL`, and may have settings after that, as in
`anthropic:MODEL,effort=high,output=32000`. The SDKs are imported when a model is first asked, with
retries of their own off: those here are counted, spread by a seed, and recorded.
"""

import importlib
import importlib.util
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from events.errors import Misconfigured, UsageError
from events.secret import Secret
from runtime.agents.conversation import REPEATED, Failure, ModelRequest, ModelTurn, Usage
from runtime.agents.prices import FREE, Price, find_price, load_prices
from runtime.agents.this_machine import is_this_machine
from runtime.policies.client import is_address
from runtime.status import UNHEARD, Waits

RULES = "rules"
URLS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
ATTEMPTS = 10
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
PATIENCE = 600.0
"""Seconds from the first try after which no other is begun."""

ModelClient = Callable[[ModelRequest], ModelTurn]


EFFORTS = {
    "anthropic": ("low", "medium", "high", "xhigh", "max"),
    "openai": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
}
"""How much a model is told to think, in the words of each API."""
OUTPUT, LEAST_OUTPUT, MOST_OUTPUT = 16_000, 1_000, 200_000
"""Tokens of one answer, thoughts included: by default, at least and at most."""


class LanguageModel(NamedTuple):
    """A language model: whose API it is reached by, its name there, and how it is asked."""

    provider: str
    name: str
    effort: str = ""
    """How much it is told to think; empty: as it does by itself."""
    output: int = OUTPUT
    """The most tokens of one answer."""


class CallResult(NamedTuple):
    """What came of one call: the answer or the last failure, the tries, their seconds, and the tokens of
    all of them, which are None where the server does not say what the answer took.
    """

    turn: ModelTurn
    attempts: int
    seconds: float
    usage: Usage | None


def model_of(agent: str) -> LanguageModel | None:
    """The model that an agent's name says; None for `rules`. Raises `UsageError` for any other name."""
    if agent == RULES:
        return None
    named, *settings = agent.split(",")
    provider, _, name = named.partition(":")
    if provider not in URLS or not name.strip():
        raise UsageError(f"There is no agent {agent!r}; expected rules, anthropic:MODEL or openai:MODEL.")
    effort, output = "", OUTPUT
    for setting in settings:
        match setting.strip().partition("="):
            case ("effort", "=", word) if word in EFFORTS[provider]:
                effort = word
            case ("output", "=", number) if number.isdecimal() and LEAST_OUTPUT <= int(number) <= MOST_OUTPUT:
                output = int(number)
            case _:
                raise UsageError(
                    f"The agent {agent!r} has a setting {setting.strip()!r} that is none; expected effort= with one of "
                    f"{', '.join(EFFORTS[provider])}, or output= with {LEAST_OUTPUT} to {MOST_OUTPUT} tokens."
                )
    return LanguageModel(provider, name.strip(), effort, output)


def environment_variable(provider: str, setting: str) -> str:
    """The environment variable of a provider: its `API_KEY` or `BASE_URL`."""
    return f"{provider.upper()}_{setting}"


def base_url(provider: str, environment: Mapping[str, str]) -> str:
    """Where the provider's API is: its variable, as its SDK knows it, or the provider itself; raises `Misconfigured`
    for no URL.
    """
    name = environment_variable(provider, "BASE_URL")
    url = environment.get(name, "").strip() or URLS[provider]
    if not is_address(url):
        raise Misconfigured(
            f"{name} is {without_login(url)!r}; expected a URL such as {URLS[provider]}: correct it, or unset it."
        )
    return url


def without_login(url: str) -> str:
    """The URL to print: what stands before its last @ may be a password."""
    return re.sub(r"^(\w+://)?.*@", r"\1", url)


def is_here(provider: str, environment: Mapping[str, str]) -> bool:
    """Whether the provider's API is served on this machine."""
    return is_this_machine(urlsplit(base_url(provider, environment)).hostname)


def api_key(provider: str, environment: Mapping[str, str]) -> Secret | None:
    """The provider's key; None where it lacks and is needed. A server on this machine that speaks OpenAI's API needs
    none.

    Raises `Misconfigured` as `base_url`.
    """
    here = is_here(provider, environment)
    if key := environment.get(environment_variable(provider, "API_KEY"), "").strip():
        return Secret(key)
    return Secret("none") if provider == "openai" and here else None


def providers_with_key(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The providers that can be asked from this environment."""

    def can_be(provider: str) -> bool:
        try:
            return api_key(provider, environment) is not None
        except Misconfigured:
            return False

    return tuple(filter(can_be, URLS))


def require_key(model: LanguageModel, environment: Mapping[str, str]) -> Secret:
    """The model's API key.

    Raises `Misconfigured`, saying what to set or to install, where the model cannot be asked from here.
    """
    provider = model.provider
    if importlib.util.find_spec(provider) is None:
        raise Misconfigured(
            f"The model {provider}:{model.name} needs the package {provider}: pip install 'evolog[agents]'."
        )
    if (key := api_key(provider, environment)) is None:
        own = ", or OPENAI_BASE_URL to a server on this machine, which needs none" if provider == "openai" else ""
        raise Misconfigured(
            f"The model {provider}:{model.name} needs a key: set {environment_variable(provider, 'API_KEY')}{own}."
        )
    return key


def price_of_model(model: LanguageModel, environment: Mapping[str, str]) -> Price | None:
    """The model's price; nothing for a server on this machine, unless the table says otherwise, and None where none is
    known.
    """
    price = find_price(load_prices(environment), model.provider, model.name)
    return FREE if price is None and is_here(model.provider, environment) else price


def model_client(model: LanguageModel, environment: Mapping[str, str]) -> ModelClient:
    """A function that sends one request to the model; raises `Misconfigured` as `require_key`."""
    secret, url = require_key(model, environment), base_url(model.provider, environment)
    api = importlib.import_module(f"runtime.agents.{model.provider}_api")
    return lambda request: api.call_model(secret, url, request)


def ask_with_retries(
    client: ModelClient,
    request: ModelRequest,
    seed: int,
    pause: Callable[[float], None] = time.sleep,
    waits: Waits = UNHEARD,
    named: str = "the language model",
) -> CallResult:
    """Ask until there is an answer, or none is to be had; raises nothing that the server does.

    Rate limits, errors of the server and cut connections are tried again after a pause that doubles, drawn from `seed`,
    or after the time that the server asks for; at most `ATTEMPTS` times, and not after `PATIENCE`. `waits` is
    told that the model, by the name that it is `named`, is waited for, and of each failure before the pause.
    """
    draw = random.Random(seed)
    began = time.monotonic()
    spent = Usage()
    answer = f"an answer of {named}"
    waits.report(answer)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                turn = client(request)
                total = None if turn.usage is None else spent + turn.usage
                return CallResult(turn, attempt, time.monotonic() - began, total)
            except Failure as failed:
                spent += failed.usage
                wait = (
                    min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * draw.uniform(0.5, 1.0)
                    if failed.after is None
                    else failed.after
                )
                seconds = time.monotonic() - began
                if failed.status not in REPEATED or attempt == ATTEMPTS or seconds + wait > PATIENCE:
                    return CallResult(ModelTurn(failed.status, str(failed)), attempt, seconds, spent)
                waits.report(answer, str(failed), attempt, ATTEMPTS, time.time() + wait)
                pause(wait)
    finally:
        waits.clear()
    raise AssertionError("the last attempt returns")
