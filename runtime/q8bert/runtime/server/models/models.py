"""The models of a server by name and version, and how one takes another's place without a lost request.

A request holds the model that it began with; who was replaced is closed when nobody holds it any more.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from q8bert.runtime.predict.classifier import Classifier
from q8bert.runtime.server.http.refusals import RefusedError
from q8bert.runtime.server.models.counts import added
from q8bert.runtime.server.models.sources import Signature, card_of, signature_of
from q8bert.runtime.server.options import ModelOptions
from q8bert.runtime.service.async_classifier import AsyncClassifier
from q8bert.runtime.service.service_counters import ServiceSnapshot

__all__ = ["Key", "Model", "Models"]

Key = tuple[str, int]

_POLL_S = 0.01


class Model:
    """A bundle that is loaded, with its queue and its workers.

    Args:
        key: Its name and version.
        folder: Where its bundle lies.
        signature: What the folder looked like before it was loaded.
        classifier: The loaded bundle.
        options: How it is run.
        max_queue: Most rows that are taken and not answered yet.
    """

    def __init__(
        self,
        key: Key,
        folder: Path,
        signature: Signature,
        classifier: Classifier,
        *,
        options: ModelOptions,
        max_queue: int,
    ) -> None:
        self.key, self.folder, self.signature, self.classifier = key, folder, signature, classifier
        self.card = card_of(folder)
        self.pending_rows = 0
        self._max_queue = max_queue
        self._n_held = 0
        self.service = AsyncClassifier(
            classifier,
            max_batch_size=options.max_batch_size,
            max_batch_tokens=options.max_batch_tokens,
            max_padding=options.max_padding,
            max_delay_ms=options.max_delay_ms,
            max_queue=max_queue,
            max_characters=options.max_characters,
            workers=options.workers,
            timeout_s=None,
        )

    @classmethod
    def load(cls, key: Key, folder: Path, *, options: ModelOptions, max_queue: int) -> "Model":
        """Load a bundle and prove that its model runs.

        Args:
            key: Its name and version.
            folder: Where it lies.
            options: How it is run.
            max_queue: Most rows that are taken and not answered yet.

        Returns:
            The model; its service is not open yet.

        Raises:
            BundleError: As :meth:`Classifier.load`.
            ConfigError: As there.
            MissingExtraError: As there.
            ProviderError: As there.
        """
        signature = signature_of(folder)
        classifier = Classifier.load(
            folder,
            engine=options.engine,
            providers=options.providers,
            options=options.runtime,
            on_long=options.on_long,
            graph=options.graph,
        )
        return cls(key, folder, signature, classifier, options=options, max_queue=max_queue)

    @property
    def digest(self) -> str:
        """What tells this bundle from any other."""
        return self.classifier.bundle.manifest.digest

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the model open for as long as the block lasts."""
        self._n_held += 1
        try:
            yield
        finally:
            self._n_held -= 1

    @contextmanager
    def taking(self, n_rows: int, *, headers: Mapping[str, str]) -> Iterator[None]:
        """Let rows in, if there is room for all of them.

        Args:
            n_rows: How many.
            headers: Headers of the refusal.

        Yields:
            Nothing; they count as taken until the block ends.

        Raises:
            RefusedError: 503 if the queue has no room for them.
        """
        if self.pending_rows + n_rows > self._max_queue:
            raise RefusedError(
                503, f"the queue is full: {self.pending_rows} of {self._max_queue} rows are waiting; try later", headers
            )
        self.pending_rows += n_rows
        try:
            yield
        finally:
            self.pending_rows -= n_rows

    async def retire(self, *, drain_s: float) -> None:
        """Close when nobody holds the model any more, or after a time; then what still waits fails.

        Args:
            drain_s: How long to wait.
        """
        until = time.monotonic() + drain_s
        while self._n_held and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        await self.service.close(drain_s=0)


class Models:
    """All models of a server, and what is wrong with bundles that could not take over.

    Attributes:
        problems: Model → why its newest bundle does not serve.
        n_reloads: Model and how it ended (``taken`` or ``refused``) → how often a new bundle was looked at.
    """

    def __init__(self) -> None:
        self._current: dict[Key, Model] = {}
        self._retiring: list[Model] = []
        self._done: dict[Key, ServiceSnapshot] = {}
        self.problems: dict[Key, str] = {}
        self.n_reloads: Counter[tuple[Key, str]] = Counter()

    def __iter__(self) -> Iterator[Model]:
        return iter([self._current[key] for key in sorted(self._current)])

    def find(self, name: str, version: str | None) -> Model:
        """Return a model.

        Args:
            name: What it is called.
            version: Which one; None for the newest.

        Returns:
            The model.

        Raises:
            RefusedError: 404 if there is none.
        """
        versions = self.versions(name)
        if not versions:
            names = sorted({known for known, _ in self._current})
            raise RefusedError(404, f"there is no model {name[:80]!r} here; there is {', '.join(names) or 'none'}")
        if version is None:
            return self._current[name, versions[-1]]
        if version not in {str(number) for number in versions}:
            there = ", ".join(map(str, versions))
            raise RefusedError(404, f"model {name} has no version {version[:40]!r}; there is {there}")
        return self._current[name, int(version)]

    def versions(self, name: str) -> Sequence[int]:
        """Return the versions of a model, the newest last."""
        return sorted(number for known, number in self._current if known == name)

    def get(self, key: Key) -> Model | None:
        """Return a model, or None."""
        return self._current.get(key)

    async def put(self, model: Model, *, drain_s: float) -> None:
        """Open a model and let it take over; returns when the one before it is closed.

        Args:
            model: The new one.
            drain_s: How long what waits with the old one may take.
        """
        await model.service.__aenter__()
        old = self._current.get(model.key)
        self._current[model.key] = model
        self.problems.pop(model.key, None)
        if old is not None:
            await self._retire(old, drain_s=drain_s)

    async def remove(self, key: Key, *, drain_s: float) -> None:
        """Take a model away; returns when it is closed.

        Args:
            key: Which one.
            drain_s: How long what waits with it may take.
        """
        self.problems.pop(key, None)
        await self._retire(self._current.pop(key), drain_s=drain_s)

    async def close(self, *, drain_s: float) -> None:
        """Close all models; new calls are refused at once.

        Args:
            drain_s: How long what waits may take.
        """
        await asyncio.gather(*(model.retire(drain_s=drain_s) for model in [*self, *self._retiring]))

    def counts(self, key: Key) -> ServiceSnapshot | None:
        """Return the counters of a model together with those of the models that it replaced.

        Args:
            key: Which one.

        Returns:
            The sums; None where there never was such a model.
        """
        present = [model for model in (self._current.get(key), *self._retiring) if model and model.key == key]
        snapshots = [model.service.snapshot() for model in present]
        return added([*snapshots, *([self._done[key]] if key in self._done else [])])

    async def _retire(self, model: Model, *, drain_s: float) -> None:
        self._retiring.append(model)
        await model.retire(drain_s=drain_s)
        self._retiring.remove(model)
        before = [self._done[model.key]] if model.key in self._done else []
        if total := added([model.service.snapshot(), *before]):
            self._done[model.key] = total
