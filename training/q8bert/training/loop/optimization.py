"""AdamW groups and the learning-rate schedule."""

from collections.abc import Mapping

import torch
from torch import nn

__all__ = ["adamw", "learning_rate_at"]


def adamw(
    masters: Mapping[str, nn.Parameter],
    *,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """Return AdamW with decoupled decay on every weight but biases and LayerNorm.

    Args:
        masters: Parameters by name.
        weight_decay: Decay of the others.
        betas: Weight of the past in the mean of the gradients, and in that of their squares.
        epsilon: What is added to the root of the latter.

    Returns:
        The optimizer; its learning rate is set before each step.
    """
    decayed = [parameter for name, parameter in masters.items() if not is_undecayed(name)]
    undecayed = [parameter for name, parameter in masters.items() if is_undecayed(name)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)


def is_undecayed(name: str) -> bool:
    """Whether a parameter is a bias or belongs to a LayerNorm, by its Hugging Face name."""
    return name.endswith("bias") or "layernorm" in name.lower() or "layer_norm" in name.lower()


def learning_rate_at(step: int, *, peak: float, end: float, n_steps: int, warmup: int, power: float) -> float:
    """Return the learning rate of a step: linear warm-up, then polynomial decay.

    After ``warmup`` steps it is ``(peak − end) · (1 − progress)^power + end``, where
    progress runs from 0 to 1 over the rest.

    Args:
        step: Optimizer step, from 0.
        peak: Rate at the end of the warm-up.
        end: Rate at the end of training.
        n_steps: Steps in all.
        warmup: Steps in which it rises.
        power: Power of the decay; 1 is linear.

    Returns:
        The rate; never 0 on the first step of a warm-up, so that no step is wasted.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, n_steps - warmup)
    return float((peak - end) * (1.0 - min(progress, 1.0)) ** power + end)
