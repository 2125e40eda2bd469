"""What a model is told of a repository that it hasn't seen: its files, and as much of their text as fits."""

from __future__ import annotations

import os
from pathlib import Path

from minimax_code.skills.answer import fenced
from minimax_code.work.frozen import read
from minimax_code.workbench.files import CodeFile, source_paths
from minimax_code.workbench.names import text_name

_MAX_NAMES = 200
_CHARACTERS_PER_TOKEN = 3


def survey(folder: Path, tokens: int) -> str:
    """Names of all files, then those that fit whole into so many tokens, small ones first."""
    paths = source_paths(folder)
    if not paths:
        return "The folder is empty."
    named = [f"- {text_name(os.fsencode(path))}" for path in paths[:_MAX_NAMES]]
    if len(paths) > _MAX_NAMES:
        named.append(f"- and {len(paths) - _MAX_NAMES} more")
    left = tokens * _CHARACTERS_PER_TOKEN - sum(map(len, named))
    parts = ["Files that are there:", "\n".join(named)]
    for path in sorted(paths, key=lambda path: (folder / path).lstat().st_size):
        text = read(folder, path) if (folder / path).lstat().st_size <= left else None
        if text is not None and text.strip():
            parts.append(fenced(CodeFile(text_name(os.fsencode(path)), text)))
            left -= len(parts[-1])
    return "\n\n".join(parts)
