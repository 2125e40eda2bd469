"""Files out of an answer: fenced code blocks, with paths where the answer gives them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from minimax.types import CodeFile

_FENCE = re.compile(r"^```([\w+#.-]*)[ \t]*([^\n`]*)\n(.*?)(?:^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_SUFFIXES = {"python": "py", "javascript": "js", "typescript": "ts", "go": "go", "rust": "rs", "java": "java"}


def files(answer: str, default_name: str = "code") -> tuple[CodeFile, ...]:
    """The fenced blocks of an answer; one that an end of tokens cut is taken as far as it goes.

    A path that is absolute or leads out of the folder is not taken: such a block gets a name of ours.
    """
    found: list[CodeFile] = []
    for language, path, content in _FENCE.findall(answer):
        if not _is_inside(path := path.strip()):
            number = f"_{len(found) + 1}" if found else ""
            path = f"{default_name}{number}.{_SUFFIXES.get(language.lower(), language.lower() or 'txt')}"
        found.append(CodeFile(path=path, content=content, language=language))
    return tuple(found)


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(re.fullmatch(r"[\w./+@-]+", path)) and not path.startswith("/") and ".." not in parts
