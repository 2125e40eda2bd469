"""The agent's loop: what it does is in its events, and from them it goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from helpers.agents import ByTurn, bench_of, call, events, run
from minimax_code.agent import run_agent
from minimax_code.budget import Budget, Price
from minimax_code.errors import ModelError, StoreError
from minimax_code.events import (
    AgentStarted,
    AgentStopped,
    Event,
    MemoryLog,
    ModelReplied,
    PlanChanged,
    Recorded,
    StuckSeen,
    Told,
    ToolEnded,
    ToolIntended,
)  # fmt: skip
from minimax_code.model import Abilities, Reply, Request, ToolCall, Usage
from minimax_code.permissions import Permissions
from minimax_code.testing import ScriptedModel
from minimax_code.tools.delegate import Delegate
from minimax_code.tools.standard import reading_tools, working_tools
from minimax_code.transcript import spent
from minimax_code.workbench.bench import Workbench

ADD = "def add(a, b):\n    return a - b\n"
TEST = "from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
FIX = [
    call("plan", steps=[{"text": "find it", "state": "doing"}], notes=["add is in calc.py"]),
    call("search", pattern="def add"),
    call("read", path="calc.py"),
    call("edit", path="calc.py", old="a - b", new="a + b"),
    call("bash", command="echo ran >> runs; python3 -c 'from calc import add; assert add(2, 3) == 5'"),
    "Fixed add; the assertion holds.",
]


def fixture(folder: Path) -> Workbench:
    return bench_of(folder, {"calc.py": ADD, "test_calc.py": TEST})


def test_an_agent_works_and_each_of_its_steps_is_an_event(tmp_path: Path) -> None:
    bench = fixture(tmp_path)
    stopped, log = run(bench, FIX)
    assert stopped == AgentStopped(agent="agent", reason="finished", message="Fixed add; the assertion holds.")
    assert "a + b" in (bench.workspace.path / "calc.py").read_text()
    assert (tmp_path / "source/calc.py").read_text() == ADD
    kinds = [type(event).__name__ for event in events(log)]
    step = ["ModelAsked", "ModelReplied", "ToolIntended", "ToolEnded"]
    planned = [*step[:3], "PlanChanged", step[3]]
    assert kinds == ["AgentStarted", "Told", *planned, *step * 4, *step[:2], "AgentStopped"]
    ended = events(log, ToolEnded)
    assert [one.failed for one in ended] == [False] * 5
    assert ended[1].output == "calc.py:1: def add(a, b):"
    assert ended[2].output == "     1\tdef add(a, b):\n     2\t    return a - b"
    trees = [one.tree for one in events(log, ToolIntended)]
    assert trees[0] == trees[3] != ended[3].tree == trees[4] != ended[4].tree
    assert (ended[4].receipt.exit_code, ended[4].receipt.tree) == (0, trees[4])


class CutLog(MemoryLog):
    """A log whose process dies when it would write one more event; what was written stays."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    async def append(self, event: Event) -> Recorded:
        if len(self.recorded) == self.most:
            raise StoreError("the process died here")
        return await super().append(event)


def test_a_crash_at_any_event_changes_nothing_of_what_comes_out(tmp_path: Path) -> None:
    whole = fixture(tmp_path / "whole")
    _, log = run(whole, ByTurn(FIX))
    result = asyncio.run(whole.workspace.snapshot())
    for most in range(len(log.recorded)):
        bench, cut = fixture(tmp_path / str(most)), CutLog(most)
        with pytest.raises(StoreError):
            run(bench, ByTurn(FIX), log=cut)
        unknown = isinstance(cut.recorded[-1].event, ToolIntended | PlanChanged) if most else False
        cut.most = 1000
        lines = [*FIX[:-1], FIX[-1]]
        if unknown:  # the agent is told, and this one does it again
            turn = len(events(cut, ModelReplied))
            lines.insert(turn, FIX[turn - 1])
        stopped, _ = run(bench, ByTurn(lines), log=cut)
        assert stopped.reason == "finished"
        assert asyncio.run(bench.workspace.snapshot()) == result, f"after event {most}"
        assert (bench.workspace.path / "runs").read_text() == "ran\n"
        outputs = [one.output for one in events(cut, ToolEnded)]
        assert sum("its outcome is unknown" in output for output in outputs) == unknown


def test_an_agent_that_has_finished_stays_so_until_it_is_told_more(tmp_path: Path) -> None:
    bench, log = fixture(tmp_path), MemoryLog()
    run(bench, ["Done."], log=log)
    assert run(bench, [], log=log)[0].message == "Done."
    model = ScriptedModel(["Done again."])
    stopped, _ = run(bench, model, log=log, instructions="The verifier found a mistake.")
    assert stopped.message == "Done again."
    roles = [(message.role, message.content) for message in model.requests[0].messages]
    assert roles == [
        ("system", "Be good."), ("user", "Do it."), ("assistant", "Done."), ("user", "The verifier found a mistake."),
    ]  # fmt: skip


