"""The last step: logits → labels and probabilities, or scores."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from q8bert.runtime.triton.interface import LABEL, LOGITS, PROBABILITIES, SCORE
from q8bert.runtime.triton.steps.step import Arrays, Outcome, Place
from q8bert.spec.bundle.parts import open_parts
from q8bert.spec.errors import BundleError, ConfigError
from q8bert.tasks.head import Head
from q8bert.tasks.task import task_from_json

__all__ = ["LabelStep"]


class LabelStep:
    """Says what logits stand for.

    Args:
        head: The bundle's head.
    """

    input_names: Sequence[str] = (LOGITS,)

    def __init__(self, head: Head) -> None:
        self._head = head

    @classmethod
    def load(cls, place: Place) -> Self:
        """Read the head.

        Args:
            place: The version's folder, with the manifest.

        Returns:
            The step.

        Raises:
            BundleError: If the manifest is missing or malformed.
        """
        bundle, _ = open_parts(place.folder, ())
        try:
            return cls(task_from_json(bundle.manifest.task, source=str(place.folder)).head)
        except ConfigError as error:
            raise BundleError(f"{error}. Export the bundle again") from error

    def run(self, requests: Sequence[Arrays]) -> list[Outcome]:
        """Decode logits; see :class:`~q8bert.runtime.triton.steps.step.Step`."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Arrays) -> Outcome:
        logits = request[LOGITS]
        if not np.isfinite(logits).all():
            return BundleError("the model gave logits that are not finite (NaN or infinity)")
        values = self._head.activate(logits)
        if self._head.is_regression:
            return {SCORE: values}
        labels = [[self._head.labels[int(row)].encode("utf-8")] for row in values.argmax(axis=1)]
        return {LABEL: np.array(labels, dtype=np.object_), PROBABILITIES: values}
