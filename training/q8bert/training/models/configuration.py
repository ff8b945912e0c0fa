"""config.json → the configuration of a sequence classifier that means here what it meant where it was trained.

An option of config.json is one of four kinds. What changes the model and is obeyed by its code, such as
``layer_norm_eps``, stays. What changes the model in a way that is not computed here, or that the installed transformers
ignores, is refused. What only changes the form of outputs or how they are computed is set to what is needed. What
transformers does not know for the family is left out and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING

from q8bert.spec.errors import ConfigError, ModelError
from q8bert.training.models.border import library_border
from q8bert.training.models.config import ArchitectureConfig
from q8bert.training.models.model_files import read_object
from q8bert.training.objectives.target_scale import TARGET_SCALE_KEY, TargetScale, read_target_scale

__all__ = ["FAMILIES", "Configuration", "output_names", "read_configuration"]

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet")

# option → the one value that is computed here; a value that is off (null, false, 0, empty) is fine where that is None
_ONLY: Mapping[str, str | None] = {
    "hidden_act": "gelu",
    "activation": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": None,
    "add_cross_attention": None,
    "is_encoder_decoder": None,
    "pruned_heads": None,
    "per_layer_config": None,
    "fusion_config": None,
    "transformers_weights": None,
}
_QUANTIZED = ("quantization_config", "compression_config")
# the form of outputs, and ways to the same outputs
_SET: Mapping[str, object] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "gradient_checkpointing": False,
    "chunk_size_feed_forward": 0,
    "sinusoidal_pos_embds": False,  # how DistilBERT's positions start; they come with the weights
}
# said anew for the task and for float32
_OURS = (
    "id2label", "label2id", "num_labels", "problem_type", "dtype", "torch_dtype", "architectures",
    "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", TARGET_SCALE_KEY,
)  # fmt: skip
# option of ours → its names in the families
_SIZES: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_heads"),
    "hidden_size": ("hidden_size", "dim"),
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "max_positions": ("max_position_embeddings",),
    "initializer_range": ("initializer_range",),
}
_ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout")
_HIDDEN_DROPOUTS = (
    "hidden_dropout_prob", "classifier_dropout",  # BERT and kin
    "dropout", "seq_classif_dropout",  # DistilBERT
    "summary_last_dropout",  # ELECTRA
)  # fmt: skip
# of no meaning for a classifier: where it came from, what tokenizes, and what older releases wrote into every file
_IDLE = (
    "model_type", "_name_or_path", "name_or_path", "transformers_version", "tokenizer_class", "finetuning_task",
    "language", "name", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
    "pooler_size_per_head", "pooler_type", "output_past", "tie_weights_", "use_bfloat16", "tf_legacy_loss",
    "task_specific_params", "prefix", "cross_attention_hidden_size", "tie_encoder_decoder", "_commit_hash",
    "_num_labels", "sep_token_id", "decoder_start_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """A configuration for the task, and what config.json said besides.

    Attributes:
        config: Hugging Face's configuration of the classifier; float32, eager attention is chosen where it is used.
        names: What the outputs of the source's own head are called, in order; empty where config.json does not say.
        target_scale: Units of what the source's own head computes.
        architecture: Class that the weights were saved from, as config.json says; empty where it does not.
        options_set: Options that had another value than is needed or asked for, as ``name value → value``.
        options_unread: Options that transformers does not know for the family.
    """

    config: Any
    names: tuple[str, ...]
    target_scale: TargetScale
    architecture: str
    options_set: tuple[str, ...]
    options_unread: tuple[str, ...]


def read_configuration(
    folder: Path,
    *,
    n_outputs: int,
    labels: tuple[str, ...],
    dropout: float | None,
    architecture: ArchitectureConfig = ArchitectureConfig(),  # noqa: B008 - a frozen value
) -> Configuration:
    """Read the configuration of a model and fit it to a task.

    Args:
        folder: The model's folder.
        n_outputs: Width of the logits.
        labels: Label names in id order; empty for regression.
        dropout: Dropout probability for the whole model, or None to keep the model's own.
        architecture: What is set otherwise than config.json says.

    Returns:
        The configuration.

    Raises:
        ModelError: If config.json is damaged, or describes a model that is not computed here, also with what is set.
    """
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter (adapter_config.json), not a whole model. Merge it into its model (peft's "
            "merge_and_unload), save that, and give its folder"
        )
    content = read_object(path)
    _check_family(content, path)
    _check_options(content, path)
    kind: Any = CONFIG_MAPPING[content["model_type"]]
    known = set(kind().to_dict()) | set(kind.attribute_map) | {"tokenizer_class"}
    kept = {name: value for name, value in {**content, **_SET}.items() if name in known and name in content}
    with library_border(f"{path} does not describe a {content['model_type']} model", "Correct it"):
        config = kind(**kept | _of_task(n_outputs, labels))
    options_set = [
        f"{name} {content[name]} → {value}" for name, value in _SET.items() if content.get(name) not in (value, None)
    ]
    options_set += _set_sizes(config, architecture, path)
    hidden, attention = architecture.hidden_dropout, architecture.attention_dropout
    _set_all(config, _HIDDEN_DROPOUTS, dropout if hidden is None else hidden)
    _set_all(config, _ATTENTION_DROPOUTS, dropout if attention is None else attention)
    unread = set(content) - known - set(_ONLY) - set(_SET) - set(_OURS) - set(_IDLE) - set(_QUANTIZED)
    architectures = content.get("architectures")
    return Configuration(
        config=config,
        names=output_names(content, path),
        target_scale=_target_scale(content, path),
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        options_set=tuple(options_set),
        options_unread=tuple(sorted(unread)),
    )


def _of_task(n_outputs: int, labels: tuple[str, ...]) -> dict[str, object]:
    names = labels or tuple(f"LABEL_{index}" for index in range(n_outputs))
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification" if labels else "regression",
        "architectures": None,  # said when the model is made
        "dtype": "float32",
    }


def _check_family(content: Mapping[str, Any], path: Path) -> None:
    if "model_type" not in content:
        raise ModelError(f"{path} does not say of which family the model is (model_type). Give one of {_families()}")
    if content["model_type"] not in FAMILIES:
        raise ModelError(
            f"{path}: the model is of the family {content['model_type']!r}, whose layers are not known to be quantized "
            f"completely; supported are {_families()}"
        )


def _check_options(content: Mapping[str, Any], path: Path) -> None:
    for name in _QUANTIZED:
        if given := content.get(name):
            method = given.get("quant_method", "") if isinstance(given, dict) else ""
            raise ModelError(
                f"{path}: the model is quantized already ({' '.join(filter(None, (name, str(method))))}) and cannot be "
                "trained on. Give the float model that it was made from"
            )
    for name, only in _ONLY.items():
        given = content.get(name)
        if given and given != only:
            supported = f"only {only!r} is supported" if only else "a model that needs it is not supported"
            raise ModelError(f"{path}: {name} is {given!r}; {supported}. Give another model")


def output_names(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return what the outputs of a model's own head are called.

    Args:
        content: Its config.json.
        path: Where that stands, for messages.

    Returns:
        Their names in order; none where they are numbers that transformers made up.

    Raises:
        ModelError: If config.json does not number them one by one, or numbers them twice.
    """
    by_id, by_name = content.get("id2label"), content.get("label2id")
    with library_border(f"{path}: id2label and label2id do not name the outputs 0, 1, … one by one", "Correct them"):
        if not by_id:
            by_id = {index: name for name, index in (by_name or {}).items()}
        names = {int(index): str(name) for index, name in by_id.items()}
        in_order = tuple(names[index] for index in range(len(names)))
        numbers = {str(name): int(index) for name, index in (by_name or {}).items()}
    if set(numbers) == set(in_order) and [numbers[name] for name in in_order] != list(range(len(in_order))):
        raise ModelError(f"{path}: id2label and label2id give the same labels other numbers. Correct one of them")
    return () if all(name == f"LABEL_{index}" for index, name in enumerate(in_order)) else in_order


