"""What Q8BERT's other implementations did, as rows of one table: options by their names, and what cannot be had.

Sources: ``paper`` is Intel's nlp-architect, ``nlp-train transformer_glue`` with ``quant_bert`` and the configuration
that was given out for bert-base-uncased; ``seed`` is MindSpore's model zoo, ``official/nlp/q8bert`` as it first was
(March 2021). Both are of BERT, and layers are named as BERT's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from q8bert.spec.errors import ConfigError

__all__ = ["PRESETS", "Preset", "find_preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the table.

    Attributes:
        of: What it repeats, in words.
        options: Name → value, as on the command line with underscores.
        by_task: Options that one task has otherwise.
        in_float16: Options that mean nothing in another precision.
        differences: What of it cannot be had, or is another here; a sentence each.
    """

    of: str
    options: Mapping[str, object]
    differences: tuple[str, ...]
    by_task: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    in_float16: Mapping[str, object] = field(default_factory=dict)

    def fill(self, task: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row's options with those that were given, which win.

        Args:
            task: Name of the task.
            given: Name → value of what was given by itself.

        Returns:
            Both; without options of the row that contradict what was given, or say the same in another way.
        """
        row = {**self.options, **self.by_task.get(task, {})}
        if given.get("precision") == "float16":
            row |= self.in_float16
        for name, is_said, others in _INSTEAD:
            if name in given and is_said(given[name]):
                row = {other: value for other, value in row.items() if other not in others}
        return row | dict(given)


# an option that was given, what it must be, and which options of a row say nothing then
_INSTEAD: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ("quantize", lambda value: not value, ("keep_float",)),
    ("evaluate", lambda value: not value, ("eval_every", "candidates")),
    ("warmup_steps", lambda value: value is not None, ("warmup_ratio",)),
)
_PLAIN_GRIDS: Mapping[str, object] = MappingProxyType({
    "granularity": "per_tensor", "table_granularity": "per_tensor", "saturation_free": False, "smoothing": False,
    "ranges": "ema", "quantize_from": 0.0, "freeze_ranges_from": 1.0, "calibration_batches": 1,
})  # fmt: skip
_SHARED_DIFFERENCES = (
    "the moving average of a range is corrected for its start, begins with a batch that is observed in float, and "
    "leaves padded positions out",
    "a value that is clamped has no gradient; there it has",
    "export scales weights so that no product saturates on CPUs without VNNI, whatever training did",
    "scores of a regression are learned with mean 0 and deviation 1",
)

PRESETS: Mapping[str, Preset] = MappingProxyType({
    "paper": Preset(
        of="nlp-architect's quant_bert, by the authors of Q8BERT",
        options=MappingProxyType({
            **_PLAIN_GRIDS, "zero_points": False, "range_decay": 0.9999, "keep_float": ("*token_type_embeddings",),
            "epochs": 3, "batch_size": 8, "gradient_accumulation": 1, "learning_rate": 2e-5, "end_learning_rate": 0.0,
            "decay_power": 1.0, "warmup_ratio": 0.0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
            "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "dropout": 0.1, "shuffle": True, "seed": 42, "max_length": 128,
            "eval_batch_size": 8, "eval_every": 50, "candidates": 1, "save_every": 500, "log_every": 50,
            "precision": "float32",
        }),
        differences=(
            *_SHARED_DIFFERENCES,
            "the classifier is quantized from the first step; there from its 200th forward pass",
            "query and key are not rounded once more before they are multiplied",
            "biases stay float32 in the exported model; there they become int32",
            "codes of activations reach -128; there -127",
            "the learning rate is the one of its documentation, the rest its program's defaults; what the paper's own "
            "runs had besides is not known",
        ),
    ),
    "seed": Preset(
        of="MindSpore's official/nlp/q8bert, first version",
        options=MappingProxyType({
            **_PLAIN_GRIDS, "zero_points": True, "range_decay": 0.999,
            "keep_float": ("*embeddings*", "*.query", "*.key", "*.value", "*pooler*", "classifier"),
            "epochs": 3, "batch_size": 16, "gradient_accumulation": 1, "learning_rate": 5e-5,
            "end_learning_rate": 1e-14, "decay_power": 1.0, "warmup_ratio": 0.1, "weight_decay": 1e-4,
            "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6, "max_grad_norm": 1.0, "dropout": 0.1,
            "initializer_range": 0.02, "shuffle": True, "seed": 1, "max_length": 128, "eval_batch_size": 32,
            "eval_every": 100, "save_every": 100, "keep_checkpoints": 1, "log_every": 100, "precision": "float32",
        }),
        by_task=MappingProxyType({"SST-2": MappingProxyType({"max_length": 64})}),
        in_float16=MappingProxyType({"loss_scale": 65536.0, "loss_scale_factor": 2.0, "loss_scale_window": 50}),
        differences=(
            *_SHARED_DIFFERENCES,
            "ranges are symmetric, or have a zero point where values lie to one side; there each has a minimum and a "
            "maximum of its own, weights too",
            "ranges begin with what a batch has; there with -2.5 to 2.5 for activations, -6 to 6 for weights",
            "attention products (query, key, probabilities, value) stay float32; there their factors were rounded",
            "gradients are clipped by the norm of all of them; there each tensor by its own",
            "the last rows of an epoch that fill no batch are trained on; there they were dropped",
            "embeddings and the projections of query, key and value stay float as there, so the model is not four "
            "times smaller; leave --preset out for one that is",
            "its config.py builds 6 layers, its README says 12: --layers 6 takes the first 6 of a model with more",
        ),
    ),
})  # fmt: skip


def find_preset(name: str) -> Preset:
    """Return a row of the table.

    Args:
        name: Its name.

    Returns:
        The row.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in PRESETS:
        raise ConfigError([f"preset must be one of {', '.join(PRESETS)}, got {name!r}"])
    return PRESETS[name]
