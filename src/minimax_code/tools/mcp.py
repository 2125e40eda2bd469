"""Tools of other programs, over the Model Context Protocol. They run outside of the sandbox, and so ask first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from minimax_code.errors import InputError
from minimax_code.model import ToolSpec
from minimax_code.permissions import Reach
from minimax_code.record import Record
from minimax_code.tools.tool import Output, Place, Tool, ToolError
from minimax_code.workbench.bench import Workbench

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

_SECONDS = 300.0  # for an answer
_DESCRIPTION = 1000  # characters; it is the server's text, and every request carries it


class McpServer(Record):
    """A server that the user has named: a program that speaks over its standard input and output, or an address.

    Attributes:
        name: what its tools' names begin with: `mcp__NAME__TOOL`.
        env: what a program gets in its environment beside PATH, HOME and the like. Nothing else is passed on.
    """

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = {}


def servers_of(entries: Mapping[str, Mapping[str, Any]]) -> tuple[McpServer, ...]:
    """Servers by their names, each entry a command or a url, and an env, as a file of settings has them.

    Raises:
        InputError: one has an entry that isn't understood.
    """
    found = []
    for name, entry in entries.items():
        if unknown := entry.keys() - {"command", "url", "env"}:
            raise InputError(f"mcp.{name}.{min(unknown)}", "is not understood; there are command, url and env")
        try:
            found.append(McpServer.model_validate({"name": name, **entry}, strict=False))
        except ValidationError as error:
            raise InputError(f"mcp.{name}", error.errors()[0]["msg"]) from error
    return tuple(found)


@asynccontextmanager
async def mcp_tools(servers: Sequence[McpServer]) -> AsyncGenerator[tuple[Tool, ...], None]:
    """The tools of all these servers, as long as the context is open.

    Raises:
        InputError: a server can't be started or reached, or `mcp` isn't installed.
    """
    async with AsyncExitStack() as stack:
        tools: list[Tool] = []
        for server in servers:
            client = await _connected(server, stack)
            tools += [
                McpTool(client, server.name, tool.name, tool.description or "", tool.input_schema)
                for tool in (await client.list_tools()).tools
            ]
        yield tuple(tools)


async def _connected(server: McpServer, stack: AsyncExitStack) -> Client:
    field = f"mcp.{server.name}"
    if not re.fullmatch(r"[A-Za-z0-9-]{1,24}", server.name) or bool(server.command) == bool(server.url):
        raise InputError(field, "needs a name of letters, digits and '-', and either a command or a url")
    try:
        from mcp import Client, StdioServerParameters, stdio_client
    except ModuleNotFoundError as error:
        raise InputError(field, "needs the package mcp; pip install 'openm3[mcp]' brings it") from error
    if server.command:
        program = StdioServerParameters(command=server.command[0], args=[*server.command[1:]], env=dict(server.env))
        said_to_nobody = stack.enter_context(Path(os.devnull).open("w"))  # noqa: SIM115  (the stack closes it)
        client = Client(stdio_client(program, said_to_nobody), read_timeout_seconds=_SECONDS)
    else:
        client = Client(server.url, read_timeout_seconds=_SECONDS)
    try:
        return await stack.enter_async_context(client)
    except Exception as error:  # whatever a server does wrong at its start
        where = server.url or " ".join(server.command)
        raise InputError(field, f"{where} can't be used as a server: {_cause(error)}") from error


@dataclass
class McpTool:
    """A tool of a server. Its description is the server's, and no more trusted than a file."""

    client: Client
    server: str
    remote_name: str
    description: str
    parameters: Mapping[str, Any]
    reach: Reach = "outside"
    resumes: bool = False

    @property
    def spec(self) -> ToolSpec:
        """What models are told of it."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"mcp__{self.server}__{self.remote_name}")[:64]
        return ToolSpec(name=name, description=self.description[:_DESCRIPTION], parameters=self.parameters)

    def subject(self, arguments: dict[str, Any], bench: Workbench) -> str:
        """The arguments, as JSON has them."""
        return json.dumps(arguments, sort_keys=True, ensure_ascii=False)

    async def call(self, arguments: dict[str, Any], place: Place) -> Output:
        """Calls it; only text comes back."""
        try:
            result = await self.client.call_tool(self.remote_name, arguments)
        except Exception as error:  # a server that fails is the model's to deal with
            raise ToolError(f"{self.spec.name}: {_cause(error)}") from error
        return Output(_text(result), failed=result.is_error)


def _text(result: CallToolResult) -> str:
    parts = [part.text if part.type == "text" else f"[{part.type}, which can't be shown]" for part in result.content]
    return "\n".join(parts) or "[no output]"


def _cause(error: BaseException) -> str:
    """What really went wrong: the first of a group, and the kind where there is no message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
