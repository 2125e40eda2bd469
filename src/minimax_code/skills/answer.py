"""Asks a model for source files, and reads them out of its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from minimax_code.skills.prompt import prompt_of
from minimax_code.workbench.files import EXTENSIONS, CodeFile, path_problem

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([^\n`]*)$")
_NAME = r"[\w.+-]+(?:/[\w.+-]+)*\.\w+"
_IN_INFO = re.compile(rf"(?:^|[\s:=\"'])({_NAME}|[\w./-]*(?:Dockerfile|Makefile))(?:$|[\"'\s])")
_BEFORE = re.compile(rf"^[\s#>*\-\d.]*(?:file(?:name)?:?\s*)?[*`\"']*({_NAME})[*`\"']*:?\s*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Files that somebody wants written.

    Attributes:
        prompt: what they are to do.
        files: what there is already, shown to the model.
    """

    prompt: str
    language: str | None = None
    framework: str | None = None
    style: str | None = None
    include_tests: bool = False
    standards: tuple[str, ...] = ()
    files: tuple[CodeFile, ...] = ()


def request_for_files(wish: Wish) -> tuple[str, str]:
    """What a model is told and asked: `prompts/generate.md`, and the prompt with what else was said, a line each."""
    said = {
        "Language": wish.language,
        "Framework": wish.framework,
        "Style": wish.style,
        "Standards": ", ".join(wish.standards) or None,
        "Tests": "write tests in files of their own" if wish.include_tests else None,
    }
    parts = [wish.prompt, *(f"{name}: {value}" for name, value in said.items() if value), *map(fenced, wish.files)]
    return prompt_of("generate"), "\n\n".join(parts)


def fenced(file: CodeFile) -> str:
    """A file as a model is shown it and writes it: a block that nothing in the file ends."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", file.content))])
    return f"{fence}{file.language} {file.path}\n{file.content.removesuffix(chr(10))}\n{fence}"


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
