"""Imported as `agent`, in the place of a scaffold whose `solve` reaches the model over HTTP too; imports nothing of
evolog.

It sets the variables that `openai.OpenAI()` and its like read, and loads the scaffold's own `agent.py`. Each attempt
is announced to the bridge, and relays 127.0.0.1 to it by a process of its own. In its folder are the scaffold, the
relay, the bridge's socket, and bridge.json with the token and the model's name.
"""

import ctypes
import http.client
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SOCKET, SCAFFOLD = os.path.join(HERE, "bridge.sock"), os.path.join(HERE, "scaffold")
with open(os.path.join(HERE, "bridge.json"), encoding="utf-8") as _file:
    SETTINGS = json.load(_file)


def load(name: str, path: str) -> Any:
    """The module at a path, under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def announce(item: str, attempt: int) -> None:
    """Tell the bridge which attempt the next calls are for."""
    connection = http.client.HTTPConnection("bridge", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(SOCKET)
    headers = {"Authorization": "Bearer " + SETTINGS["token"], "Connection": "close"}
    connection.request("POST", "/evolog/attempt", json.dumps({"item": item, "attempt": attempt}), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the bridge refused the attempt: {body[:300].decode(errors='replace')}")


@contextmanager
def relayed() -> Iterator[None]:
    """Pass on what is sent to 127.0.0.1 meanwhile."""
    process = os.fork()
    if process == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        relay.relay(server, SOCKET)
    try:
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


relay = load("bridge_relay", os.path.join(HERE, "bridge_relay.py"))
server = relay.listen(0)
os.environ.update(relay.base_urls(f"http://127.0.0.1:{server.getsockname()[1]}"))
os.environ.update(dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), SETTINGS["token"]))
os.environ["OPENAI_MODEL"] = SETTINGS["model"]
sys.path.insert(0, SCAFFOLD)
with relayed():
    scaffold_agent = load("agent", os.path.join(SCAFFOLD, "agent.py"))
solve = scaffold_agent.solve
prepare = getattr(scaffold_agent, "prepare", lambda data: None)


def prepare_relayed(data: Any) -> None:
    """The scaffold's own preparation. Calls of the model are refused, as they are while it is loaded."""
    with relayed():
        prepare(data)


def announce_and_solve(item: Any, model: Any, data: Any) -> Any:
    """The scaffold's own answer, once the bridge knows the attempt."""
    announce(item.id, model._attempt)
    with relayed():
        return solve(item, model, data)


scaffold_agent.prepare, scaffold_agent.solve = prepare_relayed, announce_and_solve
