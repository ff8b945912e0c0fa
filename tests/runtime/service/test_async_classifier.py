"""The asyncio service: everybody gets the right answer or the right error, and the counters add up.

Nothing here waits for a time to pass: where a test needs the model to be busy, a gate holds it.
"""

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from q8bert.runtime import AsyncClassifier, Classifier, Prediction, ServiceSnapshot
from q8bert.spec.errors import (
    BundleError,
    ClosedError,
    ConfigError,
    DeadlineError,
    InputError,
    QueueFullError,
)

WORDS = ["good", "bad", "the", "clever", "film", "plot", "dull", "great"]


class Gated(Classifier):
    """A real classifier that waits at a gate, and remembers the batches that it was given."""

    def __init__(self, classifier: Classifier) -> None:
        self.task = classifier.task
        self.batches: list[list[str]] = []
        self.errors: list[Exception] = []
        self._classifier = classifier
        self._entered, self._open = threading.Semaphore(0), threading.Event()

    def answers(self, texts: list[str], pairs: list[str] | None, *, batch_size: int) -> Any:
        self.batches.append(texts)
        self._entered.release()
        assert self._open.wait(timeout=60)
        if self.errors:
            raise self.errors.pop()
        return self._classifier.answers(texts, pairs, batch_size=batch_size)

    def open(self) -> None:
        self._open.set()

    async def busy(self) -> None:
        """Return when one more batch has come to the gate."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=60)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run on a new event loop; an error that nobody looked at fails the test."""
    unseen: list[dict[str, Any]] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(120):
            result = await coroutine
        gc.collect()
        return result

    result = asyncio.run(watched())
    assert unseen == []
    return result


async def started(service: AsyncClassifier, *texts: Any, **options: Any) -> list[asyncio.Task[Prediction]]:
    """Start one call a text, and return when all of them wait in the queue."""
    before = service.snapshot().queue_length
    tasks = [asyncio.create_task(service(text, **options)) for text in texts]
    while service.snapshot().queue_length < before + len(texts):
        await asyncio.sleep(0)
    return tasks


async def held(service: AsyncClassifier, gate: Gated, text: str = "first") -> asyncio.Task[Prediction]:
    """Start a call and return when the model has it and stands at the gate."""
    task = asyncio.create_task(service(text))
    await gate.busy()
    return task


def ended(counters: ServiceSnapshot) -> Counter[str]:
    names = ("answered", "invalid", "rejected", "expired", "cancelled", "failed")
    return Counter({name: count for name in names if (count := getattr(counters, name))})


def assert_adds_up(counters: ServiceSnapshot) -> None:
    assert counters.requests == ended(counters).total() + counters.pending
    assert sum(counters.latency_ms.counts) == counters.answered
    assert sum(counters.batch_rows.counts) == counters.batches
    assert counters.batch_rows.total == counters.rows


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_three_hundred_callers_get_their_own_answers(similarity: Classifier, workers: int) -> None:
    rng = random.Random(7)  # lengths from empty to three times the maximum
    rows = [tuple(" ".join(rng.choices(WORDS, k=rng.randint(0, 48))) for _ in range(2)) for _ in range(300)]
    alone = np.array([similarity([row])[0].score for row in rows])
    assert len(set(alone.round(3))) > 100, "equal answers would not show a mix-up"
    longest = 0

    async def call(service: AsyncClassifier, row: tuple[str, ...]) -> float | None:
        nonlocal longest
        while True:
            try:
                return (await service(*row)).score
            except QueueFullError:
                longest = max(longest, service.snapshot().queue_length)
                await asyncio.sleep(0.001)

    async def main() -> tuple[list[float | None], ServiceSnapshot]:
        async with AsyncClassifier(similarity, max_batch_size=16, max_queue=100, workers=workers) as service:
            scores = await asyncio.gather(*(call(service, row) for row in rows))
        return scores, service.snapshot()

    scores, counters = run(main())
    # float32: rows do not influence one another, but the order of sums follows the batch's shape
    np.testing.assert_allclose(np.array(scores), alone, rtol=0, atol=1e-4)
    assert longest == 100, "300 callers fill a queue of 100, and nothing more gets in"
    assert (counters.answered, counters.rows, counters.pending, counters.queue_length) == (300, 300, 0, 0)
    assert set(ended(counters)) == {"answered", "rejected"}
    assert_adds_up(counters)


def test_an_answer_is_the_classifiers_own(sentiment: Classifier) -> None:
    async def main() -> list[Prediction]:
        async with AsyncClassifier(sentiment) as service:
            return [await service("a great film"), await service(""), await service("bad " * 100)]

    predictions = run(main())
    assert predictions == [sentiment([text])[0] for text in ("a great film", "", "bad " * 100)]
    assert [prediction.truncated for prediction in predictions] == [False, False, True]


