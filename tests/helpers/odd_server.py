"""A server on a real socket that answers as no good server would: cut streams, web pages, silence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        kind = self.path.split("/")[1]
        getattr(self, f"answer_{kind.replace('-', '_')}")()

    def answer_page(self) -> None:
        self.reply(200, "text/html; charset=utf-8", b"<html><body>Please log in</body></html>")

    def answer_bad_gateway(self) -> None:
        self.reply(502, "text/html", b"<html><body>502 Bad Gateway</body></html>")

    def answer_older(self) -> None:
        self.reply(404, "text/plain", b"404 page not found")

    def answer_full(self) -> None:
        error = {"error": {"message": "100000 of 100000 tokens are used", "type": "insufficient_quota"}}
        self.reply(429, "application/json", json.dumps(error).encode(), {"retry-after": "3600", "x-request-id": "r1"})

    def answer_locked(self) -> None:
        error = {"error": {"message": "the key is not known", "type": "authentication_error"}}
        self.reply(401, "application/json", json.dumps(error).encode(), {"x-request-id": "r2"})

    def answer_slow(self) -> None:
        time.sleep(1)
        self.reply(200, "application/json", b"{}")

    def answer_cut(self) -> None:
        """Two chunks of an answer, then the connection goes."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("x-request-id", "r3")
        self.end_headers()
        for text in ("def ", "f"):
            event = {"object": "code.generation.chunk", "content": text}
            data = f"data: {json.dumps(event)}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
        self.close_connection = True

    def reply(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def odd_server() -> Generator[str, None, None]:
    """Yields the address; the first part of the path says how a request is answered (`answer_...` above)."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="odd-server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
