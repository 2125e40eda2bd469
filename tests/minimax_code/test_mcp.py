"""Tools of other programs: a real server over its standard input and output."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from helpers.agents import bench_of, call, events
from helpers.tool_server import SERVER
from minimax_code.agent import run_agent
from minimax_code.budget import Budget
from minimax_code.errors import InputError
from minimax_code.events import AgentStopped, MemoryLog, ToolEnded
from minimax_code.permissions import Permissions
from minimax_code.testing import ScriptedModel
from minimax_code.tools.mcp import McpServer, mcp_tools


@pytest.fixture
def shop(tmp_path: Path) -> McpServer:
    (tmp_path / "server.py").write_text(SERVER)
    return McpServer(name="shop", command=(sys.executable, str(tmp_path / "server.py")), env={"SHOP": "1"})


async def work(folder: Path, shop: McpServer, script: list[object], *rules: str) -> tuple[AgentStopped, MemoryLog]:
    log = MemoryLog()
    async with mcp_tools([shop]) as tools:
        price = tools[0].spec
        assert (price.name, price.description) == ("mcp__shop__price", "What things cost.")
        assert price.parameters["required"] == ["name"]
        bench = await asyncio.to_thread(bench_of, folder)
        stopped = await run_agent(
            ScriptedModel(script), bench, instructions="Ask the shop.", log=log, budget=Budget(),
            permissions=Permissions.of(*rules), tools=tools,
        )  # fmt: skip
    return stopped, log


def test_a_servers_tools_are_called_where_a_rule_allows_it(
    tmp_path: Path, shop: McpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMAX_API_KEY", "secret")
    script = [
        call("mcp__shop__price", name="pen", count=3),
        call("mcp__shop__odd_name_1"),
        call("mcp__shop__fail"),
        call("mcp__shop__price", name="pen", count="many"),
        "Done.",
    ]
    stopped, log = asyncio.run(work(tmp_path, shop, script, "allow mcp__shop__*"))
    price, environment, failed, wrong = events(log, ToolEnded)
    assert stopped.message == "Done."
    assert (price.output, price.failed) == ("pen: 21", False)
    assert "SHOP" in environment.output.split() and "MINIMAX_API_KEY" not in environment.output
    assert failed.failed and "Error executing tool fail" in failed.output
    assert wrong.failed and "count" in wrong.output


def test_without_a_rule_the_user_is_asked(tmp_path: Path, shop: McpServer) -> None:
    stopped, log = asyncio.run(work(tmp_path, shop, [call("mcp__shop__price", name="pen")]))
    assert stopped.reason == "needs_input"
    assert stopped.message.endswith("allow it with the rule 'allow mcp__shop__price(*)'")
    assert not events(log, ToolEnded)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (McpServer(name="a b", command=("x",)), "mcp.a b: needs a name of letters, digits and '-'"),
        (McpServer(name="both", command=("x",), url="http://127.0.0.1:9/mcp"), "and either a command or a url"),
        (McpServer(name="gone", command=("no-such-program",)), "mcp.gone: no-such-program can't be used as a server"),
        (McpServer(name="gone", url="http://127.0.0.1:9/mcp"), "http://127.0.0.1:9/mcp can't be used as a server"),
        (McpServer(name="mute", command=("true",)), "mcp.mute: true can't be used as a server"),
    ],
)
def test_a_server_that_cant_be_used_is_a_sentence(server: McpServer, message: str) -> None:
    async def start() -> None:
        async with mcp_tools([server]):
            pass

    with pytest.raises(InputError, match=message):
        asyncio.run(start())
