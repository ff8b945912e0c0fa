"""The model of a bundle: ids in, logits out, and a row that it fails on fails alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np

from q8bert.runtime.engines.engine import Engine
from q8bert.runtime.predict.outcomes import Outputs, outcomes_of_rows
from q8bert.spec.bundle.bundle import Bundle
from q8bert.spec.checked import fitted
from q8bert.spec.errors import BundleError
from q8bert.spec.kinds import at_least
from q8bert.tasks.task import Task
from q8bert.text.batching import model_inputs, sorted_batches
from q8bert.text.encoded import Encoded

__all__ = ["BatchSize", "BundleModel"]

BatchSize = Annotated[int, at_least(1)]


class BundleModel:
    """A loaded model that is held to what the bundle says of it.

    Args:
        bundle: The bundle.
        engine: Its model, loaded.
        task: Its task, which says how many outputs there are.

    Raises:
        BundleError: If manifest and model have other inputs.
    """

    def __init__(self, bundle: Bundle, engine: Engine, task: Task) -> None:
        if differing := sorted(set(engine.input_names) ^ set(bundle.manifest.input_names)):
            raise BundleError(f"{bundle.path}: manifest and model disagree on the inputs {', '.join(differing)}")
        self._bundle, self._engine, self._task = bundle, engine, task

    def outputs(
        self,
        encoded: Encoded,
        *,
        batch_size: int,
        show_progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Iterator[tuple[int, Outputs | BundleError]]:
        """Run rows in batches of like length, the longest first.

        Args:
            encoded: Ids of n rows.
            batch_size: Rows a batch.
            show_progress: Called after each batch with rows done and rows in all.

        Yields:
            The number of each row, and its logits, float32 ``(n_outputs,)``, or its own error.

        Raises:
            ConfigError: If ``batch_size`` is no whole number of at least 1.
        """
        batch_size = fitted(BatchSize, batch_size, "batch_size")
        n_done = 0
        for batch in sorted_batches(encoded.lengths, batch_size):
            rows = batch.tolist()
            outcomes = outcomes_of_rows(
                lambda some: self._logits(encoded, some), rows, source=str(self._bundle.path)
            )  # fmt: skip
            yield from zip(rows, outcomes, strict=True)
            n_done += len(rows)
            show_progress(n_done, len(encoded))

    def prove(self, rows: Encoded) -> None:
        """Run some rows, each alone, and see that logits of the task's width come out.

        Args:
            rows: What the manifest allows.

        Raises:
            BundleError: If the model cannot run one of them.
        """
        for row, output in self.outputs(rows, batch_size=1):
            if isinstance(output, BundleError):
                raise BundleError(
                    f"{self._bundle.path}: the model cannot run a row of {rows.lengths[row]} tokens with ids up to "
                    f"{rows.input_ids[row].max()}: {output}. Export the bundle again"
                ) from output

    def _logits(self, encoded: Encoded, rows: Sequence[int]) -> Outputs:
        manifest, n_outputs = self._bundle.manifest, self._task.head.n_outputs
        output = self._engine.run(
            model_inputs(encoded, np.array(rows), manifest.input_names, pad_token_id=manifest.pad_token_id)
        )
        if output.shape != (len(rows), n_outputs):
            raise BundleError(
                f"{self._bundle.path}: the model's output is {output.shape} for {len(rows)} rows; task "
                f"{self._task.name} needs a width of {n_outputs}"
            )
        return output
