"""Texts in, labels and probabilities (or scores) out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q8bert.glue.batching import model_inputs, sorted_batches
from q8bert.glue.examples import is_unicode
from q8bert.glue.tasks import Task, task_from_json
from q8bert.glue.tokenizer import TextTokenizer
from q8bert.runtime.session import CPU_PROVIDER, Session
from q8bert.spec.bundle import Bundle, open_bundle
from q8bert.spec.errors import BundleError, ConfigError, InputError

__all__ = ["Classifier", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """The answer for one row.

    Attributes:
        label: Most probable label; None for regression.
        probabilities: Probability of each label; None for regression.
        score: Predicted score; None for classification.
    """

    label: str | None = None
    probabilities: Mapping[str, float] | None = None
    score: float | None = None


class Classifier:
    """A bundle loaded and ready to run.

    Example:
        >>> classifier = Classifier.load("bundle")  # doctest: +SKIP
        >>> classifier(["a charming film"])[0].label  # doctest: +SKIP
        'positive'
    """

    def __init__(self, bundle: Bundle, session: Session) -> None:
        manifest = bundle.manifest
        missing = sorted(set(session.input_names) ^ set(manifest.input_names))
        if missing:
            raise BundleError(f"{bundle.path}: manifest and model disagree on the inputs {', '.join(missing)}")
        self.bundle = bundle
        self._session = session
        try:
            self.task: Task = task_from_json(manifest.task, source=str(bundle.path))
            self._tokenizer = TextTokenizer.load(bundle.tokenizer_path, max_length=manifest.max_length)
        except (ConfigError, InputError) as error:
            raise BundleError(f"{error}. Export the bundle again") from error
        if manifest.pad_token_id >= self._tokenizer.vocabulary_size:
            raise BundleError(
                f"{bundle.path}: pad_token_id is {manifest.pad_token_id}, but the tokenizer has "
                f"{self._tokenizer.vocabulary_size} tokens. Export the bundle again"
            )

    @classmethod
    def load(cls, bundle: Path | str, *, providers: Sequence[str] = (CPU_PROVIDER,), threads: int = 0) -> "Classifier":
        """Open a bundle, check its files and load its model.

        Args:
            bundle: The bundle's folder.
            providers: Execution providers by full name, in order of preference.
            threads: CPU threads; 0 leaves the choice to ONNX Runtime.

        Returns:
            The classifier.

        Raises:
            BundleError: If the bundle is incomplete, altered or unreadable.
            ConfigError: If providers are no list of names, or threads negative.
            ProviderError: If a provider that was asked for cannot be had.
        """
        opened = open_bundle(bundle)
        return cls(opened, Session(opened.model_path, providers=providers, threads=threads))

    def __call__(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        text_pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts, in order.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts, for a task on pairs whose ``texts`` are single.
            batch_size: Rows a batch; rows are sorted by length, and the answers put back in order.

        Returns:
            One prediction a row.

        Raises:
            InputError: If texts are missing where the task has pairs, or given where it has none.
        """
        logits = self.logits(texts, text_pairs, batch_size=batch_size)
        if self.task.is_regression:
            return [Prediction(score=float(value)) for value in logits[:, 0]]
        return [self._prediction(row) for row in _softmax(logits)]

    def logits(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        text_pairs: Sequence[str] | None = None,
        *,
        batch_size: int = 32,
    ) -> NDArray[np.float32]:
        """Compute the model's raw outputs.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts.
            batch_size: Rows a batch.

        Returns:
            Float32 ``(n, n_outputs)``, in the order of ``texts``.

        Raises:
            InputError: If texts are missing where the task has pairs, or given where it has none, or no UTF-8.
            BundleError: If the model's output is of another width than the task's, or holds NaN or infinity.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        first, second = self._columns(texts, text_pairs)
        encoded = self._tokenizer.encode(first, second)
        manifest = self.bundle.manifest
        logits = np.zeros((len(encoded), self.task.n_outputs), dtype=np.float32)
        for rows in sorted_batches(encoded.lengths, batch_size):
            inputs = model_inputs(encoded, rows, manifest.input_names, pad_token_id=manifest.pad_token_id)
            output = self._session.run(inputs)
            if output.shape != (len(rows), self.task.n_outputs):
                raise BundleError(
                    f"{self.bundle.path}: the model's output is {output.shape} for {len(rows)} rows; task "
                    f"{self.task.name} needs a width of {self.task.n_outputs}"
                )
            logits[rows] = output
        if not np.all(np.isfinite(logits)):
            raise BundleError(f"{self.bundle.path}: the model gave logits that are not finite (NaN or infinity)")
        return logits

    def _columns(
        self, texts: Sequence[str] | Sequence[tuple[str, str]], text_pairs: Sequence[str] | None
    ) -> tuple[list[str], list[str] | None]:
        if isinstance(texts, str) or isinstance(text_pairs, str):
            raise InputError("give a list of texts, not a single text")
        first: list[str] = []
        second: list[str] = list(text_pairs) if text_pairs is not None else []
        for number, row in enumerate(texts):
            if isinstance(row, str):
                first.append(row)
            elif text_pairs is None and isinstance(row, tuple) and len(row) == 2:
                first.append(row[0])
                second.append(row[1])
            else:
                raise InputError(f"row {number} must be a text or a pair of texts, got {row!r}")
        has_pairs = bool(second) or (text_pairs is not None)
        if first and has_pairs != (self.task.text_pair_column is not None):
            wanted = "pairs of texts" if self.task.text_pair_column else "single texts"
            raise InputError(f"task {self.task.name} takes {wanted}")
        if has_pairs and len(first) != len(second):
            raise InputError(f"{len(first)} texts and {len(second)} second texts do not pair up")
        wrong = [value for value in (*first, *second) if not isinstance(value, str)]
        if wrong:
            raise InputError(f"every text must be a str, got {wrong[0]!r}")
        half = next((value for value in (*first, *second) if not is_unicode(value)), None)
        if half is not None:
            raise InputError(f"a text holds half a surrogate pair and is not valid Unicode: {half[:80]!r}")
        return first, second if has_pairs else None

    def _prediction(self, probabilities: NDArray[np.float32]) -> Prediction:
        named = {name: float(value) for name, value in zip(self.task.labels, probabilities, strict=True)}
        return Prediction(label=self.task.labels[int(probabilities.argmax())], probabilities=named)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    result: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
    return result
