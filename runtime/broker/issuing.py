"""Keys for services on other hosts: who was given which, and the bundles that they travel in.

All of it stands in the project directory's folder `hosts`. The broker knows the public halves alone; a bundle has the
seed of each of its accounts.
"""

import contextlib
import fcntl
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from events.catalogue import SERVICES
from events.errors import Misconfigured, NotFound, UsageError
from events.secret import Secret
from runtime.broker.accounts import DASHBOARD, OPERATOR, inbox_of, permissions_of
from runtime.broker.credentials import Bundle, Grant, draw_key, key_lines, write_private
from runtime.broker.store import back_end

if TYPE_CHECKING:
    from runtime.broker.certificates import Certified

USUAL_PORT = 4222
ISSUABLE = (*SERVICES, OPERATOR, DASHBOARD)
"""The accounts that may be reached from other hosts."""
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


class IssuedBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle, without its secrets: the public key of each of its accounts."""

    accounts: dict[str, str]
    issued: str
    expires: str
    """When its certificate does. Both are RFC 3339."""
    revoked: str = ""
    """Since when the broker takes none of its keys; empty while it does."""
    previous: dict[str, str] = {}
    """The keys of before, which hold too until the new bundle has reached its host."""


class OwnCertificate(msgspec.Struct, frozen=True):
    """The paths of the user's own certificate for the broker, of its key, and of the authority that signed it."""

    certificate: str
    key: str
    ca: str


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """What `evolog credentials` has made: the broker's address for other hosts, and every bundle by its name."""

    version: int = 1
    url: str
    own: OwnCertificate | None = None
    bundles: dict[str, IssuedBundle] = {}


def hosts_folder(directory: Path) -> Path:
    """The folder of all that is here for other hosts."""
    return directory / "hosts"


def bundle_file(directory: Path, name: str) -> Path:
    """Where a bundle is made, to be copied to its host."""
    return hosts_folder(directory) / "bundles" / f"{name}.json"


def find_issued(directory: Path) -> Issued | None:
    """What was issued here; None before `evolog credentials init`."""
    path = hosts_folder(directory) / "issued.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Issued)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as wrong:
        raise Misconfigured(
            f"{path} is not what `evolog credentials` wrote ({wrong}): restore it from a copy, or delete "
            f"{path.parent} and begin anew with `evolog credentials init`."
        ) from wrong


def read_issued(directory: Path) -> Issued:
    """What was issued here; raises `NotFound` before `evolog credentials init`."""
    if (issued := find_issued(directory)) is None:
        raise NotFound(
            f"No credentials were made in {directory}: begin with `evolog credentials init --address HOST:PORT`, where "
            "other hosts reach this one."
        )
    return issued


def valid_keys(directory: Path) -> dict[str, list[str]]:
    """The public keys that the broker takes, by account."""
    keys: dict[str, list[str]] = {}
    issued = find_issued(directory)
    for bundle in issued.bundles.values() if issued else ():
        now_and_before = (*bundle.accounts.items(), *bundle.previous.items())
        for account, public in now_and_before if not bundle.revoked else ():
            keys.setdefault(account, []).append(public)
    return keys


def start_issuing(directory: Path, address: str, own: OwnCertificate | None = None) -> Issued:
    """Make the authority and one bundle for each service, for a broker that other hosts reach at HOST:PORT.

    Raises `UsageError` for an address that is none, or where this was done before, and `Misconfigured` for certificates
    of the user's that do not hold there.
    """
    from runtime.broker.certificates import make_authority

    url = broker_url(address)
    with _changing(directory):
        folder = hosts_folder(directory)
        if (before := find_issued(directory)) is not None:
            raise UsageError(
                f"There are credentials in {folder} already, for {before.url}: `evolog credentials add NAME SERVICE` "
                "makes more, `rotate` replaces. To begin anew, delete that folder; what was handed out then holds no "
                "more."
            )
        if own is not None:
            require_certificate(own, urlsplit(url).hostname or "")
        authority = make_authority(f"authority of {urlsplit(url).hostname}")
        write_private(folder / "ca.key", authority.key)
        write_private(folder / "ca.pem", authority.certificate)
        issued = Issued(url=url, own=own)
        for service in SERVICES:
            issued = _issue(directory, issued, service, [service])
        _write(directory, issued)
    return issued


