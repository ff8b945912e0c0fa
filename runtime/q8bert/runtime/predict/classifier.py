"""Texts in, labels and probabilities (or scores) out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from q8bert.runtime.engines.engine import ONNX_RUNTIME, EngineName
from q8bert.runtime.engines.kernels import Products
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.precision import precision_note
from q8bert.runtime.engines.providers.names import Provider
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.runtime.predict.graph_choice import AUTO, GraphName
from q8bert.runtime.predict.loading import LoadedModel, loaded_model
from q8bert.runtime.predict.model import BatchSize, BundleModel
from q8bert.runtime.predict.parts import extreme_rows, task_and_tokenizer
from q8bert.runtime.predict.rows import Texts, text_columns
from q8bert.spec.checked import checked
from q8bert.spec.errors import BundleError, InputError
from q8bert.spec.kinds import at_least, one_of
from q8bert.tasks.head import Prediction
from q8bert.text.encoded import Encoded

__all__ = ["BatchSize", "Classifier", "OnLong", "Threads"]

Threads = Annotated[int, at_least(0)]
OnLong = Annotated[str, one_of(("truncate", "refuse"))]


class Classifier:
    """A bundle loaded and ready to run. Nothing changes after loading, so any number of threads may share it.

    Pickled, it is the path of its bundle and its options: whoever unpickles it loads the bundle again. A process that
    is forked may use it if it has one thread, and has to load its own otherwise.

    Example:
        >>> classifier = Classifier.load("bundle")  # doctest: +SKIP
        >>> classifier(["a charming film"])[0].label  # doctest: +SKIP
        'positive'
    """

    def __init__(self, model: LoadedModel, *, on_long: OnLong = "truncate") -> None:
        self.bundle, self.graph, self._engine, self.on_long = model.bundle, model.graph, model.engine, on_long
        threads = self._engine.options.n_threads
        self.task, self.tokenizer = task_and_tokenizer(self.bundle, model.tokenizer, threads=threads)
        self._model = BundleModel(self.bundle, self._engine, self.task)

    @classmethod
    @checked
    def load(
        cls,
        bundle: Path | str,
        *,
        engine: EngineName = ONNX_RUNTIME,
        providers: Sequence[Provider] = (CPU_PROVIDER,),
        threads: Threads = 0,
        options: RuntimeOptions | None = None,
        on_long: OnLong = "truncate",
        graph: GraphName = AUTO,
    ) -> "Classifier":
        """Open a bundle, check its files, load its model, and run a shortest and a longest row, which warms it up too.

        Args:
            bundle: The bundle's folder.
            engine: What runs the model: ``onnxruntime`` or ``openvino``.
            providers: ONNX Runtime's execution providers by full name, or pairs of a name and its options, in order.
            threads: CPU threads; 0 for the cores that this process may use.
            options: Everything that can be chosen, instead of ``threads``: ``RuntimeOptions.service()``, ``.batch()``.
            on_long: Rows longer than the bundle's maximum length: ``truncate`` them, or ``refuse`` them with an error.
            graph: Form of the model: ``main``, a target of the export, or ``auto`` for what suits the first provider.

        Returns:
            The classifier.

        Raises:
            BundleError: If the bundle is incomplete, altered or unreadable, or its model cannot run what its manifest
                allows.
            ConfigError: If engine, providers, threads, options or ``on_long`` do not fit.
            MissingExtraError: If the engine is not installed.
            ProviderError: If a provider that was asked for cannot be had.
        """
        with loaded_model(
            bundle, engine=engine, providers=providers, options=RuntimeOptions.of(threads, options), graph=graph
        ) as model:
            classifier = cls(model, on_long=on_long)
            classifier.prove(longest=True)
        return classifier

    def __reduce__(self) -> tuple[Any, ...]:
        loaded = self._engine  # which cannot be copied to another process; where it came from can
        how = loaded.engine, loaded.providers, loaded.options, self.on_long, self.graph
        return _loaded_again, (self.bundle.path.resolve(), self.bundle.manifest.digest, how)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # nothing in it changes

    @property
    def threads(self) -> int:
        """CPU threads that share one operator."""
        return self._engine.options.n_threads

    @property
    def engine(self) -> str:
        """What runs the model: ``onnxruntime`` or ``openvino``."""
        return self._engine.engine

    @property
    def runs_together(self) -> bool:
        """Whether calls of several threads run at the same time."""
        return self._engine.runs_together

    def prove(self, *, longest: bool = False) -> None:
        """Run the shortest row that the tokenizer makes, and see that logits of the task's width come out.

        Args:
            longest: Whether a row of the bundle's maximum length is run too, of the largest token id.

        Raises:
            BundleError: If the model cannot run such a row.
        """
        self._model.prove(extreme_rows(self.bundle, self.task, self.tokenizer, longest=longest))

    @property
    def products(self) -> Products | None:
        """How many products with weights really ran in integers when the model was loaded; None where nobody looked."""
        return self._engine.products

    @property
    def precision(self) -> str:
        """What :attr:`products` says in a word: ``int8``, ``float32``, ``mixed`` …; ``unknown`` where nobody looked."""
        return "unknown" if self.products is None else self.products.precision

    @property
    def precision_note(self) -> str:
        """A sentence on what was counted, and what else could be done."""
        return precision_note(self._engine, bundle_precision=self.bundle.manifest.precision, graph=self.graph)

    def __call__(
        self, texts: Texts, text_pairs: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts, in order.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts, for a task on pairs whose ``texts`` are single.
            batch_size: Rows a batch; rows are sorted by length, and the answers put back in order.

        Returns:
            One prediction a row.

        Raises:
            InputError: If texts are missing where the task has pairs, or given where it has none, no UTF-8, or too
                long where long ones are refused.
            BundleError: If the model's output is of another width than the task's, or holds NaN or infinity.
        """
        encoded = self.encode(texts, text_pairs)
        return self._predictions(self.run(encoded, batch_size=batch_size), encoded, range(len(encoded)))

    def answers(
        self, texts: Texts, text_pairs: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> list[Prediction | InputError | BundleError]:
        """Classify like a call, but a row that is too long, or that the model fails on, gets an error of its own.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts.
            batch_size: Rows a batch.

        Returns:
            One prediction or error a row.

        Raises:
            InputError: As for a call, except for long rows.
        """
        encoded = self._encode(texts, text_pairs)
        refused = encoded.truncated if self.on_long == "refuse" else frozenset()
        accepted = encoded.select([row for row in range(len(encoded)) if row not in refused])
        outcomes = iter(self.outcomes(accepted, batch_size=batch_size))
        return [self.too_long("the text") if row in refused else next(outcomes) for row in range(len(encoded))]

    def logits(
        self, texts: Texts, text_pairs: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Compute the model's raw outputs.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts.
            batch_size: Rows a batch.

        Returns:
            Float32 ``(n, n_outputs)``, in the order of ``texts``.

        Raises:
            InputError: As for a call.
            BundleError: As for a call.
        """
        return self.run(self.encode(texts, text_pairs), batch_size=batch_size)

    def encode(self, texts: Texts, text_pairs: Sequence[str] | None = None) -> Encoded:
        """Check rows and turn them into ids.

        Args:
            texts: First or only texts; or pairs as tuples.
            text_pairs: Second texts.

        Returns:
            Ids of every row, and which rows were truncated.

        Raises:
            InputError: If rows do not fit the task, or are too long where long ones are refused.
        """
        encoded = self._encode(texts, text_pairs)
        if self.on_long == "refuse" and encoded.truncated:
            row, more = min(encoded.truncated), len(encoded.truncated) - 1
            where = f"row {row}" if len(encoded) > 1 else "the text"
            raise self.too_long(where + (f" (and {more} more)" if more else ""))
        return encoded

    def run(
        self,
        encoded: Encoded,
        *,
        batch_size: int = 32,
        show_progress: Callable[[int, int], None] = lambda *_: None,
    ) -> NDArray[np.float32]:
        """Compute the logits of rows that :meth:`encode` gave.

        Args:
            encoded: Ids of n rows.
            batch_size: Rows a batch.
            show_progress: Called after each batch with rows done and rows in all.

        Returns:
            Float32 ``(n, n_outputs)``, in order.

        Raises:
            ConfigError: If ``batch_size`` is no whole number of at least 1.
            BundleError: If the model cannot run a row, or its output is of another width than the task's or not finite.
        """
        logits = np.zeros((len(encoded), self.task.head.n_outputs), dtype=np.float32)
        for row, output in self._model.outputs(encoded, batch_size=batch_size, show_progress=show_progress):
            if isinstance(output, BundleError):
                raise output
            logits[row] = output
        return logits

    def outcomes(self, encoded: Encoded, *, batch_size: int = 32) -> list[Prediction | BundleError]:
        """Classify rows that :meth:`encode` gave; a row that the model fails on gets its own error, and no other does.

        Args:
            encoded: Ids of n rows.
            batch_size: Rows a batch.

        Returns:
            One prediction or error a row, in order; no two rows share an error.
        """
        outputs = dict[int, Any](self._model.outputs(encoded, batch_size=batch_size))
        whole = {row: output for row, output in outputs.items() if not isinstance(output, BundleError)}
        logits = np.stack([*whole.values()]) if whole else np.zeros((0, self.task.head.n_outputs), dtype=np.float32)
        outputs |= dict(zip(whole, self._predictions(logits, encoded, whole), strict=True))
        return [outputs[row] for row in range(len(encoded))]

    def tokenizes_like(self, other: "Classifier") -> bool:
        """Whether every text becomes the same ids here and there."""
        return self.tokenizer.is_same_as(other.tokenizer)

    def _encode(self, texts: Texts, text_pairs: Sequence[str] | None) -> Encoded:
        return self.tokenizer.encode(*text_columns(self.task, texts, text_pairs))

    def too_long(self, what: str) -> InputError:
        """Return the error of a row that is too long and refused."""
        return InputError(
            f"{what} has more than the {self.bundle.manifest.max_length} tokens that the bundle was trained with, and "
            "long rows are refused. Shorten it, or load the classifier with on_long='truncate'"
        )

    def _predictions(self, logits: NDArray[np.float32], encoded: Encoded, rows: Iterable[int]) -> list[Prediction]:
        decoded = zip(rows, self.task.head.decode(logits), strict=True)
        return [replace(one, truncated=True) if row in encoded.truncated else one for row, one in decoded]


def _loaded_again(path: Path, digest: str, how: tuple[str, Any, RuntimeOptions, OnLong, str]) -> Classifier:
    engine, providers, options, on_long, graph = how
    classifier = Classifier.load(
        path, engine=engine, providers=providers, options=options, on_long=on_long, graph=graph
    )  # fmt: skip
    if classifier.bundle.manifest.digest != digest:
        raise BundleError(f"{path} is not the bundle any more that was there when its classifier was pickled")
    return classifier
