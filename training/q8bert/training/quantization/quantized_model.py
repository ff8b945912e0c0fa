"""A Hugging Face encoder whose activations are quantized where a Linear reads them.

The model itself is not rewritten: for the length of one forward pass, hooks on its Linear layers
replace their input by the quantized one and note its largest absolute value, both after smoothing. Ranges go in as an
argument and observations come out as a result; nothing is remembered between passes. How a tensor
is quantized is given from outside, because three programs run through here: torch training
(straight-through), the ONNX training graph and the exported graph (both ``QuantizeLinear`` → ``DequantizeLinear``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from q8bert.training.quantization.fake_quantize import scale_from_amax
from q8bert.training.quantization.sites import Site

__all__ = ["ActivationQuantizer", "QuantizedModel", "largest_of_tokens", "smoothing_inputs", "smoothing_name"]


class ActivationQuantizer(Protocol):
    """Quantizes the activation of one site: ``(x, scale, index of the site) → x on the int8 grid``."""

    def __call__(self, x: Tensor, scale: Tensor, site: int, /) -> Tensor:
        """Return ``x`` on its int8 grid, in real units."""
        ...


class QuantizedModel(nn.Module):
    """Runs a model with quantized activations and observes them.

    Args:
        model: Hugging Face encoder with a head and eager attention.
        sites: Where activations are quantized; empty for a float model.
        quantize: How; see :class:`ActivationQuantizer`.
        outputs: Names of the model's outputs that are wanted.
        largest: How an activation is observed; see :func:`largest_of_tokens`.

    Weights of Linear layers that read a smoothed activation must be smoothed too
    (:class:`~q8bert.training.quantization.weights.TrainableWeights`).
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        quantize: ActivationQuantizer,
        *,
        outputs: Sequence[str] = ("logits",),
        largest: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._sites = tuple(sites)
        self._quantize = quantize
        self._outputs = tuple(outputs)
        self._largest = largest_of_tokens if largest is None else largest
        for name, factors in smoothing_inputs(sites).items():
            self.register_buffer(name, factors.to(next(model.parameters()).device))

    def forward(
        self, inputs: Mapping[str, Tensor], amax: Tensor | None = None, *, observe: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute outputs, and what the activations' ranges were.

        Args:
            inputs: Int64 ``(batch, seq)`` by name: ``input_ids``, ``attention_mask`` (1 on tokens, 0 on padding), and
                what else the model takes.
            amax: Float32 ``(n_sites,)``, range of each site; None leaves activations float.
            observe: Whether to note each site's largest absolute value, padding left out.

        Returns:
            The model's outputs by name, and observations ``(n_sites,)``; the latter are empty when not asked for.
        """
        observations: list[Tensor] = []
        mask = inputs["attention_mask"]
        # An additive float mask that broadcasts over heads and queries. Handed a two-dimensional mask, the
        # model would build this itself, with twenty more nodes of shape arithmetic in the exported graph.
        dtype = next(self.model.parameters()).dtype
        hidden = (1.0 - mask.to(dtype)) * torch.finfo(dtype).min
        additive_mask = hidden.unsqueeze(1).unsqueeze(2)  # (batch, 1, 1, seq)
        noted = observations if observe else None
        scales = None if amax is None else scale_from_amax(amax)
        with self._hooks(scales, mask, noted):
            result = self.model(**{**inputs, "attention_mask": additive_mask})
        outputs = {name: getattr(result, name) for name in self._outputs}
        return outputs, torch.stack(observations) if observations else torch.zeros(0, device=mask.device)

    @contextmanager
    def _hooks(self, scales: Tensor | None, mask: Tensor, observations: list[Tensor] | None) -> Iterator[None]:
        handles = []
        for index, site in enumerate(self._sites):
            hook = self._hook(index, scales, mask, observations)
            handles += [self.model.get_submodule(name).register_forward_pre_hook(hook) for name in site.linears]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(
        self, index: int, scales: Tensor | None, mask: Tensor, observations: list[Tensor] | None
    ) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
        shared: list[Tensor] = []  # the result for the first reader serves the others

        def quantize_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            if not shared:
                x = self._smooth(args[0], index)
                if observations is not None:
                    observations.append(self._observed(x.detach(), mask, index))
                shared.append(x if scales is None else self._quantize(x, scales[index], index))
            return (shared[0],)

        return quantize_input

    def _observed(self, x: Tensor, mask: Tensor, index: int) -> Tensor:
        if self._sites[index].first_token_only:
            x, mask = x[:, :1], mask[:, :1]
        return self._largest(x, mask)

    def _smooth(self, x: Tensor, index: int) -> Tensor:
        if not self._sites[index].smoothing:
            return x
        factors: Tensor = getattr(self, smoothing_name(index))
        return x * factors.to(x.dtype)


def smoothing_name(site: int) -> str:
    """Return the name under which a site's smoothing, what its activation is multiplied by, stands in every program."""
    return f"smoothing_{site}"


def smoothing_inputs(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return what smoothed activations are multiplied by.

    Args:
        sites: Where activations are quantized.

    Returns:
        :func:`smoothing_name` → powers of 1/2, float32 ``(features,)``; smoothed sites only.
    """
    return {smoothing_name(index): 1.0 / site.factors() for index, site in enumerate(sites) if site.smoothing}


def largest_of_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Return ``max |x|`` over real tokens.

    Args:
        x: ``(batch, seq, features)``, or ``(batch, features)`` with one row a text and no padding.
        mask: Int64 ``(batch, seq)``, 1 on tokens, 0 on padding.

    Returns:
        Scalar of the type of ``x``, real units.
    """
    largest = torch.maximum(x.amax(dim=-1), -x.amin(dim=-1))  # reads x twice; abs() would write a copy besides
    if x.dim() == 3:
        largest = torch.where(mask.bool(), largest, 0.0)  # magnitudes are >= 0, so a padded 0 never wins
    return largest.max()
