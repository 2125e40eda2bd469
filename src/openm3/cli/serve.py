"""`openm3 serve`: the HTTP API over a local model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from openm3.cli.options import Command, ModelOptions, grouped, model_options
from openm3.errors import InputError
from openm3.server.settings import Settings

if TYPE_CHECKING:
    from openm3.server.backend import Backend


def _setting_options() -> list[Callable[[Any], Any]]:
    """An option for each field of `Settings`, with the field's type, default and help."""
    kinds = get_type_hints(Settings)
    options = []
    for field in fields(Settings):
        name, kind, default = f"--{field.name.replace('_', '-')}", kinds[field.name], field.default
        about: dict[str, Any] = {"default": default, "show_default": default not in (None, ())}
        if get_origin(kind) is tuple:
            name, about["type"], about["multiple"] = name.removesuffix("s"), get_args(kind)[0], True
        elif get_origin(kind) is Literal:
            about["type"] = click.Choice(get_args(kind))
        elif kind is bool:
            name = f"{name}/--no-{name[2:]}" if default else name
            about["is_flag"] = True
        else:  # int, float, str, or one of them or None
            about["type"] = next(each for each in get_args(kind) or (kind,) if each is not type(None))
        options.append(click.option(name, field.name, help=field.metadata["help"],
                                    metavar=field.metadata["metavar"], **about))  # fmt: skip
    return options


def _setting_group(command: Command) -> Command:
    """Adds the settings' options; the command gets them as one `Settings` named `settings`."""
    return grouped(command, tuple(_setting_options()), Settings, "settings")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--load", metavar="NAME", help="Begin with a context of `openm3 context` in the prefix cache.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    metavar="N",
    help="Run N engines on Ray, of this machine or with --ray of a cluster. Default with --ray: one on each machine.",
)
@click.option("--ray", metavar="ADDRESS", help="The Ray cluster to run on: HOST:PORT of its head, or 'auto'.")
@_setting_group
@model_options
def serve(
    host: str,
    port: int,
    load: str | None,
    replicas: int | None,
    ray: str | None,
    settings: Settings,
    model_options: ModelOptions,
) -> None:
    """Serve a model over HTTP, to the clients of the OpenAI API, or other servers that do, with --upstream.

    Without any key (`openm3 keys create`) it is open to everybody on this machine; for others it wants keys, or --open.
    Ctrl-C stops it: running requests get a few seconds to end, a second Ctrl-C cuts them.

    \b
    Examples:
      openm3 serve
      openm3 serve --port 9000 --model ./model.gguf --attention sparse
      openm3 serve --upstream http://10.0.0.1:8000=2 --upstream http://10.0.0.2:8000
      openm3 serve --ray 10.0.0.1:6379 --replicas 4
    """
    from openm3.server import logs
    from openm3.server.accounts.access import check_host
    from openm3.server.accounts.database import default_folder, default_url
    from openm3.server.listener import Server, listen, url

    if settings.upstreams:
        _check_no_model()
    settings = replace(settings, database=settings.database or default_url(), data=settings.data or default_folder())
    check_host(host, settings)

    with listen(host, port) as listener:
        backend, name = None, f"{len(settings.upstreams)} upstreams"
        if not settings.upstreams:
            backend = (
                _replicas(replicas, ray, load, model_options) if replicas or ray else _service(load, model_options)
            )
            name = backend.llm.name
        logs.set_up(settings)
        ready = f"{name}: at {url(listener)}/v1; Ctrl-C stops it"
        server = Server(backend, settings, on_ready=lambda: click.echo(ready, err=True))
        with suppress(KeyboardInterrupt):  # raised again by uvicorn when everything is closed
            server.run(sockets=[listener])


def _service(load: str | None, model_options: ModelOptions) -> Backend:
    """An engine in this process."""
    llm = model_options.load_with(load)[0] if load else model_options.load()
    from openm3.engine.service import Service  # takes seconds, so after the port is ours

    return Service(llm)


def _replicas(count: int | None, address: str | None, load: str | None, model_options: ModelOptions) -> Backend:
    """Engines in other processes.

    Raises:
        InputError: an option isn't for them, or the cluster isn't there or has no room.
    """
    if load:
        raise InputError("--load", "is for one engine in this process; replicas read a context when it is first asked")
    config = model_options.engine_config()
    from openm3.server.replicas import on_ray

    on_ray.connect(address)
    options = on_ray.ReplicaOptions(
        count=count, model=model_options.model, config=config, threads=model_options.threads
    )
    return on_ray.start(options)


def _check_no_model() -> None:
    """Refuses options of a model where none is loaded.

    Raises:
        InputError: names the first one.
    """
    source = click.get_current_context().get_parameter_source
    for name in ("load", "replicas", "ray", "embeddings", *(field.name for field in fields(ModelOptions))):
        if source(name) not in (None, ParameterSource.DEFAULT):
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, "is for a model that is loaded here; with --upstream there is none")
