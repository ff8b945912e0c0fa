"""What a training run is told: frozen dataclasses in groups, checked when they are made.

Each group lives in the room that it is handed to. Below these rooms' doors functions take plain values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from q8bert.data.hub import HUB_PREFIX
from q8bert.data.row_source import RowSource
from q8bert.spec.checked import fit_fields
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import Check, one_of, share
from q8bert.tasks.data_set import FORMATS
from q8bert.tasks.task import Task, task_from_json
from q8bert.training.engines.config import ExecutionConfig
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.models.config import ArchitectureConfig
from q8bert.training.objectives.config import DistillationConfig
from q8bert.training.options import build, flat_values, group, option
from q8bert.training.presets import find_preset
from q8bert.training.quantization.config import QuantizationConfig

__all__ = ["TrainConfig"]

_PLACE = Check("a folder or a name", bool)
_FILE = Check("the path of a file", bool)


@dataclass(frozen=True)
class TrainConfig:
    """Options of one fine-tuning run; each field says what it means, and every default suits MiniLM.

    Example:
        >>> TrainConfig(task, "GLUE/RTE", output_dir=Path("run"), max_length=64)  # doctest: +SKIP
        >>> TrainConfig.from_options(task=task, data_dir="RTE", output_dir=Path("run"), epochs=10)  # doctest: +SKIP

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    task: Task
    data_dir: Annotated[str, _PLACE] | None = option(
        default=None,
        help="The task's own folder, e.g. GLUE/STS-B, or hub:nyu-mll/glue; or --train-file and --dev-file.",
    )
    output_dir: Path = option(
        help="Folder of the run; a run with the same options there is continued.", decides_results=False, kw_only=True
    )
    model: Annotated[str, _PLACE] = option(
        default="minilm-l6", help="minilm-l6, a folder in Hugging Face's layout, or a hub id."
    )
    revision: str | None = option(
        default=None,
        help="Branch, tag or commit of a model of the hub; its main branch if not given.",
        panel="Model",
    )
    tokenizer: Annotated[str, _PLACE] | None = option(
        default=None,
        help="Folder or hub id of the tokenizer that texts are read with, or that made the token ids of TFRecord and "
        "MindRecord files. Default: the model's own.",
        panel="Model",
    )
    max_length: Annotated[int, Check("at least 8, special tokens included", lambda value: value >= 8)] = option(
        default=128,
        help="Longest row in tokens, special tokens included; the runtime obeys it too.",
    )
    dropout: Annotated[float, share()] = option(
        default=0.0,
        help="Dropout of the whole model (--hidden-dropout and --attention-dropout say it apart); it widens the ranges "
        "that are learned.",
        panel="Optimization",
    )
    seed: Annotated[int, Check("0 or more and below 2**63", lambda value: 0 <= value < 2**63)] = option(
        default=11,
        help="Seed of everything drawn at random.",
        panel="Optimization",
    )
    float_steps_from: Path | None = option(
        default=None,
        help="Folder of a run with the same float steps, such as the FP32 twin: they are taken from its checkpoint at "
        "--quantize-from instead of being trained again. The result is the same.",
        decides_results=False,
        panel="Quantization",
    )
    train_file: Annotated[str, _FILE] | None = option(
        default=None, help="File of training rows, instead of that in --data-dir.", panel="Data"
    )
    dev_file: Annotated[str, _FILE] | None = option(
        default=None,
        help="File of dev rows, which pick the best checkpoint, instead of that in --data-dir.",
        panel="Data",
    )
    format: Annotated[str, one_of(FORMATS)] | None = option(
        default=None,
        help="How the files are written: tsv (no quoting, as GLUE), quoted-tsv (cells quoted as in CSV), csv, jsonl "
        "(JSON lines), parquet, or token ids as tfrecord or mindrecord. Default: by their ending.",
        panel="Data",
    )
    schema: Annotated[str, _FILE] | None = option(
        default=None, help="JSON schema of TFRecord files, which their records are held to.", panel="Data"
    )
    skip_malformed: bool = option(
        default=False,
        help="Leave malformed rows out, list and count them, instead of stopping.",
        only_on=True,
        panel="Data",
    )
    obey_special_tokens: bool = option(
        default=False,
        help="Take special tokens that a text spells out, such as [SEP], for what they say; otherwise they are text. "
        "The runtime does the same.",
        only_on=True,
        panel="Data",
    )
    architecture: ArchitectureConfig = group(ArchitectureConfig, panel="Model")
    quantization: QuantizationConfig = group(QuantizationConfig, panel="Quantization")
    distillation: DistillationConfig = group(DistillationConfig, panel="Distillation")
    optimization: OptimizationConfig = group(OptimizationConfig, panel="Optimization")
    evaluation: EvaluationConfig = group(EvaluationConfig, panel="Evaluation")
    execution: ExecutionConfig = group(ExecutionConfig, panel="Hardware")
    record: RecordConfig = group(RecordConfig, panel="Output")

    def __post_init__(self) -> None:
        """Check the options that stand in no group."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        conflicts = []
        if not self.task.data.has_training_data:
            name = self.task.name
            conflicts.append(f"task {name} has no training data; train MNLI and predict its rows with the bundle")
        missing = [name for name in ("train", "dev") if self.rows.file_of(name) is None]
        if missing and self.data_dir is None:
            options = " and ".join(f"{name}_file" for name in missing)
            conflicts.append(
                f"data_dir is not given, which holds the {' and '.join(missing)} rows; give it, or {options}"
            )
        if not missing and self.data_dir is not None:
            conflicts.append(
                f"data_dir ({self.data_dir}) has nothing to give, since train_file and dev_file name all rows; leave "
                "it out, or one of the files"
            )
        is_hub = self.data_dir is not None and self.data_dir.startswith(HUB_PREFIX)
        if self.format is not None and is_hub and missing:
            conflicts.append(f"format {self.format} is for files, but data_dir is {self.data_dir}")
        if self.quantization.learns_ranges and self.execution.gradients != "torch":
            conflicts.append(f"ranges learned need gradients torch; {self.execution.gradients} has none of ranges")
        if self.float_steps_from is not None and self.float_steps_from.resolve() == self.output_dir.resolve():
            conflicts.append(f"float_steps_from is output_dir ({self.output_dir}); give the folder of another run")
        return conflicts + self._conflicts_of_the_teacher() + self._conflicts_of_the_mean()

    def _conflicts_of_the_teacher(self) -> list[str]:
        conflicts, options = [], self.distillation
        if options.learns_from_twin and not self.quantization.quantize:
            conflicts.append("teacher twin teaches quantized steps, but quantize is False; give the folder of a run")
        is_default = options.teacher_temperature == DistillationConfig().teacher_temperature
        if self.task.head.is_regression and not is_default:
            conflicts.append(
                f"teacher_temperature ({options.teacher_temperature}) is of logits of labels, and task "
                f"{self.task.name} has scores"
            )
        return conflicts

    def _conflicts_of_the_mean(self) -> list[str]:
        averaged, quantization = self.optimization.average_weights, self.quantization
        if averaged and self.evaluation.patience:
            return [
                f"average_weights ({averaged}) is of the last steps that are planned, before which patience "
                f"({self.evaluation.patience}) may end the run; give one of them"
            ]
        if quantization.quantize and averaged > 1 - quantization.quantize_from + 1e-9:
            return [
                f"average_weights ({averaged}) begins before quantization starts (quantize_from "
                f"{quantization.quantize_from}): float and quantized steps have no common mean; average fewer"
            ]
        return []

    @property
    def rows(self) -> RowSource:
        """Where the rows are, and how they are read."""
        return RowSource(
            data_dir=self.data_dir,
            train_file=self.train_file,
            dev_file=self.dev_file,
            format=self.format,
            schema=self.schema,
            skip_malformed=self.skip_malformed,
        )

    @classmethod
    def from_options(cls, *, task: Task, preset: str | None = None, **options: Any) -> "TrainConfig":
        """Make a configuration from options given flat, as on the command line.

        Args:
            task: The task.
            preset: Row of :data:`~q8bert.training.presets.PRESETS` whose values take the place of the defaults.
            options: Names of this class and of its groups, in any order.

        Returns:
            The configuration.

        Raises:
            ConfigError: If values do not fit; it names the faults of all groups together.
            TypeError: If a name is unknown, or an option that must be given is missing.
        """
        if preset is not None:
            options = find_preset(preset).fill(task.name, options)
        return build(cls, {"task": task, **options})

    def identity(self) -> dict[str, object]:
        """Return the options that decide a run's results, flat, as a JSON object."""
        values = flat_values(self, results_only=True)
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        content["task"] = self.task.to_json()
        if self.data_dir is not None and not self.data_dir.startswith(HUB_PREFIX):
            content["data_dir"] = str(Path(self.data_dir).resolve())
        places = {name: getattr(self, name) for name in ("model", "tokenizer", "train_file", "dev_file", "schema")}
        for name, place in {**places, "teacher": self.distillation.finished_teacher}.items():
            if place is not None and Path(place).exists():
                content[name] = str(Path(place).resolve())
        return content

    @classmethod
    def from_identity(cls, content: Mapping[str, object], *, output_dir: Path) -> "TrainConfig":
        """Rebuild the options of a run from what :meth:`identity` gave.

        Args:
            content: The JSON object, as read from the run's folder.
            output_dir: Where that folder stands now.

        Returns:
            The options.

        Raises:
            ConfigError: If the object does not describe a run of this release.
        """
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
        if options.get("train_file") and options.get("dev_file"):
            options.pop("data_dir", None)  # earlier releases took it too, and read nothing of it
        task = options.pop("task", None)
        if not isinstance(task, Mapping):
            raise ConfigError([f"{output_dir}: the run's options name no task"])
        try:
            return build(
                cls, options | {"task": task_from_json(task, source=str(output_dir)), "output_dir": output_dir}
            )
        except TypeError as error:
            raise ConfigError([f"{output_dir}: the run was made by another release: {error}"]) from error
