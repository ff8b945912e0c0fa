"""What a sensitivity report holds."""

from dataclasses import dataclass

from q8bert.export.sensitivity.measurement import Measured
from q8bert.export.sensitivity.proposal import Proposal

__all__ = ["SensitivityReport", "Wanted"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How little is to be lost.

    Attributes:
        max_logit_error: Relative error of the logits; None for any.
        max_relative_loss: Relative loss of the main metric; None for any.
    """

    max_logit_error: float | None
    max_relative_loss: float | None


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """What INT8 costs where.

    Attributes:
        source: The float model.
        rows_source: Where the rows came from.
        n_calibration_rows: Rows that ranges were observed on.
        n_rows: Other rows, that the error was measured on.
        main_metric: The task's main metric; None where the rows have no labels.
        measured: Of the whole model, of groups, and of every activation and layer.
        wanted: How little is to be lost.
        proposal: Which layers to keep in float for it; None where nothing was wanted, or where it cannot be reached.
        skipped: Malformed rows that were left out, one line each.
    """

    source: str
    rows_source: str
    n_calibration_rows: int
    n_rows: int
    main_metric: str | None
    measured: Measured
    wanted: Wanted
    proposal: Proposal | None
    skipped: tuple[str, ...]

    @property
    def is_reached(self) -> bool:
        """Whether nothing was wanted, or layers were found with which it is reached."""
        return self.proposal is not None or (
            self.wanted.max_logit_error is None and self.wanted.max_relative_loss is None
        )
