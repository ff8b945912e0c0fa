"""What is quantized, on which grids, and from when on."""

from dataclasses import dataclass
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import Check, above, at_least, one_of, share
from q8bert.training.options import MAIN_PANEL, option

__all__ = ["GRANULARITIES", "GRIDS_FROM", "RANGES", "TABLE_GRANULARITIES", "QuantizationConfig"]

GRANULARITIES = ("per_channel", "per_tensor")
TABLE_GRANULARITIES = ("per_column", "per_tensor")
RANGES = ("ema", "learned", "percentile")
GRIDS_FROM = ("calibration", "model")

_RANGE_RATE_RATIO = 10.0
_RANGE_PERCENTILE = 99.99


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Options of what is simulated in training; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    quantize: bool = option(
        default=True,
        help="Train with quantization awareness; --no-quantize trains the FP32 twin.",
        panel=MAIN_PANEL,
    )
    granularity: Annotated[str, one_of(GRANULARITIES)] = option(
        default="per_channel", help="Weight scales: per_channel or per_tensor."
    )
    table_granularity: Annotated[str, one_of(TABLE_GRANULARITIES)] = option(
        default="per_column", help="Scales of embedding tables: per_column or per_tensor."
    )
    saturation_free: bool = option(
        default=True,
        help="Weight scales with which no product overflows on CPUs without VNNI; export uses them anyway.",
    )
    smoothing: bool = option(
        default=True,
        help="Scale outlier channels of activations down and their weights up before quantization; exact in float.",
    )
    zero_points: bool = option(
        default=True, help="Zero points for activations that lie to one side; --no-zero-points keeps all at 0."
    )
    keep_float: tuple[str, ...] = option(
        default=(), help="Pattern of layers that stay float, e.g. 'classifier' or '*.output.dense'; repeat for more."
    )
    ranges: Annotated[str, one_of(RANGES)] = option(
        default="ema",
        help="Activation ranges: ema (moving average of the observed ones), learned (start there, and are trained with "
        "the weights, as learned step sizes are) or percentile (that of calibration's values, fixed from there on).",
    )
    range_rate_ratio: Annotated[float, above(0)] = option(
        default=_RANGE_RATE_RATIO,
        help="Learning rate of learned ranges, as a multiple of that of the weights: about the share of its width by "
        "which a range moves in a step.",
    )
    range_percentile: Annotated[float, Check("above 50 and at most 100", lambda value: 50 < value <= 100)] = option(
        default=_RANGE_PERCENTILE,
        help="Percentile to which --ranges percentile reaches, and from 100 less that; values beyond are clamped.",
    )
    range_decay: Annotated[float, share()] = option(
        default=0.99, help="Decay of the moving average of activation ranges."
    )
    calibration_batches: Annotated[int, at_least(1)] = option(
        default=8, help="Float batches observed where quantization starts, for the first ranges."
    )
    grids_from: Annotated[str, one_of(GRIDS_FROM)] = option(
        default="calibration",
        help="Where the first ranges, smoothing and zero points come from: calibration (float batches, where "
        "quantization starts) or model (the quantized run or checkpoint of q8bert's that --model names); the latter "
        "with --quantize-from 0, for float steps would leave its ranges behind.",
    )
    quantize_from: Annotated[float, share()] = option(
        default=0.5,
        help="Share of all steps after which quantization starts; before it the run is its FP32 twin.",
    )
    freeze_ranges_from: Annotated[float, Check("above 0 and at most 1", lambda value: 0 < value <= 1)] = option(
        default=1.0,
        help="Share of all steps after which ranges stay as they are; 1 moves them to the end.",
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        conflicts = []
        if self.quantize and self.freeze_ranges_from <= self.quantize_from:
            conflicts.append(
                f"freeze_ranges_from ({self.freeze_ranges_from}) must come after quantize_from ({self.quantize_from}, "
                "where quantization starts); give an earlier quantize_from too"
            )
        if self.keep_float and not self.quantize:
            conflicts.append("keep_float names layers to leave out of quantization, but quantize is False")
        if self.grids_from == "model" and not self.quantize:
            conflicts.append("grids_from model is of quantized runs, but quantize is False")
        elif self.grids_from == "model" and self.quantize_from:
            conflicts.append(
                f"grids_from model are those of the model's weights, but quantize_from ({self.quantize_from}) lets "
                "them be trained in float first; give --quantize-from 0"
            )
        if self.ranges != "percentile" and self.range_percentile != _RANGE_PERCENTILE:
            conflicts.append(f"range_percentile ({self.range_percentile}) is of ranges percentile, got {self.ranges}")
        if self.ranges == "percentile" and self.freeze_ranges_from != 1:
            conflicts.append(
                f"freeze_ranges_from ({self.freeze_ranges_from}) is of ranges that move; percentile has none"
            )
        if self.ranges != "learned" and self.range_rate_ratio != _RANGE_RATE_RATIO:
            conflicts.append(
                f"range_rate_ratio ({self.range_rate_ratio}) is of learned ranges, got ranges {self.ranges}"
            )
        return conflicts

    @property
    def learns_ranges(self) -> bool:
        """Whether activation ranges are trained with the weights."""
        return self.quantize and self.ranges == "learned"

    @property
    def percentile(self) -> float | None:
        """The percentile that ranges stay at; None where they move."""
        return self.range_percentile if self.ranges == "percentile" else None

    @property
    def per_channel(self) -> bool:
        """Whether each row of a Linear weight has a scale of its own."""
        return self.granularity == "per_channel"

    @property
    def per_column(self) -> bool:
        """Whether each column of an embedding table has a scale of its own."""
        return self.table_granularity == "per_column"
