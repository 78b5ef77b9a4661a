"""`evolog credentials`."""

from collections.abc import Callable
from pathlib import Path

import click

from services.cli.options import as_json, directory, examples

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(
    epilog=examples("evolog credentials init --address broker.example.org:4222", "evolog credentials list --json")
)
def credentials() -> None:
    """Make keys for services on other hosts, and withdraw them."""


@credentials.command(
    "init",
    epilog=examples(
        "evolog credentials init --address broker.example.org:4222",
        "evolog credentials init --address broker.example.org --tls-cert b.pem --tls-key b.key --tls-ca ca.pem",
    ),
)
@directory
@click.option(
    "--address",
    required=True,
    metavar="HOST:PORT",
    help="Where other hosts reach the broker; the port is 4222 unless named.",
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Your certificate for the broker, with its chain, in PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, without a password.")
@click.option("--tls-ca", type=_FILE, metavar="FILE", help="The authority by which clients know that certificate.")
def init(directory: Path, address: str, tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None) -> None:
    """Make an authority, and a bundle with a key for each service.

    It prints the bundles' paths. Each is for the host of that service, and for nobody else. Without a certificate of
    yours, the broker gets one of the project's own authority.
    """
    from events.errors import UsageError
    from runtime.broker.issuing import OwnCertificate, bundle_file, start_issuing

    given = [path for path in (tls_cert, tls_key, tls_ca) if path]
    if given and len(given) < 3:
        raise UsageError("--tls-cert, --tls-key and --tls-ca go together: name all three, or none.")
    own = OwnCertificate(*(str(path.resolve()) for path in given)) if given else None
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    issued = start_issuing(directory, address, own)
    _reload(directory)()
    for name in issued.bundles:
        click.echo(bundle_file(directory, name))
    click.echo(f"Next: evolog up --listen 0.0.0.0:{issued.url.rpartition(':')[2]}, and copy each bundle", err=True)


@credentials.command("add", epilog=examples("evolog credentials add gpu-1 executor verifier"))
@click.argument("name")
@click.argument("services", nargs=-1, required=True)
@directory
def add(name: str, services: tuple[str, ...], directory: Path) -> None:
    """Make one more bundle NAME, with a key for each of these services, the operator or the dashboard.

    A bundle for each host lets you withdraw one and leave the others. It prints the bundle's path.
    """
    from runtime.broker.issuing import add_bundle

    path = add_bundle(directory, name, services)
    _reload(directory)()
    _say_if_down(directory)
    click.echo(path)


@credentials.command(
    "leaf", epilog=examples("evolog credentials leaf site-b.json leaf --broker broker.example.org:7422")
)
@click.argument("bundle", type=_FILE)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--broker", required=True, metavar="HOST:PORT", help="Where `evolog up --listen-leaf` listens.")
@click.option(
    "--listen",
    default="127.0.0.1:4222",
    show_default=True,
    metavar="HOST:PORT",
    help="Where this host's services reach the leaf node.",
)
def leaf(bundle: Path, folder: Path, broker: str, listen: str) -> None:
    """Write into FOLDER the configuration of a nats-server of a site's own, which alone connects to the broker.

    It has the keys of BUNDLE. It prints the file's path. Services of this host reach it with EVOLOG_NATS_URL.
    """
    from runtime.broker.credentials import read_bundle
    from runtime.broker.leaf import write_leaf

    click.echo(write_leaf(read_bundle(bundle), folder, broker, listen))
    click.echo(
        f"Next: nats-server -c {folder / 'leaf.conf'}, and EVOLOG_NATS_URL=nats://{listen} evolog up --credentials "
        f"{bundle}",
        err=True,
    )


@credentials.command("list", epilog=examples("evolog credentials list", "evolog credentials list --json"))
@directory
@as_json
def list_(directory: Path, as_json: bool) -> None:
    """List the bundles: what they are for, whether they hold, and until when."""
    import json

    from runtime.broker.issuing import bundle_file, now, read_issued

    issued = read_issued(directory)
    today = now()
    rows = [
        {
            "name": name,
            "status": "revoked" if bundle.revoked else "expired" if bundle.expires < today else "valid",
            "services": list(bundle.accounts),
            "issued": bundle.issued,
            "expires": bundle.expires,
            "revoked": bundle.revoked or None,
            "keys": bundle.accounts,
            "old_keys_hold": bool(bundle.previous),
            "file": str(path) if (path := bundle_file(directory, name)).exists() else None,
        }
        for name, bundle in issued.bundles.items()
    ]
    if as_json:
        click.echo(json.dumps({"version": 1, "address": issued.url, "bundles": rows}))
        return
    width = max((len(name) for name in issued.bundles), default=0)
    for name, row in zip(issued.bundles, rows, strict=True):
        bundle = issued.bundles[name]
        when = f"since {bundle.revoked}" if bundle.revoked else f"until {bundle.expires}"
        old = "  its old keys hold too" if bundle.previous else ""
        click.echo(f"{name:{width}}  {row['status']:7}  {when}  {', '.join(bundle.accounts)}{old}")


@credentials.command("rotate", epilog=examples("evolog credentials rotate executor"))
@click.argument("name")
@directory
@click.option(
    "--keep-old", is_flag=True, help="Let the old keys hold too, until `evolog credentials revoke NAME --old`."
)
def rotate(name: str, directory: Path, keep_old: bool) -> None:
    """Make the bundle NAME anew, with new keys and a new certificate.

    The broker takes the old keys no more, without a stop. It prints the bundle's path. A bundle that was revoked holds
    again.
    """
    from runtime.broker import issuing

    path = issuing.rotate(directory, name, _reload(directory), keep_old=keep_old)
    _say_if_down(directory)
    click.echo(path)


@credentials.command("revoke", epilog=examples("evolog credentials revoke gpu-1"))
@click.argument("name")
@directory
@click.option("--old", is_flag=True, help="Only the keys that it had before it was rotated with --keep-old.")
def revoke(name: str, directory: Path, old: bool) -> None:
    """Have the broker take no key of the bundle NAME any more, without a stop.

    Who is connected by one is cut off at once.
    """
    from runtime.broker import issuing

    withdraw = issuing.revoke_old if old else issuing.revoke
    withdraw(directory, name, _reload(directory))
    _say_if_down(directory)


def _reload(directory: Path) -> Callable[[], bool]:
    """Has the broker that runs here, if one does, take what is issued then."""
    from runtime.broker.server import reload_keys

    return lambda: reload_keys(directory.resolve())


def _say_if_down(directory: Path) -> None:
    from services.host.node import Node

    if not Node(directory).alive():
        click.echo("Nothing is up here: this holds from the next `evolog up` on.", err=True)
