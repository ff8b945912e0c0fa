"""What each activation and each layer costs in INT8: alone in a float model, and left out of a quantized one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.proofs.float_comparison import relative_error
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate
from q8bert.tasks.metrics import score

__all__ = ["BATCH_SIZE", "Change", "Measured", "Part", "Yardstick", "layer_parts", "measure"]

# rows a batch: what small batches compute stays in the caches, and MiniLM takes a quarter less than with 32
BATCH_SIZE = 8
ACTIVATION, LINEAR, TABLE = "activation", "linear", "table"


@dataclass(frozen=True)
class Change:
    """How far a partly quantized model is from the float one.

    Attributes:
        relative_error: Mean squared difference of the logits over their variance.
        score: Main metric as a fraction; None without labels.
    """

    relative_error: float
    score: float | None


@dataclass(frozen=True)
class Part:
    """An activation or a layer.

    Attributes:
        name: Of the site, or of the layer, as ``--keep-float`` takes it.
        kind: ``activation``, what one or more Linear layers read; ``linear``, a Linear's weight and its own reading of
            its input; ``table``, an Embedding.
        n_weights: Weights of a layer; 0 for an activation.
        alone: Everything else in float; None where it was not measured.
        all_but: Everything else in INT8; what ``--keep-float`` with the name of a layer would give.
    """

    name: str
    kind: str
    n_weights: int
    alone: Change | None
    all_but: Change


@dataclass(frozen=True)
class Measured:
    """All parts of a model.

    Attributes:
        float_score: Main metric of the float model; None without labels.
        whole: Everything in INT8.
        groups: All activations, the weights of all Linear layers, and all tables, each group alone.
        parts: In the model's order.
    """

    float_score: float | None
    whole: Change
    groups: dict[str, Change]
    parts: tuple[Part, ...]


class Yardstick:
    """Measures partly quantized models against the float one, on the same rows.

    Args:
        model: With its grids.
        rows: Labelled or not.
        batch_size: Rows a batch.
        show: Called after each model that was run.
    """

    def __init__(
        self, model: ModelToExport, rows: EncodedRows, *, batch_size: int, show: Callable[[], None] = lambda: None
    ) -> None:
        self.model, self.rows = model, rows
        self._batch_size, self._show = batch_size, show
        # the float model itself: smoothing is exact, so no part of it can differ
        self._floats = self._logits(PartlyQuantized(frozenset(), frozenset()))
        self.float_score = self._score(self._floats)

    def change(self, parts: PartlyQuantized) -> Change:
        """Run a partly quantized model and compare it."""
        logits = self._logits(parts)
        return Change(relative_error(logits, self._floats), self._score(logits))

    def _logits(self, parts: PartlyQuantized) -> NDArray[np.float32]:
        logits = simulate(self.model, parts, self.rows, batch_size=self._batch_size)
        self._show()
        return logits

    def _score(self, logits: NDArray[np.float32]) -> float | None:
        task, labels = self.model.task, self.rows.labels
        return None if labels is None else score(task, logits, labels)[task.data.main_metric]


def measure(
    model: ModelToExport,
    rows: EncodedRows,
    *,
    batch_size: int,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Yardstick, Measured]:
    """Measure every part of a model, alone and left out.

    Args:
        model: With its grids.
        rows: Rows that it was not calibrated with, labelled or not.
        batch_size: Rows a batch.
        show_progress: Called with models run and models in all.

    Returns:
        What measured, and what it found.
    """
    n_layers, n_done = len(model.weights.quantized), 0
    total = 2 * (len(model.sites) + n_layers) + 5

    def show() -> None:
        nonlocal n_done
        n_done += 1
        show_progress(min(n_done, total), total)

    yardstick = Yardstick(model, rows, batch_size=batch_size, show=show)
    whole = PartlyQuantized.whole(model)
    tables = frozenset(name for name, kind in _layers(model) if kind == TABLE)
    groups = {
        "activations": PartlyQuantized(whole.activations, frozenset()),
        "linear weights": PartlyQuantized(frozenset(), whole.weights - tables),
        "tables": PartlyQuantized(frozenset(), tables),
    }
    found = Measured(
        float_score=yardstick.float_score,
        whole=yardstick.change(whole),
        groups={name: yardstick.change(parts) for name, parts in groups.items()},
        parts=(*_activation_parts(yardstick, whole), *layer_parts(yardstick, alone=True)),
    )
    return yardstick, found


def layer_parts(yardstick: Yardstick, *, alone: bool) -> tuple[Part, ...]:
    """Measure every Linear and Embedding layer that is quantized, left out.

    Args:
        yardstick: Holds the model.
        alone: Whether it is measured alone besides.

    Returns:
        The layers, in the model's order.
    """
    model = yardstick.model
    readers = {linear: site for site in model.sites for linear in site.linears}
    parts = []
    for name, kind in _layers(model):
        only = PartlyQuantized(frozenset(), frozenset({name}))
        if kind == LINEAR:
            site = readers[name]
            others = frozenset(site.linears) - {name}
            only = replace(only, activations=frozenset({site.name}), keep_float=others)
        all_but = PartlyQuantized.whole(model, keep_float={name})
        parts.append(
            Part(
                name=name,
                kind=kind,
                n_weights=model.weights.masters[f"{name}.weight"].numel(),
                alone=yardstick.change(only) if alone else None,
                all_but=yardstick.change(all_but),
            )
        )
    return tuple(parts)


def _activation_parts(yardstick: Yardstick, whole: PartlyQuantized) -> Iterator[Part]:
    for name in (site.name for site in yardstick.model.sites):
        alone = yardstick.change(PartlyQuantized(frozenset({name}), frozenset()))
        all_but = yardstick.change(replace(whole, activations=whole.activations - {name}))
        yield Part(name, ACTIVATION, 0, alone, all_but)


def _layers(model: ModelToExport) -> list[tuple[str, str]]:
    """Return the quantized layers and their kinds, in the model's order."""
    return [
        (name, LINEAR if isinstance(module, nn.Linear) else TABLE)
        for name, module in model.source.model.named_modules()
        if f"{name}.weight" in model.weights.quantized
    ]
