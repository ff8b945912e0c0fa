"""A head that came trained, in the units that scores are learned in."""

import torch
from transformers import PreTrainedModel

from q8bert.training.models.head_rows import last_linear
from q8bert.training.objectives.target_scale import TargetScale

__all__ = ["change_units"]


def change_units(model: PreTrainedModel, *, given: TargetScale, wanted: TargetScale) -> None:
    """Change a head's weights so that its scores, in the user's units, stay what they were.

    Args:
        model: Classifier with a trained head; changed in place.
        given: Units of its outputs.
        wanted: Units that its outputs are to have.
    """
    layer = model.get_submodule(last_linear(model, base=model.base_model_prefix))
    factor, term = given.std / wanted.std, (given.mean - wanted.mean) / wanted.std
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.mul_(factor)
            if name == "bias":
                parameter.add_(term)
