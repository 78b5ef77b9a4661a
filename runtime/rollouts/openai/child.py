"""Stands before a scaffold whose `solve` reaches the model over HTTP too; imported as `agent` in its place, imports nothing of evolog.

It relays 127.0.0.1 to the bridge, sets what `openai.OpenAI()` looks for, loads the scaffold's own `agent.py`, and tells the bridge of each
attempt before it begins. Beside it are the scaffold, the relay, the bridge's socket, and what the bridge is to be told.
"""

import http.client
import importlib.util
import json
import os
import socket
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
SOCKET, SCAFFOLD = os.path.join(HERE, "bridge.sock"), os.path.join(HERE, "scaffold")
with open(os.path.join(HERE, "bridge.json"), encoding="utf-8") as _file:
    PLACES = json.load(_file)


def load(name, path):
    """The module at a path, under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tell(item, attempt):
    """Say to the bridge whose calls come now."""
    connection = http.client.HTTPConnection("bridge", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(SOCKET)
    headers = {"Authorization": "Bearer " + PLACES["token"], "Connection": "close"}
    connection.request("POST", "/evolog/attempt", json.dumps({"item": item, "attempt": attempt}), headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the bridge refused the attempt: {said[:300].decode(errors='replace')}")


relay = load("bridge_relay", os.path.join(HERE, "bridge_relay.py"))
server = relay.listen(0)
threading.Thread(target=relay.relay, args=(server, SOCKET), daemon=True).start()
os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
os.environ["OPENAI_API_KEY"] = PLACES["token"]
os.environ["OPENAI_MODEL"] = PLACES["model"]
sys.path.insert(0, SCAFFOLD)
theirs = load("agent", os.path.join(SCAFFOLD, "agent.py"))
solve = theirs.solve


def solve_beside_the_bridge(item, model, data):
    """The scaffold's own answer."""
    tell(item.id, model._attempt)
    return solve(item, model, data)


theirs.solve = solve_beside_the_bridge
