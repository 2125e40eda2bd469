"""What an editor talks to: the methods of the Agent Client Protocol, over standard input and output."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from acp import PROTOCOL_VERSION, Agent, Client, RequestError, run_agent
from acp.core import DEFAULT_STDIO_BUFFER_LIMIT_BYTES
from acp.helpers import ContentBlock
from acp.schema import (
    AcpMcpServer,
    AgentCapabilities,
    AvailableCommand,
    AvailableCommandsUpdate,
    EmbeddedResourceContentBlock,
    HttpMcpServer,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    McpCapabilities,
    McpServerStdio,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    ResourceContentBlock,
    SessionCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SseMcpServer,
    TextContentBlock,
    TextResourceContents,
)
from acp.stdio import stdio_streams

from minimax_code.editor.session import COMMANDS, Session, SpecOf, prompt_of
from minimax_code.errors import CodeError, InputError
from minimax_code.model import Model
from minimax_code.phrases import line_of
from minimax_code.store import Store
from minimax_code.tools.mcp import McpServer

EditorServer = HttpMcpServer | SseMcpServer | AcpMcpServer | McpServerStdio
"""A server of tools, as an editor names it."""

_SESSION = re.compile(r"(editor-[0-9a-f]{10})-\d+")


class Server:
    """Serves one editor.

    Args:
        spec_of: the job that a prompt becomes.
        servers: of tools, besides those that the editor names.
    """

    def __init__(self, store: Store, model: Model, spec_of: SpecOf, servers: Sequence[McpServer] = ()) -> None:
        self._store, self._model, self._spec_of, self._servers = store, model, spec_of, tuple(servers)
        self._sessions: dict[str, Session] = {}
        self._client: Client

    async def run(self) -> None:
        """Until the editor closes the connection."""
        reader, writer = await stdio_streams(limit=DEFAULT_STDIO_BUFFER_LIMIT_BYTES)
        try:
            await run_agent(cast(Agent, self), writer, reader)  # "method not found" is said of what it hasn't got
        finally:
            writer.close()

    def on_connect(self, conn: Client) -> None:
        """The editor is there."""
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        """What this agent can do."""
        return InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(embedded_context=True),
                mcp_capabilities=McpCapabilities(http=True),
                session_capabilities=SessionCapabilities(list=SessionListCapabilities()),
            ),
            agent_info=Implementation(name="minimax-code", title="MiniMax Code", version=version("openm3")),
            auth_methods=[],
        )

    async def new_session(
        self,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[EditorServer] | None = None,
        **_: Any,
    ) -> NewSessionResponse:
        """A conversation about a folder."""
        with _told():
            session = self._session(
                f"editor-{secrets.token_hex(5)}", cwd, additional_directories or (), mcp_servers or ()
            )
        await self._tell_commands(session)
        return NewSessionResponse(session_id=session.id)

    async def load_session(
        self,
        cwd: str,
        session_id: str,
        mcp_servers: list[EditorServer] | None = None,
        additional_directories: list[str] | None = None,
        **_: Any,
    ) -> LoadSessionResponse:
        """A conversation of before, which the editor is shown again."""
        with _told():
            session = self._session(session_id, cwd, additional_directories or (), mcp_servers or ())
            if not session.jobs:
                raise InputError("sessionId", f"{session_id} is not in {self._store.shown}")
            await session.replay()
        await self._tell_commands(session)
        return LoadSessionResponse()

    async def list_sessions(self, cwd: str | None = None, cursor: str | None = None, **_: Any) -> ListSessionsResponse:
        """Conversations of before, the newest first."""
        found: dict[str, SessionInfo] = {}
        for row in reversed(self._store.jobs()):  # the first prompt is the title, the last one says when
            if (name := _SESSION.fullmatch(row.id)) and (cwd is None or row.spec.get("folder") == cwd):
                at = row.created_at.isoformat()
                title = line_of(prompt_of(self._store, row.id))
                first = found.pop(name[1], None) or SessionInfo(session_id=name[1], cwd=row.spec["folder"], title=title)
                found[name[1]] = first.model_copy(update={"updated_at": at})
        return ListSessionsResponse(sessions=[*reversed(found.values())])

    async def prompt(self, session_id: str, prompt: list[ContentBlock], **_: Any) -> PromptResponse:
        """Does what the user says, and says so while it does."""
        with _told():
            session = self._known(session_id)
            return PromptResponse(stop_reason=await session.prompt(_text(prompt, session.folder)))

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Ends what is being done."""
        if session := self._sessions.get(session_id):
            session.cancel()

    def _session(self, id: str, cwd: str, more_folders: Sequence[str], servers: Sequence[EditorServer]) -> Session:
        folder = Path(cwd)
        if not folder.is_absolute() or not folder.is_dir():
            raise InputError("cwd", f"{cwd} is no folder; give its whole path")
        if more_folders:
            raise InputError("additionalDirectories", "can't be used: a task works on one folder")
        if id in self._sessions:
            self._sessions[id].cancel()
        session = self._sessions[id] = Session(
            id, folder.resolve(), [*self._servers, *map(_server, servers)],
            store=self._store, model=self._model, spec_of=self._spec_of, client=self._client,
        )  # fmt: skip
        return session

    def _known(self, session_id: str) -> Session:
        if session_id not in self._sessions:
            raise InputError("sessionId", f"{session_id} is not open; session/load opens it")
        return self._sessions[session_id]

    async def _tell_commands(self, session: Session) -> None:
        commands = [AvailableCommand(name=name, description=text) for name, text in COMMANDS.items()]
        update = AvailableCommandsUpdate(session_update="available_commands_update", available_commands=commands)
        await self._client.session_update(session_id=session.id, update=update)


@contextmanager
def _told() -> Generator[None, None, None]:
    """What goes wrong is told to the editor in a sentence."""
    try:
        yield
    except InputError as error:
        raise RequestError(-32602, str(error)) from error
    except CodeError as error:
        raise RequestError(-32603, str(error)) from error


def _server(named: EditorServer) -> McpServer:
    name = re.sub(r"[^A-Za-z0-9-]", "-", named.name)[:24]
    match named:
        case McpServerStdio(command=command, args=args, env=env):
            return McpServer(name=name, command=(command, *args), env={each.name: each.value for each in env})
        case HttpMcpServer(url=url, headers=headers) if not headers:
            return McpServer(name=name, url=url)
        case HttpMcpServer():
            raise InputError(f"mcpServers.{named.name}", "has headers, which can't be sent; name it without any")
        case _:
            raise InputError(f"mcpServers.{named.name}", "is of a kind that can't be used; there are stdio and http")


def _text(prompt: Sequence[ContentBlock], folder: Path) -> str:
    """A prompt as a model reads it: what it mentions is named by its path, what it brings along stands in it."""
    parts = []
    for block in prompt:
        match block:
            case TextContentBlock(text=text):
                parts.append(text)
            case ResourceContentBlock(uri=uri):
                parts.append(f"`{_path(uri, folder)}`")
            case EmbeddedResourceContentBlock(resource=TextResourceContents(uri=uri, text=text)):
                parts.append(f"\n\n`{_path(uri, folder)}`:\n\n```\n{text}\n```\n\n")
            case _:
                raise InputError("prompt", f"has a part of kind {block.type}, which can't be read; write it as text")
    return "".join(parts)


def _path(uri: str, folder: Path) -> str:
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or not path.is_relative_to(folder):
        return uri
    return f"{path.relative_to(folder)}{f' ({parts.fragment})' if parts.fragment else ''}"
