"""Permissions: the strictest rule decides, a command is all of its commands, and answers are the user's alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from helpers.agents import bench_of, call, events, run
from minimax_code.errors import InputError
from minimax_code.events import MemoryLog, PermissionAnswered, PermissionAsked, ToolEnded, ToolIntended
from minimax_code.model import Reply
from minimax_code.permissions import Answer, Permissions, Question, Rule, question_of


def test_a_rule_is_written_as_it_is_read() -> None:
    assert Rule.of("allow bash(pytest *)") == Rule(action="allow", tool="bash", subject="pytest *")
    assert str(Rule.of(" deny  mcp__* ")) == "deny mcp__*(*)"
    for text in ("permit bash", "allow", "allow bash(", "allow bash pytest", ""):
        with pytest.raises(InputError, match=r"permissions: .* is no rule; write it as in 'allow bash\(pytest \*\)'"):
            Rule.of(text)


ALLOW = Permissions.of("allow bash(pytest *)", "allow bash(ruff *)", files="ask")


@pytest.mark.parametrize(
    ("command", "action"),
    [
        ("pytest tests", "allow"),
        ("pytest tests && ruff check", "allow"),
        ("pytest x; ruff y | pytest z", "allow"),
        ("pytest tests; rm -r src", "ask"),
        ("pytest tests\nrm -r src", "ask"),
        ("pytest tests & curl x", "ask"),
        ("pytest $(rm -r src)", "ask"),
        ("pytest `rm -r src`", "ask"),
        ("pytest <(rm -r src)", "ask"),
        ("pytest > setup.py", "ask"),
        ("pytest tests\\\nrm", "ask"),
        ("pytest x | { rm -r src; }", "ask"),
        ("PYTEST=1 rm -r src", "ask"),
        ("xpytest tests", "ask"),
        ("", "ask"),
        (";", "ask"),
    ],
)
def test_a_command_is_allowed_where_each_of_its_commands_is(command: str, action: str) -> None:
    assert ALLOW.decide("bash", command, "files")[0] == action


def test_the_strictest_rule_decides_whatever_their_order() -> None:
    for rules in (
        ("allow *", "ask write(*.toml)", "deny write(secret*)"),
        ("deny write(secret*)", "ask write(*.toml)", "allow *"),
    ):
        permissions = Permissions.of(*rules)
        assert permissions.decide("write", "a.py", "files") == ("allow", "allow *(*)")
        assert permissions.decide("write", "x/a.toml", "files")[0] == "ask"
        assert permissions.decide("write", "secret.toml", "files")[0] == "deny"
    denied = Permissions.of("deny bash(rm *)", "allow bash(*)")
    assert denied.decide("bash", "ls && rm -r x", "files")[0] == "deny"
    assert denied.decide("bash", "ls $(pwd)", "files")[0] == "allow"


@pytest.mark.parametrize(("reach", "action"), [("nothing", "allow"), ("files", "deny"), ("outside", "ask")])
def test_where_no_rule_speaks_it_is_what_a_call_can_change(reach: str, action: str) -> None:
    assert Permissions(files="deny").decide("any", "", reach)[0] == action  # type: ignore[arg-type]


def test_what_is_asked_names_what_would_allow_the_like() -> None:
    assert question_of("a", "bash", "pytest -x tests").rule == "allow bash(pytest *)"
    assert question_of("a", "bash", "make").rule == "allow bash(make)"
    assert question_of("a", "bash", "make; rm x").rule == "allow bash(make; rm x)"
    assert question_of("a", "mcp__git__log", "{}").rule == "allow mcp__git__log(*)"
    assert str(question_of("worker", "bash", "make")) == "worker wants to call bash: make"


def answering(*answers: Answer) -> tuple[list[Question], Callable[[Question], Awaitable[Answer]]]:
    asked: list[Question] = []
    left = iter(answers)

    async def ask(question: Question) -> Answer:
        asked.append(question)
        return next(left)

    return asked, ask


def test_a_user_is_asked_and_what_they_say_holds(tmp_path: Path) -> None:
    asked, ask = answering(Answer(allowed=False), Answer(allowed=True, rule="allow bash(echo *)"))
    echo = [call("bash", command=f"echo {i}") for i in range(3)]
    stopped, log = run(bench_of(tmp_path), [*echo, "Done."], permissions=Permissions(files="ask", ask=ask))
    assert stopped.reason == "finished"
    assert [question.subject for question in asked] == ["echo 0", "echo 1"]
    assert [one.output for one in events(log, ToolEnded)] == [
        "bash was not called: your user doesn't allow it. Do without it, or say why you can't", "1\n", "2\n",
    ]  # fmt: skip
    assert [one.rule for one in events(log, PermissionAnswered)] == ["", "allow bash(echo *)"]
    assert len(events(log, ToolIntended)) == 2


def test_an_answer_is_for_one_call_and_not_for_another_with_its_id(tmp_path: Path) -> None:
    asked, ask = answering(Answer(allowed=True), Answer(allowed=False))
    calls = tuple(call("bash", id="same", command=command) for command in ("echo fine", "echo evil"))
    script = [Reply(calls=calls), "Done."]
    _, log = run(bench_of(tmp_path), script, permissions=Permissions(files="ask", ask=ask))
    assert [question.subject for question in asked] == ["echo fine", "echo evil"]
    assert [one.failed for one in events(log, ToolEnded)] == [False, True]


def test_with_nobody_to_ask_the_agent_stops_and_goes_on_when_it_has_an_answer(tmp_path: Path) -> None:
    bench, log = bench_of(tmp_path), MemoryLog()
    permissions = Permissions(files="ask")
    stopped, _ = run(bench, [call("bash", command="echo hi")], log=log, permissions=permissions)
    assert (stopped.reason, stopped.message) == (
        "needs_input", "agent wants to call bash: echo hi; allow it with the rule 'allow bash(echo *)'",
    )  # fmt: skip
    assert not events(log, ToolIntended)
    (asked,) = events(log, PermissionAsked)
    asyncio.run(log.append(PermissionAnswered(agent="agent", call_id=asked.call_id, allowed=True)))
    assert run(bench, ["Done."], log=log, permissions=permissions)[0].message == "Done."
    assert events(log, ToolEnded)[0].output == "hi\n"


def test_what_may_not_be_changed_is_not_whichever_tool_does_it(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, {"app.py": "x = 1\n", "migrations/1.sql": "create"})
    (bench.workspace.path / "way").symlink_to("migrations")
    script = [
        call("write", path="migrations/1.sql", content="drop"),
        call("write", path="./src/../migrations/1.sql", content="drop"),
        call("write", path="way/1.sql", content="drop"),
        call("bash", command="echo ok > app.py; echo drop > way/1.sql"),
        call("bash", command="mv migrations m"),
        "No way.",
    ]
    _, log = run(bench, script, permissions=Permissions.of("deny write(migrations/*)"))
    ended = events(log, ToolEnded)
    assert all(one.failed for one in ended)
    assert ended[0].output.startswith("write was not called: the rule 'deny write(migrations/*)' forbids it.")
    assert ended[3].output == "migrations/1.sql may not be changed, so all that this call changed was undone"
    files = bench.workspace.path
    assert ((files / "migrations/1.sql").read_text(), (files / "app.py").read_text()) == ("create", "x = 1\n")


def test_what_the_user_has_answered_comes_before_what_asks_but_not_before_what_denies() -> None:
    asking = Permissions.of("ask bash", "deny bash(rm *)").answered(["allow bash(echo *)", "allow bash(rm *)"])
    assert asking.decide("bash", "echo one", "files") == ("allow", "allow bash(echo *)")
    assert asking.decide("bash", "echo one; ls", "files") == ("ask", "ask bash(*)")
    assert asking.decide("bash", "rm -r x", "files") == ("deny", "deny bash(rm *)")
