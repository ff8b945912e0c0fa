"""A model's name → a float classifier for the task, with its tokenizer, and an account of what was made of its files.

Only families whose every Linear and Embedding is known to be reached are let in; another family, or a layer that would
silently stay float, is refused by name. So is a model that would silently be another one here.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from q8bert.spec.errors import ModelError
from q8bert.training.models.border import library_border, quiet_transformers
from q8bert.training.models.config import ArchitectureConfig
from q8bert.training.models.configuration import Configuration, read_configuration
from q8bert.training.models.examination import SourceReport, examine_names, grouped, own_weights
from q8bert.training.models.head_rows import choose_rows, last_linear, take_rows
from q8bert.training.models.model_files import check_tokenizer_files
from q8bert.training.models.model_folder import ModelFolder, find_model, find_tokenizer
from q8bert.training.models.tokenizer.loading import load_tokenizer
from q8bert.training.models.weights_files import read_weights
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.sites import refuse_float_layers

__all__ = ["SourceModel", "count_parameters", "load_source_model", "position_limit"]

# the number of a layer in the name of its weight, in every family
_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.")


@dataclass(frozen=True)
class SourceModel:
    """A float classifier with its tokenizer.

    Attributes:
        model: Hugging Face sequence classifier with eager attention; its float32 weights are contiguous, and each has
            memory of its own.
        tokenizer: Its fast tokenizer.
        pad_token_id: Id that fills shorter rows.
        input_names: Inputs the model takes, in order.
        folder: Where its files are; in the hub's cache for a model of the hub.
        report: What was found in the model's files and what was made of it.
        head_units: Units of the logits, where the head came trained; None where it is new.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    pad_token_id: int
    input_names: tuple[str, ...]
    folder: Path
    report: SourceReport
    head_units: TargetScale | None

    @property
    def revision(self) -> str | None:
        """Commit of the hub that the files are of; None for a local folder."""
        return self.report.revision

    @property
    def drawn(self) -> frozenset[str]:
        """Names of parameters that were not found or not taken, and so drawn from torch's global generator."""
        return frozenset(self.report.drawn)


def load_source_model(
    name: str,
    *,
    n_outputs: int,
    labels: tuple[str, ...],
    max_length: int,
    dropout: float | None,
    revision: str | None = None,
    architecture: ArchitectureConfig = ArchitectureConfig(),  # noqa: B008 - a frozen value
    tokenizer: str | None = None,
) -> SourceModel:
    """Load a classifier and its tokenizer, with a head of the wanted outputs.

    Args:
        name: ``minilm-l6``, a folder, or a hub id.
        n_outputs: Width of the logits.
        labels: Label names in id order, stored in the model's configuration; empty for regression.
        max_length: Longest row in tokens, checked against the model's position table.
        dropout: Dropout probability for the whole model, or None to keep the model's own.
        revision: Branch, tag or commit of the hub; None for its main branch.
        architecture: What of the model is set otherwise than its configuration says.
        tokenizer: Folder or hub id of another tokenizer than the model's own.

    Returns:
        Model and tokenizer; missing parameters are drawn from torch's global generator.

    Raises:
        ModelError: If it cannot be found, a file of it is not what its name says, it is of a family or kind that is not
            supported, has a layer that would stay float, or cannot take ``max_length`` tokens.
    """
    folder = find_model(name, revision=revision)
    source = read_configuration(
        folder.path, n_outputs=n_outputs, labels=labels, dropout=dropout, architecture=architecture
    )
    if architecture.from_scratch:
        model, report = _draw_model(folder, source)
    else:
        model, report = _load_model(folder, source, n_outputs=n_outputs, labels=labels, n_layers=architecture.layers)
    limit = position_limit(model)
    if max_length > limit:
        raise ModelError(f"--max-length {max_length} is beyond the {limit} positions of {name}; use {limit} or less")
    place = folder.path if tokenizer is None else find_tokenizer(tokenizer)
    check_tokenizer_files(place)
    with library_border(f"the tokenizer of {place} could not be loaded", "Copy or download its files again"):
        own, pad_token_id = load_tokenizer(str(place), model.config)
    has_types = getattr(model.config, "type_vocab_size", 0) > 1
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if has_types else ()))
    head_units = None if f"{report.layer}.weight" in report.drawn else source.target_scale
    return SourceModel(model, own, pad_token_id, names, folder.path, report, head_units)


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def _draw_model(folder: ModelFolder, source: Configuration) -> tuple[PreTrainedModel, SourceReport]:
    """Return a classifier whose weights are all drawn."""
    path = str(folder.path)
    skeleton = _skeleton(source.config, path)
    refuse_float_layers(skeleton)
    factory: Any = AutoModelForSequenceClassification
    model: PreTrainedModel = factory.from_config(source.config, attn_implementation="eager")
    model.config.architectures = [type(model).__name__]
    untied = own_weights(model, source=path)
    report = SourceReport(
        layer=last_linear(model, base=model.base_model_prefix),
        head="new, as are all weights",
        drawn=tuple(name for name, _ in model.named_parameters()),
        unused=(),
        untied=tuple(untied),
        dtype="float32",
        options_set=source.options_set,
        options_unread=source.options_unread,
        revision=folder.revision,
        is_from_scratch=True,
    )
    return model, report


