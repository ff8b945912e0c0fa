"""What a training run is told: one frozen dataclass, checked once, all faults reported together.

The trainer and everything below it take plain values, never this object.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from q8bert.data.hub import HUB_PREFIX
from q8bert.spec.errors import ConfigError
from q8bert.tasks.tasks import Task, task_from_json

__all__ = ["ENGINES", "GRANULARITIES", "PRECISIONS", "TrainConfig"]

ENGINES = ("ort", "torch")
PRECISIONS = ("float32", "float16", "bfloat16")
GRANULARITIES = ("per_channel", "per_tensor")

# a run may be continued with other values of these: they change nothing that it learns, but for the order of float sums
# in the case of threads
_NOT_IDENTITY = ("output_dir", "threads", "log_every", "save_every", "keep_checkpoints", "cache_dir")


@dataclass(frozen=True)
class TrainConfig:
    """Options of one fine-tuning run; every default suits MiniLM.

    The command line is made from this class: each field is an option, its line below is the option's help.

    Attributes:
        task: The data set's description.
        data_dir: The task's own folder, e.g. GLUE/STS-B, or hub:nyu-mll/glue.
        output_dir: Folder of the run; a run with the same options there is continued.
        model: minilm-l6, a folder in Hugging Face's layout, or a hub id.
        engine: ort (ONNX Runtime Training) or torch.
        device: cpu, cuda or cuda:N; with several processes, cuda is each one's own.
        quantize: Train with quantization awareness; --no-quantize trains the FP32 twin.
        granularity: Weight scales: per_channel or per_tensor.
        saturation_free: Weight scales with which no product overflows on CPUs without VNNI; export uses them anyway.
        smoothing: Scale outlier channels of activations down and their weights up before quantization; exact in float.
        keep_float: Pattern of layers that stay float, e.g. 'classifier' or '*.output.dense'; repeat for more.
        epochs: Passes over the training split.
        max_steps: Optimizer steps in all; overrides epochs. 0: epochs decide.
        batch_size: Rows a forward pass of each process.
        gradient_accumulation: Forward passes an optimizer step.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay, not on biases and LayerNorm.
        warmup_ratio: Share of all steps in which the learning rate rises linearly from 0.
        decay_power: Power of the polynomial decay after it; 1 is linear.
        end_learning_rate: Where the decay ends.
        max_grad_norm: Global norm to which gradients are clipped.
        max_length: Longest row in tokens, special tokens included; the runtime obeys it too.
        range_decay: Decay of the moving average of activation ranges.
        calibration_batches: Float batches observed before training, for the first ranges.
        quantize_from: Share of all steps after which quantization starts; before it the run is its FP32 twin.
        freeze_ranges_from: Share of all steps after which the learned ranges stay as they are; 1 learns to the end.
        precision: float32, float16 (with dynamic loss scaling) or bfloat16 (torch engine) for the forward pass.
        loss_scale: What the loss is multiplied by at first in float16, so that small gradients are not lost.
        loss_scale_factor: Divides the loss scale where a gradient overflows, multiplies it after loss_scale_window.
        loss_scale_window: Steps without overflow after which the loss scale rises.
        dropout: Dropout of the whole model; it widens the ranges that are learned.
        eval_batch_size: Rows a batch in evaluation.
        eval_every: Steps between two evaluations on the dev split. 0: after each epoch.
        save_every: Steps between two checkpoints besides those at evaluations. 0: only at evaluations.
        keep_checkpoints: Newest checkpoints to keep; the best one is kept besides.
        patience: Evaluations, of those with quantization, without a better score after which training stops. 0: never.
        seed: Seed of everything drawn at random.
        skip_malformed: Leave malformed rows out, list and count them, instead of stopping.
        threads: CPU threads of each process. 0: the engine's choice.
        log_every: Steps between two lines of the log.
        cache_dir: Folder of built training graphs. Default: the user's cache folder.
    """

    task: Task
    data_dir: str
    output_dir: Path
    model: str = "minilm-l6"
    engine: str = "ort"
    device: str = "cpu"
    quantize: bool = True
    granularity: str = "per_channel"
    saturation_free: bool = True
    smoothing: bool = True
    keep_float: tuple[str, ...] = ()
    epochs: int = 4
    max_steps: int = 0
    batch_size: int = 16
    gradient_accumulation: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    decay_power: float = 1.0
    end_learning_rate: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 128
    range_decay: float = 0.99
    calibration_batches: int = 8
    quantize_from: float = 0.5
    freeze_ranges_from: float = 1.0
    precision: str = "float32"
    loss_scale: float = 65536.0
    loss_scale_factor: float = 2.0
    loss_scale_window: int = 1000
    dropout: float = 0.0
    eval_batch_size: int = 64
    eval_every: int = 0
    save_every: int = 0
    keep_checkpoints: int = 2
    patience: int = 0
    seed: int = 11
    skip_malformed: bool = False
    threads: int = 0
    log_every: int = 10
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        faults = self._faults()
        if faults:
            raise ConfigError(faults)

    def _faults(self) -> list[str]:
        def out_of_range(names: tuple[str, ...], allowed: str, fits: Callable[[float], bool]) -> list[str]:
            values = {name: getattr(self, name) for name in names}
            return [
                f"{name} must be {allowed}, got {value}"
                for name, value in values.items()
                if not (math.isfinite(value) and fits(value))
            ]

        faults = [
            f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
            for name, allowed in (("engine", ENGINES), ("granularity", GRANULARITIES), ("precision", PRECISIONS))
            if getattr(self, name) not in allowed
        ]
        counts = (
            "epochs", "batch_size", "eval_batch_size", "calibration_batches", "log_every", "gradient_accumulation",
            "keep_checkpoints", "loss_scale_window",
        )  # fmt: skip
        faults += out_of_range(counts, "at least 1", lambda value: value >= 1)
        faults += out_of_range(("loss_scale_factor",), "above 1", lambda value: value > 1)
        faults += out_of_range(("learning_rate", "max_grad_norm", "loss_scale"), "above 0", lambda value: value > 0)
        not_negative = (
            "weight_decay", "end_learning_rate", "decay_power", "threads", "seed", "max_steps", "eval_every",
            "save_every", "patience",
        )  # fmt: skip
        faults += out_of_range(not_negative, "0 or more", lambda value: value >= 0)
        shares = ("warmup_ratio", "range_decay", "dropout", "quantize_from")
        faults += out_of_range(shares, "at least 0 and below 1", lambda value: 0 <= value < 1)
        faults += out_of_range(("max_length",), "at least 8, special tokens included", lambda value: value >= 8)
        faults += out_of_range(("freeze_ranges_from",), "above 0 and at most 1", lambda value: 0 < value <= 1)
        faults += out_of_range(("seed",), "below 2**63", lambda value: value < 2**63)
        if self.quantize and self.freeze_ranges_from <= self.quantize_from:
            faults.append(
                f"freeze_ranges_from ({self.freeze_ranges_from}) must come after quantize_from ({self.quantize_from}, "
                "where quantization starts); give an earlier quantize_from too"
            )
        if self.engine == "ort" and self.precision == "bfloat16":
            faults.append("the engine ort trains in float32 or float16; bfloat16 needs --engine torch")
        if self.keep_float and not self.quantize:
            faults.append("keep_float names layers to leave out of quantization, but quantize is False")
        if not self.task.has_training_data:
            name = self.task.name
            faults.append(f"task {name} has no training data; train MNLI and predict its rows with the bundle")
        return faults

    def identity(self) -> dict[str, object]:
        """Return the options that decide a run's results, as a JSON object."""
        content = asdict(self) | {"task": self.task.to_json(), "keep_float": list(self.keep_float)}
        if not self.data_dir.startswith(HUB_PREFIX):
            content["data_dir"] = str(Path(self.data_dir).resolve())
        if Path(self.model).exists():
            content["model"] = str(Path(self.model).resolve())
        return {name: value for name, value in content.items() if name not in _NOT_IDENTITY}

    @staticmethod
    def from_identity(content: Mapping[str, object], *, output_dir: Path) -> "TrainConfig":
        """Rebuild the options of a run from what :meth:`identity` gave.

        Args:
            content: The JSON object, as read from the run's folder.
            output_dir: Where that folder stands now.

        Returns:
            The options.

        Raises:
            ConfigError: If the object does not describe a run of this release.
        """
        values = dict(content)
        task, keep_float = values.pop("task", None), values.pop("keep_float", ())
        if not isinstance(task, Mapping):
            raise ConfigError([f"{output_dir}: the run's options name no task"])
        try:
            return TrainConfig(
                task=task_from_json(task, source=str(output_dir)),
                output_dir=output_dir,
                keep_float=tuple(keep_float),  # type: ignore[arg-type]
                **values,  # type: ignore[arg-type]
            )
        except TypeError as error:
            raise ConfigError([f"{output_dir}: the run was made by another release: {error}"]) from error
