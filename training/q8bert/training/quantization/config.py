"""What is quantized, on which grids, and from when on."""

from dataclasses import dataclass

from q8bert.training.options import at_least, check_options, one_of, option, within

__all__ = ["GRANULARITIES", "QuantizationConfig"]

GRANULARITIES = ("per_channel", "per_tensor")

_SHARE = within("at least 0 and below 1", lambda value: 0 <= value < 1)


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Options of what is simulated in training; each field says what it means.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    quantize: bool = option(default=True, help="Train with quantization awareness; --no-quantize trains the FP32 twin.")
    granularity: str = option(
        default="per_channel", check=one_of(GRANULARITIES), help="Weight scales: per_channel or per_tensor."
    )
    saturation_free: bool = option(
        default=True,
        help="Weight scales with which no product overflows on CPUs without VNNI; export uses them anyway.",
    )
    smoothing: bool = option(
        default=True,
        help="Scale outlier channels of activations down and their weights up before quantization; exact in float.",
    )
    keep_float: tuple[str, ...] = option(
        default=(), help="Pattern of layers that stay float, e.g. 'classifier' or '*.output.dense'; repeat for more."
    )
    range_decay: float = option(default=0.99, check=_SHARE, help="Decay of the moving average of activation ranges.")
    calibration_batches: int = option(
        default=8, check=at_least(1), help="Float batches observed before training, for the first ranges."
    )
    quantize_from: float = option(
        default=0.5,
        check=_SHARE,
        help="Share of all steps after which quantization starts; before it the run is its FP32 twin.",
    )
    freeze_ranges_from: float = option(
        default=1.0,
        check=within("above 0 and at most 1", lambda value: 0 < value <= 1),
        help="Share of all steps after which the learned ranges stay as they are; 1 learns to the end.",
    )

    def __post_init__(self) -> None:
        """Check every option."""
        conflicts = []
        if self.quantize and self.freeze_ranges_from <= self.quantize_from:
            conflicts.append(
                f"freeze_ranges_from ({self.freeze_ranges_from}) must come after quantize_from ({self.quantize_from}, "
                "where quantization starts); give an earlier quantize_from too"
            )
        if self.keep_float and not self.quantize:
            conflicts.append("keep_float names layers to leave out of quantization, but quantize is False")
        check_options(self, conflicts=conflicts)

    @property
    def per_channel(self) -> bool:
        """Whether each row of a Linear weight has a scale of its own."""
        return self.granularity == "per_channel"
