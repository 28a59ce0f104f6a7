"""How much of a reply is read: a server gone mad must not fill the memory, by length or by compression."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast

import httpx2

__all__ = ["HEADERS", "MOST_BODY", "ReplyTooLong", "bounded"]

# The longest answer that a judge may give is a few hundred kilobytes.
MOST_BODY: Final = 32 * 2**20
# Answers are asked for uncompressed; of one that comes compressed all the same, this share: at a thousandfold, the
# most that gzip does, it still fits.
_COMPRESSED: Final = 1 / 512
HEADERS: Final = {"Accept-Encoding": "identity"}


class ReplyTooLong(Exception):
    """More came than any answer needs."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._stream:
            seen += len(chunk)
            if seen > self._most:
                raise ReplyTooLong(f"the reply is longer than {self._most:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def bounded(most: int = MOST_BODY) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A response hook for the HTTP client: reading more than ``most`` bytes raises ReplyTooLong."""

    async def hook(response: httpx2.Response) -> None:
        compressed = response.headers.get("content-encoding", "identity") != "identity"
        allowed = int(most * _COMPRESSED) if compressed else most
        response.stream = cast("Any", _Bounded(response.stream, allowed))

    return hook