def test_rows_that_came_while_the_model_was_busy_share_batches(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=4, max_delay_ms=0) as service:  # type: ignore[arg-type]
            tasks = [await held(service, gate), *await started(service, *WORDS, "film", "plot")]
            gate.open()
            await asyncio.gather(*tasks)
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["first"], WORDS[:4], WORDS[4:], ["film", "plot"]]  # in order of arrival
    assert (counters.batches, counters.rows) == (4, 11)
    buckets = dict(zip(counters.batch_rows.bounds, counters.batch_rows.counts, strict=False))
    assert {bound: count for bound, count in buckets.items() if count} == {1.0: 1, 2.0: 1, 4.0: 2}
    assert_adds_up(counters)


def test_a_full_batch_does_not_wait_for_the_delay(sentiment: Classifier) -> None:
    async def main() -> None:
        async with AsyncClassifier(sentiment, max_batch_size=3, max_delay_ms=1e9) as service:
            async with asyncio.timeout(60):  # the delay is eleven days
                await asyncio.gather(*(service(word) for word in WORDS[:3]))
            assert service.snapshot().batches == 1

    run(main())


def test_a_lone_row_is_answered_after_the_delay(sentiment: Classifier) -> None:
    async def main() -> Prediction:
        async with AsyncClassifier(sentiment, max_batch_size=32, max_delay_ms=1) as service:
            return await service("good")

    assert run(main()).label == "positive"


def test_two_workers_run_two_batches_at_once(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> None:
        async with AsyncClassifier(gate, max_batch_size=1, workers=2) as service:  # type: ignore[arg-type]
            tasks = [await held(service, gate), await held(service, gate, "second")]
            gate.open()
            await asyncio.gather(*tasks)

    run(main())
    assert gate.batches == [["first"], ["second"]]


# ---- what goes wrong, and for whom --------------------------------------------------------------


def test_an_invalid_text_fails_its_own_caller_only(sentiment: Classifier) -> None:
    calls: list[tuple[Any, ...]] = [("good",), ("half \ud83e",), (5,), ("a", "b"), (None,), ("bad",)]

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        async with AsyncClassifier(sentiment) as service:
            outcomes = await asyncio.gather(*(service(*call) for call in calls), return_exceptions=True)
        return outcomes, service.snapshot()

    (good, *wrong, bad), counters = run(main())
    assert (good.label, bad.label) == ("positive", "negative")
    assert [type(error) for error in wrong] == [InputError] * 4
    assert ended(counters) == {"answered": 2, "invalid": 4}
    assert counters.rows == 2
    assert_adds_up(counters)


def test_a_long_text_that_is_refused_fails_its_own_caller_only(small: Any) -> None:
    classifier = Classifier.load(small.bundle("SST-2", "int8"), threads=1, on_long="refuse")

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        async with AsyncClassifier(classifier, max_batch_size=3, max_delay_ms=1e9) as service:
            outcomes = await asyncio.gather(
                *(service(text) for text in ("good", "bad " * 40, "bad")), return_exceptions=True
            )
        return outcomes, service.snapshot()

    (good, long, bad), counters = run(main())
    assert (good.label, bad.label) == ("positive", "negative")
    assert isinstance(long, InputError)
    assert "more than the 32 tokens" in str(long)
    assert ended(counters) == {"answered": 2, "invalid": 1}


def test_an_error_of_the_model_fails_its_batch_and_no_other(sentiment: Classifier) -> None:
    gate = Gated(sentiment)
    error = BundleError("the model gave logits that are not finite")

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        async with AsyncClassifier(gate, max_batch_size=4, max_delay_ms=0) as service:  # type: ignore[arg-type]
            first = await held(service, gate)
            mates = await started(service, *WORDS)
            gate.errors = [error]  # of the batch at the gate
            gate.open()
            outcomes = await asyncio.gather(first, *mates, return_exceptions=True)
            gate.errors = [error]
            outcomes += await asyncio.gather(*(service(word) for word in WORDS[:4]), return_exceptions=True)
        return outcomes, service.snapshot()

    outcomes, counters = run(main())
    assert outcomes[0] is error
    assert all(isinstance(outcome, Prediction) for outcome in outcomes[1:9])
    assert all(outcome is error for outcome in outcomes[9:]), "all mates of a batch get the same error"
    assert ended(counters) == {"answered": 8, "failed": 5}
    assert_adds_up(counters)


def test_a_full_queue_refuses_at_once(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=1, max_queue=2) as service:  # type: ignore[arg-type]
            tasks = [await held(service, gate), *await started(service, "good", "bad")]
            with pytest.raises(QueueFullError, match="2 rows wait already; try again later, or raise max_queue"):
                await service("one too many")
            full = service.snapshot()
            assert (full.queue_length, full.pending, full.rejected) == (2, 3, 1)
            assert_adds_up(full)
            gate.open()
            await asyncio.gather(*tasks)
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["first"], ["good"], ["bad"]]
    assert ended(counters) == {"answered": 3, "rejected": 1}


