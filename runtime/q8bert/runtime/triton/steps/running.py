"""The second step, where Triton has no backend for ONNX Runtime: ids → logits on our runtime."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.table import CPU_PROVIDER, CUDA_PROVIDER
from q8bert.runtime.predict.classifier import Classifier
from q8bert.runtime.service.filling import BatchLimits, fill
from q8bert.runtime.triton.interface import LOGITS, MASK
from q8bert.runtime.triton.steps.step import Arrays, Outcome, Place, rows_of_requests
from q8bert.spec.errors import BundleError
from q8bert.text.encoded import Encoded, Rows

__all__ = ["ModelStep"]

# as of the service within Python: little is padded, and a batch is full by tokens
_MAX_TOKENS, _MAX_PADDING = 4096, 0.25
_IDS, _TYPES = "input_ids", "token_type_ids"


class ModelStep:
    """Runs the model of a bundle.

    Args:
        classifier: The bundle, loaded.
        limits: What a batch may be; rows of all requests are put together, and batches made of those of like length.
    """

    def __init__(self, classifier: Classifier, *, limits: BatchLimits) -> None:
        self._classifier, self._limits = classifier, limits
        self.input_names: Sequence[str] = tuple(dict.fromkeys((*classifier.bundle.manifest.input_names, MASK)))

    @classmethod
    def load(cls, place: Place) -> Self:
        """Load the bundle with all checks, and run a shortest and a longest row.

        Args:
            place: The version's folder, which is a bundle; parameters ``threads`` and ``max_batch_size``.

        Returns:
            The step.

        Raises:
            BundleError: If the bundle is incomplete or altered, or its model cannot run.
            ProviderError: If the GPU cannot be had.
        """
        cuda = [] if place.gpu is None else [(CUDA_PROVIDER, {"device_id": place.gpu})]
        classifier = Classifier.load(
            place.folder,
            providers=[*cuda, CPU_PROVIDER],  # which runs the few nodes that CUDA has no kernel for
            options=RuntimeOptions.service(threads=int(place.parameters["threads"])),
        )
        limits = BatchLimits(rows=int(place.parameters["max_batch_size"]), tokens=_MAX_TOKENS, padding=_MAX_PADDING)
        return cls(classifier, limits=limits)

    def run(self, requests: Sequence[Arrays]) -> list[Outcome]:
        """Compute logits; see :class:`~q8bert.runtime.triton.steps.step.Step`."""
        encoded = Encoded.joined([_unpadded(request) for request in requests])
        try:
            logits = self._logits(encoded)
        except BundleError as error:
            # the model fails on some row: whoever sent it is told, and nobody else
            return [error] if len(requests) <= 1 else [self.run([request])[0] for request in requests]
        counts = [len(request[_IDS]) for request in requests]
        return [{LOGITS: logits[rows]} for rows in rows_of_requests(counts)]

    def _logits(self, encoded: Encoded) -> NDArray[np.float32]:
        logits = np.empty((len(encoded), self._classifier.task.head.n_outputs), dtype=np.float32)
        rest = np.argsort(-encoded.lengths, kind="stable")
        while len(rest):
            chosen, _ = fill(encoded.lengths[rest].tolist(), self._limits)
            rows = rest[chosen]
            logits[rows] = self._classifier.run(encoded.select(rows.tolist()), batch_size=self._limits.rows)
            rest = np.delete(rest, chosen)
        return logits


def _unpadded(request: Arrays) -> Encoded:
    lengths = request[MASK].sum(axis=1)
    types = request.get(_TYPES)
    return Encoded(
        _rows(request[_IDS], lengths),
        _rows(np.zeros_like(request[_IDS]) if types is None else types, lengths),
    )


def _rows(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> Rows:
    return Rows.of([row[:length] for row, length in zip(values, lengths.tolist(), strict=True)])
