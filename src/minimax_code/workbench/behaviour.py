"""What functions of a Python file do: calls of them in a sandbox, and inputs that tell two functions apart."""

from __future__ import annotations

import ast
import json
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from minimax_code.workbench.examples import Example
from minimax_code.workbench.inside import script
from minimax_code.workbench.receipt import Case, Receipt
from minimax_code.workbench.sandbox import Limits, Sandbox

MAX_INPUTS = 24

_CALL_S, _ALL_S = 2.0, 30.0
_NOT_MADE = "not made: the process ended before"
_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (0, 1, -1, 2, 7, 12, 100),
    "float": (0.0, 1.5, -2.25, 100.0),
    "str": ("", "a", "Hello World", "Abcba", "abab", "a1, b 22", "([)]"),
    "bool": (True, False),
    "bytes": (b"", b"ab"),
    "None": (None,),
}
_UNTYPED: tuple[Any, ...] = (0, 1, "ab", [3, 1, 2], [])


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What came of calls.

    Attributes:
        outcomes: of each call, as a text that is the same for equal values.
        receipt: with a case for each call; "passed" where it came to what was expected, or where nothing was
            expected and it raised nothing.
        problem: why the file can't be loaded, or "".
    """

    outcomes: tuple[str, ...]
    receipt: Receipt
    problem: str = ""

    @property
    def num_passed(self) -> int:
        """Calls that came to what was expected."""
        return sum(case.outcome == "passed" for case in self.receipt.cases)

    @property
    def passed(self) -> bool:
        """Whether all did, and there was one."""
        return bool(self.outcomes) and self.num_passed == len(self.outcomes)

    @property
    def failure(self) -> str:
        """The first call that didn't, in a sentence; "" where all did."""
        if self.problem:
            return self.problem
        return next((case.message for case in self.receipt.cases if case.outcome != "passed"), "")


def alike(outcome: str) -> str:
    """What of an outcome tells two ways to write a function apart: that it raises, but not in which words."""
    return "raises" if outcome.startswith("raises ") else outcome


async def behave(
    sandbox: Sandbox,
    folder: Path,
    path: str,
    calls: Sequence[Example],
    *,
    python: str = sys.executable,
    tree: str | None = None,
) -> Behaviour:
    """Calls functions of a file, in one process for all calls, each for at most 2 seconds.

    Args:
        folder: what the file lies in; nothing there can be changed.
        path: of the file, within the folder.
        calls: with what is expected of them, or without.
        tree: for the receipt.

    Raises:
        SandboxError: nothing can be run.
    """
    mark = secrets.token_hex(16)
    asked = {"path": path, "seconds": _CALL_S, "mark": mark, "calls": [asdict(call) for call in calls]}
    ran = await sandbox.run(
        (python, "-c", script("behave.py")),
        folder=folder,
        writable=False,
        limits=Limits(seconds=_ALL_S, memory_bytes=1 << 30, processes=16),
        env={"PYTHONHASHSEED": "0"},
        stdin=json.dumps(asked).encode(),
    )
    lines = [line.removeprefix(mark) for line in ran.output.splitlines() if line.startswith(mark)]
    said = [json.loads(line) for line in lines[: len(calls) + 1]]
    loaded = bool(said) and said[0]["ok"]
    problem = "" if loaded else said[0]["outcome"] if said else "loading it ends the process or takes too long"
    made = said[1:] if loaded else []
    made += [{"outcome": _NOT_MADE, "ok": False}] * (len(calls) - len(made))
    cases = tuple(_case(call, one["outcome"], one["ok"]) for call, one in zip(calls, made, strict=True))
    num_passed = sum(case.outcome == "passed" for case in cases)
    receipt = Receipt(
        command=(python, "-c", "(calls of functions)", path),
        tree=tree,
        exit_code=ran.exit_code,
        seconds=ran.seconds,
        sandbox=ran.sandbox,
        checked=f"{path}: {problem}" if problem else f"{num_passed} of {len(calls)} calls of functions in {path}",
        cases=cases,
    )
    return Behaviour(outcomes=tuple(one["outcome"] for one in made), receipt=receipt, problem=problem)