def test_what_is_said_to_it_while_it_works_is_read_at_its_next_step(tmp_path: Path) -> None:
    log, saying = MemoryLog(), []

    def steered(request: Request) -> ToolCall:
        saying.append(asyncio.ensure_future(log.append(Told(agent="agent", text="Only look, please."))))
        return call("bash", command="true")

    def says(request: Request) -> str:
        return request.messages[-1].content

    assert run(fixture(tmp_path), [steered, says], log=log)[0].message == "Only look, please."


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (call("fly"), "there is no tool 'fly'; there are bash, read"),
        (ToolCall(id="c", name="read", arguments="calc.py"), "read: the arguments are no JSON object"),
        (call("read", file="calc.py"), "read: path: Field required; its arguments are path, start, lines"),
        (call("read", path="calc.py", mood=1), "read: mood: Extra inputs are not permitted"),
        (call("read", path="no.py"), "there is no no.py"),
        (call("read", path="."), "path: . is not a file"),
        (call("read", path="a\0b"), "is no path"),
        (call("read", path="calc.py", start=9), "calc.py has 2 lines"),
        (call("edit", path="calc.py", old="nowhere", new="x"), ""),
        (call("edit", path="calc.py", old="a - b", new="a - b"), "nothing changes"),
        (call("edit", path="calc.py", old="a - b", new="a - ("), "would not parse: line 2: '(' was never closed"),
        (call("write", path="calc.py/x", content=""), "can't be written"),
        (call("bash", command="sleep 5", seconds=1), "[ended: too much of its seconds]"),
        (call("bash", command="echo oh; exit 3"), "oh\n[exit code 3]"),
    ],
)
def test_what_is_wrong_with_a_call_the_model_reads(tmp_path: Path, made: ToolCall, said: str) -> None:
    bench = fixture(tmp_path)
    stopped, log = run(bench, [made, "I see."])
    (ended,) = events(log, ToolEnded)
    assert said in ended.output
    assert (stopped.message, ended.failed) == ("I see.", "has 2 lines" not in said)
    assert (bench.workspace.path / "calc.py").read_text() == ADD


def test_reading_tools_change_nothing(tmp_path: Path) -> None:
    bench = fixture(tmp_path)
    script = [call("bash", command="echo x > new"), call("write", path="new", content=""), "No."]
    _, log = run(bench, script, tools=reading_tools())
    assert [one.failed for one in events(log, ToolEnded)] == [True, True]
    assert not (bench.workspace.path / "new").exists()


def test_a_budget_ends_an_agent_before_the_call_that_it_has_no_room_for(tmp_path: Path) -> None:
    bench, log = fixture(tmp_path), MemoryLog()
    stopped, _ = run(bench, ByTurn(FIX), log=log, budget=Budget(calls=2))
    assert (stopped.reason, stopped.message[:18]) == ("budget", "1 calls are needed")
    used = spent(log.recorded, Price(prompt=1.0))
    assert (used.calls, used.tokens, used.money) == (2, 220, pytest.approx(0.0002))
    again = Budget(calls=6, spent=spent(log.recorded))
    assert run(bench, ByTurn(FIX), log=log, budget=again)[0].reason == "finished"
    assert again.left.calls == 0


def test_with_few_tokens_left_the_reply_is_shorter(tmp_path: Path) -> None:
    model = ByTurn(["Done."])
    run(fixture(tmp_path), model, budget=Budget(tokens=3000))
    assert 256 <= model.requests[0].max_tokens < 3000


class SlowModel(ScriptedModel):
    async def reply(self, request: Request) -> Reply:
        await asyncio.sleep(5)
        return await super().reply(request)


def test_time_ends_a_reply_and_a_call(tmp_path: Path) -> None:
    stopped, _ = run(fixture(tmp_path / "1"), SlowModel([]), budget=Budget(seconds=0.05))
    assert (stopped.reason, stopped.message) == ("budget", "all of the time is used up; allow more seconds")
    bench = fixture(tmp_path / "2")
    stopped, log = run(bench, [call("bash", command="echo x > new; sleep 9")], budget=Budget(seconds=0.5))
    assert stopped.reason == "budget"
    run(bench, ["Well."], log=log)
    assert not (bench.workspace.path / "new").exists()


def test_a_model_that_cant_be_asked_ends_it_until_it_can(tmp_path: Path) -> None:
    bench, log = fixture(tmp_path), MemoryLog()
    stopped, _ = run(bench, [ModelError("no server answers")], log=log)
    assert (stopped.reason, stopped.message) == ("failed", "no server answers")
    assert run(bench, ["Done."], log=log)[0].reason == "finished"


