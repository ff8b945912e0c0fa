"""The asyncio service: everybody gets the right answer or the right error, and the counters add up.

Nothing here waits for a time to pass: where a test needs the model to be busy, a gate holds it.
"""

import asyncio
import gc
import random
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from q8bert.runtime import AsyncClassifier, Classifier, Prediction, ServiceSnapshot
from q8bert.runtime.service.row_queue import RowQueue
from q8bert.runtime.service.service_counters import ServiceCounters
from q8bert.spec.errors import (
    BundleError,
    ClosedError,
    ConfigError,
    DeadlineError,
    InputError,
    QueueFullError,
    WorkerError,
)
from q8bert.text.encoded import Encoded

WORDS = ["good", "bad", "the", "clever", "film", "plot", "dull", "great"]


class Gated(Classifier):
    """A real classifier that waits at a gate, and remembers the batches that it was given."""

    def __init__(self, classifier: Classifier) -> None:
        self.task, self.on_long = classifier.task, classifier.on_long
        self.batches: list[list[str]] = []
        self.errors: list[BaseException] = []
        self._classifier = classifier
        self._words = Tokenizer.from_file(str(classifier.bundle.tokenizer_path))
        self._entered, self._open = threading.Semaphore(0), threading.Event()

    @property
    def threads(self) -> int:
        return self._classifier.threads

    @property
    def runs_together(self) -> bool:
        return self._classifier.runs_together

    def encode(self, texts: Any, text_pairs: Any = None) -> Encoded:
        return self._classifier.encode(texts, text_pairs)

    def prove(self, *, longest: bool = False) -> None:
        self._classifier.prove(longest=longest)

    def outcomes(self, encoded: Encoded, *, batch_size: int = 32) -> Any:
        assert batch_size == len(encoded), "a batch of the service is a batch of the model"
        self.batches.append([self._words.decode(ids.tolist()) for ids in encoded.input_ids])
        self._entered.release()
        assert self._open.wait(timeout=60)
        if self.errors:
            raise self.errors.pop()
        return self._classifier.outcomes(encoded, batch_size=batch_size)

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
        async with asyncio.timeout(60):
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
    while service.snapshot().queue_length < before + len(texts) or service._queue._n_coming:
        await asyncio.sleep(0)
    return tasks


async def held(service: AsyncClassifier, gate: Gated, text: str = "story") -> asyncio.Task[Prediction]:
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
        async with AsyncClassifier(gate, max_batch_size=4, max_delay_ms=0, workers=1) as service:  # type: ignore[arg-type]
            tasks = [await held(service, gate), *await started(service, *WORDS, "film", "plot")]
            gate.open()
            await asyncio.gather(*tasks)
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["story"], WORDS[:4], WORDS[4:], ["film", "plot"]]  # in order of arrival
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
            tasks = [await held(service, gate), await held(service, gate, "plot")]
            gate.open()
            await asyncio.gather(*tasks)

    run(main())
    assert gate.batches == [["story"], ["plot"]]


def test_short_rows_are_not_padded_to_long_ones(sentiment: Classifier) -> None:
    gate = Gated(sentiment)
    texts = ["good", "bad " * 28, "plot", "dull " * 26, "great " * 3]

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_padding=0.1, max_batch_tokens=64, workers=1) as service:
            first = await held(service, gate)
            tasks = await started(service, *texts)
            gate.open()
            assert [(await task).label for task in (first, *tasks)][1:3] == ["positive", "negative"]
        return service.snapshot()

    counters = run(main())
    # each with those of its length, the oldest first; two of 30 and 28 tokens are the 64 that a batch may have
    assert [[len(text.split()) for text in batch] for batch in gate.batches] == [[1], [1, 1, 3], [28, 26]]
    assert (counters.tokens, counters.padding) == (3 + 3 + 3 + 5 + 30 + 28, 2 + 2 + 2)
    assert counters.padding_share == pytest.approx(6 / 78)


