"""A leaf node: a nats-server of a site's own, through which the services of a bundle reach the broker.

It holds no stream. Its services connect to it on their own host, and it alone connects to the broker. Each account of
the bundle has one connection of its own there, with the account's key and no other right: the broker enforces them.
Facts, work and blobs are handed on. A question that goes from one account to another does not arrive (nats-server
2.15.1), so neither those that ask nor those that are asked can be behind it.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from events.errors import Misconfigured, UsageError
from runtime.broker.accounts import QUESTIONS
from runtime.broker.credentials import Bundle, is_loopback, write_private
from runtime.broker.issuing import broker_url
from runtime.broker.listener import HANDSHAKE_LIMIT, leaves_url
from runtime.broker.streams import MAX_MESSAGE

CONFIG = "leaf.conf"


def write_leaf(bundle: Bundle, folder: Path, broker: str, listen: str) -> Path:
    """Write the configuration of a site's nats-server, and the keys and certificates that it shows the broker, for
    their owner alone; the configuration's path.

    `broker` is HOST:PORT, where the broker listens for leaf nodes; `listen` is HOST:PORT of this host's loopback.
    Raises `UsageError` for any other, and `Misconfigured` for a bundle with a service that asks or is asked.
    """
    talkers = {*QUESTIONS, *(asker for _, askers in QUESTIONS.values() for asker in askers)}
    if unfit := [account for account in bundle.accounts if account in talkers]:
        raise Misconfigured(
            f"The bundle {bundle.name!r} has a key for {', '.join(unfit)}, and questions do not pass a leaf node: give "
            "the site a bundle for trainer and verifier alone, and run the rest where it reaches the broker itself."
        )
    url = urlsplit(leaves_url(broker))
    here = urlsplit(broker_url(listen))
    if not is_loopback(here.hostname or ""):
        raise UsageError(
            f"A leaf node at {listen} would let services in without TLS from other hosts; expected an address of this "
            "machine, such as 127.0.0.1:4222. Services on another host of the site take a leaf node of their own."
        )
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (("ca.pem", bundle.ca), ("site.pem", bundle.certificate), ("site.key", bundle.key)):
        write_private(folder / name, text)
    tls = {
        "cert_file": str(folder / "site.pem"),
        "key_file": str(folder / "site.key"),
        "ca_file": str(folder / "ca.pem"),
        "handshake_first": True,
        "timeout": HANDSHAKE_LIMIT,
    }
    configuration = {
        "listen": f"{here.hostname}:{here.port}",
        "server_name": f"evolog-leaf-{bundle.name}",
        "max_payload": MAX_MESSAGE,
        "accounts": {
            name: {
                "users": [
                    {
                        "nkey": grant.public,
                        "permissions": {
                            "publish": {"allow": grant.publish},
                            "subscribe": {"allow": grant.subscribe},
                            "allow_responses": True,  # to whoever asks what it does at present
                        },
                    }
                ]
            }
            for name, grant in bundle.accounts.items()
        },
        "leafnodes": {
            "remotes": [
                {"urls": [url.geturl()], "account": name, "nkey": grant.seed, "tls": tls}
                for name, grant in bundle.accounts.items()
            ]
        },
    }
    path = folder / CONFIG
    write_private(path, json.dumps(configuration, indent=1))
    return path
