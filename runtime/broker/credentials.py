"""What one account needs to connect, and the files that it stands in: a password of this start on the broker's own
host, or a bundle with a key of its own on any other.
"""

import base64
import ipaddress
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from events.errors import Misconfigured, NotFound, UsageError, UserError
from events.secret import Secret

CONNECT_LIMIT = 5.0
"""Seconds that a server may take to greet and to let an account in."""
_GROUP_AND_OTHERS, _OTHERS = 0o077, 0o007
"""The bits of a file's mode that are its owner's no more, and those that are its group's no more either."""


class Credentials(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one account needs to connect; `inbox` is the prefix of the subjects on which it is answered.

    It has a password or else an nkey's `seed`. With `ca`, the broker is known by a certificate of that authority, and
    this side by one of its own; they are PEM.
    """

    url: str
    user: str
    password: str
    inbox: str
    seed: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    """The host that the broker's certificate names, where it is not the one in the URL."""
    bundle: str = ""
    """The path of the bundle that this comes from."""
    blobs: str = "directory"
    """Where blobs stand: in the project directory, or in a `stream` of the broker's."""

    def secrets(self) -> list[Secret]:
        """What must never be appended."""
        return [Secret(value) for value in (self.password, self.seed, *key_lines(self.key)) if value]

    def addresses(self) -> list["Credentials"]:
        """The same for each address, of which there is one for each server of a cluster."""
        return [msgspec.structs.replace(self, url=url) for url in self.url.split(",")]

    def advice(self) -> str:
        """What to do where the broker does not answer."""
        if self.bundle:
            return "look whether `evolog up` runs on its host, and whether this one reaches it"
        return "`evolog up` starts one"


Login = Callable[[], Credentials]
"""Gives an account's credentials as they are now: a server that was started again may have another address."""


class Grant(msgspec.Struct, frozen=True):
    """One account's part of a bundle: its nkey, where it is answered, and its rights, which the broker enforces."""

    seed: str
    public: str
    inbox: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """All that a host needs to reach the broker: its address, the certificates, and a key for each account."""

    version: int = 1
    name: str
    url: str
    ca: str
    certificate: str
    key: str
    expires: str
    """When the certificate does, RFC 3339."""
    accounts: dict[str, Grant]
    blobs: str = "directory"
    """As in `Credentials`."""


def credentials_file(directory: Path, user: str) -> Path:
    """The path of the file with an account's address and password."""
    return directory / "credentials" / f"{user}.json"


def write_private(path: Path, text: str) -> None:
    """Replace a file's text at once, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def read_credentials(path: Path) -> Credentials:
    """The account's credentials in a file; raises `NotFound` where there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError as wrong:
        raise NotFound(
            f"No credentials at {path}: start evolog with `evolog up`, or copy the account's file from the host that "
            "runs it."
        ) from wrong


def read_bundle(path: Path) -> Bundle:
    """What a bundle holds.

    Raises `NotFound` where it is not there, `UserError` with code 77 where others than its owner may read it, or of
    another's file others than its group, and `Misconfigured` for a file that is no bundle, or whose certificate has
    expired.
    """
    try:
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError as wrong:
        raise NotFound(
            f"There is no bundle at {path}: make one with `evolog credentials init` on the broker's host, and copy it."
        ) from wrong
    except PermissionError as wrong:
        raise UserError(f"{path} may not be read by this user: let its owner run this.", code=77) from wrong
    except IsADirectoryError as wrong:
        raise Misconfigured(f"{path} is a folder; expected the file of one bundle.") from wrong
    # what systemd and Kubernetes hand out is root's, and read by way of its group or an access list
    if status.st_mode & (_GROUP_AND_OTHERS if status.st_uid == os.geteuid() else _OTHERS):
        raise UserError(
            f"{path} has a key in it and may be read by others than its owner (mode {status.st_mode & 0o777:04o}): say "
            f"`chmod 600 {path}`, and `evolog credentials rotate` on the broker's host if others could have read it.",
            code=77,
        )
    try:
        bundle = msgspec.json.decode(text, type=Bundle)
    except msgspec.DecodeError as wrong:
        raise Misconfigured(
            f"{path} is no bundle ({wrong}): copy the file that `evolog credentials` made, as it is."
        ) from wrong
    if datetime.fromisoformat(bundle.expires) < datetime.now(UTC):
        raise Misconfigured(
            f"The certificate in {path} expired at {bundle.expires}: make a new bundle with `evolog credentials rotate "
            f"{bundle.name}` on the broker's host, and copy it here."
        )
    return bundle


def bundle_login(path: Path, user: str) -> Login:
    """The login of an account by a bundle, which is read anew each time: it may have been rotated.

    Raises what `read_bundle` does, and `UsageError` where the bundle has no key of the account.
    """

    def login() -> Credentials:
        bundle = read_bundle(path)
        if (grant := bundle.accounts.get(user)) is None:
            raise UsageError(
                f"{path} has no key for {user}: it is for {', '.join(bundle.accounts)}. Name another bundle, or make "
                f"one with `evolog credentials add NAME {user}`."
            )
        return Credentials(
            bundle.url,
            user,
            "",
            grant.inbox,
            seed=grant.seed,
            ca=bundle.ca,
            certificate=bundle.certificate,
            key=bundle.key,
            bundle=str(path),
            blobs=bundle.blobs,
        )

    return login


def key_lines(pem: str) -> list[str]:
    """The lines of a private key that give it away, each alone."""
    return [line for line in pem.splitlines() if line and not line.startswith("-----")]


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_encrypted(url: str) -> None:
    """Raise `Misconfigured` for an address that is no broker's, or by which facts would cross a network in the open.

    There may be several, with commas between them.
    """
    if "," in url:
        for one in url.split(","):
            require_encrypted(one)
        return
    parts = urlsplit(url)
    if parts.scheme not in ("nats", "tls") or not parts.hostname:
        raise Misconfigured(f"{url!r} is no broker's address: expected tls://HOST:PORT, or nats:// on this machine.")
    if parts.scheme == "nats" and not is_loopback(parts.hostname):
        raise Misconfigured(
            f"{url} would go over the network in the open: reach a broker on another host by tls://, with a bundle of "
            "`evolog credentials` (nats:// is for 127.0.0.1 alone)."
        )


def refused_key(credentials: Credentials) -> UserError:
    """The error of a broker that does not take an account's key."""
    return UserError(
        f"The broker at {credentials.url} does not take the key of {credentials.user} in {credentials.bundle}: it was "
        "rotated or revoked since. Copy the new bundle here (`evolog credentials rotate NAME` on the broker's host "
        "makes one).",
        code=77,
    )


def signature(seed: str, nonce: str) -> dict[str, str]:
    """The fields of a CONNECT by which an nkey shows itself: the public key, and the server's nonce, signed."""
    import nkeys

    pair = nkeys.from_seed(bytearray(seed.encode()))
    return {
        "nkey": pair.public_key.decode(),
        "sig": base64.b64encode(pair.sign(nonce.encode())).decode(),
    }


def draw_key() -> tuple[str, str]:
    """A new nkey of a user: its seed, and its public half."""
    import nkeys

    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
    return seed, nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