def test_workers_and_threads_together_use_the_cores(
    sentiment: Classifier, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("q8bert.runtime.service.async_classifier.available_cores", lambda: 5)
    assert AsyncClassifier(sentiment).snapshot().workers == 5
    assert AsyncClassifier(sentiment, workers=3).snapshot().workers == 3
    two = Classifier.load(small.bundle("SST-2", "int8"), threads=2)
    assert AsyncClassifier(two).snapshot().workers == 2
    six = Classifier.load(small.bundle("SST-2", "int8"), threads=6)
    assert AsyncClassifier(six).snapshot().workers == 1


def test_many_rows_of_one_caller_get_their_answers_in_order(sentiment: Classifier) -> None:
    rows: list[Any] = [" ".join(random.Random(number).choices(WORDS, k=number % 40)) for number in range(500)]
    rows[7], rows[300] = 5, ("a", "b")
    expected = sentiment([row if isinstance(row, str) else "" for row in rows])
    most = 0

    async def watch(service: AsyncClassifier) -> None:
        nonlocal most
        while True:
            most = max(most, service.snapshot().queue_length)
            await asyncio.sleep(0)

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        async with AsyncClassifier(sentiment, max_queue=40) as service:
            watcher = asyncio.create_task(watch(service))
            outcomes = await service.many(row for row in rows)
            watcher.cancel()
            assert await service.many([]) == []
        return outcomes, service.snapshot()

    outcomes, counters = run(main())
    assert [number for number, one in enumerate(outcomes) if isinstance(one, InputError)] == [7, 300]
    for number, (outcome, alone) in enumerate(zip(outcomes, expected, strict=True)):
        if number not in {7, 300}:
            # INT8: padding to a neighbour's length may tip a rounding tie
            assert outcome.probabilities["positive"] == pytest.approx(alone.probabilities["positive"], abs=0.1)  # type: ignore[index]
            assert outcome.truncated == alone.truncated
    assert most <= 20, "half of the queue is left to others"
    assert ended(counters) == {"answered": 498, "invalid": 2}


@pytest.mark.parametrize("rows", ["good", {"good"}, {"good": "bad"}, 5, None])
def test_many_rows_have_an_order(sentiment: Classifier, rows: Any) -> None:
    async def main() -> None:
        async with AsyncClassifier(sentiment) as service:
            with pytest.raises(InputError, match="give "):
                await service.many(rows)

    run(main())


def test_many_rows_whose_iterator_fails_leave_nothing_behind(sentiment: Classifier) -> None:
    def rows() -> Any:
        yield from WORDS
        raise ZeroDivisionError

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(sentiment) as service:
            with pytest.raises(ZeroDivisionError):
                await service.many(rows())
            await asyncio.sleep(0)
        return service.snapshot()

    counters = run(main())
    assert (counters.pending, counters.queue_length) == (0, 0)
    assert_adds_up(counters)


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
        async with AsyncClassifier(classifier, max_batch_size=2, max_delay_ms=1e9, workers=1) as service:
            outcomes = await asyncio.gather(
                *(service(text) for text in ("good", "bad " * 40, "bad")), return_exceptions=True
            )
        return outcomes, service.snapshot()

    (good, long, bad), counters = run(main())
    assert (good.label, bad.label) == ("positive", "negative")
    assert isinstance(long, InputError)
    assert "more than the 32 tokens" in str(long)
    assert ended(counters) == {"answered": 2, "invalid": 1}


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError(), KeyboardInterrupt(), SystemExit(2)])
def test_something_unforeseen_fails_its_batch_and_no_other(sentiment: Classifier, error: BaseException) -> None:
    gate = Gated(sentiment)

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        async with AsyncClassifier(gate, max_batch_size=4, max_delay_ms=1e9, workers=1) as service:
            gate.open()
            gate.errors = [error]
            outcomes = await asyncio.gather(*(service(word) for word in WORDS[:4]), return_exceptions=True)
            outcomes += await asyncio.gather(*(service(word) for word in WORDS[:4]), return_exceptions=True)
            assert service.healthy
        return outcomes, service.snapshot()

    outcomes, counters = run(main())
    assert [type(outcome) for outcome in outcomes] == [WorkerError] * 4 + [Prediction] * 4
    assert all(outcome.__cause__ is error for outcome in outcomes[:4])
    assert len({id(outcome) for outcome in outcomes[:4]}) == 4, "each caller has an error object of its own"
    assert (ended(counters), counters.worker_failures) == ({"answered": 4, "failed": 4}, 1)
    assert_adds_up(counters)


