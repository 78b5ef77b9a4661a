"""Whether a host's name means this machine, whose servers take no money."""

import ipaddress
import socket


def is_this_machine(host: str | None) -> bool:
    """Whether this host is this machine: `localhost`, any loopback address, or the machine's own name.

    No name is looked up: what a server of names says of others does not matter here.
    """
    name = (host or "").rstrip(".").lower()
    if not name:
        return False
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        own = socket.gethostname().rstrip(".").lower()
        return name in ("localhost", own, own.partition(".")[0]) or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback or address.is_unspecified
