"""Tool calls in what models say, and the three ways to have them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from minimax_code.model import Message, Reply, Request, ToolCall, ToolSpec
from minimax_code.skills.calls import arguments_of, call_schema, in_words, read_calls, reply_with_tools
from minimax_code.testing import ScriptedModel

READ = ToolSpec(
    name="read",
    description="Reads a file.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
BASH = ToolSpec(
    name="bash",
    description="Runs a command.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}, "seconds": {"type": "integer"}}},
)
ASKED = Request(messages=(Message(role="user", content="Look at a.py"),), tools=(READ, BASH))
CALL = '{"name": "read", "arguments": {"path": "a.py"}}'


@pytest.mark.parametrize(
    "text",
    [
        f"```tool\n{CALL}\n```",
        f"```json\n{CALL}\n```",
        f"```tool_call\n{CALL}",  # cut, or a stop string
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>{CALL}",
        f"[TOOL_CALLS] [{CALL}]",
        '<function=read>{"path": "a.py"}</function>',
        '<minimax:tool_call><invoke name="read">\n<parameter name="path">a.py</parameter></invoke></minimax:tool_call>',
        CALL,
        '{"tool": "read", "path": "a.py"}',
        '{"name": "read", "parameters": {"path": "a.py"}}',
        '{"type": "function", "function": {"name": "read", "arguments": "{\\"path\\": \\"a.py\\"}"}}',
        "```tool\n{'name': 'read', 'arguments': {'path': 'a.py'}}\n```",
        '```tool\n{"name": "read", "arguments": {"path": "a.py",},}\n```',
    ],
)
def test_every_notation_is_the_same_call(text: str) -> None:
    for before, after in (("", ""), ("I'll look at it.\n", ""), ("", "\nThen I go on.")):
        reply = read_calls(Reply(content=before + text + ("" if text.endswith(CALL) else after)), ASKED)
        [call] = reply.calls
        assert (call.name, json.loads(call.arguments)) == ("read", {"path": "a.py"})
        assert reply.finish_reason == "tool_calls"
        assert "a.py" not in reply.content
        assert reply.content.startswith(before.strip())


@pytest.mark.parametrize(
    "text",
    [
        "Just words.",
        '```json\n{"name": "Ada", "age": 36}\n```',
        '{"name": "delete_everything", "arguments": {}}',
        "<tool_call>nothing</tool_call>",
        '```tool\n{"name": "read"',
        "f = {1: 2}",
        "{" * 5000,
        '{"name": ["read"]}',
    ],
)
def test_what_is_no_call_of_an_offered_tool_is_text(text: str) -> None:
    reply = Reply(content=text)
    assert read_calls(reply, ASKED) == reply


def test_several_calls_in_their_order_with_ids_of_their_own() -> None:
    earlier = Message(role="assistant", calls=(ToolCall(id="call_1", name="read"),))
    asked = ASKED.model_copy(update={"messages": (*ASKED.messages, earlier)})
    text = f'```tool\n{CALL}\n```\nand\n<tool_call>{{"name": "bash", "arguments": {{"command": "ls"}}}}</tool_call>'
    reply = read_calls(Reply(content=text), asked)
    assert [(call.id, call.name) for call in reply.calls] == [("call_2", "read"), ("call_3", "bash")]
    assert reply.content == "and"


def test_line_breaks_and_code_within_arguments_survive() -> None:
    command = 'cat > a.py <<"END"\nprint("}")\nEND'
    written = json.dumps({"name": "bash", "arguments": {"command": command}}).replace("\\n", "\n")
    [call] = read_calls(Reply(content=f"```tool\n{written}\n```"), ASKED).calls
    assert json.loads(call.arguments) == {"command": command}


def test_a_model_that_calls_by_itself_is_left_alone() -> None:
    model = ScriptedModel([ToolCall(id="x", name="read"), f"<tool_call>{CALL}</tool_call>"])
    assert ask(model, "native").calls[0].id == "x"
    assert ask(model, "native").calls[0].name == "read", "written as text all the same"
    assert model.requests == [ASKED, ASKED]


def test_told_in_words() -> None:
    turns = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Look"),
        Message(role="assistant", content="Yes.", calls=(ToolCall(id="7", name="read", arguments='{"path": "b.py"}'),)),
        Message(role="tool", content="x = 1", call_id="7"),
    )
    model = ScriptedModel(["Done."])
    reply = asyncio.run(reply_with_tools(model, ASKED.model_copy(update={"messages": turns}), "text"))
    assert (reply.content, reply.calls) == ("Done.", ())
    [told] = model.requests
    assert told.tools == ()
    assert [message.role for message in told.messages] == ["system", "user", "assistant", "user"]
    assert told.messages[0].content.startswith("Be brief.")
    assert "- bash: Runs a command." in told.messages[0].content
    assert '{"name": "read", "arguments": {"path": "b.py"}}' in told.messages[2].content
    assert "x = 1" in told.messages[3].content
    assert read_calls(Reply(content=told.messages[2].content), ASKED).calls[0].name == "read", (
        "it is read as it is shown"
    )


def test_thinking_is_free_and_only_the_call_is_constrained() -> None:
    model = ScriptedModel(["I have to read a.py first.", CALL])
    reply = ask(model, "constrained")
    assert (reply.content, reply.calls[0].name) == ("I have to read a.py first.", "read")
    free, bound = model.requests
    assert free.json_schema is None
    assert bound.json_schema == call_schema(ASKED.tools)
    assert bound.messages[-2].content == "I have to read a.py first."
    assert reply.usage.completion_tokens == 6 + len(CALL.split())


def test_a_constrained_model_may_call_nothing() -> None:
    reply = ask(ScriptedModel(["It is done.", '{"name": "none", "arguments": {}}']), "constrained")
    assert (reply.content, reply.calls, reply.finish_reason) == ("It is done.", (), "stop")


@pytest.mark.parametrize(
    ("call", "valid"),
    [
        ({"name": "read", "arguments": {"path": "a"}}, True),
        ({"name": "none", "arguments": {}}, True),
        ({"name": "read", "arguments": {}}, False),
        ({"name": "write", "arguments": {"path": "a"}}, False),
        ({"name": "none", "arguments": {"path": "a"}}, False),
    ],
)
def test_the_schema_of_a_call(call: dict[str, Any], valid: bool) -> None:
    assert jsonschema.Draft202012Validator(call_schema(ASKED.tools)).is_valid(call) is valid


def test_a_request_without_tools_is_only_asked() -> None:
    bare = Request(messages=ASKED.messages)
    model = ScriptedModel([CALL])
    assert asyncio.run(reply_with_tools(model, bare, "text")).content == CALL
    assert in_words(ASKED).messages != ASKED.messages
    assert model.requests == [bare]


def test_arguments_of() -> None:
    assert arguments_of(ToolCall(id="1", name="x", arguments="{'a': 1,}")) == {"a": 1}
    assert arguments_of(ToolCall(id="1", name="x", arguments="ls -l")) is None


def ask(model: ScriptedModel, style: Any) -> Reply:
    return asyncio.run(reply_with_tools(model, ASKED, style))