def _target_scale(content: Mapping[str, Any], path: Path) -> TargetScale:
    try:
        return read_target_scale(content)
    except ConfigError as error:
        raise ModelError(f"{path}: {error}. Copy it again from where the model was trained") from error


def _families() -> str:
    return ", ".join(FAMILIES)


def _set_sizes(config: Any, architecture: ArchitectureConfig, path: Path) -> list[str]:
    """Set what was asked for, in place; return what had another value, as ``name value → value``."""
    options_set = []
    for option, names in _SIZES.items():
        asked = getattr(architecture, option)
        if asked is None:
            continue
        name = next((name for name in names if name in config.to_dict()), None)
        if name is None:
            raise ModelError(f"{path}: a {config.model_type} model has no {option}. Leave the option out")
        own = getattr(config, name)
        if option == "layers" and asked > own and not architecture.from_scratch:
            raise ModelError(
                f"--layers {asked} is more than the {own} layers of {path.parent}. Give fewer, or --from-scratch, "
                "which draws the weights of all of them"
            )
        setattr(config, name, asked)
        if asked != own:
            options_set.append(f"{name} {own} → {asked}")
    is_asked = architecture.hidden_size is not None or architecture.heads is not None
    if is_asked and config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"hidden_size {config.hidden_size} is not a multiple of the {config.num_attention_heads} heads. Give "
            "--hidden-size and --heads that fit each other"
        )
    return options_set


def _set_all(config: Any, names: Sequence[str], probability: float | None) -> None:
    for name in names:
        if probability is not None and hasattr(config, name):
            setattr(config, name, probability)
