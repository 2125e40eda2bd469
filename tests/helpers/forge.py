"""A server that speaks the part of GitHub's REST API that reviews need, and git over HTTP, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from helpers.commits import Commits


@dataclass
class Forge:
    """One pull request, 7, of the repository org/shop.

    Attributes:
        url: of the repository, as people see it.
        token: what it takes to post; it is a user's, "me".
        reviews, comments: what was posted, and what others have posted.
        files: of the pull request, with their hunks as far as they are shown.
        state: of the pull request.
        refusals: status and headers of what the next requests are answered with.
    """

    folder: Path
    base: str
    head: str
    token: str = "secret"
    url: str = ""
    reviews: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    state: str = "open"
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, forge: Forge) -> None:
        self._forge = forge
        super().__init__(*args, directory=str(forge.folder))

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        pull_path = "/api/v3/repos/org/shop/pulls/7"
        lists = {"reviews": self._forge.reviews, "comments": self._forge.comments, "files": self._forge.files}
        if path.startswith("/api/") and self._forge.refusals:
            status, headers = self._forge.refusals.pop(0)
            self._answer(status, {"message": "API rate limit exceeded"}, headers)
        elif path == pull_path:
            pull = {
                "title": "Faster",
                "body": None,
                "base": {"sha": self._forge.base},
                "head": {"sha": self._forge.head, "repo": None},  # its fork is gone
                "state": self._forge.state,
                "draft": True,
            }
            self._answer(200, pull)
        elif path == "/api/v3/user":
            is_known = self.headers["Authorization"] == f"Bearer {self._forge.token}"
            self._answer(200 if is_known else 403, {"login": "me", "type": "User"})
        elif path.removeprefix(f"{pull_path}/") in lists:
            asked = {name: int(value) for name, value in parse_qsl(query)}
            first = (asked["page"] - 1) * asked["per_page"]
            self._answer(200, lists[path.removeprefix(f"{pull_path}/")][first : first + asked["per_page"]])
        elif path.startswith("/api/"):
            self._answer(404, {"message": "Not Found"})
        else:
            super().do_GET()

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        shown = {file["filename"] for file in self._forge.files if file.get("patch")}
        if self.headers["Authorization"] != f"Bearer {self._forge.token}":
            self._answer(403, {"message": "Resource not accessible"})
        elif any(comment["path"] not in shown for comment in review["comments"]):
            self._answer(422, {"message": "Path could not be resolved"})  # as GitHub refuses what is in no hunk
        else:
            me = {"login": "me", "type": "User"}
            self._forge.reviews.append({**review, "user": me})
            self._forge.comments += [{**comment, "user": me} for comment in review["comments"]]
            self._answer(200, {"html_url": f"{self._forge.url}/pull/7#review-{len(self._forge.reviews)}"})

    def _answer(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def hunks_of(commits: Commits, base: str, head: str, name: str) -> str:
    """As the server shows them, from the first "@@" on."""
    return "@@" + commits.git("diff", base, head, "--", name).partition("\n@@")[2]


@contextmanager
def serving(commits: Commits, folder: Path, base: str, head: str) -> Iterator[Forge]:
    """A server with a pull request from `base` to `head`."""
    bare = folder / "org" / "shop.git"
    commits.git("clone", "-q", "--bare", str(commits.folder), str(bare))
    commits.git("-C", str(bare), "update-ref", "refs/pull/7/head", head)
    commits.git("-C", str(bare), "update-server-info")
    names = commits.git("diff", "--name-only", base, head).split()
    files = [{"filename": name, "patch": hunks_of(commits, base, head, name)} for name in names]
    forge = Forge(folder=folder, base=base, head=head, files=files)
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
