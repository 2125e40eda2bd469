"""Mends what small models get wrong around good Python: a cut or chatty end, and imports that they forget.

Only files that don't parse, or use names that nothing defines, are touched, so nothing that worked is changed.
"""

from __future__ import annotations

import ast
import builtins
import sys

from minimax_code.workbench.files import CodeFile

_FROM = {
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"),
    "copy": ("deepcopy",),
    "dataclasses": ("dataclass", "field"),
    "datetime": ("datetime", "timedelta", "date"),
    "enum": ("Enum",),
    "functools": ("cache", "lru_cache", "partial", "reduce", "wraps"),
    "heapq": ("heapify", "heappop", "heappush"),
    "itertools": ("accumulate", "chain", "combinations", "groupby", "permutations", "product", "zip_longest"),
    "math": ("ceil", "comb", "factorial", "floor", "gcd", "inf", "isqrt", "log", "pi", "prod", "sqrt"),
    "pathlib": ("Path",),
    "typing": (
        "Any", "Callable", "Dict", "Generator", "Generic", "Iterable", "Iterator", "List", "Literal", "Mapping",
        "NamedTuple", "Optional", "Protocol", "Sequence", "Set", "Tuple", "Type", "TypeVar", "Union",
    ),
}  # fmt: skip
_IMPORTS = {name: f"from {module} import {name}" for module, names in _FROM.items() for name in names}
_MAX_CUT = 200  # lines that are looked at from the end


def mended(file: CodeFile) -> CodeFile:
    """The file, with the end cut off that doesn't parse and the imports that are missing; or as it was."""
    if file.language != "python":
        return file
    source = _parsing(file.content)
    if source is None:
        return file
    missing = sorted(filter(None, map(_import_of, undefined_names(source))))
    if missing:
        source = _with_imports(source, missing)
    return file if source == file.content else CodeFile(file.path, source)


def undefined_names(source: str) -> list[str]:
    """Names that a source reads and that neither it nor Python defines anywhere, in their order."""
    tree = ast.parse(source)
    bound = {*dir(builtins), "__file__", "__name__", "__doc__"}
    read: dict[str, None] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read[name] = None
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=renamed):
                bound.add(renamed or name.partition(".")[0])
                if name == "*":  # whatever it brings
                    return []
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                bound.update(names)
    return [name for name in read if name not in bound]


def _import_of(name: str) -> str | None:
    if name in _IMPORTS:
        return _IMPORTS[name]
    return f"import {name}" if name in sys.stdlib_module_names and not name.startswith("_") else None


def _with_imports(source: str, imports: list[str]) -> str:
    """The source with imports before its first statement that is no docstring and no import of the future."""
    lines = source.splitlines(keepends=True)
    at = 0
    for node in ast.parse(source).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            break
        at = node.end_lineno or 0
    return "".join([*lines[:at], *(f"{line}\n" for line in imports), *lines[at:]])


def _parsing(source: str) -> str | None:
    """The longest beginning of whole definitions that parses, the source itself where it does; None: there is none."""
    lines = source.splitlines(keepends=True)
    for end in range(len(lines), max(0, len(lines) - _MAX_CUT), -1):
        if end < len(lines) and lines[end][:1].isspace() and lines[end].strip():
            continue  # within a block: what is left of it would mean something else
        try:
            tree = ast.parse("".join(lines[:end]))
        except (SyntaxError, ValueError):
            continue
        except (RecursionError, MemoryError):
            return None
        if end == len(lines) or any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
            return "".join(lines[:end])
    return None