def add_bundle(directory: Path, name: str, accounts: Sequence[str]) -> Path:
    """Make one more bundle, with a key for each of these services, or for the operator; its path.

    Raises `UsageError` for a name that is taken or none, or a service that there is not.
    """
    with _changing(directory):
        issued = read_issued(directory)
        if name in issued.bundles:
            raise UsageError(f"There is a bundle {name!r} already: `evolog credentials rotate {name}` makes it anew.")
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a bundle: expected small letters, digits, and . _ - between them.")
        if unknown := [account for account in accounts if account not in ISSUABLE]:
            raise UsageError(f"There is no service {unknown[0]!r}; expected some of {', '.join(ISSUABLE)}.")
        _write(directory, _issue(directory, issued, name, accounts))
    return bundle_file(directory, name)


def rotate(directory: Path, name: str, reload: Callable[[], object], *, keep_old: bool = False) -> Path:
    """Make a bundle anew, with new keys and a new certificate; its path. The broker takes its old keys no more, unless
    they are kept until `revoke_old`. A bundle that was revoked holds again.

    `reload` has the broker take what is issued: once before the bundle is replaced, so that who reads it there finds a
    key that holds, and once behind that. Raises `NotFound` where there is no such bundle.
    """
    with _changing(directory):
        issued = read_issued(directory)
        before = _named(issued, name)
        after, text = _draw(directory, issued, name, tuple(before.accounts))
        previous = {} if before.revoked else before.accounts
        _write(directory, _with(issued, name, msgspec.structs.replace(after, previous=previous)))
        reload()
        _write_bundle(directory, name, text)
        if not keep_old:
            _write(directory, _with(issued, name, after))
            reload()
    return bundle_file(directory, name)


def revoke_old(directory: Path, name: str, reload: Callable[[], object]) -> None:
    """Have the broker take no more the keys that a bundle had before it was rotated.

    Raises `NotFound` where there is no such bundle.
    """
    with _changing(directory):
        issued = read_issued(directory)
        bundle = _named(issued, name)
        _write(directory, _with(issued, name, msgspec.structs.replace(bundle, previous={})))
        reload()


def revoke(directory: Path, name: str, reload: Callable[[], object]) -> None:
    """Have the broker take none of a bundle's keys any more, and delete it here.

    Raises `NotFound` where there is no such bundle.
    """
    with _changing(directory):
        issued = read_issued(directory)
        bundle = _named(issued, name)
        revoked = msgspec.structs.replace(bundle, revoked=bundle.revoked or now(), previous={})
        _write(directory, _with(issued, name, revoked))
        bundle_file(directory, name).unlink(missing_ok=True)
        reload()


def say_where_blobs_are(directory: Path) -> list[Path]:
    """Have every bundle say where blobs stand now, with the keys that it has; those that said something else."""
    said = []
    with _changing(directory):
        for path in sorted(bundle_file(directory, "*").parent.glob("*.json")):
            bundle = msgspec.json.decode(path.read_bytes(), type=Bundle)
            if bundle.blobs != back_end(directory):
                _write_bundle(directory, bundle.name, _text(msgspec.structs.replace(bundle, blobs=back_end(directory))))
                said.append(path)
    return said