# ---- deadlines ----------------------------------------------------------------------------------


def test_a_row_that_waits_past_its_deadline_is_not_computed(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=2) as service:  # type: ignore[arg-type]
            first = await held(service, gate)
            (patient,) = await started(service, "good")
            with pytest.raises(DeadlineError, match=r"no answer within 0\.01 s"):
                await service("late", timeout_s=0.01)
            assert service.snapshot().queue_length == 1
            gate.open()
            await asyncio.gather(first, patient)
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["first"], ["good"]]
    assert ended(counters) == {"answered": 2, "expired": 1}
    assert_adds_up(counters)


def test_a_deadline_that_passes_while_the_event_loop_is_blocked_still_counts(sentiment: Classifier) -> None:
    gate = Gated(sentiment)
    gate.open()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClassifier(gate, max_delay_ms=0) as service:  # type: ignore[arg-type]
            task = asyncio.create_task(service("late", timeout_s=0.01))
            while not service.snapshot().queue_length:
                # the next step of the loop puts the row into the queue; then nothing runs until the deadline is over
                await asyncio.sleep(0)
            end = loop.time() + 0.01
            while loop.time() <= end:
                pass
            with pytest.raises(DeadlineError):
                await task

    run(main())
    assert gate.batches == []


def test_a_deadline_holds_while_the_model_runs_and_spares_the_mates(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=2, max_delay_ms=1e9) as service:  # type: ignore[arg-type]
            hasty = asyncio.create_task(service("late", timeout_s=2))
            patient = asyncio.create_task(service("good"))
            await gate.busy()
            with pytest.raises(DeadlineError):
                await hasty
            gate.open()
            assert (await patient).label == "positive"
        return service.snapshot()

    counters = run(main())
    assert ended(counters) == {"answered": 1, "expired": 1}
    assert counters.rows == 2


@pytest.mark.parametrize("timeout_s", [0, -1.5, float("nan")])
def test_a_deadline_that_is_over_before_the_call_ends_it_at_once(sentiment: Classifier, timeout_s: float) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate) as service:  # type: ignore[arg-type]
            with pytest.raises(DeadlineError, match="the deadline had passed before the call"):
                await service("late", timeout_s=timeout_s)
        return service.snapshot()

    assert ended(run(main())) == {"expired": 1}
    assert gate.batches == []


def test_the_default_deadline_is_that_of_the_service(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> None:
        async with AsyncClassifier(gate, timeout_s=0.01) as service:  # type: ignore[arg-type]
            with pytest.raises(DeadlineError):
                await service("late")
            gate.open()
            assert (await service("good", timeout_s=60)).label == "positive"

    run(main())


# ---- callers that go away -----------------------------------------------------------------------


def test_a_cancelled_row_that_still_waits_is_dropped(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=3) as service:  # type: ignore[arg-type]
            first = await held(service, gate)
            before, gone, after = await started(service, "good", "gone", "bad")
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert service.snapshot().queue_length == 2
            gate.open()
            assert [(await task).label for task in (before, after)] == ["positive", "negative"]
            await first
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["first"], ["good", "bad"]]
    assert ended(counters) == {"answered": 3, "cancelled": 1}
    assert_adds_up(counters)


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_cancelled_while_the_model_runs_spares_the_mates(sentiment: Classifier, fails: bool) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=2, max_delay_ms=1e9) as service:  # type: ignore[arg-type]
            gone, stays = (asyncio.create_task(service(text)) for text in ("gone", "good"))
            await gate.busy()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            gate.errors = [BundleError("broken")] if fails else []
            gate.open()
            (outcome,) = await asyncio.gather(stays, return_exceptions=True)
            assert isinstance(outcome, BundleError if fails else Prediction)
        return service.snapshot()

    assert ended(run(main())) == {"failed" if fails else "answered": 1, "cancelled": 1}


# ---- open and close -----------------------------------------------------------------------------


