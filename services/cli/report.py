"""`evolog report`."""

from pathlib import Path
from typing import Literal

import click

from services.cli.options import directory, examples, task_code


@click.command(epilog=examples("evolog report lawbench-s0", "evolog report lawbench-s0 --format md"))
@click.argument("run")
@directory
@click.option(
    "--format", "form", type=click.Choice(["html", "md"]), default="html", show_default=True, help="HTML or Markdown."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file; by default RUN.html or RUN.md in the current folder. Markdown's pictures are written beside it.",
)
@task_code
def report(
    run: str, directory: Path, form: Literal["html", "md"], output: Path | None, task: str, trust_code: bool
) -> None:
    """Write a finished run as one page, for an appendix.

    Settings, scores, pictures, levers, audit, cost, digests, and how to replay it.
    """
    from runtime.run.loading import TaskAccess
    from services.cli.audit_runs import write_files
    from services.cli.reading import exports_in_words
    from services.cli.report_runs import report_subject
    from services.views.report import report_html, report_markdown

    with exports_in_words(directory, run):
        subject = report_subject(directory, run, TaskAccess(folder=task, trusted=trust_code))
        path = output or Path(f"{subject.report.run}.{form}")
        files: dict[Path, bytes] = {}
        if form == "html":
            files[path] = report_html(subject).encode()
        else:
            files[path] = report_markdown(subject, f"{path.stem}-").encode()
            files |= {path.with_name(f"{path.stem}-{one.name}.png"): one.png for one in subject.pictures}
    write_files(files, "with --output")
