"""`evolog pause`, `evolog resume` and `evolog cancel`."""

from pathlib import Path

import click

from services.cli.options import directory, examples


@click.command(epilog=examples("evolog pause lawbench-s0 --reason 'the disk is full'"))
@click.argument("run")
@directory
@click.option("--reason", default="the operator asked for it", show_default=True)
def pause(run: str, directory: Path, reason: str) -> None:
    """Let a run make no further decision until it is resumed.

    What it has asked for is still done.
    """
    import asyncio

    from services.host import orders
    from services.host.node import Node

    click.echo(f"{asyncio.run(orders.pause(Node(directory), run, reason))} is paused", err=True)


@click.command(epilog=examples("evolog resume lawbench-s0"))
@click.argument("run")
@directory
def resume(run: str, directory: Path) -> None:
    """Let a paused run go on.

    The services are brought up if they are not. Where one of them paused the run, they are started anew, with the
    environment of this command: so put right what it lacked first.
    """
    from services.cli.live import to_stderr
    from services.host import orders
    from services.host.node import Node
    from services.views.progress import working

    click.echo(f"{orders.resume_with_services(Node(directory), run, to_stderr, working)} goes on", err=True)


@click.command(epilog=examples("evolog cancel lawbench-s0 --reason 'it has found what it can'"))
@click.argument("run")
@directory
@click.option("--reason", default="the operator asked for it", show_default=True)
def cancel(run: str, directory: Path, reason: str) -> None:
    """Let a run end with what it has.

    It ends at once with its best candidate so far; what is under way is not waited for.
    """
    import asyncio

    from services.host import orders
    from services.host.node import Node

    click.echo(f"{asyncio.run(orders.cancel(Node(directory), run, reason))} ends with what it has", err=True)
