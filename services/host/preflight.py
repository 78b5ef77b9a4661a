"""Asks the language models of an order one small question before anything is started for it, so that a wrong address,
key or name is said at once.
"""

import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping

from events.errors import Misconfigured, TryAgain, Unavailable, UserError
from runtime.agents.conversation import AgentMessage, Failure, ModelRequest, ModelTurn, Tool
from runtime.agents.providers import (
    URLS,
    LanguageModel,
    ModelClient,
    base_url,
    environment_variable,
    model_client,
    model_of,
    require_key,
    without_login,
)
from runtime.run.order import RunOrder
from services.host.node import Node, is_on_this_host
from tasks.loading import Task

SYSTEM = "This is a check of the connection. Answer with the one word ready."
PATIENCE = 30.0
"""Seconds for which an answer is awaited."""
TRIES, PAUSE = 2, 1.0
"""How often a server is asked that is overloaded, and the seconds in between."""
MAX_TOKENS = 512
"""Room for an answer of one word, and for a model that thinks before it."""
SKIP = "--no-preflight starts the run without this question"
_TOOL = Tool("ready", "Says that the connection works.", {"type": "object", "properties": {}})
"""One that need not be called: agents work by tools, so a model that can have none is found here."""


def preflight(order: RunOrder, task: Task, node: Node, say: Callable[[str], None] = lambda words: None) -> None:
    """Ask each model that an order's agents will ask, or its task's verifier; raises `UserError` with what is wrong and
    what to do.

    Models that other hosts' services ask are left out, and those whose key the services have and this process lacks.
    """
    running = node.running()
    if running is not None and not is_on_this_host(running):
        return
    for model in _models(order, task):
        try:
            require_key(model, os.environ)
        except Misconfigured:
            if running is None:
                raise
            continue
        say(f"asking {model.provider}:{model.name} at {_server(model, os.environ)} whether it is there")
        ask(model, os.environ, model_client(model, os.environ))


def _models(order: RunOrder, task: Task) -> Iterator[LanguageModel]:
    agent = model_of(order.agent)
    if agent is not None:
        yield agent
    judge = model_of(task.judge_model) if task.judge_model else None
    if judge is not None and judge != agent:
        yield judge


def ask(
    model: LanguageModel,
    environment: Mapping[str, str],
    client: ModelClient,
    *,
    patience: float = PATIENCE,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Ask one model; raises `UserError` where it gives no answer."""
    request = ModelRequest(model.name, SYSTEM, (AgentMessage("user", "Ready?"),), (_TOOL,), MAX_TOKENS, model.effort)
    for attempt in range(1, TRIES + 1):
        outcome = _within(patience, lambda: client(request))
        match outcome:
            case None:
                raise Unavailable(
                    f"{_who(model, environment)} has not answered within {patience:g} s: see that it runs, or start "
                    f"again later; {SKIP}."
                )
            case Failure(status="rate_limited" | "server_error") if attempt < TRIES:
                pause(PAUSE)
            case Failure():
                raise error_of(model, environment, str(outcome), outcome.status)
            case BaseException():
                raise outcome
            case _:
                return


def _within(patience: float, call: Callable[[], ModelTurn]) -> ModelTurn | BaseException | None:
    """What a call gives or raises; None where it takes longer. Then its thread is left behind."""
    outcome: list[ModelTurn | BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as wrong:
            outcome.append(wrong)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience)
    return outcome[0] if outcome else None


def error_of(model: LanguageModel, environment: Mapping[str, str], reason: str, status: str) -> UserError:
    """What a failed question means for whoever orders a run: the server, what it said, and what to do."""
    who, address = _who(model, environment), environment_variable(model.provider, "BASE_URL")
    key = environment_variable(model.provider, "API_KEY")
    code = int(found[1]) if (found := re.search(r"HTTP (\d{3})", reason)) else 0
    if _is_page(reason) or (status == "cut" and not code and _serves_page(base_url(model.provider, environment))):
        return Misconfigured(
            f"{who} answers with a web page and not as the API does{f' (HTTP {code})' if code else ''}: set {address} "
            f"to the API's own address, such as {URLS[model.provider]}; {SKIP}."
        )
    if status == "unauthenticated" or code in (401, 403):
        return Misconfigured(f"{who} refuses the key ({reason}): set {key} to one that is good there; {SKIP}.")
    if code == 404:
        return Misconfigured(
            f"{who} knows no such model, or is no such API ({reason}): name a model that it has with --agent, or put "
            f"{address} right; {SKIP}."
        )
    if status in ("rate_limited", "server_error") or code in (408, 409, 429) or code >= 500:
        return TryAgain(
            f"{who} is overloaded or out of order ({reason}): start again later. {SKIP.capitalize()}; the agents then "
            "ask again for ten minutes."
        )
    if status == "cut":
        return Unavailable(f"{who} cannot be reached ({reason}): start it, or put {address} right; {SKIP}.")
    return Misconfigured(f"{who} does not answer such a question ({reason}): name another with --agent; {SKIP}.")


def _who(model: LanguageModel, environment: Mapping[str, str]) -> str:
    return f"The model {model.provider}:{model.name} at {_server(model, environment)}"


def _server(model: LanguageModel, environment: Mapping[str, str]) -> str:
    return without_login(base_url(model.provider, environment))


def _is_page(text: str) -> bool:
    return bool(re.search(r"<!doctype html|<html|web page|\bHTML\b", text, re.IGNORECASE))


def _serves_page(url: str) -> bool:
    """Whether a web page stands at an address, where an answer was none of the API's."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as response:
            return str(response.headers.get_content_type()) == "text/html"
    except urllib.error.HTTPError as wrong:
        return str(wrong.headers.get_content_type()) == "text/html"
    except (OSError, ValueError):
        return False
