"""`openm3 serve`: the HTTP API over a local model."""

from __future__ import annotations

from contextlib import suppress

import click

from openm3.cli.options import ModelOptions, model_options


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@model_options
def serve(host: str, port: int, model_options: ModelOptions) -> None:
    """Serve a model over HTTP, to the clients of the OpenAI API.

    Ctrl-C stops it: running requests get a few seconds to end, a second Ctrl-C cuts them.

    \b
    Examples:
      openm3 serve
      openm3 serve --port 9000 --model ./model.gguf --attention sparse
    """
    from openm3.server.listener import Server, listen, url

    with listen(host, port) as listener:
        llm = model_options.load()
        from openm3.engine.service import Service  # takes seconds, so after the port is ours

        ready = f"{llm.name} is at {url(listener)}/v1; Ctrl-C stops it"
        server = Server(Service(llm), on_ready=lambda: click.echo(ready, err=True))
        with suppress(KeyboardInterrupt):  # raised again by uvicorn when everything is closed
            server.run(sockets=[listener])
