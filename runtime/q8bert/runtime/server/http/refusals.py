"""What a caller is told who gets no answer: an HTTP status, a sentence, and under which name it is counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from q8bert.spec.errors import ClosedError, DeadlineError, InputError, QueueFullError

__all__ = ["CLIENT_GONE", "RETRY", "RefusedError", "outcome_of"]

# nobody reads it: the status that proxies write into their logs for it
CLIENT_GONE = 499
# a queue of the default length is done in about a second
RETRY: Mapping[str, str] = {"Retry-After": "1"}

_OUTCOMES = {401: "unauthorized", CLIENT_GONE: "cancelled", 503: "rejected", 504: "expired"}
_FAILED_FROM = 500


@dataclass(eq=False)
class RefusedError(Exception):
    """Ends a request with an error.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do.
        headers: More headers of the answer.
    """

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[Self], tuple[int, str, Mapping[str, str]]]:
        return type(self), (self.status, self.message, self.headers)

    @classmethod
    def of(cls, error: Exception, *, where: str = "") -> Self:
        """Return how a caller is told of an error.

        Args:
            error: What a classifier raised.
            where: Begin of the message, such as the row's number.

        Returns:
            Status 400 for the caller's fault, 503 where the service is full or leaves, 504 after the deadline, else
            500.
        """
        text = f"{where}{error}"
        if isinstance(error, InputError):
            return cls(400, text)
        if isinstance(error, QueueFullError | ClosedError):
            return cls(503, text, RETRY)
        if isinstance(error, DeadlineError):
            return cls(504, text)
        return cls(500, text)

    @classmethod
    def too_long(cls, max_bytes: int) -> Self:
        """Return how a caller is told that a body is too long."""
        return cls(413, f"a body may have {max_bytes} bytes; send fewer rows at once", {"Connection": "close"})


def outcome_of(status: int) -> str:
    """Return under which name a request with this status is counted."""
    if status in _OUTCOMES:
        return _OUTCOMES[status]
    if status >= _FAILED_FROM:
        return "failed"
    return "answered" if status < 400 else "invalid"
