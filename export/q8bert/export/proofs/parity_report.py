"""What the comparison of simulation and exported model found."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Difference", "DifferingRow", "ParityReport"]


@dataclass(frozen=True)
class Difference:
    """How far one run of the simulation is from the exported model.

    Attributes:
        max_abs_diff: Largest difference of a logit.
        mean_abs_diff: Mean difference of a logit.
        n_rows_differing: Rows with another label; for regression, with a score more than 0.01 standard deviations
            away, those of the training rows' scores.
        metrics: All metrics of the simulation, as fractions; none where rows have no labels.
    """

    max_abs_diff: float
    mean_abs_diff: float
    n_rows_differing: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class DifferingRow:
    """A row that the simulation by itself predicts otherwise than the exported model, and why.

    Attributes:
        row: Its number among the rows compared, from 0; malformed ones that were left out do not count.
        simulated: The ``n_outputs`` logits of the simulation by itself.
        exported: Those of the exported model.
        resolved: Those of the simulation with ties resolved as the exported model does.
        n_ties: Codes of this row, padding left out, that fell to the other side of a tie; 0 means float arithmetic
            alone.
        first_tie: Name of the first site that has one; all that differs later may follow from it.
        first_tie_distance: How far from the border between two codes it lay, in codes.
    """

    row: int
    simulated: tuple[float, ...]
    exported: tuple[float, ...]
    resolved: tuple[float, ...]
    n_ties: int
    first_tie: str | None
    first_tie_distance: float


@dataclass(frozen=True)
class ParityReport:
    """How far the exported model is from the simulation.

    Attributes:
        onnxruntime: The build that the exported model ran on, and its release.
        split: What rows were compared, in a word: ``dev``, ``held-out``.
        n_rows: Rows compared.
        n_rows_in_split: Rows of that kind that there are.
        main_metric: Name of the task's main metric.
        exported: All metrics of the exported model, as fractions; none where rows have no labels.
        free: The simulation by itself.
        resolved: The simulation with ties resolved as the exported model does; equal to ``free`` for a float model.
        n_codes: Activation codes computed.
        n_ties: Codes among them that fell to the other side of a tie.
        max_tie_distance: Farthest from the border between two codes that one of these lay, in codes.
        quantization_effect: Mean difference of a logit between the simulation and the same weights in float; 0 for a
            float model.
        differing_rows: The rows that ``free.n_rows_differing`` counts, in the split's order.
    """

    onnxruntime: str
    split: str
    n_rows: int
    n_rows_in_split: int
    main_metric: str
    exported: Mapping[str, float]
    free: Difference
    resolved: Difference
    n_codes: int
    n_ties: int
    max_tie_distance: float
    quantization_effect: float
    differing_rows: tuple[DifferingRow, ...]
