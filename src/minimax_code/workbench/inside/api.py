"""Runs inside the sandbox: imports a module and says which parameters something in it takes.

Its text is given to `python -c`, with a JSON object on stdin: `module`, `name` (with dots, "" for the module alone) and
`mark`. It writes one line: `mark`, a space, and JSON with `problem`, or with `parameters`, each a list of name, kind
and default, which are null where it can't be called. What the module itself prints goes nowhere. It imports nothing of
ours.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from typing import Any


def parameters_of(value: Any, inside: Any) -> list[tuple[str, str, str | None]] | None:
    """What a caller gives; of a method without its first, which is the object or the class."""
    try:
        found = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return None
    if inspect.isclass(inside) and found and found[0].name in ("self", "cls"):
        found = found[1:]
    return [(one.name, one.kind.name, None if one.default is one.empty else repr(one.default)) for one in found]


def look_up(module: str, name: str) -> dict[str, Any]:
    """What there is by this name."""
    try:
        value = importlib.import_module(module)
    except BaseException as error:
        return {"problem": f"{module} can't be imported: {type(error).__name__}: {error}"}
    inside: Any = None
    for part in filter(None, name.split(".")):
        inside = value
        try:
            value = getattr(inside, part)
        except BaseException:
            has = (
                ", ".join(one for one in vars(inside) if not one.startswith("_")) if hasattr(inside, "__dict__") else ""
            )
            return {"problem": f"{getattr(inside, '__name__', module)} has no {part}; it has {has or 'nothing'}"}
    return {"problem": "", "parameters": parameters_of(value, inside)}


def main() -> None:
    """Answers once."""
    asked = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.path[:0] = [os.path.join(os.getcwd(), "src"), os.getcwd()]
    out.write(f"{asked['mark']} {json.dumps(look_up(asked['module'], asked['name']))}\n")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
