"""`minimax-code acp`: MiniMax Code for editors."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import click

from minimax_code.cli.jobs import opened
from minimax_code.cli.options import Wanted, limit_options
from minimax_code.errors import InputError


@click.command()
@limit_options
def acp(**options: Any) -> None:
    """Serve an editor that speaks the Agent Client Protocol, on standard input and output.

    The editor starts it. In Zed's settings.json:

    \b
    "agent_servers": {
      "MiniMax Code": {
        "command": "minimax-code",
        "args": ["acp", "--check", "pytest"],
        "env": {"MINIMAX_BASE_URL": "http://127.0.0.1:8000/v1"}
      }
    }

    Each prompt is a task, done on a copy of the folder. In the end you are asked whether its change is to be applied.
    The options hold for all prompts.
    """
    if importlib.util.find_spec("acp") is None:
        raise InputError("acp", "needs the package agent-client-protocol; pip install 'openm3[acp]' brings it")
    from minimax_code.editor.server import Server

    wanted = Wanted(**options)

    async def serve() -> None:
        model = wanted.server_model()
        try:
            await Server(store, model, wanted.spec, wanted.settings.servers).run()
        finally:
            await model.close()

    with opened(wanted.store) as store:
        asyncio.run(serve())
