"""Examples in texts, calls of functions in a sandbox, and inputs that tell functions apart."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from minimax_code.workbench.behaviour import Behaviour, behave, inputs_for
from minimax_code.workbench.examples import Example, examples_in
from minimax_code.workbench.sandbox import find_sandbox


@pytest.mark.parametrize(
    ("text", "examples"),
    [
        ("def f(x):\n    '''Doubles.\n    >>> f(2)\n    4\n    '''", [Example("f(2)", "4")]),
        (">>> f('a, b')\n['a', 'b']\n>>> f('')\n[]", [Example("f('a, b')", "['a', 'b']"), Example("f('')", "[]")]),
        (">>> f(-1)\nTraceback (most recent call last):\nValueError: no", [Example("f(-1)", raises="ValueError")]),
        ("def f(x): ...\nf(1) == 2 and f(2) => 3.", [Example("f(1)", "2"), Example("f(2)", "3")]),
        ("Write `f(x)`. f((1, 2)) should return (2, 1).", [Example("f((1, 2))", "(2, 1)")]),
        ("def f(x): ...\nf([]) ➞ []", [Example("f([])", "[]")]),
        ("def f(x): ...\n# f(0.5) -> 0.25  # a comment", [Example("f(0.5)", "0.25")]),
        ("def f(x): ...\nf(')') returns 'closed'", [Example("f(')')", "'closed'")]),
        ("def f(x): ...\nf(x) == 2, f(1) == y, f(1) == 2 + x, g(1) == 2, f(1) ==", []),
        ("Write add(a, b): add(1, 2) == 3, len('a') == 1", [Example("add(1, 2)", "3")]),
        ("print(f(1))\n>>> x = 1\n>>> x\n1", []),
        (">>> f(1)\n  badly\n>>>no", []),
        ("```python\ndef f(x):\n    '''\n    >>> f(3)\n    6\n    '''\n```", [Example("f(3)", "6")]),
    ],
)  # fmt: skip
def test_examples_of_a_text(text: str, examples: list[Example]) -> None:
    assert list(examples_in(text)) == examples


def test_calls_of_functions(tmp_path: Path) -> None:
    source = """
def area(w, h): return w * h / 1
def push(items): items.append(1)
def fails(x): raise KeyError(x)
def stuck():
    while True: pass
def noisy(): print("mark {}"); return {3, 1, 2}
def odd(n): return (i for i in range(n) if i % 2)
class Yes:
    def __eq__(self, other): return True
def cheat(): return Yes()
"""
    calls = [
        Example("area(2, 3)", "6"), Example("area(2, 3)", "7"), Example("push([0])", "None"), Example("fails('k')"),
        Example("fails('k')", raises="KeyError"), Example("area(2, 3)", raises="KeyError"),
        Example("noisy()", "{1, 2, 3}"), Example("odd(6)"), Example("cheat()", "1"), Example("missing()"),
    ]  # fmt: skip
    ran = run(tmp_path, source, calls)
    assert ran.outcomes == (
        "6", "6", "None, and its arguments become [[[0, 1]], {}]", "raises KeyError: 'k'", "raises KeyError: 'k'", "6",
        "{1, 2, 3}", "generator of [1, 3, 5]", "Yes({})", "raises KeyError: 'missing'",
    )  # fmt: skip
    passed = [case.outcome == "passed" for case in ran.receipt.cases]
    assert passed == [True, False, True, False, True, False, True, True, False, False]
    assert ran.failure == "area(2, 3) should return 7, but it is: 6"
    assert (ran.num_passed, ran.passed, ran.problem) == (5, False, "")
    assert ran.receipt.sandbox == find_sandbox().name
    assert run(tmp_path, source, calls[:1]).passed


def test_what_ends_the_process_or_never_ends_loses_only_itself(tmp_path: Path) -> None:
    source = "import os, time\ndef f(x):\n    while x == 1: pass\n    return x\ndef die(): os._exit(0)\n"
    ran = run(tmp_path, source, [Example("f(1)"), Example("f(2)", "2"), Example("die()"), Example("f(3)")])
    assert ran.outcomes == ("takes too long", "2", *["not made: the process ended before"] * 2)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ends the process"),
        ("open('a.txt', 'w')", "loading it raises"),
        ("import socket; socket.create_connection(('127.0.0.1', 22))", "loading it raises"),
    ],
)
def test_a_file_that_cant_be_loaded(tmp_path: Path, source: str, problem: str) -> None:
    ran = run(tmp_path, source, [Example("f(1)")])
    assert problem in ran.problem
    assert not ran.passed
    assert list(tmp_path.iterdir()) == [tmp_path / "main.py"]


def test_inputs_come_from_types_and_examples_and_are_calls() -> None:
    source = "from typing import *\ndef f(n: int, items: List[str], flag: Optional[bool] = None): ...\n"
    calls = [example.call for example in inputs_for(source, "f", [Example("f(5, ['x', 'yz'])", "1")])]
    assert calls == [example.call for example in inputs_for(source, "f", [Example("f(5, ['x', 'yz'])", "1")])]
    assert len(calls) == len(set(calls)) > 10
    arguments = [[ast.literal_eval(one) for one in ast.parse(call).body[0].value.args] for call in calls]  # type: ignore[attr-defined]
    assert all(isinstance(n, int) and all(isinstance(item, str) for item in items) for n, items in arguments)
    assert [4, ["x", "yz"]] in arguments
    assert [5, ["yz", "x"]] in arguments
    assert any(n < 0 for n, _ in arguments)
    assert any(not items for _, items in arguments)


@pytest.mark.parametrize("source", ["def g(): ...", "def f(:", "class f: ..."])
def test_no_inputs_where_there_is_no_such_function(source: str) -> None:
    assert inputs_for(source, "f") == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(n: int): return n % 2 == 0", "def f(n: int): return n > 0"),
        ("def f(s: str): return s == s[::-1]", "def f(s: str): return s.lower() == s[::-1].lower()"),
        ("def f(x: list[int]): return sorted(set(x))", "def f(x: list[int]): return sorted(x)"),
        ("def f(d: dict[str, int]): return max(d.values(), default=0)", "def f(d: dict[str, int]): return len(d)"),
        ("def f(a, b): return a + b", "def f(a, b): return b + a"),
    ],
)
def test_inputs_tell_different_functions_apart(tmp_path: Path, one: str, other: str) -> None:
    calls = inputs_for(one, "f")
    assert run(tmp_path, one, calls).outcomes != run(tmp_path, other, calls).outcomes
    assert run(tmp_path, one, calls).outcomes == run(tmp_path, one, calls).outcomes


def run(folder: Path, source: str, calls: list[Example] | tuple[Example, ...]) -> Behaviour:
    (folder / "main.py").write_text(source)
    return asyncio.run(behave(find_sandbox(), folder, "main.py", calls))
