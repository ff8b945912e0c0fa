"""One request for inference, from its body to its answer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from q8bert.runtime.predict.rows import Row
from q8bert.runtime.server.http.bodies import Buffered, read_body
from q8bert.runtime.server.http.door import Facts
from q8bert.runtime.server.http.refusals import CLIENT_GONE, RETRY, RefusedError
from q8bert.runtime.server.models.models import Model, Models
from q8bert.runtime.server.options import ServerOptions
from q8bert.runtime.server.protocol.protocol import JSON_LENGTH, InferRequest, answer_body, parse_infer
from q8bert.spec.errors import InputError, Q8BertError
from q8bert.tasks.head import Prediction

__all__ = ["TIMEOUT", "infer"]

TIMEOUT = "X-Timeout-Ms"

# parsing a body that is longer than this would keep the event loop from others
_LONG_BODY = 64 * 1024

Result = TypeVar("Result")


async def infer(
    models: Models,
    name: str,
    version: str | None,
    *,
    receive: Callable[[], Awaitable[Any]],
    headers: Mapping[str, str],
    options: ServerOptions,
    buffered: Buffered,
    facts: Facts,
) -> tuple[bytes, Mapping[str, str]]:
    """Answer a request for inference.

    Args:
        models: All models.
        name: The one that is asked for.
        version: Its version; None for the newest.
        receive: ASGI's.
        headers: The request's, by name in small letters.
        options: Limits.
        buffered: Accounts for bodies.
        facts: Is filled in.

    Returns:
        Body and headers of the answer.

    Raises:
        RefusedError: If there is no answer.
    """
    facts.is_inference = True
    _note(facts, models.find(name, version))
    try:
        timeout_s = min(options.timeout_s, _asked_by_header(headers))
        with buffered.account() as take:
            body = await read_body(receive, headers, max_bytes=options.max_body_bytes, read_s=options.read_s, take=take)
            model = models.find(name, version)  # another may have taken over meanwhile
            _note(facts, model)
            with model.held():
                request = await _parsed(body, headers, model, max_rows=options.max_rows)
                facts.id, facts.n_rows = request.id, len(request.rows)
                left = min(timeout_s, request.timeout_s or timeout_s) - facts.seconds
                with model.taking(len(request.rows), headers=RETRY):
                    predictions = await _unless_gone(_answers(model, request.rows, left), receive)
                return _answered(request, predictions, model)
    except Q8BertError as error:
        _refuse(error)


def _refuse(error: Q8BertError) -> NoReturn:
    raise RefusedError.of(error) from error


def _note(facts: Facts, model: Model) -> None:
    facts.model, facts.version = model.key[0], str(model.key[1])


async def _parsed(body: bytes, headers: Mapping[str, str], model: Model, *, max_rows: int) -> InferRequest:
    def parse() -> InferRequest:
        return parse_infer(body, headers.get(JSON_LENGTH.lower()), task=model.classifier.task, max_rows=max_rows)

    return await asyncio.to_thread(parse) if len(body) > _LONG_BODY else parse()


async def _answers(model: Model, rows: Sequence[Row], timeout_s: float) -> list[Prediction]:
    """Classify rows; the first one that fails fails all, as the protocol knows no errors of rows."""
    if len(rows) == 1:
        return [await _answer(model, rows[0], timeout_s)]
    calls = [asyncio.ensure_future(_answer(model, row, timeout_s)) for row in rows]
    try:
        await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        for number, call in enumerate(calls):
            if call.done() and (error := call.exception()) is not None:
                raise RefusedError.of(error, where=f"row {number}: ") if isinstance(error, Exception) else error
        return [call.result() for call in calls]
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _answer(model: Model, row: Row, timeout_s: float) -> Prediction:
    if isinstance(row, str):
        return await model.service(row, timeout_s=timeout_s)
    return await model.service(row[0], row[1], timeout_s=timeout_s)


async def _unless_gone(work: Awaitable[Result], receive: Callable[[], Awaitable[Any]]) -> Result:
    """Do some work for as long as the client is there."""
    gone = asyncio.ensure_future(_gone(receive))
    limit = asyncio.timeout(None)

    def give_up(gone: asyncio.Future[None]) -> None:
        if not gone.cancelled():
            with suppress(RuntimeError):  # the work is done
                limit.reschedule(0)  # which is in the past

    try:
        async with limit:
            gone.add_done_callback(give_up)
            return await work
    except TimeoutError as error:  # a deadline is one too
        if limit.expired():
            raise RefusedError(CLIENT_GONE, "the client went away") from error
        raise
    finally:
        gone.cancel()


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answered(
    request: InferRequest, predictions: Sequence[Prediction], model: Model
) -> tuple[bytes, Mapping[str, str]]:
    name, number = model.key
    task = model.classifier.task
    body, n_json = answer_body(request, predictions, task=task, model_name=name, model_version=str(number))
    if n_json is None:
        return body, {"Content-Type": "application/json"}
    return body, {"Content-Type": "application/octet-stream", JSON_LENGTH: str(n_json)}


def _asked_by_header(headers: Mapping[str, str]) -> float:
    """Return the seconds that the header grants; infinity where it is not there."""
    given = headers.get(TIMEOUT.lower())
    if given is None:
        return float("inf")
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = float("nan")
    if not milliseconds >= 0:
        raise InputError(f"the header {TIMEOUT} must be a number of milliseconds, got {given[:40]!r}")
    return milliseconds / 1000
