"""Runs inside the sandbox: calls functions of a Python file, and says what comes of each call.

Its text is given to `python -c`, with a JSON object on stdin: `path`, `seconds` for each call, `mark`, and `calls`,
each an object with `call`, `expected` and `raises`. For the file and for each call it writes a line: `mark`, a space,
and JSON with `outcome` and `ok`. What the file itself prints goes nowhere. It imports nothing of ours.
"""

from __future__ import annotations

import ast
import json
import math
import os
import signal
import sys
import types
from typing import Any, NoReturn

_LONGEST = 2000  # characters of an outcome
_DEEPEST = 6


class _TooLong(BaseException):
    """A call that doesn't end; no `except Exception` catches it."""


def _alarm(*_: object) -> NoReturn:
    raise _TooLong


def plain(value: Any, depth: int = 0) -> str:
    """A text that is the same for values that are equal."""
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.9g}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(plain(one, depth + 1) for one in value[:200])
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(plain(one, depth + 1) for one in value)) + "}"
    if isinstance(value, dict):
        pairs = (f"{plain(key, depth + 1)}: {plain(one, depth + 1)}" for key, one in value.items())
        return "{" + ", ".join(sorted(pairs)) + "}"
    if isinstance(value, types.GeneratorType):
        return "generator of " + plain([one for one, _ in zip(value, range(100), strict=False)], depth + 1)
    if getattr(type(value), "__repr__", None) is object.__repr__ and hasattr(value, "__dict__"):
        return f"{type(value).__name__}({plain(vars(value), depth + 1)})"
    return repr(value)


def same(value: Any, expected: Any) -> bool:
    """Whether a value is the expected literal; floats may be off by rounding. No `__eq__` of the file's is asked."""
    if isinstance(value, float) or isinstance(expected, float):
        both = isinstance(value, (int, float)) and isinstance(expected, (int, float))
        return both and math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-6)
    if type(value) is type(expected) and isinstance(value, (list, tuple)):
        return len(value) == len(expected) and all(map(same, value, expected))
    return type(value) is type(expected) and plain(value) == plain(expected)


def call(asked: dict[str, str], names: dict[str, Any]) -> tuple[str, bool]:
    """What a call comes to, and whether that was expected; where nothing was, anything but an error is."""
    tree = ast.parse(asked["call"], mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    arguments = [ast.literal_eval(argument) for argument in tree.args]
    named = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in tree.keywords}
    before = plain([arguments, named])
    try:
        value = names[tree.func.id](*arguments, **named)
        outcome = plain(value)
    except _TooLong:
        return "takes too long", False
    except BaseException as error:
        return f"raises {type(error).__name__}: {error}", type(error).__name__ == asked["raises"]
    after = plain([arguments, named])
    if after != before:
        outcome += f", and its arguments become {after}"
    if asked["expected"]:
        return outcome, same(value, ast.literal_eval(asked["expected"]))
    return outcome, not asked["raises"]


def main() -> None:
    """Loads the file and makes the calls, each within its time."""
    asked = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)

    def say(outcome: str, ok: bool) -> None:
        out.write(f"{asked['mark']} {json.dumps({'outcome': outcome[:_LONGEST], 'ok': ok})}\n")
        out.flush()

    signal.signal(signal.SIGALRM, _alarm)
    sys.setrecursionlimit(3000)
    sys.path.insert(0, os.getcwd())
    sys.path.insert(0, os.path.dirname(os.path.abspath(asked["path"])))
    module = types.ModuleType("called")
    module.__file__ = asked["path"]
    sys.modules["called"] = module
    signal.setitimer(signal.ITIMER_REAL, 5 * asked["seconds"])
    try:
        with open(asked["path"], encoding="utf-8") as file:
            exec(compile(file.read(), asked["path"], "exec"), module.__dict__)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(f"loading it raises {type(error).__name__}: {error}", False)
        return
    say("", True)
    for one in asked["calls"]:
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
        try:
            outcome, ok = call(one, module.__dict__)
        except _TooLong:
            outcome, ok = "takes too long", False
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(outcome, ok)


if __name__ == "__main__":
    main()
