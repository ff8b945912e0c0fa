"""A head that came trained, in the units that scores are learned in."""

import torch
from torch import nn
from transformers import PreTrainedModel

from q8bert.training.objectives.target_scale import TargetScale

__all__ = ["change_units", "output_layer"]


def output_layer(model: PreTrainedModel) -> str:
    """Return the name of the Linear layer that gives the logits: the head's last, in every family that is let in."""
    linears: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if not name.startswith(f"{model.base_model_prefix}.")][-1]


def change_units(model: PreTrainedModel, *, given: TargetScale, wanted: TargetScale) -> None:
    """Change a head's weights so that its scores, in the user's units, stay what they were.

    Args:
        model: Classifier with a trained head; changed in place.
        given: Units of its outputs.
        wanted: Units that its outputs are to have.
    """
    layer = model.get_submodule(output_layer(model))
    factor, term = given.std / wanted.std, (given.mean - wanted.mean) / wanted.std
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.mul_(factor)
            if name == "bias":
                parameter.add_(term)
