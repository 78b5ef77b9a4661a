"""`evolog sign` and `evolog verify`."""

from pathlib import Path

import click

from events.errors import TryAgain, UsageError
from services.cli.options import as_json, directory, examples

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=examples("evolog sign lawbench-s0", "evolog sign lawbench-s0 --key ~/.ssh/id_ed25519"))
@click.argument("run")
@directory
@click.option("--key", type=_FILE, metavar="FILE", help="Your SSH key; by default the usual one in ~/.ssh.")
@click.option("--out", type=_FILE, metavar="FILE", help="Where to write it; by default RUN.signed.json here.")
@as_json
def sign(run: str, directory: Path, key: Path | None, out: Path | None, as_json: bool) -> None:
    """Sign the digests that close a finished run with your SSH key.

    Whoever has the file and your public key can tell later whether the run is still the one that you signed.
    """
    import msgspec

    from replay.closing import PENDING, closing
    from replay.soundness import require_decided
    from runtime.broker.credentials import write_private
    from services.cli.reading import read_run
    from services.host.signing import find_key
    from services.host.signing import sign as sign_closing
    from services.views.progress import working

    key = find_key(key)
    history = read_run(directory, run)
    if not history.finished:
        raise UsageError(f"Run {history.run} goes on, and has no end yet that could be signed.")
    path = out or Path(f"{history.run}.signed.json")
    if path.exists():
        raise UsageError(f"{path} is there already: name another file with --out, or remove it.")
    with working(f"deciding {history.run} again"):
        require_decided(history)
        closed = closing(history)
    if closed.gold == PENDING:
        raise TryAgain(f"The audit of run {history.run} has not ended, which is signed too: try again when it has.")
    signed = sign_closing(closed, key)
    write_private(path, msgspec.json.format(msgspec.json.encode(signed)).decode() + "\n")
    if as_json:
        click.echo(msgspec.json.encode(signed).decode())
    else:
        click.echo(f"{path}: run {history.run} as it closes, signed with {key}")


@click.command(epilog=examples("evolog verify lawbench-s0 lawbench-s0.signed.json --signer colleague.pub"))
@click.argument("run")
@click.argument("file", type=_FILE)
@directory
@click.option(
    "--signer", type=_FILE, metavar="FILE", help="A public SSH key, or a file of allowed signers; by default yours."
)
@as_json
def verify(run: str, file: Path, directory: Path, signer: Path | None, as_json: bool) -> None:
    """Check that a run is the one that was signed.

    It says by whom, and exits with 3 where it is not.
    """
    import msgspec

    from replay.closing import closing
    from replay.soundness import require_recorded
    from services.cli.reading import read_run
    from services.host.signing import find_key, read_signed, require_signed
    from services.views.progress import working

    signer = find_key(signer, ".pub")
    history = read_run(directory, run)
    with working(f"checking {history.run}"):
        require_recorded(history)
        closed = closing(history)
    name = require_signed(read_signed(file), closed, signer)
    if as_json:
        click.echo(msgspec.json.encode({"version": 1, "signer": name, "closing": closed}).decode())
    else:
        click.echo(f"run {history.run} is as {name} signed it: {closed.events:,} events, to sequence {closed.sequence}")
