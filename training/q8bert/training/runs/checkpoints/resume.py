"""A checkpoint → a model and its optimizer, where it fits them."""

from collections import defaultdict

import torch
from torch import Tensor
from transformers import PreTrainedModel

from q8bert.spec.errors import CheckpointError
from q8bert.training.loop.averaging import WeightAverage
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.checkpoints.checkpoint import Checkpoint

__all__ = ["check_fits", "copy_weights", "restore", "restore_average"]


def restore(model: PreTrainedModel, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights and moments into a model and its optimizer, in place.

    Args:
        model: Of the same architecture.
        optimizer: AdamW over the model's parameters.
        checkpoint: What to copy; it fits (:func:`check_fits`).
    """
    copy_weights(model, checkpoint)
    moments = _moments_by_parameter(checkpoint)
    for name, parameter in model.named_parameters():
        # fused AdamW wants them beside the parameter
        optimizer.state[parameter] = {
            moment: value.to(parameter.device, copy=True) for moment, value in moments.get(name, {}).items()
        }


def copy_weights(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into a model, in place.

    Args:
        model: Of the same architecture.
        checkpoint: What to copy.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    _check_weights(checkpoint, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(checkpoint.weights[name])


def restore_average(average: WeightAverage, checkpoint: Checkpoint, *, is_begun: bool) -> None:
    """Copy a checkpoint's mean of weights into that of a run, in place.

    Args:
        average: Of the same model.
        checkpoint: What to copy.
        is_begun: Whether the checkpoint must have one.

    Raises:
        CheckpointError: If it has none, or one of another model.
    """
    if not is_begun:
        return
    found = {name: mean.shape for name, mean in checkpoint.average.items()}
    if found != {name: mean.shape for name, mean in average.means.items()}:
        raise CheckpointError(
            f"{checkpoint.path} has no mean of this model's weights, which average_weights takes by then. Put back the "
            "file average.safetensors as it was, or start again with --overwrite"
        )
    for name, mean in average.means.items():
        mean.copy_(checkpoint.average[name])


def check_fits(checkpoint: Checkpoint, model: PreTrainedModel, sites: tuple[Site, ...]) -> None:
    """Check that training can go on from a checkpoint.

    Args:
        checkpoint: What was read.
        model: The model to be trained on.
        sites: Where its activations are quantized, smoothing aside.

    Raises:
        CheckpointError: If it is of another model, or has ranges of other activations, or moments of
            other parameters.
    """
    _check_weights(checkpoint, model)
    there, here = ([(site.name, site.linears) for site in which] for which in (checkpoint.sites, sites))
    # none before quantization starts
    if there not in ([], here) or checkpoint.ranges.n_sites != len(checkpoint.sites):
        raise CheckpointError(
            f"{checkpoint.path} has ranges of other activations than this model; it was made with other versions of "
            "transformers or q8bert"
        )
    found = {name: tuple(value.shape) for name, value in checkpoint.optimizer.items()}
    expected = {
        f"{name}.{moment}": shape
        for name, parameter in model.named_parameters()
        for moment, shape in (("step", ()), ("exp_avg", tuple(parameter.shape)), ("exp_avg_sq", tuple(parameter.shape)))
    }
    # none at all where every step so far was left out
    if found not in ({}, expected):
        raise CheckpointError(f"{checkpoint.path}: the optimizer's moments are not those of the model's parameters")


def _moments_by_parameter(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    moments: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in checkpoint.optimizer.items():
        name, _, moment = key.rpartition(".")
        moments[name][moment] = value
    return moments


def _check_weights(checkpoint: Checkpoint, model: PreTrainedModel) -> None:
    parameters = dict(model.named_parameters())
    missing = sorted(set(parameters) - set(checkpoint.weights))
    unexpected = sorted(set(checkpoint.weights) - set(parameters))
    misshaped = [
        f"{name} {tuple(checkpoint.weights[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in checkpoint.weights and checkpoint.weights[name].shape != parameter.shape
    ]
    misshaped += [
        f"{len(site.smoothing)} smoothed channels of {site.name}"
        for site in checkpoint.sites
        for name in site.linears
        if site.smoothing and f"{name}.weight" in parameters
        and len(site.smoothing) != parameters[f"{name}.weight"].shape[1]
    ]  # fmt: skip
    if missing or unexpected or misshaped:
        raise CheckpointError(
            f"{checkpoint.path} is of another model: missing {missing[:3]}, unexpected {unexpected[:3]}, "
            f"mis-shaped {misshaped[:3]}"
        )