def _first_layers(weights: dict[str, Tensor], n_layers: int) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights without those of the layers after the first ones, and the names of those."""
    beyond = [name for name in weights if (found := _LAYER.search(name)) and int(found[1]) >= n_layers]
    return {name: tensor for name, tensor in weights.items() if name not in set(beyond)}, beyond


def _load_model(
    folder: ModelFolder, source: Configuration, *, n_outputs: int, labels: tuple[str, ...], n_layers: int | None
) -> tuple[PreTrainedModel, SourceReport]:
    path = str(folder.path)
    skeleton = _skeleton(source.config, path)
    refuse_float_layers(skeleton)
    layer = last_linear(skeleton, base=skeleton.base_model_prefix)
    found, beyond = read_weights(folder.path), list[str]()
    if n_layers is not None:
        found, beyond = _first_layers(found, n_layers)
    head = choose_rows(found, layer, source, n_outputs=n_outputs, labels=labels)
    weights = take_rows(found, layer, head)
    model, info = _fill(type(skeleton), source.config, weights, path)
    unused, missing = examine_names(model, info, n_weights=len(weights), source=path)
    untied = own_weights(model, source=path)
    report = SourceReport(
        layer=layer,
        head=head.account,
        drawn=tuple(missing),
        unused=(*grouped(unused), *((f"those of layers from {n_layers} on ({len(beyond)})",) if beyond else ())),
        untied=tuple(untied),
        dtype=_dtype_of(found),
        options_set=source.options_set,
        options_unread=source.options_unread,
        revision=folder.revision,
    )
    return model, report


def _skeleton(config: Any, path: str) -> PreTrainedModel:
    """Return the classifier without memory for its weights: names and shapes alone."""
    factory: Any = AutoModelForSequenceClassification
    with (
        library_border(f"{path}: config.json describes no model that can be built", "Correct it"),
        torch.device("meta"),
    ):
        skeleton: PreTrainedModel = factory.from_config(config, attn_implementation="eager")
    return skeleton


def _fill(kind: Any, config: Any, weights: dict[str, Tensor], path: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the classifier with weights, and what transformers says of their names and shapes."""
    with (
        library_border(f"the weights of {path} could not be loaded", "Copy or download them again"),
        quiet_transformers(),
    ):
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are examined by us
        )
    model.config.architectures = [kind.__name__]
    return model, info


def _dtype_of(weights: dict[str, Tensor]) -> str:
    """Return the types of floating weights, for example ``bfloat16``."""
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()}
    return " and ".join(sorted(kinds)) or "none"


def position_limit(model: PreTrainedModel) -> int:
    """Return the longest row in tokens that a classifier can take."""
    # RoBERTa and its kin count positions from the padding token's id + 1
    padding = getattr(model.base_model.embeddings, "padding_idx", None)
    return int(model.config.max_position_embeddings) - (0 if padding is None else int(padding) + 1)
