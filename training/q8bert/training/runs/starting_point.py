"""What a run starts from: a model as it comes, or a run or checkpoint of q8bert's, with its ranges where wanted.

The weights of a checkpoint are float ones, before smoothing and rounding, so they start a run like those of any other
model. How its activations were quantized is taken only where that is asked for (``--grids-from model``), for the ranges
are those of its weights: steps in float before quantization starts would leave them behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from q8bert.spec.errors import ConfigError, ModelError
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.quantization.learned_ranges import Ranges
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint import Checkpoint, load_checkpoint
from q8bert.training.runs.checkpoints.checkpoint_state import STATE_FILE, read_state
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.identity.run_record import is_run
from q8bert.training.runs.run_folder import best_checkpoint

__all__ = ["Grids", "StartingPoint", "starting_point"]


@dataclass(frozen=True)
class Grids:
    """How activations are quantized at the start.

    Attributes:
        sites: Smoothed and with zero points.
        ranges: Of each of them.
    """

    sites: tuple[Site, ...]
    ranges: RangeState


@dataclass(frozen=True)
class StartingPoint:
    """Where a run's model comes from.

    Attributes:
        place: What it is loaded from, as ``--model`` could name it.
        checkpoint: The checkpoint whose grids the run starts with; None where it calibrates.
    """

    place: str
    checkpoint: Checkpoint | None = None

    def grids(self, sites: tuple[Site, ...], options: QuantizationConfig) -> Grids | None:
        """Return the grids of the checkpoint for the activations of the run.

        Args:
            sites: Where the run's activations are quantized, with no grids yet.
            options: How the run quantizes.

        Returns:
            The grids; None where the run calibrates.

        Raises:
            ModelError: If the checkpoint has grids of other activations, or of a kind that the run is not to have.
        """
        if self.checkpoint is None:
            return None
        there = [(site.name, site.linears) for site in self.checkpoint.sites]
        if there != [(site.name, site.linears) for site in sites]:
            raise ModelError(
                f"{self.place} quantizes other activations ({len(there)}) than this run would ({len(sites)}), so it "
                "cannot take their ranges. Give the --keep-float that it was trained with, or --grids-from calibration"
            )
        for name, is_wanted, has_some in (
            ("smoothing", options.smoothing, any(site.smoothing for site in self.checkpoint.sites)),
            ("zero-points", options.zero_points, any(site.zero_point for site in self.checkpoint.sites)),
        ):
            if has_some and not is_wanted:
                raise ModelError(
                    f"{self.place} was trained with {name}, which --no-{name} refuses. Leave the option out, or give "
                    "--grids-from calibration"
                )
        with_grids = tuple(
            replace(site, smoothing=before.smoothing, zero_point=before.zero_point)
            for site, before in zip(sites, self.checkpoint.sites, strict=True)
        )
        return Grids(with_grids, _moving_average(self.checkpoint.ranges, decay=options.range_decay))


def starting_point(config: TrainConfig, report: Callable[[str], None]) -> StartingPoint:
    """Find what a run's options say that it starts from.

    Args:
        config: The options.
        report: Called with what is taken of a run or checkpoint, and what is not.

    Returns:
        The model's place, and the checkpoint whose grids are wanted.

    Raises:
        CheckpointError: If it is a run without a whole checkpoint, or a damaged checkpoint.
        ConfigError: If grids of the model are wanted, and it is none that was trained quantized here.
    """
    path, takes_grids = Path(config.model), config.quantization.grids_from == "model"
    checkpoint = None
    if is_run(path):
        checkpoint = best_checkpoint(path)
        report(f"starting from the best checkpoint of {path}, of step {checkpoint.progress.step}")
        place, is_quantized = str(checkpoint.path), bool(checkpoint.sites)
    else:
        place, is_quantized = config.model, _is_quantized_checkpoint(path)
    if not takes_grids:
        if is_quantized and config.quantization.quantize:
            report(
                "note: the model was trained quantized; its weights are taken, and ranges and smoothing calibrated "
                "anew (--grids-from model takes its own)"
            )
        return StartingPoint(place)
    if not is_quantized:
        raise ConfigError([
            f"grids_from is model, but {config.model} has none: it is no quantized run or checkpoint of q8bert's. Give "
            "one, or leave the option out"
        ])  # fmt: skip
    return StartingPoint(place, checkpoint or load_checkpoint(path))


def _is_quantized_checkpoint(path: Path) -> bool:
    return (path / STATE_FILE).is_file() and bool(read_state(path, check_files=False).sites)


def _moving_average(ranges: Ranges, *, decay: float) -> RangeState:
    """Return ranges as a moving average of the run's own decay; learned ones weigh as much as their steps."""
    return RangeState.holding(ranges.amax(), count=max(1, ranges.count), decay=decay)
