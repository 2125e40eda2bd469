"""Fetches an image or a video that a request names by its address: from public addresses alone, within limits.

Whoever may send requests could otherwise have the server read what only the server can reach. So every address that a
name stands for is checked, and the one that was checked is the one that is connected to: a name can't change its mind
in between. A redirect is another address.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urljoin

import httpcore

from openm3.errors import InputError

MAX_REDIRECTS = 3
TIMEOUT_S = 15.0  # for all of it

Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether everybody can reach it."""
    mapped = getattr(address, "ipv4_mapped", None)
    return is_public(mapped) if mapped else address.is_global and not address.is_multicast


async def fetch(
    url: str,
    *,
    max_bytes: int,
    field: str,
    may_reach: Callable[[Address], bool] = is_public,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """What is at an address.

    Args:
        url: http or https.
        max_bytes: what is larger is refused before it is read to its end.
        field: what errors call it.
        may_reach: says which addresses may be connected to.
        timeout_s: the longest time.

    Raises:
        InputError: it can't be fetched, or may not be.
    """
    try:
        async with asyncio.timeout(timeout_s), httpcore.AsyncConnectionPool(network_backend=_Guard(may_reach)) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                content, location = await _get(pool, url, max_bytes)
                if location is None:
                    return content
                url = urljoin(url, location)
    except _RefusedError as refused:
        raise InputError(field, str(refused)) from refused
    except TimeoutError as error:
        raise InputError(field, f"it was not fetched within {timeout_s:g} seconds") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError, ValueError) as error:
        raise InputError(field, "it can't be fetched; give a data URL, or an address that anybody can read") from error
    raise InputError(field, f"it leads elsewhere more than {MAX_REDIRECTS} times")


class _RefusedError(Exception):
    """What is asked for may not be fetched."""


async def _get(pool: httpcore.AsyncConnectionPool, url: str, max_bytes: int) -> tuple[bytes, str | None]:
    """The content at a URL, or where it says that it is."""
    if not url.startswith(("http://", "https://")):
        raise _RefusedError("only addresses of http and https are fetched")
    # Without compression: a few bytes can't become many.
    headers: dict[bytes | str, bytes | str] = {
        "user-agent": "openm3",
        "accept": "image/*, video/*",
        "accept-encoding": "identity",
    }
    async with pool.stream("GET", url, headers=headers) as response:
        told = {name.lower(): value for name, value in response.headers}
        if response.status in (301, 302, 303, 307, 308) and b"location" in told:
            return b"", told[b"location"].decode("latin-1")
        if response.status != 200:
            raise _RefusedError(f"its server answers with status {response.status}")
        if told.get(b"content-encoding", b"identity") != b"identity":
            raise _RefusedError("its server sends it compressed, which is not read")
        content = bytearray()
        async for chunk in response.aiter_stream():
            content += chunk
            if len(content) > max_bytes:
                raise _RefusedError(f"it is over {max_bytes:,} bytes")
        return bytes(content), None


class _Guard(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that may be reached, and to no other."""

    def __init__(self, may_reach: Callable[[Address], bool]) -> None:
        self._may_reach = may_reach
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ip_address(each[4][0]) for each in found]
        if not addresses or not all(self._may_reach(address) for address in addresses):
            raise _RefusedError("it is at an address that isn't public, which is never read")
        return await self._backend.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        raise _RefusedError("only addresses of http and https are fetched")
