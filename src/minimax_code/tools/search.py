"""search: lines of files, or their names."""

from __future__ import annotations

from pydantic import Field

from minimax_code.tools.tool import Arguments, Output, Place, Typed

_LIMIT = 100


class SearchArguments(Arguments):
    pattern: str = Field(min_length=1, description="a regular expression")
    glob: str | None = Field(default=None, description="names of files, as *.py")
    ignore_case: bool = False


class Search(Typed[SearchArguments]):
    """Finds lines by a regular expression, in files that git doesn't ignore."""

    name = "search"
    description = "Finds lines in all files by a regular expression. To list files use bash: git is not there, find is."
    takes = SearchArguments

    async def _call(self, arguments: SearchArguments, place: Place) -> Output:
        found = await place.bench.search(
            arguments.pattern, glob=arguments.glob, ignore_case=arguments.ignore_case, limit=_LIMIT
        )
        lines = [f"{match.file}:{match.line}: {match.text}" for match in found.matches]
        if found.more:
            lines.append(f"[more than {_LIMIT} lines; search for something rarer]")
        return Output("\n".join(lines) or "nothing was found")
