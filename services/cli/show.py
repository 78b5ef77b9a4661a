"""`evolog show`."""

from pathlib import Path

import click

from services.cli.options import as_json, directory, examples


@click.command(epilog=examples("evolog show lawbench-s0"))
@click.argument("run")
@directory
@as_json
def show(run: str, directory: Path, as_json: bool) -> None:
    """Show one run: each generation, and the auditor's table."""
    import time

    import msgspec

    from services.cli.reading import exports_in_words
    from services.host.hints import with_directory
    from services.host.imports import find_export
    from services.host.node import Node
    from services.host.reports import load_report
    from services.views.progress import stdout, working
    from services.views.run import show_report

    with exports_in_words(directory, run):
        with working(f"reading {run}"):
            report = load_report(directory, run)
        if as_json:
            click.echo(msgspec.json.encode(report).decode())
        else:
            show_report(stdout(), report)
            if report.state == "running" and find_export(Node(directory), run) is None:
                from services.host.statuses import read_present
                from services.views.waiting import present_lines

                statuses, decided = read_present(Node(directory), report.run)
                for line in present_lines(report.run, statuses, decided, time.time()):
                    stdout().print(with_directory(line), soft_wrap=True, highlight=False)
