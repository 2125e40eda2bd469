"""MiniMax Code as an editor has it: a process that is started, and asked over its standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from acp import PROTOCOL_VERSION, RequestError, image_block, resource_block, resource_link_block, text_block
from acp.schema import (
    AllowedOutcome,
    DeniedOutcome,
    McpServerStdio,
    PermissionOption,
    RequestPermissionResponse,
    TextResourceContents,
    ToolCallUpdate,
)
from acp.stdio import spawn_agent_process

from helpers.agents import call
from helpers.shop import DONE, FIX, PASS, PLAN, RIGHT, TASK, WRONG, User
from helpers.tool_server import SERVER
from minimax_code.editor.server import _text
from minimax_code.errors import InputError
from minimax_code.model import Request
from minimax_code.testing import Line, ModelServer, ScriptedModel

CHECKED = ("--check", "python3 check.py")


@dataclass
class Editor:
    """A client of the protocol that writes down what it is shown, and answers questions by the kinds it was given."""

    answers: list[str]
    agent: Any = None
    session: str = ""
    shown: list[Any] = field(default_factory=list)
    asked: list[tuple[ToolCallUpdate, list[PermissionOption]]] = field(default_factory=list)

    def on_connect(self, conn: Any) -> None:
        self.agent = conn

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.shown.append(update)

    async def request_permission(
        self, session_id: str, tool_call: ToolCallUpdate, options: list[PermissionOption], **_: Any
    ) -> RequestPermissionResponse:
        self.asked.append((tool_call, options))
        wanted = self.answers.pop(0)
        if wanted == "put away":
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        chosen = next(option.option_id for option in options if option.kind == wanted)
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=chosen))

    async def say(self, text: str) -> str:
        response = await self.agent.prompt(session_id=self.session, prompt=[text_block(text)])
        return str(response.stop_reason)

    def of(self, kind: str) -> list[Any]:
        return [update for update in self.shown if update.session_update == kind]

    @property
    def text(self) -> str:
        return "".join(update.content.text for update in self.of("agent_message_chunk"))

    async def wait_for(self, kind: str) -> None:
        async with asyncio.timeout(30):
            while not self.of(kind):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(
    user: User, script: Iterable[Line], *args: str, answers: Sequence[str] = (), new: bool = True
) -> AsyncGenerator[Editor, None]:
    editor = Editor([*answers])
    program, *rest = user.command("acp", *args)
    with ModelServer(ScriptedModel(script)) as server:
        environment = user.environment | {"MINIMAX_BASE_URL": server.base_url}
        patient = {"shutdown_timeout": 30.0}
        async with spawn_agent_process(editor, program, *rest, env=environment, transport_kwargs=patient) as (
            agent,
            process,
        ):
            greeted = await agent.initialize(protocol_version=PROTOCOL_VERSION)
            assert greeted.agent_info and greeted.agent_info.name == "minimax-code"
            if new:
                editor.session = (await agent.new_session(cwd=str(user.shop), mcp_servers=[])).session_id
            yield editor
        assert process.stderr and process.returncode == 0, "it ends when its editor does"
        assert await process.stderr.read() == b"", "nothing is said to nobody"


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_a_prompt_is_a_task_whose_change_is_applied_when_the_user_says_so(user: User) -> None:
    async def use() -> Editor:
        async with opened(user, [PLAN, FIX, DONE, PASS], *CHECKED, answers=["allow_once"]) as editor:
            assert await editor.say(TASK) == "end_turn"
        return editor

    editor = asyncio.run(use())
    assert [entry.content for entry in editor.of("plan")[0].entries] == ["Mend total()"]
    begun, ended = editor.of("tool_call")[0], editor.of("tool_call_update")[0]
    assert (begun.title, begun.kind, begun.status) == ("write cart.py", "edit", "in_progress")
    assert [place.path for place in begun.locations] == [str(user.shop / "cart.py")]
    diff = ended.content[0]
    assert (ended.tool_call_id, ended.status) == (begun.tool_call_id, "completed")
    assert (diff.type, diff.path, diff.old_text, diff.new_text) == ("diff", str(user.shop / "cart.py"), WRONG, RIGHT)
    thoughts = "".join(update.content.text for update in editor.of("agent_thought_chunk"))
    assert "1 of 1 checks are green" in thoughts and "the verifier says PASS" in thoughts
    assert f"{DONE}\n\n" in editor.text and "passed: 0 files created, 1 changed" in editor.text
    [(question, options)] = editor.asked
    assert (question.title, question.content) == ("Apply the change to 1 file", [diff])
    assert [option.name for option in options] == ["Apply to my files", "Leave my files as they are"]
    assert editor.text.endswith("Applied: cart.py.")
    assert (user.shop / "cart.py").read_text() == RIGHT


def test_without_a_yes_nothing_is_applied_and_it_can_be_offered_again_after_a_restart(user: User) -> None:
    async def use() -> tuple[Editor, Editor]:
        async with opened(user, [PLAN, FIX, DONE, PASS], *CHECKED, answers=["put away"]) as first:
            await first.say(TASK)
        assert (user.shop / "cart.py").read_text() == WRONG
        async with opened(user, [], answers=["allow_once"], new=False) as second:
            [listed] = (await second.agent.list_sessions(cwd=str(user.shop))).sessions
            assert (listed.session_id, listed.title, listed.cwd) == (first.session, TASK, str(user.shop))
            await second.agent.load_session(cwd=str(user.shop), session_id=first.session, mcp_servers=[])
            second.session = first.session
            said = [update.content.text for update in second.of("user_message_chunk")]
            assert said == [TASK]
            assert second.of("plan") and second.of("tool_call_update")[0].content[0].new_text == RIGHT
            assert "passed: 0 files created" in second.text
            assert await second.say("/apply") == "end_turn"
        return first, second

    asyncio.run(use())
    assert (user.shop / "cart.py").read_text() == RIGHT


def test_permissions_are_asked_for_in_the_editor(user: User) -> None:
    """The call is shown before the question, which names it; a rule that the user gives holds from then on."""
    calls = [call("bash", command=f"echo {word}", id="same") for word in ("one", "two", "three")]
    script = [PLAN, *calls, FIX, DONE, PASS]
    rule, answers = ("--rule", "ask bash"), ["reject_once", "allow_always", "reject_once"]

    async def use() -> Editor:
        async with opened(user, script, *CHECKED, *rule, answers=answers) as editor:
            await editor.say(TASK)
        return editor

    editor = asyncio.run(use())
    asked = [question.tool_call_id for question, _ in editor.asked[:2]]
    begun = {update.tool_call_id: update for update in editor.of("tool_call")}
    assert [(begun[one].title, begun[one].status) for one in asked] == [
        ("bash echo one", "pending"), ("bash echo two", "pending"),
    ]  # fmt: skip
    last = {update.tool_call_id: update.status for update in editor.of("tool_call_update")}
    assert [last[one] for one in asked] == ["failed", "completed"]
    names = [option.name for option in editor.asked[0][1]]
    assert names == ["Allow", "From now on: allow bash(echo *)", "Refuse"]
    assert len(editor.asked) == 3, "the third `echo` isn't asked for, and the last question is of the change"


def test_what_is_cancelled_can_be_gone_on_with(user: User) -> None:
    slow = call("bash", command="sleep 60")

    async def use() -> Editor:
        async with opened(user, [PLAN, slow, FIX, DONE, PASS], *CHECKED, answers=["reject_once"]) as editor:
            working = asyncio.create_task(editor.say(TASK))
            await editor.wait_for("tool_call")
            with pytest.raises(RequestError, match="another one is being worked on"):
                await editor.say("And more")
            await editor.agent.cancel(session_id=editor.session)
            assert await working == "cancelled"
            assert await editor.say("/resume") == "end_turn"
        return editor

    editor = asyncio.run(use())
    assert "passed: 0 files created, 1 changed" in editor.text
    assert (user.shop / "cart.py").read_text() == WRONG


def test_when_the_editor_goes_away_its_work_can_be_gone_on_with(user: User) -> None:
    async def use() -> str:
        async with opened(user, [PLAN, call("bash", command="sleep 60")], *CHECKED) as editor:
            working = asyncio.create_task(editor.say(TASK))
            await editor.wait_for("tool_call")
        with pytest.raises(ConnectionError):
            await working
        return editor.session

    session = asyncio.run(use())
    [listed] = json.loads(user.types("jobs", "--json").stdout)
    assert (listed["id"], listed["state"]) == (f"{session}-1", "crashed_resumable")


def test_servers_of_tools_that_the_editor_names_are_used_and_asked_for(user: User) -> None:
    (user.root / "server.py").write_text(SERVER)
    server = McpServerStdio(name="my shop", command=sys.executable, args=[str(user.root / "server.py")], env=[])
    script = [PLAN, call("mcp__my-shop__price", name="pen"), FIX, DONE, PASS]

    async def use() -> Editor:
        async with opened(user, script, *CHECKED, answers=["allow_once", "reject_once"], new=False) as editor:
            editor.session = (await editor.agent.new_session(cwd=str(user.shop), mcp_servers=[server])).session_id
            await editor.say(TASK)
        return editor

    editor = asyncio.run(use())
    assert editor.asked[0][0].title == 'worker wants to call mcp__my-shop__price: {"name": "pen"}'
    assert editor.of("tool_call_update")[1].content[0].content.text == "pen: 7"


def test_a_prompt_is_text_and_what_it_mentions(tmp_path: Path) -> None:
    shown = TextResourceContents(uri=f"file://{tmp_path}/cart.py#L1:2", text="def total")
    prompt = [
        text_block("Mend "),
        resource_link_block("cart.py", f"file://{tmp_path}/my%20cart.py"),
        resource_block(shown),
        resource_link_block("a page", "https://example.com/cart"),
    ]
    said = "Mend `my cart.py`\n\n`cart.py (L1:2)`:\n\n```\ndef total\n```\n\n`https://example.com/cart`"
    assert _text(prompt, tmp_path) == said
    with pytest.raises(InputError, match="^prompt: has a part of kind image"):
        _text([image_block("", "image/png")], tmp_path)


def test_a_later_prompt_knows_the_earlier_ones(user: User) -> None:
    asked: list[str] = []

    def plan(request: Request) -> str:
        asked.append(request.messages[-1].content)
        return PLAN

    async def use() -> None:
        script = [plan, FIX, DONE, PASS, plan, DONE, PASS]
        async with opened(user, script, *CHECKED, answers=["allow_once"]) as editor:
            await editor.say(TASK)
            await editor.say("Now look at it again")

    asyncio.run(use())
    assert f"you were asked:\n- {TASK}" in asked[1] and "Earlier" not in asked[0]


def test_what_cant_be_done_is_a_sentence(user: User) -> None:
    async def use() -> None:
        async with opened(user, []) as editor:
            for text, said in (("", "prompt: is empty"), ("/dance", "no command /dance"), ("/apply", "no task yet")):
                with pytest.raises(RequestError, match=said):
                    await editor.say(text)
            with pytest.raises(RequestError, match="cwd: shop is no folder"):
                await editor.agent.new_session(cwd="shop", mcp_servers=[])
            with pytest.raises(RequestError, match=r"sessionId: editor-0 is not in"):
                await editor.agent.load_session(cwd=str(user.shop), session_id="editor-0", mcp_servers=[])
            with pytest.raises(RequestError, match="sessionId: other is not open"):
                await editor.agent.prompt(session_id="other", prompt=[text_block("x")])

    asyncio.run(use())
