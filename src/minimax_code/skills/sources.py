"""Which files of a workspace a model is shown: those that a problem speaks of, as many as its window has room for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from minimax_code.errors import InputError, WorkspaceError
from minimax_code.model import Model
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import EXTENSIONS, CodeFile, read_inside, source_paths
from minimax_code.workbench.testrun import is_test

_ENDINGS = "|".join(sorted({re.escape(ending) for ending in EXTENSIONS.values()}, key=len, reverse=True))
_PATH = re.compile(rf"[\w./-]*\w\.(?:{_ENDINGS})\b")
_NAME = re.compile(r"\b(?:[A-Za-z]\w*_\w+|[a-z]+[A-Z]\w*|[A-Z]\w+[A-Z]\w*)\b|`(\w+)[`(.]|\b(\w{3,})\(")
_MAX_NAMES = 12
_BYTES_A_TOKEN = 3  # of source; with room for the answer
_SHARE = 0.5  # of a window, for files


def files_of(bench: Workbench, paths: Sequence[str], field: str = "paths") -> list[CodeFile]:
    """Files of the workspace.

    Raises:
        InputError: one is not there, or is no text.
    """
    files = []
    for i, path in enumerate(paths):
        try:
            files.append(CodeFile(path, read_inside(bench.workspace.path, path).decode()))
        except WorkspaceError as error:
            raise InputError(f"{field}[{i}]", str(error)) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{field}[{i}]", f"{path} is not UTF-8") from error
    return files


async def localise(bench: Workbench, problem: str) -> list[str]:
    """Source files that a problem is probably about, the likeliest first.

    A file that a traceback or the text names counts most, the later in a traceback the more; then files that define or
    use the names of the text.
    """
    points: Counter[str] = Counter()
    sources = [path for path in _sources(bench) if not is_test(path)]
    for place, named in enumerate(_PATH.findall(problem), start=1):
        for path in sources:
            if named == path or named.endswith(f"/{path}") or path.endswith(f"/{named}") or path == named.lstrip("./"):
                points[path] += 100 + place
    names = dict.fromkeys(next(filter(None, match.groups()), match[0]) for match in _NAME.finditer(problem))
    for name in list(names)[:_MAX_NAMES]:
        found = await bench.search(rf"\b{re.escape(name)}\b", limit=200)
        within = {match.file for match in found.matches if match.file in sources}
        for path in within:
            defines = any(symbol.name.rpartition(".")[2] == name for symbol in bench.symbols(path))
            points[path] += (20 if defines else 3) // max(1, len(within) // 3)
    return [path for path, _ in points.most_common()] or sources


def _sources(bench: Workbench) -> list[str]:
    words = (".md", ".txt", ".json", ".toml", ".yaml")
    endings = tuple(f".{ending}" for ending in EXTENSIONS.values())
    paths = source_paths(bench.workspace.path)
    # A model can't write a name that isn't printable, such as one that is no UTF-8.
    return [path for path in paths if path.isprintable() and path.endswith(endings) and not path.endswith(words)]


async def that_fit(model: Model, bench: Workbench, paths: Iterable[str]) -> tuple[list[CodeFile], list[str]]:
    """The first files of which all together take half of the model's window, and the paths of the others.

    Raises:
        InputError: not even one fits.
    """
    room = int((await model.abilities()).context_tokens * _SHARE * _BYTES_A_TOKEN)
    shown: list[CodeFile] = []
    left: list[str] = []
    for path in paths:
        [file] = files_of(bench, [path])
        size = len(file.content.encode())
        if size <= room:
            shown.append(file)
            room -= size
        else:
            left.append(path)
    if left and not shown:
        raise InputError("paths", f"{left[0]} is longer than half of the model's window")
    return shown, left
