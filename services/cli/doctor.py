"""`evolog doctor`."""

from pathlib import Path

import click

from events.errors import CheckFailed, Misconfigured
from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog doctor", "evolog doctor --integrity"))
@directory
@click.option(
    "--integrity",
    is_flag=True,
    help="Read the whole log instead, and name the first event that is not as it was appended.",
)
@as_json
def doctor(directory: Path, integrity: bool, as_json: bool) -> int:
    """Look whether this host has what evolog needs.

    It says what to do about what is missing.
    """
    if integrity:
        return check_integrity(directory, as_json=as_json)
    import json

    from services.host.doctor import check_host
    from services.views.progress import working

    with working("looking at this host"):
        checks = check_host(directory)
    if as_json:
        click.echo(json.dumps({"version": 1, "findings": [check._asdict() for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.ok else 'MISS' if check.needed else 'note'}  {check.what}: {check.found}")
    return 0 if all(check.ok or not check.needed for check in checks) else Misconfigured.code


def check_integrity(directory: Path, *, as_json: bool) -> int:
    """Print whether the log is whole, else what is wrong from the first bad event on; the exit code."""
    import asyncio

    import msgspec

    from services.host.integrity import examine
    from services.host.node import Node
    from services.views.integrity import health_lines
    from services.views.progress import working

    with working("opening the log") as say:
        health = asyncio.run(examine(Node(directory), say))
    if as_json:
        click.echo(
            msgspec.json.encode({"version": 1, "whole": not health.faults, **msgspec.structs.asdict(health)}).decode()
        )
    else:
        click.echo("\n".join(health_lines(health)))
    return CheckFailed.code if health.faults else 0
