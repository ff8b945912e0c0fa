"""What became of a source's weights: taken, left unused, drawn anew; and which of that makes it another model.

transformers loads what has a name and a shape that it knows, and leaves the rest. Left over may be a head of
pretraining, which is nothing to a classifier, or a part without which the model is another: positions of another kind,
an adapter, one more layer. Only what is known to be the former may stay unused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from q8bert.spec.errors import ModelError

__all__ = ["SourceReport", "examine_names", "grouped", "own_weights"]

# heads of pretraining and of other tasks, by the first part of their weights' names
_OTHER_HEADS = (
    "cls", "lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector", "discriminator_predictions",
    "generator_predictions", "generator_lm_head", "qa_outputs",
)  # fmt: skip
_POOLER = "pooler."
_ADAPTER = re.compile(r"lora_|ia3_|adapter|prefix_encoder|prompt_embeddings")


@dataclass(frozen=True)
class SourceReport:
    """What was found in a source and what was made of it.

    Attributes:
        layer: Name of the head's last layer, which gives the logits.
        head: What became of it.
        drawn: Weights that the source lacks, or that were not taken, and that were drawn at random.
        unused: Groups of weights that a classifier has no use for, with their number.
        untied: Weights that shared memory with others and are trained apart from them.
        dtype: Type of the weights in the file, for example ``bfloat16``.
        options_set: Options of config.json that were set, as ``name value → value``.
        options_unread: Options of config.json that transformers does not know for the family.
        revision: Commit of the hub; None for a local folder.
        is_from_scratch: Whether all weights were drawn, because nothing else was asked for.
    """

    layer: str
    head: str
    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    untied: tuple[str, ...]
    dtype: str
    options_set: tuple[str, ...]
    options_unread: tuple[str, ...]
    revision: str | None
    is_from_scratch: bool = False

    def lines(self) -> tuple[str, ...]:
        """Return what a user should know, a sentence a line."""
        besides = [name for name in self.drawn if not name.startswith(f"{self.layer}.") and not self.is_from_scratch]
        told = (
            (
                "warning: from scratch: all weights are drawn at random, and nothing pretrained is used",
                self.is_from_scratch,
            ),
            (f"commit of the hub: {self.revision}", self.revision is not None),
            (f"head {self.layer}: {self.head}", True),
            (f"drawn at random, for the model lacks them: {', '.join(besides)}", bool(besides)),
            (f"weights without a use here: {', '.join(self.unused)}", bool(self.unused)),
            (f"weights that were one and are trained apart: {', '.join(self.untied)}", bool(self.untied)),
            (f"weights of type {self.dtype} are trained in float32", self.dtype != "float32"),
            (f"options set: {', '.join(self.options_set)}", bool(self.options_set)),
            (f"options that transformers does not read: {', '.join(self.options_unread)}", bool(self.options_unread)),
        )
        return tuple(line for line, is_told in told if is_told)

    def values(self) -> dict[str, str | None]:
        """Return the fields as texts, for a log."""
        values = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if values.pop("is_from_scratch"):
            values["drawn"] = "all"
        return values


def examine_names(
    model: PreTrainedModel, info: Mapping[str, Any], *, n_weights: int, source: str
) -> tuple[list[str], list[str]]:
    """Check what transformers says of the names and shapes of a source's weights.

    Args:
        model: The classifier that was loaded.
        info: What ``from_pretrained`` reported of it.
        n_weights: How many weights it was given.
        source: What the source is called in messages.

    Returns:
        Weights without a use, and weights that were drawn anew.

    Raises:
        ModelError: If weights have no place in the model that must have one, lack in the encoder, or have other shapes.
    """
    base, family = model.base_model_prefix, model.config.model_type
    strangers = sorted(name for name in info["unexpected_keys"] if not _has_no_use(name, model))
    adapters = [name for name in strangers if _ADAPTER.search(name)]
    if adapters:
        raise ModelError(
            f"{source} has weights of an adapter ({_some(adapters)}), which a {family} model has no place for. Merge "
            "them into the model (peft's merge_and_unload) and save that"
        )
    if missing := sorted(name for name in info["missing_keys"] if name.startswith(f"{base}.") and _POOLER not in name):
        raise ModelError(
            f"{source} lacks weights of the encoder itself ({_some(missing)}); it is not a {family} checkpoint"
        )
    if strangers:
        raise ModelError(
            f"{source} has weights that transformers' {type(model).__name__} has no place for ({_some(strangers)}); "
            "without them it would be another model. Give a model of the plain architecture"
        )
    if reshaped := sorted(info["mismatched_keys"]):
        name, there, wanted = reshaped[0]
        raise ModelError(
            f"{source}: {name} has the shape {tuple(there)}, and config.json asks for {tuple(wanted)}. Give the "
            "config.json that belongs to the weights"
        )
    n_taken = len(model.state_dict()) - len(info["missing_keys"])
    if n_weights > n_taken + len(info["unexpected_keys"]):
        raise ModelError(
            f"{source} has more than one weight for the same place, such as a LayerNorm's weight and gamma, or one "
            f"with and one without the prefix {base}. Keep those that are meant"
        )
    return sorted(info["unexpected_keys"]), sorted(info["missing_keys"])


def own_weights(model: PreTrainedModel, *, source: str) -> list[str]:
    """Give every weight memory of its own, contiguous and in float32, in place.

    AdamW's fused step walks through memory and ONNX Runtime reads weights by address, so neither gaps nor shared memory
    may be left from the file.

    Args:
        model: The classifier.
        source: What the source is called in messages.

    Returns:
        Weights that shared memory with another one.

    Raises:
        ModelError: If a weight is not finite.
    """
    untied = _sharing(model.named_parameters())
    for name, parameter in model.named_parameters():
        own = parameter.detach().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        parameter.data = own
        if own.numel() and not all(bound.isfinite() for bound in own.aminmax()):  # NaN is least and largest
            raise ModelError(f"{source}: {name} holds values that are infinite or no numbers. Train the model again")
    return untied


def grouped(names: Iterable[str]) -> tuple[str, ...]:
    """Return names by their first part, with the number of each: ``cls.* (7)``."""
    counts: dict[str, int] = {}
    for name in names:
        group = f"{name.partition('.')[0]}.*"
        counts[group] = counts.get(group, 0) + 1
    return tuple(group if count == 1 else f"{group} ({count})" for group, count in sorted(counts.items()))


def _has_no_use(name: str, model: PreTrainedModel) -> bool:
    own = name.removeprefix(f"{model.base_model_prefix}.")
    has_pooler = any(child == "pooler" for child, _ in model.base_model.named_children())
    return name.partition(".")[0] in _OTHER_HEADS or (own.startswith(_POOLER) and not has_pooler)


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _sharing(parameters: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return names whose memory overlaps that of one before."""
    spans = sorted((tensor.data_ptr(), tensor.data_ptr() + _extent(tensor), name) for name, tensor in parameters)
    shared, end = [], 0
    for start, stop, name in spans:
        if start < end:
            shared.append(name)
        end = max(end, stop)
    return sorted(shared)


def _extent(tensor: Tensor) -> int:
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size()
