"""Where the broker listens for other hosts: by TLS alone, with certificates on both sides."""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from events.errors import Misconfigured, UserError
from runtime.broker.credentials import write_private
from runtime.broker.issuing import (
    authority_of,
    broker_url,
    find_issued,
    hosts_folder,
    require_certificate,
    trusted,
)

LEAF_PORT = 7422
"""Where leaf nodes usually reach a broker."""
HANDSHAKE_LIMIT = 5.0
"""Seconds that a handshake may take; NATS's default, 2, is short for a slow line."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for all addresses, and how this machine reaches them."""


class Listener(NamedTuple):
    """Where the broker listens, what it shows there, and what this host's own services show it."""

    host: str
    port: int
    certificate: str
    key: str
    client_authority: str
    """Paths of PEM files: the broker's certificate, its key, and the authority that signs its clients' certificates."""
    ca: str
    """The authority, PEM, by which clients know the broker."""
    server_name: str
    local: tuple[str, str]
    """The certificate and key, PEM, of this host's services."""
    leaf: str = ""
    """HOST:PORT where it listens for leaf nodes, by the same certificates; empty: nowhere."""

    @property
    def url(self) -> str:
        """The address by which this host reaches it."""
        return broker_url(f"{_bracketed(_EVERYWHERE.get(self.host, self.host))}:{self.port}")

    def configuration(self) -> dict[str, object]:
        """What the server's configuration says of it."""
        tls = {
            "cert_file": self.certificate,
            "key_file": self.key,
            "ca_file": self.client_authority,
            "verify": True,
            "handshake_first": True,
            "timeout": HANDSHAKE_LIMIT,
        }
        leaf = {"leafnodes": {"listen": self.leaf, "tls": tls}} if self.leaf else {}
        return {"listen": f"{_bracketed(self.host)}:{self.port}", "tls": tls, **leaf}


def make_listener(directory: Path, address: str, leaf: str = "") -> Listener:
    """A listener at HOST:PORT, and perhaps at another for leaf nodes, with a new certificate of the project's own
    authority, or else with the user's.

    Raises `UsageError` for an address that is none, and `Misconfigured` where no credentials were made, or the user's
    certificate holds no more.
    """
    parts = urlsplit(broker_url(address))
    leaf = urlsplit(leaves_url(leaf)).netloc if leaf else ""
    host, port = parts.hostname or "", parts.port or 0
    issued = find_issued(directory)
    if issued is None:
        raise Misconfigured(
            f"--listen {address} needs certificates and keys, and {directory} has none: make them with `evolog "
            "credentials init --address HOST:PORT`, where HOST:PORT is how other hosts reach this one."
        )
    server_name = urlsplit(issued.url).hostname or ""
    from runtime.broker.certificates import certify

    authority = authority_of(directory)
    folder = hosts_folder(directory)
    if issued.own:
        try:
            require_certificate(issued.own, server_name)
        except UserError as wrong:
            raise Misconfigured(f"The broker cannot listen at {address}: {wrong}") from wrong
        certificate, key = issued.own.certificate, issued.own.key
    else:
        hosts = [server_name, *([] if host in _EVERYWHERE else [host]), *_THIS_MACHINE]
        made = certify(authority, "broker", hosts)
        for name, text in (("broker.pem", made.certificate), ("broker.key", made.key)):
            write_private(folder / name, text)
        certificate, key = str(folder / "broker.pem"), str(folder / "broker.key")
    local = certify(authority, "local")
    return Listener(
        host, port, certificate, key, str(folder / "ca.pem"), trusted(directory, issued), server_name, local[:2], leaf
    )


def leaves_url(address: str) -> str:
    """As `broker_url`, of where leaf nodes reach the broker."""
    return broker_url(address if re.search(r":\d+$", address) else f"{address}:{LEAF_PORT}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