@pytest.mark.parametrize("part", ["take", "finished", "batch_computed"])
def test_a_fault_outside_of_the_computation_ends_no_worker(
    sentiment: Classifier, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    broken = True
    owner: Any = ServiceCounters if part == "batch_computed" else RowQueue
    whole = getattr(owner, part)

    def sometimes(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal broken
        if broken and (part != "take" or self._waiting):
            broken = False
            raise ZeroDivisionError("a defect")
        return whole(self, *args, **options)

    monkeypatch.setattr(owner, part, sometimes)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(sentiment, workers=1, max_delay_ms=0) as service:
            async with asyncio.timeout(60):
                while broken:  # a worker that waits may be past the place already
                    try:
                        assert (await service("good")).label == "positive"
                    except WorkerError as error:
                        assert "ZeroDivisionError: a defect" in str(error)  # noqa: PT017
                assert (await service("good")).label == "positive"
            assert service.healthy
        return service.snapshot()

    counters = run(main())
    assert counters.worker_failures == 1
    assert ended(counters)["failed"] <= 1


def test_a_service_whose_batches_all_fail_is_not_healthy_and_recovers(sentiment: Classifier) -> None:
    gate = Gated(sentiment)
    gate.open()

    async def main() -> None:
        service = AsyncClassifier(gate, workers=1, max_delay_ms=0)
        assert not service.healthy
        async with service:
            for n_failed in range(5):
                assert service.healthy is (n_failed < 3)
                gate.errors = [RuntimeError("lost device")]
                with pytest.raises(WorkerError, match="lost device"):
                    await service("good")
            await service("good")
            assert service.healthy
            assert service.snapshot().worker_failures == 5
        assert not service.healthy

    run(main())


def sick(bundle: Any, bad_id: int, *, fails: bool) -> Classifier:
    """Return a real classifier whose session fails rows with one token, or gives NaN for them."""
    classifier = Classifier.load(bundle, threads=1)
    session: Any = classifier._engine

    class Sick:
        input_names, options, providers = session.input_names, session.options, session.providers

        def run(self, inputs: Any) -> Any:
            is_bad = (inputs["input_ids"] == bad_id).any(axis=1)
            if fails and is_bad.any():
                raise BundleError("indices element out of data bounds")
            return np.where(is_bad[:, None], np.nan, session.run(inputs)).astype(np.float32)

    classifier._model._engine = Sick()  # type: ignore[assignment]
    return classifier


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_that_the_model_cannot_take_fails_alone(small: Any, fails: bool) -> None:
    bundle = small.bundle("SST-2", "int8")
    bad_id = Tokenizer.from_file(str(bundle / "tokenizer.json")).token_to_id("story")
    texts = ["good", "bad", "story", "great", "story good", "dull", ("a", "b"), "fine"]

    async def main() -> tuple[list[Any], ServiceSnapshot]:
        service = AsyncClassifier(sick(bundle, bad_id, fails=fails), max_batch_size=7, max_delay_ms=1e9, workers=1)
        async with service:
            outcomes = await asyncio.gather(*(service(text) for text in texts), return_exceptions=True)  # type: ignore[arg-type]
            assert service.healthy
        return outcomes, service.snapshot()

    outcomes, counters = run(main())
    kinds = [Prediction, Prediction, BundleError, Prediction, BundleError, Prediction, InputError, Prediction]
    assert [type(outcome) for outcome in outcomes] == kinds
    assert outcomes[2] is not outcomes[4]
    assert [one.label for one in outcomes if isinstance(one, Prediction)] == [
        "positive", "negative", "positive", "negative", "positive",
    ]  # fmt: skip
    assert (ended(counters), counters.batches) == ({"answered": 5, "failed": 2, "invalid": 1}, 1)


def test_a_model_that_fails_on_every_row_makes_the_service_unhealthy(small: Any) -> None:
    classifier = Classifier.load(small.bundle("SST-2", "int8"), threads=1)

    def lost(inputs: Any) -> Any:
        raise BundleError("the device is lost")

    async def main() -> None:
        async with AsyncClassifier(classifier, workers=1, max_delay_ms=0) as service:
            await service("good")
            classifier._engine.run = lost  # type: ignore[method-assign]
            for _ in range(3):
                with pytest.raises(WorkerError, match="the device is lost"):
                    await service("good")
            assert not service.healthy

    run(main())


def test_a_full_queue_refuses_at_once(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=1, max_queue=2, workers=1) as service:  # type: ignore[arg-type]
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
    assert gate.batches == [["story"], ["good"], ["bad"]]
    assert ended(counters) == {"answered": 3, "rejected": 1}


def test_a_row_of_more_characters_than_allowed_is_refused_before_any_work(similarity: Classifier) -> None:
    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(similarity, max_characters=10) as service:
            await service("good", "a film")
            with pytest.raises(InputError, match="the row has 11 characters, and at most 10 are taken"):
                await service("good", "a film.")
        return service.snapshot()

    assert ended(run(main())) == {"answered": 1, "invalid": 1}


# ---- deadlines ----------------------------------------------------------------------------------


def test_a_row_that_waits_past_its_deadline_is_not_computed(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=2, workers=1) as service:  # type: ignore[arg-type]
            first = await held(service, gate)
            (patient,) = await started(service, "good")
            with pytest.raises(DeadlineError, match="no answer by the deadline"):
                await service("slow", timeout_s=0.01)
            assert service.snapshot().queue_length == 1
            gate.open()
            await asyncio.gather(first, patient)
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["story"], ["good"]]
    assert ended(counters) == {"answered": 2, "expired": 1}
    assert_adds_up(counters)


def test_a_deadline_that_passes_while_the_event_loop_is_blocked_still_counts(sentiment: Classifier) -> None:
    gate = Gated(sentiment)
    gate.open()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncClassifier(gate, max_delay_ms=0) as service:  # type: ignore[arg-type]
            task = asyncio.create_task(service("slow", timeout_s=0.01))
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
            hasty = asyncio.create_task(service("slow", timeout_s=2))
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


@pytest.mark.parametrize("timeout_s", [0, -1.5])
def test_a_deadline_that_is_over_before_the_call_ends_it_at_once(sentiment: Classifier, timeout_s: float) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate) as service:  # type: ignore[arg-type]
            with pytest.raises(DeadlineError, match="the deadline had passed before the call"):
                await service("slow", timeout_s=timeout_s)
        return service.snapshot()

    assert ended(run(main())) == {"expired": 1}
    assert gate.batches == []


