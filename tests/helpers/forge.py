"""A server that speaks the part of GitHub's REST API that reviews need, and git over HTTP, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from helpers.commits import Commits


@dataclass
class Forge:
    """One pull request, 7, of the repository org/shop.

    Attributes:
        url: of the repository, as people see it.
        token: what it takes to post.
        reviews: what was posted.
    """

    folder: Path
    base: str
    head: str
    token: str = "secret"
    url: str = ""
    reviews: list[dict[str, Any]] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, forge: Forge) -> None:
        self._forge = forge
        super().__init__(*args, directory=str(forge.folder))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/v3/repos/org/shop/pulls/7":
            pull = {
                "title": "Faster",
                "body": None,
                "base": {"sha": self._forge.base},
                "head": {"sha": self._forge.head},
            }
            self._answer(200, pull)
        elif path == "/api/v3/repos/org/shop/pulls/7/reviews":
            self._answer(200, self._forge.reviews)
        elif path.startswith("/api/"):
            self._answer(404, {"message": "Not Found"})
        else:
            super().do_GET()

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {self._forge.token}":
            self._answer(403, {"message": "Resource not accessible"})
        elif any(comment["path"] != "shop.py" for comment in review["comments"]):
            self._answer(422, {"message": "Path could not be resolved"})  # as GitHub refuses what is in no hunk
        else:
            self._forge.reviews.append(review)
            self._answer(200, {"html_url": f"{self._forge.url}/pull/7#review-{len(self._forge.reviews)}"})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def serving(commits: Commits, folder: Path, base: str, head: str) -> Iterator[Forge]:
    """A server with a pull request from `base` to `head`."""
    bare = folder / "org" / "shop.git"
    commits.git("clone", "-q", "--bare", str(commits.folder), str(bare))
    commits.git("-C", str(bare), "update-ref", "refs/pull/7/head", head)
    commits.git("-C", str(bare), "update-server-info")
    forge = Forge(folder=folder, base=base, head=head)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, forge=forge))
    forge.url = f"http://127.0.0.1:{server.server_port}/org/shop"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
