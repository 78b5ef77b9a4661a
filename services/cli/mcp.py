"""`evolog mcp`."""

from pathlib import Path

import click

from services.cli.options import CommandLineOnly, directory, examples


@click.command(epilog=examples("evolog mcp", "evolog mcp --operator"))
@directory
@click.option(
    "--operator",
    is_flag=True,
    cls=CommandLineOnly,
    help="Show the auditor's verdict and figures too, which the loop never sees.",
)
def mcp(directory: Path, operator: bool) -> None:
    """Let an agent read the runs, by MCP on stdio.

    A client of the Model Context Protocol starts this command. Nothing is changed.
    """
    from services.mcp import serve

    serve(directory, operator=operator)
