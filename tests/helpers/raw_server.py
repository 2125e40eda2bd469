"""A server that answers whatever a test says, byte by byte."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def raw_server(answer: Callable[[bytes, socket.socket], None]) -> Generator[str, None, None]:
    """A server that lists the model "scripted" and answers everything else, one request a connection, with `answer`."""
    listed = b'{"data": [{"id": "scripted"}]}'

    def serve(connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65536)):
                    return
                head += data
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            missing = int(length[1]) - len(head.partition(b"\r\n\r\n")[2]) if length else 0
            while missing > 0 and (data := connection.recv(65536)):  # what is left unread would reset the connection
                missing -= len(data)
            if head.startswith(b"GET /v1/models "):
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(listed), listed)
                )
            else:
                answer(head, connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
