"""Sites: the places where an activation is quantized, one to each tensor that feeds a Linear.

The projections of query, key and value read the same tensor, so they share a site: one range, one
quantization. Which layers share is found by running the model once and looking at which tensor
each Linear is handed, so no family needs a table of names.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from q8bert.spec.errors import ModelError

__all__ = ["Site", "column_factors", "find_sites", "matching_layers", "refuse_float_layers"]

_FLOAT_BY_DESIGN = (nn.LayerNorm,)


@dataclass(frozen=True)
class Site:
    """One quantized activation.

    Attributes:
        name: Name of the first Linear that reads it, with ``.input`` appended.
        linears: Names of all Linear layers that read it.
        smoothing: Exponents of two, one an input channel: the activation is divided by these powers before it is
            quantized, and the columns of its readers' weights are multiplied by them. Empty: it is not smoothed; see
            :mod:`~q8bert.training.quantization.smoothing`.
        first_token_only: Whether the model's outputs depend on the first token's row alone. Then only that row is
            observed, and an engine need not compute the others.
        zero_point: Code of 0, even, −126…126; see :mod:`~q8bert.training.quantization.zero_points`.
    """

    name: str
    linears: tuple[str, ...]
    smoothing: tuple[int, ...] = ()
    first_token_only: bool = False
    zero_point: int = 0

    def factors(self) -> Tensor:
        """Return the powers of two, float32 ``(features,)``; none for a site that is not smoothed."""
        return torch.exp2(torch.tensor(self.smoothing, dtype=torch.float32))


def column_factors(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return what the columns of smoothed weights are multiplied by.

    Args:
        sites: Where activations are quantized.

    Returns:
        Name of each Linear that reads a smoothed activation → powers of two, float32 ``(in_features,)``.
    """
    return {linear: site.factors() for site in sites if site.smoothing for linear in site.linears}


def refuse_float_layers(model: nn.Module) -> None:
    """Check that every parameter belongs to a layer that is quantized or float by design.

    Args:
        model: A float model.

    Raises:
        ModelError: If a module other than Linear, Embedding or LayerNorm has parameters of its own.
    """
    strangers = [
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and type(module) not in {nn.Linear, nn.Embedding, *_FLOAT_BY_DESIGN}
    ]
    if strangers:
        raise ModelError(
            f"{type(model).__name__} has layers that would silently stay float: {', '.join(strangers)}. "
            "Only Linear and Embedding are quantized, and LayerNorm stays float by design"
        )


def matching_layers(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the Linear and Embedding layers whose names match patterns.

    Args:
        model: A float model.
        patterns: Names with ``*``, ``?`` and ``[…]`` as in file names, for example ``*.layer.0.*``.

    Returns:
        Names of layers, in the model's order.

    Raises:
        ModelError: If a pattern matches no layer, or nothing is left to quantize.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    idle = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
    if idle:
        raise ModelError(f"keep_float: no layer matches {', '.join(idle)}; there are {', '.join(names)}")
    matching = tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if linears <= set(matching):
        raise ModelError("keep_float leaves no Linear to quantize; train the float twin with --no-quantize instead")
    return matching


def find_sites(
    model: nn.Module, *, keep_float: Sequence[str] = (), outputs: Sequence[str] = ("logits",)
) -> tuple[Site, ...]:
    """Find which Linear layers share an input, by running the model on four tokens.

    Args:
        model: Hugging Face classifier that takes ``input_ids`` and ``attention_mask``.
        keep_float: Names of layers that stay float; what they read is no site of theirs.
        outputs: Names of the model's outputs that are read.

    Returns:
        The sites in the order in which they are reached.

    Raises:
        ModelError: If a Linear is never run, or is run more than once with different inputs.
    """
    names = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in keep_float
    }
    readers: list[tuple[Tensor, list[str]]] = []

    def record(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not args[0].requires_grad:
            args[0].requires_grad_()  # all that it is computed from is frozen
        for tensor, linears in readers:
            if tensor is args[0]:
                linears.append(names[module])  # type: ignore[index]
                return
        readers.append((args[0], [names[module]]))  # type: ignore[index]

    handles = [module.register_forward_pre_hook(record) for module in names]
    training = model.training
    tokens = torch.arange(2, 6, device=next(model.parameters()).device).unsqueeze(0)
    try:
        with torch.enable_grad():
            result = model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            read = sum(getattr(result, name).sum() for name in outputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    reached = [name for _, linears in readers for name in linears]
    wrong = sorted(set(names.values()) - set(reached)) + sorted({name for name in reached if reached.count(name) > 1})
    if wrong:
        raise ModelError(
            f"these Linear layers of {type(model).__name__} are not run exactly once: {', '.join(wrong)}; "
            "their inputs cannot be given one range each"
        )
    gradients = torch.autograd.grad(read, [tensor for tensor, _ in readers], allow_unused=True)
    return tuple(
        Site(f"{linears[0]}.input", tuple(linears), first_token_only=_is_of_first_token(gradient))
        for (_, linears), gradient in zip(readers, gradients, strict=True)
    )


def _is_of_first_token(gradient: Tensor | None) -> bool:
    """Whether a gradient ``(1, seq, features)`` is zero but in its first row, because nothing reads the others."""
    if gradient is None or gradient.dim() != 3:
        return False
    return bool((gradient[:, 1:] == 0).all()) and bool((gradient[:, :1] != 0).any())
