"""How much of a reply is read: a server gone mad must not fill the memory, by length or by compression."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx2

__all__ = ["HEADERS", "MOST_BODY", "ReplyTooLong", "bounded"]

# The longest answer that a judge may give is a few hundred kilobytes.
MOST_BODY: Final = 32 * 2**20
# Answers are asked for uncompressed; of one that comes compressed all the same, so much: a thousandfold still fits.
MOST_COMPRESSED: Final = 64 * 2**10
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


async def bounded(response: httpx2.Response) -> None:
    """A response hook of the HTTP client. Reading further than the bound raises ReplyTooLong."""
    compressed = response.headers.get("content-encoding", "identity") != "identity"
    most = MOST_COMPRESSED if compressed else MOST_BODY
    response.stream = cast("Any", _Bounded(response.stream, most))
