"""What is written down of a job when it is started: all that a worker needs, but for the key of the model's server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from minimax_code.budget import Price
from minimax_code.errors import InputError
from minimax_code.record import Record
from minimax_code.tools.mcp import McpServer
from minimax_code.work.strategy import Wanted
from minimax_code.work.task import Task


class JobServer(Record):
    """A server of tools, as `McpServer` has it; of its environment the names alone, as values may be secrets."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: tuple[str, ...] = ()

    @classmethod
    def of(cls, server: McpServer) -> Self:
        """What is stored of a server.

        Raises:
            InputError: its address has a password in it.
        """
        if urlsplit(server.url).password:
            raise InputError(f"mcp.{server.name}.url", "has a password in it, which would be stored with the job")
        return cls(name=server.name, command=server.command, url=server.url, env=tuple(server.env))

    def having(self, env: Mapping[str, str]) -> McpServer:
        """The server, with these values in its environment.

        Raises:
            InputError: one is missing.
        """
        if missing := [name for name in self.env if name not in env]:
            told = f"{missing[0]} is missing; `minimax-code jobs resume` takes it from your settings"
            raise InputError(f"mcp.{self.name}.env", told)
        return McpServer(name=self.name, command=self.command, url=self.url, env={name: env[name] for name in self.env})


class JobSpec(Record):
    """A job to do.

    Attributes:
        task: as a `Task` has it, without its callback.
        folder: the user's, which is copied; None to begin with nothing.
        base_url, model, context_tokens: as of `ServerModel`; the key is given to workers in their environment.
        rules: permissions, as `Permissions` reads them.
        strategy, python: as `execute` takes them.
        servers: of tools, which each worker starts anew.
        checkpoint_hours: how often a checkpoint is marked.
    """

    task: dict[str, Any]
    folder: str | None = None
    base_url: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    rules: tuple[str, ...] = ()
    strategy: Wanted = "auto"
    python: str | None = None
    servers: tuple[JobServer, ...] = ()
    price: Price | None = None
    checkpoint_hours: float | None = None

    @classmethod
    def of(cls, task: Task, *, servers: Iterable[McpServer] = (), **fields: Any) -> Self:
        """The job that a task becomes; `fields` are the other attributes.

        Raises:
            InputError: the address of a server has a password in it, which would be stored.
        """
        if (url := fields.get("base_url")) and urlsplit(url).password:
            raise InputError("base_url", "has a password in it, which would be stored with the job; give it as api_key")
        return cls(
            task=task.model_dump(mode="json"),
            checkpoint_hours=task.checkpoint_frequency_hours,
            servers=tuple(map(JobServer.of, servers)),
            **fields,
        )
