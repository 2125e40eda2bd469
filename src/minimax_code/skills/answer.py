"""Asks a model for source files, and reads them out of its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import EXTENSIONS, CodeFile, path_problem

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$")
_NAME = r"[\w.+-]+(?:/[\w.+-]+)*\.\w+"
_IN_INFO = re.compile(rf"(?:^|[\s:=\"'])({_NAME}|[\w./-]*(?:Dockerfile|Makefile))(?:$|[\"'\s])")
_BEFORE = re.compile(rf"^[\s#>*\-\d.]*(?:file(?:name)?:?\s*)?[*`\"']*({_NAME})[*`\"']*:?\s*$", re.IGNORECASE)


def request_for_files(
    prompt: str,
    *,
    language: str | None,
    framework: str | None,
    style: str | None,
    include_tests: bool,
    standards: Sequence[str],
    files: Sequence[CodeFile],
) -> tuple[str, str]:
    """What a model is told and asked: `generate.md`, and the prompt with what else was said, a line each."""
    system = prompt_of("generate")
    wishes = {
        "Language": language,
        "Framework": framework,
        "Style": style,
        "Standards": ", ".join(standards) or None,
        "Tests": "write tests in files of their own" if include_tests else None,
    }
    parts = [prompt, *(f"{name}: {value}" for name, value in wishes.items() if value)]
    for file in files:
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", file.content))])
        parts.append(f"{fence}{file.language} {file.path}\n{file.content}\n{fence}")
    return system, "\n\n".join(parts)


def files_in(answer: str, language: str | None = None) -> tuple[list[CodeFile], bool]:
    """The files of an answer, and whether the last one is whole.

    Each fenced block is one. Its path is behind the language, else on the line before; where there is none, or one that
    leads elsewhere, it is main with the ending of the language, then main_2, ... Of one path the last block counts. An
    answer without any block that is asked for in a language is one file.
    """
    found: dict[str, CodeFile] = {}
    fence = info = before = ""
    inside: list[str] | None = None

    def close() -> None:
        path = _path(info, before, language, found)
        found[path] = CodeFile(path, "".join(f"{line}\n" for line in inside or ()))

    for line in answer.splitlines():
        match = _FENCE.match(line)
        if inside is None:
            if match:
                fence, info, inside = match[1], match[2], []
            elif line.strip():
                before = line
        elif match and match[1][0] == fence[0] and len(match[1]) >= len(fence) and not match[2].strip():
            close()
            inside, before = None, ""
        else:
            inside.append(line)
    if inside is not None:
        close()
    return list(found.values()), inside is None


def _path(info: str, before: str, language: str | None, found: dict[str, CodeFile]) -> str:
    for match in (_IN_INFO.search(info), _BEFORE.match(before)):
        if match and path_problem(match[1]) is None:
            return match[1]
    kind = (info.split() or [language or "text"])[0].lower()
    ending = EXTENSIONS.get(kind) or EXTENSIONS.get((language or "").lower(), "txt")
    names = (f"main{'' if i == 1 else f'_{i}'}.{ending}" for i in range(1, len(found) + 2))
    return next(name for name in names if name not in found)