def test_the_default_deadline_is_that_of_the_service(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> None:
        async with AsyncClassifier(gate, timeout_s=0.01) as service:  # type: ignore[arg-type]
            with pytest.raises(DeadlineError):
                await service("slow")
            patient = asyncio.create_task(service("good", timeout_s=None))  # none at all, not the service's own
            await asyncio.sleep(0.05)
            assert not patient.done()
            gate.open()
            assert (await patient).label == "positive"
            assert (await service("good", timeout_s=60)).label == "positive"

    run(main())


def test_a_row_that_cannot_make_its_deadline_is_refused_at_once(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=1, max_delay_ms=0, workers=1) as service:
            slow = await held(service, gate)
            await asyncio.sleep(0.2)
            gate.open()
            await slow  # so it is known that a batch takes 0.2 s
            gate._open.clear()
            tasks = [await held(service, gate), *await started(service, *WORDS[:4])]
            with pytest.raises(DeadlineError, match=r"refused at once: .* with 4 rows waiting"):
                await service("good", timeout_s=0.5)
            assert service.snapshot().queue_length == 4
            hopeful = asyncio.create_task(service("good", timeout_s=60))
            gate.open()
            await asyncio.gather(*tasks, hopeful)
            assert (await service("good", timeout_s=0.15)).label == "positive", "an idle service takes every row"
        return service.snapshot()

    assert ended(run(main())) == {"answered": 8, "expired": 1}


# ---- callers that go away -----------------------------------------------------------------------


def test_a_cancelled_row_that_still_waits_is_dropped(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=3, workers=1) as service:  # type: ignore[arg-type]
            first = await held(service, gate)
            before, gone, after = await started(service, "good", "actors", "bad")
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert service.snapshot().queue_length == 2
            gate.open()
            assert [(await task).label for task in (before, after)] == ["positive", "negative"]
            await first
        return service.snapshot()

    counters = run(main())
    assert gate.batches == [["story"], ["good", "bad"]]
    assert ended(counters) == {"answered": 3, "cancelled": 1}
    assert_adds_up(counters)


@pytest.mark.parametrize("fails", [False, True])
def test_a_row_cancelled_while_the_model_runs_spares_the_mates(sentiment: Classifier, fails: bool) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        async with AsyncClassifier(gate, max_batch_size=2, max_delay_ms=1e9) as service:  # type: ignore[arg-type]
            gone, stays = (asyncio.create_task(service(text)) for text in ("actors", "good"))
            await gate.busy()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            gate.errors = [RuntimeError("broken")] if fails else []
            gate.open()
            (outcome,) = await asyncio.gather(stays, return_exceptions=True)
            assert isinstance(outcome, WorkerError if fails else Prediction)
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
        service = AsyncClassifier(gate, max_batch_size=1, workers=1)  # type: ignore[arg-type]
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


def test_a_service_is_entered_once_and_takes_calls_of_any_loop(sentiment: Classifier) -> None:
    service = AsyncClassifier(sentiment)

    async def not_open() -> None:
        with pytest.raises(ClosedError, match="not open yet; use it as `async with"):
            await service("good")

    async def elsewhere() -> Prediction:
        return await service("good")

    async def main() -> None:
        async with service:
            prediction = await asyncio.to_thread(asyncio.run, elsewhere())
            assert prediction == await service("good") == sentiment(["good"])[0]
            with pytest.raises(ClosedError, match="is entered once"):
                await service.__aenter__()

    run(not_open())
    run(main())


def test_closing_gives_up_after_its_limit(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> ServiceSnapshot:
        service = AsyncClassifier(gate, max_batch_size=1, workers=1)
        await service.__aenter__()
        tasks = [await held(service, gate), *await started(service, "good")]
        async with asyncio.timeout(60):
            await service.close(drain_s=0.01)  # the model stands at the gate for ever
        for task in tasks:
            with pytest.raises(ClosedError, match="closed before the row was answered"):
                await task
        gate.open()
        return service.snapshot()

    counters = run(main())
    assert ended(counters) == {"rejected": 2}
    assert (counters.pending, counters.queue_length, counters.running) == (0, 0, 0)


def test_leaving_the_context_has_the_limit_of_the_service(sentiment: Classifier) -> None:
    gate = Gated(sentiment)

    async def main() -> None:
        async with asyncio.timeout(60):
            async with AsyncClassifier(gate, drain_s=0, workers=1) as service:
                task = await held(service, gate)
            with pytest.raises(ClosedError):
                await task
        gate.open()

    run(main())


def test_a_process_ends_though_its_model_never_comes_back(small: Any) -> None:
    code = f"""
import asyncio, threading
from q8bert.runtime import AsyncClassifier, Classifier
classifier = Classifier.load({str(small.bundle("SST-2", "int8"))!r}, threads=1)
classifier.outcomes = lambda *_, **__: threading.Event().wait()
async def main():
    async with AsyncClassifier(classifier, drain_s=0.1, max_delay_ms=0) as service:
        task = asyncio.create_task(service("good"))
        while not service.snapshot().running:
            await asyncio.sleep(0.001)
    print(type((await asyncio.gather(task, return_exceptions=True))[0]).__name__)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ClosedError\n"


def test_options_that_do_not_fit_are_reported_together(sentiment: Classifier) -> None:
    with pytest.raises(ConfigError) as caught:
        AsyncClassifier(
            sentiment, max_batch_size=0, max_batch_tokens=0, max_padding=1, max_queue=0, max_characters=0, workers=0,
            max_delay_ms=-1, timeout_s=0, drain_s=-1,
        )  # fmt: skip
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "max_batch_size", "max_batch_tokens", "max_padding", "max_delay_ms", "max_queue", "max_characters", "timeout_s",
        "drain_s", "workers",
    ]  # fmt: skip


# ---- all at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_three_hundred_callers_who_do_all_they_can_get_each_their_own_in_bounded_memory(
    small: Any, workers: int
) -> None:
    n_rounds, rng, bundle = 12, random.Random(workers), small.bundle("STS-B", "float32")
    healthy = Classifier.load(bundle, threads=1)
    bad_id = Tokenizer.from_file(str(bundle / "tokenizer.json")).token_to_id("story")
    rows: list[tuple[Any, Any]] = [
        tuple(" ".join(rng.choices(WORDS, k=rng.randint(0, 48))) for _ in "ab") for _ in range(300)
    ]
    alone = [one.score for one in healthy(rows)]
    # a third is failed by the model, refused, or cut short by their callers
    kinds = rng.choices(["fine", "fails", "invalid", "late", "cancelled"], weights=[6, 1, 1, 1, 1], k=300)
    fails = sick(bundle, bad_id, fails=True)
    expected = {
        "fine": Prediction, "fails": BundleError, "invalid": InputError, "late": DeadlineError,
        "cancelled": asyncio.CancelledError,
    }  # fmt: skip

    async def caller(service: AsyncClassifier, number: int) -> Any:
        first, second = rows[number]
        match kinds[number]:
            case "fails":
                return await service("story", second)
            case "invalid":
                return await service(first, rng.choice([5, "half \ud83e", None, "x" * 2000]))
            case "late":
                return await service(first, second, timeout_s=rng.choice([0, 1e-9, 1e-6]))
            case "cancelled":
                task = asyncio.create_task(service(first, second))
                await asyncio.sleep(rng.choice([0, 0, 0.001]))
                task.cancel()
                return await task
        return await service(first, second)

    async def round_of_callers(service: AsyncClassifier) -> None:
        outcomes = await asyncio.gather(*(caller(service, number) for number in range(300)), return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            # who cancels may find the answer there already
            assert isinstance(
                outcome,
                (expected[kinds[number]], Prediction) if kinds[number] == "cancelled" else expected[kinds[number]],
            )
            if isinstance(outcome, Prediction):
                assert outcome.score == pytest.approx(alone[number], abs=1e-4)  # float32, sums in another order
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len({id(error) for error in errors}) == len(errors)

    async def main() -> tuple[ServiceSnapshot, list[int]]:
        sizes = []
        service = AsyncClassifier(fails, max_batch_size=16, max_queue=300, max_characters=1000, workers=workers)
        async with service:
            for _ in range(n_rounds):
                await round_of_callers(service)
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
            assert service.healthy
        return service.snapshot(), sizes

    tracemalloc.start()
    try:
        counters, sizes = run(main())
    finally:
        tracemalloc.stop()
    # what threads and allocators keep for later comes and goes by some 300 kB; so few rounds show 200 bytes a call
    assert sizes[-1] - sizes[1] < (n_rounds - 2) * 300 * 200, "many rounds of callers leave no more behind than two"
    assert (counters.requests, counters.pending, counters.queue_length, counters.running) == (n_rounds * 300, 0, 0, 0)
    assert counters.worker_failures == 0
    for kind, outcome in [("fails", "failed"), ("invalid", "invalid"), ("late", "expired")]:
        assert ended(counters)[outcome] == n_rounds * kinds.count(kind)
    assert_adds_up(counters)


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
    with pytest.raises(ConfigError, match=f"{name} must be a whole number, at least 1( or none)?, got"):
        AsyncClassifier(sentiment, **{name: value})


def test_arguments_of_another_type_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        AsyncClassifier("bundle", max_delay_ms="2", timeout_s=True)  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["classifier", "max_delay_ms", "timeout_s"]


@pytest.mark.parametrize("timeout_s", ["1", float("nan")])
def test_a_deadline_that_is_no_number_is_an_invalid_call(sentiment: Classifier, timeout_s: Any) -> None:
    async def main() -> None:
        async with AsyncClassifier(sentiment) as service:
            with pytest.raises(InputError, match=f"timeout_s must be a number of seconds or None, got {timeout_s!r}"):
                await service("good", timeout_s=timeout_s)
            assert ended(service.snapshot()) == {"invalid": 1}

    run(main())
