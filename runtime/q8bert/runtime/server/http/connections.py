"""Connections that nobody can hold for nothing: heads that do not come, answers that are not read, too many at once."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["guarded"]

_FULL = b"too many connections\n"
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


def guarded(*, max_connections: int, read_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits that it has not.

    Args:
        max_connections: Most connections; one more is told 503 and closed.
        read_s: How long a client may take for the head of a request, and for reading an answer.

    Returns:
        The class, for ``uvicorn.Config(http=…)``.
    """

    class Guarded(H11Protocol):
        """A connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.write(_TOO_MANY)
                transport.close()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self._is_idle():
                self._await_head()  # a head has begun; the time runs from its first bytes
            else:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.get_write_buffer_size():
                self.loop.call_later(read_s, self._drop_unread)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _await_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(read_s, self._drop_slow)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

        def _drop_slow(self) -> None:
            self._head = None
            if self._is_idle() and not self.transport.is_closing():
                self.transport.close()

        def _drop_unread(self) -> None:
            if self.transport.get_write_buffer_size():
                self.transport.abort()

    return Guarded