def _case(call: Example, outcome: str, ok: bool) -> Case:
    wanted = f"raise {call.raises}" if call.raises else f"return {call.expected}" if call.expected else "raise nothing"
    message = "" if ok else f"{call.call} should {wanted}, but it is: {outcome}"
    return Case(name=call.call, outcome="passed" if ok else "failed", message=message)


def inputs_for(source: str, function: str, examples: Sequence[Example] = ()) -> tuple[Example, ...]:
    """Calls of a function that are likely to tell one way to write it from another; always the same ones.

    They are the arguments of examples, each varied, and values of the types that its parameters are annotated with.
    Empty where the source has no such function.
    """
    parameters = _parameters(source, function)
    if parameters is None:
        return ()
    known = [_arguments(example.call) for example in examples if example.function == function]
    calls = dict.fromkeys(
        _written(function, arguments) for arguments in _inputs(parameters, [one for one in known if one])
    )
    given = {example.call for example in examples}
    return tuple(Example(call) for call in islice((call for call in calls if call not in given), MAX_INPUTS))


def _parameters(source: str, function: str) -> list[ast.expr | None] | None:
    """The annotations of a function's parameters that have no default."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            arguments = [*node.args.posonlyargs, *node.args.args]
            return [argument.annotation for argument in arguments[: len(arguments) - len(node.args.defaults)]]
    return None


def _arguments(call: str) -> list[Any] | None:
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    return None if tree.keywords else [ast.literal_eval(argument) for argument in tree.args]


def _written(function: str, arguments: Sequence[Any]) -> str:
    return f"{function}({', '.join(map(repr, arguments))})"


def _inputs(parameters: Sequence[ast.expr | None], known: Sequence[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Turn by turn a variation of what is known and values of the types."""
    typed = [list(_values(annotation)) for annotation in parameters]
    for arguments in known:
        for i, argument in enumerate(arguments):
            for varied in islice(_varied(argument), 4):
                yield [*arguments[:i], varied, *arguments[i + 1 :]]
    if not parameters:
        yield []
        return
    for turn in range(max(map(len, typed))):
        yield [values[turn % len(values)] for values in typed]
        yield [values[(turn * (i + 2) + i) % len(values)] for i, values in enumerate(typed)]


def _values(annotation: ast.expr | None) -> Iterable[Any]:
    """Values of an annotated type, as far as it is one of those that literals can have."""
    match annotation:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)) if name in _VALUES:
            return _VALUES[name]
        case ast.Constant(value=None):
            return (None,)
        case ast.Name(id="list" | "List"):
            return _lists(_VALUES["int"])
        case ast.Name(id="dict" | "Dict"):
            return ({}, {"a": 1}, {"a": 1, "b": 2})
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return (*_values(left), *_values(right))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            each = [list(_values(part)) for part in parts]
            match name.lower():
                case "optional":
                    return (*each[0], None)
                case "union":
                    return tuple(value for values in each for value in values)
                case "tuple":
                    return tuple(tuple(values[i % len(values)] for values in each) for i in range(4))
                case "dict" | "mapping":
                    keys, values = each[0], each[-1]
                    return ({}, {keys[1]: values[-1]}, dict(zip(keys[:3], values[:3], strict=False)))
                case "list" | "sequence" | "iterable":
                    return _lists(each[0])
    return _UNTYPED


def _lists(values: Sequence[Any]) -> tuple[list[Any], ...]:
    few = list(values[:4])
    return ([], few[:1], few, few[::-1], [*few[:2], *few[:2]], [*values[::-1]])


def _varied(value: Any) -> Iterator[Any]:
    """Neighbours of a value, of its own type."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value - 1, -value, value * 2, type(value)(0))
        case str():
            yield from (value[::-1], value[:-1], value + value, "", value.swapcase())
        case list() | tuple():
            kind, items = type(value), list(value)
            yield from (kind(items[::-1]), kind(items[:-1]), kind(items + items), kind())
            if items:
                yield from (kind([one, *items[1:]]) for one in islice(_varied(items[0]), 2))
        case dict():
            yield from ({}, dict(list(value.items())[:-1]))
