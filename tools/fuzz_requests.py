"""Rows and requests as callers send them, with what goes wrong in them, at the doors of a running service."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from q8bert.runtime import AsyncClassifier, Classifier, Prediction
from q8bert.spec.errors import Q8BertError

__all__ = ["requests", "rows"]

_WORDS = ["good", "bad", "film", "[SEP]", "[PAD]", "ünï", "日本", "😀", "\u2028", "\x00", "\x85", "", " ", "a" * 300]
_HALF = "half \ud83e"
_ODD_NUMBERS = [0, -1, 2.5, True, None, "8", float("nan"), float("inf"), 10**30, [1]]
_TIMEOUTS: list[Any] = [None, ..., 0, -1, 1e-9, 1e-3, 60, float("nan"), float("inf"), "1", True, [], 10**30]


@functools.cache
def _classifier(bundle: Path, on_long: str) -> Classifier:
    return Classifier.load(bundle, threads=1, on_long=on_long)


def _text(rng: Random) -> str:
    if rng.random() < 0.02:
        return rng.choice(["good " * 20_000, "a" * 100_000, "[SEP]" * 5000, _HALF])
    return rng.choice([" ", "", "\n"]).join(rng.choices(_WORDS, k=rng.randint(0, 60)))


def _value(rng: Random, depth: int = 0) -> Any:
    """Return a text, mostly, or whatever a caller may take for a row."""
    choice = rng.random()
    if choice < 0.6:
        return _text(rng)
    if choice < 0.8:
        several = [_text(rng) for _ in range(rng.choice([2, 2, 2, 1, 3, 0]))]
        return rng.choice([tuple, list])(several)
    if choice < 0.9 or depth > 2:
        return rng.choice(
            [None, 5, 1.5, True, b"good", object(), float("nan"), np.str_("good"), np.array("good"), _HALF]
        )
    inner = [_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return rng.choice([inner, tuple(inner), dict(enumerate(inner)), {str(one) for one in inner}, np.array([1, 2])])


def _collection(rng: Random, *, as_pairs: bool = False) -> Any:
    if rng.random() < 0.05:
        return _value(rng)
    odd = rng.choice([0, 0, 0.2])
    values = [
        _value(rng) if rng.random() < odd else (_text(rng), _text(rng)) if as_pairs else _text(rng)
        for _ in range(rng.randint(0, 40))
    ]
    return rng.choice([values, tuple(values), iter(values), (value for value in values)])


def rows(trained: Path, _folder: Path, rng: Random) -> Callable[[], object]:
    """Make a call of a classifier."""
    classifier = _classifier(trained / rng.choice(["SST-2", "STS-B"]) / "int8", rng.choice(["truncate", "refuse"]))
    as_pairs = classifier.task.data.has_pairs and rng.random() < 0.8
    texts, pairs = _collection(rng, as_pairs=as_pairs), _collection(rng) if rng.random() < 0.2 else None
    batch_size: Any = rng.choice([1, 7, 32, rng.choice(_ODD_NUMBERS)])
    call: Callable[..., object] = rng.choice([classifier.__call__, classifier.answers, classifier.logits])
    return lambda: call(texts, pairs, batch_size=batch_size)


def requests(trained: Path, _folder: Path, rng: Random) -> Callable[[], object]:
    """Make some requests to a service, some of which are given up, and the service closed early now and then."""
    classifier = _classifier(trained / rng.choice(["SST-2", "STS-B"]) / "int8", rng.choice(["truncate", "refuse"]))
    options = {
        "max_batch_size": rng.choice([1, 3, 32]), "max_batch_tokens": rng.choice([1, 40, 4096]),
        "max_padding": rng.choice([0, 0.25, 0.9]), "max_delay_ms": rng.choice([0, 0.5, 3]),
        "max_queue": rng.choice([1, 5, 100]), "max_characters": rng.choice([10, 1000, 100_000]),
        "workers": rng.choice([1, 2, None]), "timeout_s": rng.choice([None, 0.001, 5]),
    }  # fmt: skip
    calls = [
        ((_value(rng), *([_value(rng)] if rng.random() < 0.4 else [])), rng.choice(_TIMEOUTS), rng.random())
        for _ in range(rng.randint(0, 40))
    ]
    many, drain_s = _collection(rng, as_pairs=classifier.task.data.has_pairs), rng.choice([None, 0, 0.001, 5])
    return lambda: asyncio.run(_serve(classifier, options, calls, many, drain_s))


async def _serve(classifier: Classifier, options: Any, calls: Sequence[Any], many: Any, drain_s: float | None) -> None:
    service = AsyncClassifier(classifier, **options)
    async with service:
        tasks = []
        for arguments, timeout_s, fate in calls:
            tasks.append(asyncio.create_task(service(*arguments, timeout_s=timeout_s)))
            if fate < 0.2:
                await asyncio.sleep(0)
                tasks[-1].cancel()
        together = asyncio.create_task(service.many(many)) if isinstance(many, list | tuple) else None
        await asyncio.sleep(0.002)
        async with asyncio.timeout(8):
            if drain_s is not None:
                await service.close(drain_s=drain_s)
            outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
            outcomes += [] if together is None else await together
    for outcome in outcomes:
        if not isinstance(outcome, Prediction | Q8BertError | asyncio.CancelledError):
            raise outcome if isinstance(outcome, BaseException) else TypeError(f"an answer is {outcome!r:.80}")
    errors = [id(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
    if len(set(errors)) < len(errors):
        raise AssertionError("two callers got one error object")
    found = service.snapshot()
    ended = found.answered + found.invalid + found.rejected + found.expired + found.cancelled + found.failed
    if found.requests != ended or found.pending or found.worker_failures:
        raise AssertionError(f"the counters do not add up: {found}")
