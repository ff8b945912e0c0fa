"""One row on its way through a service, and how its caller is told."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from q8bert.spec.errors import Q8BertError
from q8bert.tasks.head import Prediction
from q8bert.text.encoded import Encoded

__all__ = ["Outcome", "Request", "settle"]

Outcome = Prediction | Q8BertError


@dataclass(eq=False, frozen=True, kw_only=True)
class Request:
    """A row that waits for its answer.

    Attributes:
        encoded: Its ids; one row.
        n_tokens: How many there are.
        answer: Takes the prediction or the error; belongs to the caller's event loop.
        arrived: When the row came, in seconds of the queue's clock.
        deadline: When the answer is of no use any more, by the same clock; None for never.
    """

    encoded: Encoded
    n_tokens: int
    answer: asyncio.Future[Prediction]
    arrived: float
    deadline: float | None

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.answer.done()


def settle(outcomes: Iterable[tuple[Request, Outcome]]) -> None:
    """Give rows their answers, from any thread.

    Args:
        outcomes: Rows and what became of them. Callers that are gone, or whose event loop is closed, are left out.
    """
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[Request, Outcome]]] = defaultdict(list)
    for request, outcome in outcomes:
        by_loop[request.answer.get_loop()].append((request, outcome))
    for loop, pairs in by_loop.items():
        with suppress(RuntimeError):  # that loop is closed
            loop.call_soon_threadsafe(_settle_here, pairs)


def _settle_here(pairs: list[tuple[Request, Outcome]]) -> None:
    for request, outcome in pairs:
        if request.answer.done():
            continue
        if isinstance(outcome, Q8BertError):
            request.answer.set_exception(outcome)
        else:
            request.answer.set_result(outcome)
