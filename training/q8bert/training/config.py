"""What a training run is told: one frozen dataclass, checked once, all faults reported together.

The trainer and everything below it take plain values, never this object.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from q8bert.glue.hub import HUB_PREFIX
from q8bert.glue.tasks import Task, task_from_json
from q8bert.spec.errors import ConfigError

__all__ = ["ENGINES", "GRANULARITIES", "TrainConfig"]

ENGINES = ("ort", "torch")
GRANULARITIES = ("per_channel", "per_tensor")

# a run may be continued with other values of these, for they change nothing in its results
_NOT_IDENTITY = ("output_dir", "threads", "log_every")


@dataclass(frozen=True)
class TrainConfig:
    """Options of one fine-tuning run; every default suits MiniLM.

    Attributes:
        task: The data set's description.
        data_dir: Folder of the task's files, or ``hub:nyu-mll/glue``.
        model: ``minilm-l6``, a folder in Hugging Face's layout, or a hub id.
        output_dir: Folder of the run.
        engine: ``ort`` (ONNX Runtime Training) or ``torch``.
        quantize: False trains the FP32 twin.
        granularity: Weight scales per output channel or per tensor.
        epochs: Passes over the training split.
        batch_size: Rows an optimizer step.
        eval_batch_size: Rows a batch in evaluation.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay; biases and LayerNorm are left out.
        warmup_ratio: Share of all steps in which the learning rate rises linearly from 0.
        decay_power: Power of the polynomial decay after it; 1 is linear.
        end_learning_rate: Where the decay ends.
        max_grad_norm: Global norm to which gradients are clipped.
        max_length: Longest row in tokens; the runtime obeys it too.
        range_decay: Decay of the moving average of activation ranges.
        calibration_batches: Float batches observed before anything is quantized.
        seed: Seed of everything drawn at random.
        dropout: Dropout probability of the whole model; None keeps the model's own.
        skip_malformed: Leave malformed rows out instead of stopping.
        threads: CPU threads; 0 leaves the choice to torch and ONNX Runtime.
        log_every: Steps between two lines of the log.
    """

    task: Task
    data_dir: str
    model: str
    output_dir: Path
    engine: str = "ort"
    quantize: bool = True
    granularity: str = "per_channel"
    epochs: int = 4
    batch_size: int = 16
    eval_batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    decay_power: float = 1.0
    end_learning_rate: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 128
    range_decay: float = 0.99
    calibration_batches: int = 8
    seed: int = 11
    dropout: float | None = None
    skip_malformed: bool = False
    threads: int = 0
    log_every: int = 10

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
                if value is not None and not (math.isfinite(value) and fits(value))
            ]

        faults = [
            f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
            for name, allowed in (("engine", ENGINES), ("granularity", GRANULARITIES))
            if getattr(self, name) not in allowed
        ]
        counts = ("epochs", "batch_size", "eval_batch_size", "calibration_batches", "log_every")
        faults += out_of_range(counts, "at least 1", lambda value: value >= 1)
        faults += out_of_range(("learning_rate", "max_grad_norm"), "above 0", lambda value: value > 0)
        not_negative = ("weight_decay", "end_learning_rate", "decay_power", "threads", "seed")
        faults += out_of_range(not_negative, "0 or more", lambda value: value >= 0)
        shares = ("warmup_ratio", "range_decay", "dropout")
        faults += out_of_range(shares, "at least 0 and below 1", lambda value: 0 <= value < 1)
        faults += out_of_range(("max_length",), "at least 8, special tokens included", lambda value: value >= 8)
        if not self.task.has_training_data:
            name = self.task.name
            faults.append(f"task {name} has no training data; train MNLI and evaluate it with --task {name}")
        return faults

    def identity(self) -> dict[str, object]:
        """Return the options that decide a run's results, as a JSON object."""
        content = asdict(self) | {"task": self.task.to_json()}
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
        task = values.pop("task", None)
        if not isinstance(task, Mapping):
            raise ConfigError([f"{output_dir}: the run's options name no task"])
        try:
            return TrainConfig(
                task=task_from_json(task, source=str(output_dir)),
                output_dir=output_dir,
                **values,  # type: ignore[arg-type]
            )
        except TypeError as error:
            raise ConfigError([f"{output_dir}: the run was made by another release: {error}"]) from error