LOOK, RUN = call("read", path="calc.py"), call("bash", command="exit 1")
WRITE = [call("write", path="x", content=text) for text in "ab"]


@pytest.mark.parametrize(
    ("circle", "rule"),
    [
        ([LOOK] * 3, "same call"),
        ([call("read", path=f"no{i}.py") for i in (1, 2, 3)], "same error"),
        ([*WRITE, *WRITE], "back and forth"),
        ([call("search", pattern=f"[{letter}]") for letter in "abcd"], "no change"),
        (["", "", ""], "empty"),
        ([Reply(content="long", finish_reason="length")] * 3, "cut"),
    ],
)
def test_going_in_circles_is_advised_against_then_ended(tmp_path: Path, circle: list[object], rule: str) -> None:
    stopped, log = run(fixture(tmp_path / "1"), [*circle, "Sorry."], patience=4)
    advice = events(log, StuckSeen)
    assert advice[0].rule == rule
    assert stopped.message == "Sorry." if len(advice) == 1 else len(advice) == 2
    stopped, log = run(fixture(tmp_path / "2"), [*circle] * 3, patience=4)
    assert (stopped.reason, [one.rule for one in events(log, StuckSeen)]) == ("stuck", [rule, rule])
    assert stopped.message == f"{rule}; it was advised 2 times and went on"


def test_a_model_without_tool_calls_calls_in_words(tmp_path: Path) -> None:
    bench = fixture(tmp_path)
    said = 'I look.\n```tool\n{"name": "edit", "arguments": {"path": "calc.py", "old": "a - b", "new": "a + b"}}\n```'
    model = ScriptedModel([said, "Done."], abilities=Abilities(context_tokens=8000))
    stopped, _ = run(bench, model)
    assert stopped.message == "Done."
    assert "a + b" in (bench.workspace.path / "calc.py").read_text()
    assert not model.requests[0].tools
    assert "changed calc.py" in model.requests[1].messages[-1].content


def test_several_calls_of_one_reply_are_made_in_order(tmp_path: Path) -> None:
    bench = fixture(tmp_path)
    calls = tuple(call("bash", id=str(i), command=f"echo {i} >> order") for i in range(3))
    run(bench, [Reply(calls=calls, usage=Usage()), "Done."])
    assert (bench.workspace.path / "order").read_text() == "0\n1\n2\n"


def delegating(bench: Workbench, log: MemoryLog, model: ByTurn, budget: Budget) -> AgentStopped:
    async def start(agent: str, task: str, bench: Workbench, budget: Budget) -> AgentStopped:
        child = ByTurn([call("write", path="child", content=task), "I wrote it."])
        return await run_agent(
            child, bench, instructions=task, log=log, budget=budget, permissions=Permissions(),
            tools=working_tools(), agent=agent,
        )  # fmt: skip

    return run(bench, model, log=log, budget=budget, tools=(Delegate(start), *working_tools()))[0]


def test_a_child_has_its_own_context_and_a_part_of_the_budget(tmp_path: Path) -> None:
    bench, log, budget = fixture(tmp_path), MemoryLog(), Budget(calls=10)
    model = ByTurn([call("delegate", task="Write a file."), "All done."])
    assert delegating(bench, log, model, budget).message == "All done."
    assert model.requests[1].messages[-1].content == "I wrote it."
    assert (bench.workspace.path / "child").read_text() == "Write a file."
    names = [one.agent for one in events(log, AgentStarted)]
    assert names == ["agent", f"agent/{next(one.seq for one in log.recorded if isinstance(one.event, ToolIntended))}"]
    assert budget.spent.calls == 4
    poor = Budget(calls=2)
    log = MemoryLog()
    assert delegating(fixture(tmp_path / "poor"), log, model, poor).message == "All done."
    assert events(log, ToolEnded)[0].output.startswith("it has not finished (budget): 1 calls are needed")
    assert poor.left.calls == 0


def test_a_child_that_a_crash_cut_short_goes_on(tmp_path: Path) -> None:
    model = ByTurn([call("delegate", task="Write a file."), "All done."])
    whole = MemoryLog()
    delegating(fixture(tmp_path / "whole"), whole, model, Budget())
    for most in range(4, len(whole.recorded)):
        bench, log = fixture(tmp_path / str(most)), CutLog(most)
        with pytest.raises(StoreError):
            delegating(bench, log, model, Budget())
        begun = {one.call.name for one in events(log, ToolIntended)} - {"delegate"}
        cut_in_child = bool(begun) and isinstance(log.recorded[-1].event, ToolIntended)
        log.most = 1000
        assert delegating(bench, log, model, Budget()).message == "All done."
        assert len(events(log, AgentStarted)) == 2
        assert (bench.workspace.path / "child").exists() != cut_in_child