def broker_url(address: str) -> str:
    """The address HOST:PORT, or HOST alone, as the broker's URL; raises `UsageError` where it is none."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port or USUAL_PORT
    except ValueError:
        host, port = None, 0
    else:
        if parts.scheme not in ("", "tls") or parts.path or parts.query or parts.username:
            host = None
    if not host:
        raise UsageError(f"{address!r} is no address; expected HOST:PORT, such as broker.example.org:{USUAL_PORT}.")
    return f"tls://{f'[{host}]' if ':' in host else host}:{port}"


def require_certificate(own: OwnCertificate, host: str) -> None:
    """Raise `Misconfigured` where the user's certificate does not show a client that knows its authority this host,
    `NotFound` where one of the files is not there.
    """
    from runtime.broker.certificates import shake_hands

    for path in own.certificate, own.key, own.ca:
        if not Path(path).is_file():
            raise NotFound(f"There is no {path}: name the PEM file of the broker's certificate, its key or authority.")
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(own.certificate, own.key, password="")  # one with a password would ask for it
    except (ssl.SSLError, ValueError) as wrong:
        raise Misconfigured(
            f"{own.certificate} and {own.key} are no certificate and its key, without a password, in PEM "
            f"({_reason(wrong)}): name those that belong together."
        ) from wrong
    try:
        client = ssl.create_default_context(cafile=own.ca)
    except ssl.SSLError as wrong:
        raise Misconfigured(f"{own.ca} holds no certificate of an authority in PEM ({_reason(wrong)}).") from wrong
    try:
        shake_hands(server, client, host)
    except ssl.SSLError as wrong:
        raise Misconfigured(
            f"{own.certificate} does not hold for {host} by the authority in {own.ca} ({_reason(wrong)}): get one that "
            "names the host by which others reach this broker, and is valid."
        ) from wrong


def authority_of(directory: Path) -> "Certified":
    """The project's own authority; raises `NotFound` where its files are not there."""
    from runtime.broker.certificates import Certified

    folder = hosts_folder(directory)
    try:
        return Certified((folder / "ca.pem").read_text(), (folder / "ca.key").read_text(), "")
    except FileNotFoundError as wrong:
        raise NotFound(
            f"There is no {wrong.filename}, by which certificates are signed: put it back from a copy, or delete "
            f"{folder} and begin anew with `evolog credentials init`."
        ) from wrong


def trusted(directory: Path, issued: Issued) -> str:
    """The certificates, PEM, of the authority by which clients know the broker."""
    return Path(issued.own.ca).read_text() if issued.own else authority_of(directory).certificate


def held_secrets(directory: Path) -> list[Secret]:
    """The secrets in the folder that this user can read; they must never be appended."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        found += key_lines((hosts_folder(directory) / "ca.key").read_text())
    for path in (hosts_folder(directory) / "bundles").glob("*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            bundle = msgspec.json.decode(path.read_bytes(), type=Bundle)
            found += [grant.seed for grant in bundle.accounts.values()]
    return [Secret(value) for value in found]


def now() -> str:
    """The time, RFC 3339 in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _reason(wrong: Exception) -> str:
    if isinstance(wrong, ssl.SSLCertVerificationError):
        return wrong.verify_message
    return str(getattr(wrong, "reason", None) or wrong).lower().replace("_", " ")


def _named(issued: Issued, name: str) -> IssuedBundle:
    if name not in issued.bundles:
        raise NotFound(
            f"There is no bundle {name!r}; there are {', '.join(issued.bundles)} (`evolog credentials add`)."
        )
    return issued.bundles[name]


def _with(issued: Issued, name: str, bundle: IssuedBundle) -> Issued:
    return msgspec.structs.replace(issued, bundles=issued.bundles | {name: bundle})


def _issue(directory: Path, issued: Issued, name: str, accounts: Sequence[str]) -> Issued:
    entry, text = _draw(directory, issued, name, accounts)
    _write_bundle(directory, name, text)
    return _with(issued, name, entry)


def _draw(directory: Path, issued: Issued, name: str, accounts: Sequence[str]) -> tuple[IssuedBundle, str]:
    from runtime.broker.certificates import certify

    certified = certify(authority_of(directory), name)
    keys = {account: draw_key() for account in accounts}
    bundle = Bundle(
        name=name,
        url=issued.url,
        ca=trusted(directory, issued),
        certificate=certified.certificate,
        key=certified.key,
        expires=certified.expires,
        accounts={
            account: Grant(seed, public, inbox_of(account), *permissions_of(account))
            for account, (seed, public) in keys.items()
        },
        blobs=back_end(directory),
    )
    entry = IssuedBundle(
        accounts={account: public for account, (_, public) in keys.items()}, issued=now(), expires=certified.expires
    )
    return entry, _text(bundle)


def _text(value: Bundle | Issued) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"


def _write_bundle(directory: Path, name: str, text: str) -> None:
    path = bundle_file(directory, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(path, text)


def _write(directory: Path, issued: Issued) -> None:
    write_private(hosts_folder(directory) / "issued.json", _text(issued))


@contextlib.contextmanager
def _changing(directory: Path) -> Iterator[None]:
    # one at a time: each reads what is issued, and writes it anew
    folder = hosts_folder(directory)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
