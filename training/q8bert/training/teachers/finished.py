"""A teacher that is there before the run: a run of q8bert's, or any model that ``--model`` could name.

It is of the same task: its head has the task's labels, whose rows are put in the task's order by their names. All else
may be its own: size, family, tokenizer. A quantized run teaches what it computes quantized.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from q8bert.data.examples import Split
from q8bert.spec.errors import ModelError
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.engines.torch_engine import quantize_activation
from q8bert.training.loop.batches import tokenize_split
from q8bert.training.models.source import SourceModel, load_source_model
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site, matching_layers
from q8bert.training.quantization.weights import grids_of, prepare_weights
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.identity.fingerprints import Fingerprint, fingerprints_of_model
from q8bert.training.runs.identity.run_record import is_run, read_run
from q8bert.training.runs.run_folder import best_checkpoint
from q8bert.training.teachers.teacher import Teacher

__all__ = ["FinishedTeacher", "load_teacher"]


@dataclass(frozen=True)
class FinishedTeacher:
    """A teacher with what makes it the one that it is.

    Attributes:
        teacher: The teacher; its model is on the device.
        inputs: Its fingerprints, under names that begin with ``teacher_``.
    """

    teacher: Teacher
    inputs: Mapping[str, Fingerprint]


@dataclass(frozen=True)
class _Quantization:
    """How a teacher's weights and activations are quantized; nothing of it in a float one."""

    sites: tuple[Site, ...] = ()
    amax: Tensor | None = None
    trained: TrainConfig | None = None

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of ranges, smoothing and grids."""
        amax = [] if self.amax is None else [value.hex() for value in self.amax.double().tolist()]
        grids: list[object] = []
        if self.trained is not None:
            options = self.trained.quantization
            grids = [options.per_channel, options.per_column, options.saturation_free, options.keep_float]
        sites = [[site.name, site.smoothing, site.zero_point] for site in self.sites]
        content = {"amax": amax, "sites": sites, "grids": grids}
        text = json.dumps(content, sort_keys=True)
        return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), len(self.sites))


def load_teacher(
    config: TrainConfig, texts: Split, learner: Tokenizer, device: torch.device, report: Callable[[str], None]
) -> FinishedTeacher:
    """Load the teacher that a run's options name.

    Args:
        config: Options of the run that learns; they name a finished teacher.
        texts: Its training rows.
        learner: Its tokenizer; rows of token ids are of that.
        device: Where the teacher is wanted.
        report: Called with sentences on what was found.

    Returns:
        The teacher.

    Raises:
        CheckpointError: If it is a run without a whole checkpoint.
        ModelError: If it cannot be found or used, is of another task, or has weights that would be drawn at random.
    """
    place, head = config.distillation.finished_teacher or "", config.task.head
    name, quantization = f"the teacher {place}", _Quantization()
    if is_run(Path(place)):
        place, quantization = _checkpoint_of_run(Path(place))
    try:
        source = load_source_model(
            place,
            n_outputs=head.n_outputs,
            labels=head.labels,
            max_length=config.max_length,
            dropout=None,
            revision=config.distillation.teacher_revision,
        )
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    units = _units_of_scores(source, config, name)
    if texts.tokens() and source.tokenizer.get_vocab() != learner.get_vocab():
        raise ModelError(
            f"{name} has another vocabulary than the model that learns, and the rows of {texts.source} are token ids, "
            "which it cannot read. Give a teacher with the same vocabulary, or rows of texts"
        )
    for line in source.report.lines():
        report(f"teacher: {line}")
    inputs = {f"teacher_{what}": found for what, found in fingerprints_of_model(source).items()}
    inputs["teacher_quantization"] = quantization.fingerprint()
    model = source.model.to(device)  # type: ignore[arg-type]
    if quantization.trained is not None:
        _quantize_weights(source, quantization, quantization.trained)
    rows = tokenize_split(
        texts,
        head,
        TextTokenizer(
            Tokenizer.from_str(source.tokenizer.to_str()),
            max_length=config.max_length,
            obey_special_tokens=config.obey_special_tokens,
            pad_token_id=source.pad_token_id,
        ),
        input_names=source.input_names,
        pad_token_id=source.pad_token_id,
    )
    taught = QuantizedModel(model, quantization.sites, quantize_activation)
    return FinishedTeacher(Teacher(name, taught, quantization.amax, rows, units), inputs)


def _checkpoint_of_run(run: Path) -> tuple[str, _Quantization]:
    """Return the folder of a run's best checkpoint, and how it is quantized."""
    config, checkpoint = read_run(run), best_checkpoint(run)
    if not config.quantization.quantize:
        return str(checkpoint.path), _Quantization()
    return str(checkpoint.path), _Quantization(checkpoint.sites, checkpoint.ranges.amax(), config)


def _units_of_scores(source: SourceModel, config: TrainConfig, name: str) -> TargetScale:
    """Refuse what knows nothing of the task; return the units of what it knows."""
    wanted = f"the labels {', '.join(config.task.head.labels)}" if config.task.head.labels else "one output, a score"
    if source.head_units is None:
        account = source.report.head.removeprefix("new, ")
        raise ModelError(
            f"{name} cannot teach task {config.task.name}: as to its head, {account}. Give a model that was fine-tuned "
            f"on the task, with {wanted}"
        )
    if source.drawn:
        raise ModelError(
            f"{name} lacks weights ({', '.join(sorted(source.drawn)[:3])}), and with random ones in their place it "
            "knows nothing. Give a model that is whole"
        )
    return source.head_units


def _quantize_weights(source: SourceModel, quantization: _Quantization, trained: TrainConfig) -> None:
    """Replace a teacher's weights by what they are on their grids; it learns nothing more."""
    options = trained.quantization
    grids = grids_of(source.model, options, float_layers=matching_layers(source.model, options.keep_float))
    weights = prepare_weights(source.model, grids, quantization.sites)
    with torch.no_grad():
        for parameter_name, parameter in source.model.named_parameters():
            parameter.copy_(weights.effective[parameter_name])
            parameter.grad = None
