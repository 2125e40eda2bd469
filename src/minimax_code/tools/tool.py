"""What a tool is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from minimax_code.budget import Budget
from minimax_code.errors import CodeError
from minimax_code.events import Event
from minimax_code.model import ToolSpec
from minimax_code.permissions import Reach
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.receipt import Receipt


class ToolError(CodeError):
    """A call that can't be done; the model reads the message."""


@dataclass(frozen=True)
class Place:
    """Where a tool is called.

    Attributes:
        agent: whose call it is.
        number: of the event that began the call, so unique within a job.
        tree: its files as they are before the call.
        budget: what the agent has.
        emit: writes an event into the job's log.
    """

    bench: Workbench
    agent: str
    number: int
    tree: str
    budget: Budget
    emit: Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Output:
    """What came of a call, as the model reads it."""

    text: str
    failed: bool = False
    receipt: Receipt | None = None


class Tool(Protocol):
    """Something that an agent can call."""

    @property
    def reach(self) -> Reach:
        """What it can change; files are recorded after calls of tools that can change any."""
        ...

    @property
    def resumes(self) -> bool:
        """Whether a call that a crash cut short is called again, as it goes on by itself. Of others the outcome is
        unknown, and the agent is told so.
        """
        ...

    @property
    def spec(self) -> ToolSpec:
        """What models are told of it."""
        ...

    def subject(self, arguments: dict[str, Any], bench: Workbench) -> str:
        """What permissions are matched with.

        Raises:
            ToolError: the arguments aren't those of the tool.
        """
        ...

    async def call(self, arguments: dict[str, Any], place: Place) -> Output:
        """Does it.

        Raises:
            CodeError: it can't be done; the model reads why.
        """
        ...


class Arguments(BaseModel):
    """Base of the arguments of our own tools. Numbers may be text, as models write them; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


A = TypeVar("A", bound=Arguments)


class Typed(Generic[A]):
    """A tool whose arguments are a class: its JSON schema is what models are told, its fields' descriptions too."""

    name: ClassVar[str]
    description: ClassVar[str]
    takes: type[A]
    reach: Reach = "nothing"
    resumes = False

    @property
    def spec(self) -> ToolSpec:
        """What models are told of it."""
        schema = _plain(self.takes.model_json_schema())
        return ToolSpec(name=self.name, description=self.description, parameters=schema)

    def subject(self, arguments: dict[str, Any], bench: Workbench) -> str:
        """What permissions are matched with."""
        return self._subject(self._read(arguments), bench)

    async def call(self, arguments: dict[str, Any], place: Place) -> Output:
        """Does it."""
        return await self._call(self._read(arguments), place)

    def _subject(self, arguments: A, bench: Workbench) -> str:
        return arguments.model_dump_json()

    async def _call(self, arguments: A, place: Place) -> Output:
        raise NotImplementedError

    def _read(self, arguments: dict[str, Any]) -> A:
        try:
            return self.takes.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(map(str, first["loc"])) or "arguments"
            names = ", ".join(self.takes.model_fields)
            raise ToolError(f"{self.name}: {field}: {first['msg']}; its arguments are {names}") from error


def _plain(schema: Any) -> Any:
    """A schema without titles: they say nothing, and every model would read them each time."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema
