"""Whether code can be called as somebody says: looked up by importing it in the sandbox, or by its syntax."""

from __future__ import annotations

import ast
import json
import re
import secrets
from dataclasses import dataclass

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import module_of, path_problem
from minimax_code.workbench.inside import script
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.running import Limits
from minimax_code.workbench.syntax import language_of

_API = re.compile(r"(?P<place>[\w./-]+):(?P<name>[A-Za-z_][\w.]*)\s*(?P<parameters>\(.*\))?", re.DOTALL)
_MODULE = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*")
_BY_PLACE = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
_ANY = "..."
_SECONDS = 30.0


@dataclass(frozen=True)
class Parameter:
    """Of a function: `kind` as `inspect` names it, and the default as source, or None."""

    name: str
    kind: str
    default: str | None

    def __str__(self) -> str:
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(self.kind, "")
        return f"{stars}{self.name}" + ("" if self.default is None else f"={self.default}")


@dataclass(frozen=True, kw_only=True)
class Api:
    """Something that has to be there.

    Attributes:
        place: a module of Python ("shop.cart"), or a file of any language that is read ("cart.go").
        name: of a function, class or other value, with dots where it lies within another ("Cart.add").
        parameters: as source ("(prices, tax=0)"), "" where they don't matter.
    """

    place: str
    name: str
    parameters: str = ""

    @classmethod
    def of(cls, text: str, field: str = "api") -> Api:
        """Reads `shop.cart:total(prices, tax=0)`: no types, and `...` for a default of any value.

        Raises:
            InputError: it is not written so.
        """
        found = _API.fullmatch(text.strip())
        if not found or path_problem(found["place"]):
            raise InputError(field, f"{text!r} can't be read; write it as in 'shop.cart:total(prices, tax=0)'")
        api = cls(place=found["place"], name=found["name"], parameters=found["parameters"] or "")
        if api.module is None and not _is_file(api.place):
            raise InputError(field, f"{api.place} is no module of Python and no file of a language that is read here")
        if api.module and api.parameters:
            _parameters(api.parameters, field)
        return api

    @property
    def module(self) -> str | None:
        """The module to import; None where it isn't Python's."""
        if self.place.endswith(".py"):
            return module_of(self.place)
        return self.place if _MODULE.fullmatch(self.place) and not _is_file(self.place) else None


def _is_file(place: str) -> bool:
    return language_of(place) is not None


async def look_up(api: Api, bench: Workbench) -> Receipt:
    """The receipt of looking it up: it ends with 0 if code can be called so, and else says in `checked` why not.

    Raises:
        SandboxError: the sandbox can't be started.
    """
    if api.module is None:
        problem, receipt = _by_syntax(api, bench), Receipt(command=(), tree=await bench.workspace.snapshot())
    else:
        mark = secrets.token_hex(16)
        asked = json.dumps({"module": api.module, "name": api.name, "mark": mark})
        command, limits = (bench.python, "-c", script("api.py")), Limits(seconds=_SECONDS)
        ran = await bench.run(command, limits=limits, stdin=asked.encode(), writable=False)
        problem, receipt = _by_import(api, ran.output, mark), ran.receipt
    told = problem or f"{api.name} is in {api.place}, and can be called so"
    return receipt.model_copy(update={"exit_code": int(bool(problem)), "checked": told})


def _by_import(api: Api, output: str, mark: str) -> str:
    said = [line.removeprefix(mark) for line in output.splitlines() if line.startswith(mark)]
    if not said:
        return f"importing {api.module} ends the process or takes too long"
    found = json.loads(said[0])
    if found["problem"] or not api.parameters:
        return str(found["problem"])
    if found["parameters"] is None:
        return f"{api.name} can't be called"
    there = [Parameter(*one) for one in found["parameters"]]
    wanted = _parameters(api.parameters, "api")
    return _difference(wanted[1:] if wanted[:1] and wanted[0].name in ("self", "cls") else wanted, there)


def _difference(wanted: list[Parameter], there: list[Parameter]) -> str:
    """Why a call by the wanted parameters isn't one by those that there are, or ""."""
    shown = f"its parameters are ({', '.join(map(str, there))})"
    by_place = [[one for one in group if one.kind in _BY_PLACE] for group in (wanted, there)]
    for one, other in zip(by_place[0], by_place[1], strict=False):
        if one.name != other.name:
            return f"{other.name} stands where {one.name} should: {shown}"
    named = {one.name: one for one in there}
    for one in wanted:
        if one.name not in named:
            return f"{one.name} is missing: {shown}"
        kind, default = named[one.name].kind, named[one.name].default
        if kind not in ("POSITIONAL_OR_KEYWORD", one.kind):
            return f"{one.name} can't be given so: {shown}"
        if one.default is not None and (default is None or one.default not in (_ANY, default)):
            return f"{one.name} has no default {one.default}: {shown}"
    names = {one.name for one in wanted}
    needed = [one.name for one in there if one.name not in names and one.default is None and "VAR" not in one.kind]
    return f"{needed[0]} has to be given too: {shown}" if needed else ""


def _parameters(text: str, field: str) -> list[Parameter]:
    try:
        [function] = ast.parse(f"def f{text}: ...").body
    except (SyntaxError, ValueError) as error:
        raise InputError(field, f"{text} are no parameters: {error}") from error
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    if any(one.annotation for one in ast.walk(arguments) if isinstance(one, ast.arg)):
        raise InputError(
            field, f"{text} has types; leave them out, or check them with a command such as 'mypy cart.py'"
        )
    by_place = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(by_place) - len(arguments.defaults)) + [*arguments.defaults]
    found = [
        Parameter(one.arg, _BY_PLACE[one not in arguments.posonlyargs], _default(default))
        for one, default in zip(by_place, defaults, strict=True)
    ]
    found += [Parameter(one.arg, "VAR_POSITIONAL", None) for one in [arguments.vararg] if one]
    found += [
        Parameter(one.arg, "KEYWORD_ONLY", _default(default))
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return found + [Parameter(one.arg, "VAR_KEYWORD", None) for one in [arguments.kwarg] if one]


def _default(node: ast.expr | None) -> str | None:
    return None if node is None else ast.unparse(node)


def _by_syntax(api: Api, bench: Workbench) -> str:
    """The same by what a file defines; parameters have to stand there just so, but for spaces."""
    try:
        symbols = bench.symbols(api.place)
    except WorkspaceError as error:
        return str(error)
    found = [symbol for symbol in symbols if symbol.name == api.name]
    if not found:
        return f"{api.place} defines no {api.name}; it defines {', '.join(one.name for one in symbols) or 'nothing'}"
    wanted = _plain(api.parameters)
    return "" if any(wanted in _plain(one.signature) for one in found) else f"it is {found[0].signature}"


def _plain(text: str) -> str:
    return "".join(text.split())