def test_closing_answers_those_who_wait_and_refuses_the_rest(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        service = AsyncClassifier(gate, max_batch_size=4, max_delay_ms=1e9)  # type: ignore[arg-type]
        await service.__aenter__()
        tasks = await started(service, *WORDS[:2])
        closing = asyncio.create_task(service.close())
        await gate.busy()  # the two do not wait for the delay any more
        with pytest.raises(ClosedError, match="the service is closed"):
            await service("too late")
        assert not closing.done()
        gate.open()
        await closing
        assert [(await task).label for task in tasks] == ["positive", "negative"]
        with pytest.raises(ClosedError, match="the service is closed"):
            await service("too late")
        await service.close()
        return service.snapshot()

    counters = run(main())
    assert ended(counters) == {"answered": 2, "rejected": 2}
    assert (counters.pending, counters.queue_length) == (0, 0)
    for thread in threading.enumerate():
        if thread.name.startswith("q8bert"):
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_a_close_that_is_cancelled_still_answers_those_who_wait(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> None:
        service = AsyncClassifier(gate, max_batch_size=1)  # type: ignore[arg-type]
        await service.__aenter__()
        tasks = [await held(service, gate), *await started(service, "good")]
        closing = asyncio.create_task(service.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        gate.open()
        assert (await tasks[1]).label == "positive"
        await service.close()

    run(main())


def test_a_service_that_nobody_calls_closes(sentiment: Classifier) -> None:
    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(sentiment, workers=3) as service:
            pass
        return service.snapshot()

    counters = run(main())
    assert (counters.requests, counters.batches) == (0, 0)


def test_a_service_is_entered_once_and_used_on_its_own_loop(sentiment: Classifier) -> None:
    service = AsyncClassifier(sentiment)

    async def not_open() -> None:
        with pytest.raises(ClosedError, match="not open yet; use it as `async with"):
            await service("good")

    async def elsewhere() -> None:
        with pytest.raises(ClosedError, match="on another event loop"):
            await service("good")

    async def main() -> None:
        async with service:
            await asyncio.to_thread(asyncio.run, elsewhere())
            with pytest.raises(ClosedError, match="is entered once"):
                await service.__aenter__()

    run(not_open())
    run(main())


def test_options_that_do_not_fit_are_reported_together(sentiment: Classifier) -> None:
    with pytest.raises(ConfigError) as caught:
        AsyncClassifier(sentiment, max_batch_size=0, max_queue=0, workers=0, max_delay_ms=-1, timeout_s=0)
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "max_batch_size", "max_delay_ms", "max_queue", "timeout_s", "workers",
    ]  # fmt: skip


# ---- all at once --------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "workers"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_whatever_callers_do_the_counters_are_what_they_saw(sentiment: Classifier, seed: int, workers: int) -> None:
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    names = {
        InputError: "invalid", QueueFullError: "rejected", ClosedError: "rejected", DeadlineError: "expired",
        asyncio.CancelledError: "cancelled",
    }  # fmt: skip

    async def caller(service: AsyncClassifier) -> None:
        text = rng.choice([" ".join(rng.choices(WORDS, k=rng.randint(0, 60))), "half \ud83e"])
        timeout_s = rng.choice([None, None, 0.0, 0.0005, 60])
        try:
            assert isinstance(await service(text, timeout_s=timeout_s), Prediction)
            seen["answered"] += 1
        except (InputError, QueueFullError, ClosedError, DeadlineError, asyncio.CancelledError) as error:
            seen[names[type(error)]] += 1

    async def main() -> ServiceSnapshot:
        service = AsyncClassifier(sentiment, max_batch_size=8, max_queue=20, workers=workers)
        async with service:
            tasks = []
            for number in range(300):
                tasks.append(asyncio.create_task(caller(service)))
                if number % 3 == 0:
                    await asyncio.sleep(0)
                if number % 5 == 0:
                    rng.choice(tasks).cancel()
                assert_adds_up(service.snapshot())
            await asyncio.sleep(0)  # so that the last ones have begun
        await asyncio.gather(*tasks, return_exceptions=True)
        return service.snapshot()

    counters = run(main())
    assert ended(counters) == seen
    assert seen.keys() >= {"answered", "invalid", "expired"}
    assert (counters.pending, counters.queue_length) == (0, 0)
    assert_adds_up(counters)


@pytest.mark.parametrize(("name", "value"), [("max_batch_size", 2.5), ("workers", True), ("max_queue", float("nan"))])
def test_counts_must_be_whole_numbers(sentiment: Classifier, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number, at least 1, got"):
        AsyncClassifier(sentiment, **{name: value})


def test_arguments_of_another_type_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        AsyncClassifier("bundle", max_delay_ms="2", timeout_s=True)  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["classifier", "max_delay_ms", "timeout_s"]


def test_a_deadline_of_another_type_is_an_invalid_call(sentiment: Classifier) -> None:
    async def main() -> None:
        async with AsyncClassifier(sentiment) as service:
            with pytest.raises(InputError, match="timeout_s must be a number of seconds or None, got '1'"):
                await service("good", timeout_s="1")  # type: ignore[arg-type]
            assert ended(service.snapshot()) == {"invalid": 1}

    run(main())
