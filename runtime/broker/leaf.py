"""The server of a site whose hosts do not reach the broker: one connection goes out for each account, as a leaf's."""

import json
from pathlib import Path
from urllib.parse import urlsplit

from events.errors import Misconfigured
from runtime.broker.accounts import QUESTIONS
from runtime.broker.credentials import read_bundle, write_private
from runtime.broker.streams import MAX_MESSAGE


def write_leaf_config(bundle_path: Path, folder: Path, listen: str, leaf_port: int) -> Path:
    """Write the configuration of a nats-server that lets in who has a key of the bundle, and hands on to the broker, at
    that port, what they say; its path. The broker enforces their rights.

    Raises `Misconfigured` for a bundle with a service that asks or is asked: a leaf hands on facts, work and blobs, but
    a question that goes from one account to another does not arrive (nats-server 2.15.1). Raises what `read_bundle`
    does.
    """
    bundle = read_bundle(bundle_path)
    talkers = {*QUESTIONS, *(asker for _, askers in QUESTIONS.values() for asker in askers)}
    if unfit := [account for account in bundle.accounts if account in talkers]:
        raise Misconfigured(
            f"{bundle_path} has a key for {', '.join(unfit)}, and questions do not pass a leaf: give the site a bundle "
            "for trainer and verifier alone, and run the rest where it reaches the broker itself."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (("ca.pem", bundle.ca), ("leaf.pem", bundle.certificate), ("leaf.key", bundle.key)):
        write_private(folder / name, text)
    remotes = []
    for account, grant in bundle.accounts.items():
        remotes.append(
            {
                "url": f"tls://{urlsplit(bundle.url).hostname}:{leaf_port}",
                "account": account,
                "nkey": grant.seed,
                "tls": {
                    "ca_file": str(folder / "ca.pem"),
                    "cert_file": str(folder / "leaf.pem"),
                    "key_file": str(folder / "leaf.key"),
                    "handshake_first": True,
                },
            }
        )
    configuration = {
        "listen": listen,
        "server_name": f"leaf-{bundle.name}",
        "max_payload": MAX_MESSAGE,
        "accounts": {account: {"users": [{"nkey": grant.public}]} for account, grant in bundle.accounts.items()},
        "leafnodes": {"remotes": remotes},
    }
    path = folder / "leaf.conf"
    write_private(path, json.dumps(configuration, indent=1))
    return path
