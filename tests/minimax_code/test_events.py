"""Events survive being written down, also those of other versions."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from minimax_code.events import Event, MemoryLog, ModelReplied, ToolIntended, Unknown, dump, load
from minimax_code.model import Message, Model, Reply, Request, ToolCall, Usage
from minimax_code.testing import ScriptedModel

CALL = ToolCall(id="1", name="bash", arguments='{"command": "ls"}')


@pytest.mark.parametrize("event", [ModelReplied(reply=Reply(calls=(CALL,))), ToolIntended(call=CALL, tree="a" * 40)])
def test_what_is_dumped_is_loaded(event: Event) -> None:
    assert load(*dump(event)) == event


def test_an_event_of_another_version_is_kept_as_it_is() -> None:
    event = load("Teleported", {"where": "there"})
    assert event == Unknown(kind="Teleported", data={"where": "there"})
    assert dump(event) == ("Teleported", {"where": "there"})
    newer = dump(ToolIntended(call=CALL, tree="t"))[1] | {"mood": "good"}
    assert load("ToolIntended", newer) == ToolIntended(call=CALL, tree="t")
    with pytest.raises(ValidationError, match="tree"):
        load("ToolIntended", {"call": {"id": "1", "name": "bash"}})


async def ask(model: Model, text: str) -> Reply:
    return await model.reply(Request(messages=(Message(role="user", content=text),)))


async def say() -> None:
    model, log = ScriptedModel(["Two words.", CALL, ValueError("out")]), MemoryLog()
    reply = await ask(model, "Say three words now.")
    assert (reply.content, reply.usage) == ("Two words.", Usage(prompt_tokens=4, completion_tokens=2))
    assert (await ask(model, "Call.")).calls == (CALL,)
    with pytest.raises(ValueError, match="out"):
        await ask(model, "Fail.")
    with pytest.raises(AssertionError, match="no line for request 4"):
        await ask(model, "More?")
    assert [(await log.append(ModelReplied(reply=reply))).seq for _ in range(2)] == [1, 2]
    assert log.recorded[1].event == ModelReplied(reply=reply)


def test_a_scripted_model_follows_its_script() -> None:
    asyncio.run(say())
