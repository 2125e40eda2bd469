"""Runs in the sandbox: a problem's checks in one process, the answer to it in another.

The answer can't reach the checks: they ask it over pipes, in literals, their process gives its memory to nobody, and
what says that they passed is a word that only they have been told.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import json
import os
import subprocess
import sys
from typing import Any

_DUMPABLE = 4

ANSWER = """
import ast, os, sys
questions, answers = os.fdopen(0), os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what it prints is no answer
spec = ast.literal_eval(questions.readline())
names = {"__name__": "answer", "inf": float("inf"), "nan": float("nan")}
exec(spec["program"], names)
for line in questions:
    args, kwargs = eval(line, {"inf": float("inf"), "nan": float("nan")})
    try:
        told = ("returned", names[spec["entry"]](*args, **kwargs))
    except Exception as error:
        told = ("raised", f"{type(error).__name__}: {error}")
    print(repr(told).replace("\\n", " "), file=answers, flush=True)
"""


class Literal(ast.NodeTransformer):
    """Reads inf and nan too, which are no literals in Python."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def main() -> None:
    """Asks for `spec["entry"]` whatever `spec["checks"]` ask, and says `spec["word"]` if they are content."""
    spec = json.loads(sys.stdin.readline())
    ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0)
    answer = subprocess.Popen(
        [sys.executable, "-I", "-c", ANSWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={},
    )  # fmt: skip
    assert answer.stdin is not None and answer.stdout is not None

    def say(words: object) -> None:
        assert answer.stdin is not None
        answer.stdin.write(f"{words!r}\n")
        answer.stdin.flush()

    def candidate(*args: Any, **kwargs: Any) -> Any:
        assert answer.stdout is not None
        say((args, kwargs))
        kind, value = told = read(answer.stdout.readline())
        assert type(told) is tuple and kind == "returned", value
        return value

    with contextlib.suppress(Exception):
        say({"program": spec["program"], "entry": spec["entry"]})
        names: dict[str, Any] = {}
        exec(spec["helpers"], names)  # functions of the problem that its checks use
        exec(spec["checks"], names)
        names["check"](candidate)
        os.write(1, spec["word"].encode())
    answer.kill()


def read(line: str) -> Any:
    """A value, if it consists of literals."""
    return ast.literal_eval(Literal().visit(ast.parse(line.strip(), mode="eval")).body)


if __name__ == "__main__":
    main()
