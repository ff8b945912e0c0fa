"""Reading a request's body: no more than is allowed, no longer than is allowed, and unpacked if it was packed."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from q8bert.runtime.server.http.refusals import CLIENT_GONE, RETRY, RefusedError

__all__ = ["Buffered", "read_body"]

# zlib's words for: a gzip header, a zlib header
_WINDOW_BITS: Mapping[str, int] = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
# a client that is refused in the middle of its body sees the answer only when it has sent the rest
_DISCARDED_TIMES, _DISCARDED_S = 8, 2.0

Receive = Callable[[], Any]


class Buffered:
    """Bytes of bodies that are held at one time, of all requests together.

    Args:
        most: How many are allowed.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    @property
    def held(self) -> int:
        """How many there are now."""
        return self._held

    @contextmanager
    def account(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of one request; they are given back when the block ends.

        Yields:
            A function that takes some bytes; it raises :class:`RefusedError` where that would be too many.
        """
        taken = 0

        def take(n_bytes: int) -> None:
            nonlocal taken
            if self._held + n_bytes > self._most:
                raise RefusedError(
                    503,
                    "the bodies of other requests fill the memory that bodies may take; try later",
                    {**RETRY, "Connection": "close"},
                )
            self._held += n_bytes
            taken += n_bytes

        try:
            yield take
        finally:
            self._held -= taken


async def read_body(
    receive: Receive, headers: Mapping[str, str], *, max_bytes: int, read_s: float, take: Callable[[int], None]
) -> bytes:
    """Read a body, and unpack it.

    Args:
        receive: ASGI's.
        headers: The request's, by name in small letters.
        max_bytes: Longest body, packed or not.
        read_s: How long the client may take.
        take: Accounts for bytes that are held.

    Returns:
        The body.

    Raises:
        RefusedError: 408 after ``read_s``, 413 where it is too long, 415 for a packing that is not known, 400 where it
            cannot be unpacked, and 499 where the client went away.
    """
    packing = headers.get("content-encoding", "identity").strip().lower()
    if packing not in {*_WINDOW_BITS, "identity", ""}:
        raise RefusedError(415, f"Content-Encoding {packing[:40]!r} is not known here; send gzip, deflate or identity")
    body, chunks = bytearray(), _chunks(receive)
    try:
        async with asyncio.timeout(read_s):
            _refuse_more_than(max_bytes, _announced(headers.get("content-length")))
            async for chunk in chunks:
                _refuse_more_than(max_bytes, len(body) + len(chunk))
                take(len(chunk))
                body += chunk
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {read_s:g} seconds", {"Connection": "close"}) from error
    except RefusedError as refusal:
        if refusal.status == 413 and "expect" not in headers:
            await _discard(chunks, most=_DISCARDED_TIMES * max_bytes)
        raise
    if packing not in _WINDOW_BITS:
        return bytes(body)
    unpacked = _unpacked(bytes(body), _WINDOW_BITS[packing], max_bytes=max_bytes)
    take(len(unpacked))
    return unpacked


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(CLIENT_GONE, "the client went away")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _announced(length: str | None) -> int:
    return int(length[:30]) if length is not None and length.isascii() and length.isdigit() else 0


def _refuse_more_than(max_bytes: int, n_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise RefusedError.too_long(max_bytes)


async def _discard(chunks: AsyncIterator[bytes], *, most: int) -> None:
    n_bytes = 0
    try:
        async with asyncio.timeout(_DISCARDED_S):
            async for chunk in chunks:
                n_bytes += len(chunk)
                if n_bytes > most:
                    return
    except (TimeoutError, RefusedError):
        return


def _unpacked(body: bytes, window_bits: int, *, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(window_bits)
    try:
        # a byte more than is allowed tells what is too long, however long it is
        content = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RefusedError(400, f"the body cannot be unpacked: {error}") from error
    _refuse_more_than(max_bytes, len(content))
    if not unpacker.eof or unpacker.unused_data:
        raise RefusedError(400, "the packed body ends too early, or something follows it")
    return content
