"""What every request passes first and last: the token, the log, the count of those on their way, and the farewell."""

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from q8bert.runtime.server.http.refusals import outcome_of

__all__ = ["Door", "Facts", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# probes have no token, and the page asks for it
_OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_CLOSE = (b"connection", b"close")
_N_SHOWN = 200


@dataclass
class Facts:
    """What is known of a request when it ends; filled in on its way.

    Attributes:
        arrived: When its head was read, by the monotonic clock.
        is_trusted: Whether it may see more than whether the server lives.
        is_inference: Whether it is counted by outcome.
        model: The model that it asked for, where there is one.
        version: The version that it got.
        n_rows: Its rows.
        id: The caller's name for it.
        status: HTTP status of the answer; 0 while there is none.
        error: What the caller was told.
    """

    arrived: float = field(default_factory=time.monotonic)
    is_trusted: bool = True
    is_inference: bool = False
    model: str = ""
    version: str = ""
    n_rows: int = 0
    id: str | None = None
    status: int = 0
    error: str | None = None

    @property
    def outcome(self) -> str:
        """How the request ended; see :func:`outcome_of`."""
        return outcome_of(self.status or 500)

    @property
    def seconds(self) -> float:
        """How long ago it arrived."""
        return time.monotonic() - self.arrived


class Door:
    """An ASGI application around another.

    Args:
        inner: The application.
        token: What callers have to send; None for nothing.
        log: Gets a line a request.
        ended: Called with the facts of every request for inference.

    Attributes:
        n_inside: Requests on their way.
        is_leaving: Whether connections are closed after their answer, for the server is going to end.
    """

    def __init__(self, inner: App, *, token: str | None, log: logging.Logger, ended: Callable[[Facts], None]) -> None:
        self._inner, self._log, self._ended = inner, log, ended
        self._digest = None if token is None else _digest(token.encode())
        self.n_inside = 0
        self.is_leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Args:
            scope: ASGI's.
            receive: ASGI's.
            send: ASGI's.
        """
        facts = scope["facts"] = Facts()
        facts.is_trusted = self._digest is None or _has_token(scope, self._digest)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_SECURITY]
                if self.is_leaving and _CLOSE not in message["headers"]:
                    message["headers"].append(_CLOSE)
            await send(message)

        self.n_inside += 1
        try:
            if facts.is_trusted or scope["path"] in _OPEN_PATHS:
                await self._inner(scope, receive, send_and_note)
            else:
                await _refuse(facts, send_and_note)
        finally:
            self.n_inside -= 1
            if facts.is_inference:
                self._ended(facts)
            self._write(scope, facts)

    def _write(self, scope: Scope, facts: Facts) -> None:
        level = logging.INFO if facts.status and facts.status < 500 else logging.WARNING
        if not self._log.isEnabledFor(level):
            return
        client = scope.get("client")
        self._log.log(
            level,
            "request",
            extra={
                "event": "request",
                "method": scope["method"],
                "path": scope["path"][:_N_SHOWN],
                "status": facts.status,
                "outcome": facts.outcome,
                "ms": round(1000 * facts.seconds, 3),
                "client": client[0] if client else None,
                **({"model": facts.model, "version": facts.version, "rows": facts.n_rows} if facts.model else {}),
                **({"id": facts.id} if facts.id else {}),
                **({"error": facts.error[:_N_SHOWN]} if facts.error else {}),
            },
        )


def _digest(text: bytes) -> bytes:
    # of one length whatever the text's, so that comparing takes as long for all
    return hashlib.sha256(text).digest()


def _has_token(scope: Scope, digest: bytes) -> bool:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return hmac.compare_digest(_digest(token.strip()), digest) and scheme.lower() == b"bearer"


async def _refuse(facts: Facts, send: Send) -> None:
    facts.error = "this server wants a token: send it as the header Authorization: Bearer TOKEN"
    body = json.dumps({"error": facts.error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
        _CLOSE,  # its body was not read
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
