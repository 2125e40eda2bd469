"""A model for jobs that are interrupted: what it says follows from the request alone, whichever process asks it."""

from __future__ import annotations

import json

from minimax_code.model import Abilities, Message, Reply, Request, ToolCall, Usage

USAGE = Usage(prompt_tokens=10, completion_tokens=5)


class MemorylessModel:
    """Adds a second line to notes.txt, with a command that would add a third; where it doesn't know, it looks.

    In a pipeline it writes the whole file.
    """

    name = "memoryless"

    async def abilities(self) -> Abilities:
        """Calls tools."""
        return Abilities(context_tokens=32_768, calls_tools=True)

    async def reply(self, request: Request) -> Reply:
        """Who has no tools makes the plan or is asked by a pipeline, who can't write is the verifier."""
        names = {tool.name for tool in request.tools}
        if not names and "You plan" in request.messages[0].content:
            return Reply(content="1. Write notes.txt", usage=USAGE)
        if not names:  # a first answer isn't quite right
            second = "two" if request.temperature else "three"
            return Reply(content=f"```text notes.txt\none\n{second}\n```", usage=USAGE)
        if "write" not in names:
            return Reply(
                content="I have looked at it.\n\nVERDICT: PASS", usage=Usage(prompt_tokens=10, completion_tokens=5)
            )
        return _next(request.messages)


def _next(messages: tuple[Message, ...]) -> Reply:
    outputs = [message.content for message in messages if message.role == "tool"]
    if outputs and "one\ntwo" in outputs[-1]:
        return Reply(content="notes.txt has two lines.", usage=USAGE)
    unknown = outputs and "unknown" in outputs[-1]
    command = "cat notes.txt" if unknown else "echo two >> notes.txt; cat notes.txt"
    call = ToolCall(id=f"call-{len(outputs)}", name="bash", arguments=json.dumps({"command": command}))
    return Reply(calls=(call,), finish_reason="tool_calls", usage=USAGE)
