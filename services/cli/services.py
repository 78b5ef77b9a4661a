"""`evolog services`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog services", "evolog services --json"))
@directory
@as_json
def services(directory: Path, as_json: bool) -> None:
    """Show what each process does, and the work that waits.

    Pending is what nobody has been handed yet, in hand what is not acknowledged; both are of the whole service.
    """
    import asyncio
    import time

    from services.host.node import Node
    from services.host.overview import look_at_services, overview_json
    from services.views.progress import stdout, working
    from services.views.services import print_services

    with working("asking the services"):
        found = asyncio.run(look_at_services(Node(directory)))
    if as_json:
        click.echo(overview_json(found).decode())
    else:
        print_services(stdout(), found, time.time())
