"""A model that says what a script says.

model = ScriptedModel([ToolCall(id="1", name="read", arguments='{"path": "a.py"}'), "It adds two numbers."])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minimax_code.model import Abilities, Reply, Request, ToolCall, Usage

Line = str | ToolCall | Reply | Exception | Callable[[Request], "str | ToolCall | Reply"]


class ScriptedModel:
    """Answers with the lines of a script, in their order.

    A string is content, a `ToolCall` a reply with that one call, an exception is raised, and a function gets the
    request and returns the line. Tokens are words, so that budgets have something to count.

    Attributes:
        requests: what was asked so far.

    Raises:
        AssertionError: on the request after the last line.
    """

    def __init__(self, script: Iterable[Line], *, name: str = "scripted", abilities: Abilities | None = None) -> None:
        self._script = iter(script)
        self._name = name
        self._abilities = abilities or Abilities(context_tokens=32_768, calls_tools=True, takes_json_schema=True)
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    async def abilities(self) -> Abilities:
        """As given."""
        return self._abilities

    async def reply(self, request: Request) -> Reply:
        """The next line."""
        self.requests.append(request)
        line = next(self._script, None)
        assert line is not None, f"the script has no line for request {len(self.requests)}: {request.messages[-1]}"
        if isinstance(line, Exception):
            raise line
        if callable(line) and not isinstance(line, str | ToolCall | Reply):
            line = line(request)
        usage = Usage(
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            completion_tokens=len(line.split()) if isinstance(line, str) else 1,
        )
        match line:
            case str():
                return Reply(content=line, usage=usage)
            case ToolCall():
                return Reply(calls=(line,), finish_reason="tool_calls", usage=usage)
            case _:
                return line
