"""A file server that misbehaves on demand: it cuts connections and ignores ranges."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """What it serves by path, how it misbehaves, and what it was asked: (path, Range)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes of the body per request for a wheel, then whole
    honours_range: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def wheel_ranges(self) -> list[str | None]:
        return [ranges for path, ranges in self.requests if path.endswith(".whl")]

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        wanted = handler.headers.get("Range")
        self.requests.append((path, wanted))
        body = self.files.get(path)
        if body is None:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "RepoNotFound")  # as the Hugging Face hub does
            handler.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.honours_range else 0
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        # What the Hugging Face hub says about a file.
        handler.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        handler.send_header("X-Repo-Commit", "0" * 40)
        handler.end_headers()
        body = body[start:]
        if path.endswith(".whl") and self.cut_after:
            body = body[: self.cut_after.pop(0)]
        if handler.command == "GET":
            handler.wfile.write(body)

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        """Serve on a free port of this machine."""
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()
