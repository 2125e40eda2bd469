"""The `openm3` command."""

from __future__ import annotations

import sys

import click

from openm3 import __version__
from openm3.cli.answer import INTERRUPTED
from openm3.cli.ask import ask
from openm3.cli.batch import batch
from openm3.cli.chat import chat
from openm3.cli.context import context
from openm3.cli.doctor import doctor
from openm3.cli.find import find
from openm3.cli.generate import generate
from openm3.cli.inspect import inspect
from openm3.cli.keys import keys, usage
from openm3.cli.models import models, pull
from openm3.cli.new import new
from openm3.cli.serve import serve
from openm3.cli.train import train
from openm3.cli.tune import tune
from openm3.errors import OpenM3Error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def openm3() -> None:
    """Ask a local model about a large local context.

    Start with:  openm3 ask --context ./src "What does this program do?"
    The default model is fetched on first use (93 MB); nothing else leaves this machine.
    """


for command in (
    ask,
    find,
    context,
    chat,
    generate,
    batch,
    serve,
    keys,
    usage,
    pull,
    models,
    inspect,
    new,
    doctor,
    tune,
    train,
):
    openm3.add_command(command)


def main() -> None:
    """Runs the command line. A user's error is one sentence and exit code 1."""
    try:
        openm3(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        extra = next((extra for extra, names in _MODULES_OF.items() if error.name in names), None)
        if extra is None:
            raise
        click.echo(f"error: {error.name} is not installed; pip install 'openm3[{extra}]' brings it", err=True)
        sys.exit(1)
    except OpenM3Error as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


# Modules that only an extra installs.
_MODULES_OF = {
    "serve": (
        "torch",
        "numpy",
        "fastapi",
        "uvicorn",
        "prometheus_client",
        "gguf",
        "safetensors",
        "tokenizers",
        "jinja2",
        "huggingface_hub",
        "llguidance",
        "sqlalchemy",
        "alembic",
    ),
    "postgres": ("psycopg",),
    "train": ("pyarrow", "matplotlib"),
}
