"""Clients that cost little: raw sockets, one request each, and nothing parsed but what is counted."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

PATH = "/v1/chat/completions"


@dataclass
class Answered:
    """What came back: the status, seconds to the first event that holds text and to the end, and events."""

    status: int = 0
    first_s: float = 0.0
    total_s: float = 0.0
    num_chunks: int = 0
    text: bytes = b""
    arrivals: list[float] = field(default_factory=list)


async def ask(
    port: int, num_tokens: int, *, stream: bool = True, content: str = "hi", keep: bool = False, **fields: Any
) -> Answered:
    """Asks for an answer of so many tokens; `keep` keeps its bytes."""
    body = {"model": "default", "messages": [{"role": "user", "content": content}], "max_tokens": num_tokens}
    data = json.dumps(body | {"stream": stream} | fields).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    began, answered = time.perf_counter(), Answered()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        answered.status = int((await reader.readline()).split()[1])
        while part := await reader.read(65536):
            count = part.count(b"data: {")
            if count and not answered.first_s and b'"content":" token"' in part:
                answered.first_s = time.perf_counter() - began
            answered.num_chunks += count
            if keep:
                answered.text += part
        answered.total_s = time.perf_counter() - began
    finally:
        writer.close()
    return answered


async def get(port: int, path: str) -> float:
    """Seconds for a GET on a connection of its own."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        return time.perf_counter() - began
    finally:
        writer.close()
