"""Finds lines by a regular expression, and tells of them as `rg --json` does.

Usage: python -I -c TEXT [--ignore-case] [--fixed-strings] PATTERN GLOB PATH...
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterator

from pathspec import GitIgnoreSpec

_LARGEST = 4 << 20


def files(root: str) -> Iterator[str]:
    """Files below a folder in order of their names, without what .gitignore files name; links are not followed."""
    if not os.path.isdir(root):
        yield root
        return
    specs = {}
    for folder, folders, names in os.walk(root):
        if ".gitignore" in names:
            with open(os.path.join(folder, ".gitignore"), encoding="utf-8", errors="replace") as lines:
                specs[folder] = GitIgnoreSpec.from_lines(lines)

        def kept(path: str) -> bool:
            return not any(
                spec.match_file(os.path.relpath(path, above) + ("/" if os.path.isdir(path) else ""))
                for above, spec in specs.items()
                if path.startswith(above + os.sep)
            )

        folders[:] = sorted(name for name in folders if name != ".git" and kept(os.path.join(folder, name)))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.islink(path) and kept(path):
                yield path


def main() -> None:
    """The exit status is ripgrep's: 0 found, 1 nothing, 2 no regular expression."""
    flags = {word for word in sys.argv[1:3] if word.startswith("--")}
    pattern, glob, *roots = sys.argv[1 + len(flags) :]
    text = re.escape(pattern) if "--fixed-strings" in flags else pattern
    try:
        wanted = re.compile(text, re.IGNORECASE if "--ignore-case" in flags else 0)
    except re.error as error:
        print(error)
        sys.exit(2)
    found = False
    for root in roots:
        for path in files(root):
            if not fnmatch.fnmatch(os.path.basename(path), glob) or os.path.getsize(path) > _LARGEST:
                continue
            with open(path, "rb") as file:
                content = file.read()
            if b"\0" in content:
                continue
            for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
                if wanted.search(line):
                    found = True
                    data = {"path": {"text": path}, "lines": {"text": line}, "line_number": number}
                    print(json.dumps({"type": "match", "data": data}, separators=(",", ":")))
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
