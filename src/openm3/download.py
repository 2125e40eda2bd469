"""Files from a package index over HTTP: found by name, resumed after a cut.

What arrives is the caller's to check.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from openm3.errors import DownloadError

if TYPE_CHECKING:
    import httpx

Report = Callable[[int, int], None]  # (done_bytes, total_bytes)


def wheel_url(client: httpx.Client, index: str, project: str, wheel: str, other_ways: str) -> str:
    """Where a package index that speaks the JSON simple API (PEP 691) has a wheel.

    Raises:
        DownloadError: it doesn't; the sentence ends with `other_ways`.
    """
    page = f"{index.rstrip('/')}/{project}/"
    response = client.get(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    response.raise_for_status()
    try:
        urls = {file["filename"]: file["url"] for file in response.json()["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(f"{page} does not speak the JSON simple API of PyPI; {other_ways}") from error
    if wheel not in urls:
        raise DownloadError(f"{page} does not list {wheel}; {other_ways}")
    return urljoin(str(response.url), str(urls[wheel]))


def download(client: httpx.Client, url: str, part: Path, size: int, report: Report) -> None:
    """Fill `part` to at least `size` bytes, going on after a cut for as long as every attempt adds some."""
    import httpx

    while (start := size_of(part)) < size:
        try:
            _attempt(client, url, part, start, size, report)
        except httpx.TransportError:
            if size_of(part) <= start:
                raise


def _attempt(client: httpx.Client, url: str, part: Path, start: int, size: int, report: Report) -> None:
    import httpx

    with client.stream("GET", url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
        response.raise_for_status()
        done = start if response.headers.get("Content-Range", "").startswith(f"bytes {start}-") else 0
        with part.open("ab" if done else "wb") as file:
            report(done, size)
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                report(min(done, size), size)
                # Longer than pinned: the checksum will say so.
                if done >= size:
                    return
    raise httpx.RemoteProtocolError(f"the server ended the file at {done:,} of {size:,} bytes")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    return path.stat().st_size if path.exists() else 0
