"""A Hugging Face encoder whose activations are quantized where a Linear reads them.

The model itself is not rewritten: for the length of one forward pass, hooks on its Linear layers
replace their input by the quantized one and note the range that its values need, both after
smoothing. Ranges go in as an argument and observations come out as a result; nothing is remembered
between passes. How a tensor is quantized is given from outside, because three programs run through
here: torch training (straight-through), the ONNX training graph and the exported graph (both
``QuantizeLinear`` → ``DequantizeLinear``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from q8bert.training.quantization.fake_quantize import scale_from_amax
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.zero_points import covering_amax

__all__ = ["ActivationQuantizer", "QuantizedModel", "largest_of_tokens", "site_inputs", "smoothing_name"]

ZERO_POINTS = "zero_points"  # under this name they stand in every program


class ActivationQuantizer(Protocol):
    """Quantizes the activation of one site: ``(x, scale, zero point, index of the site) → x on the grid``."""

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
        """Return ``x`` on its int8 grid, in real units; scale and zero point are float32 scalars."""
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
        largest: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._sites = tuple(sites)
        self._quantize = quantize
        self._outputs = tuple(outputs)
        self._largest = largest_of_tokens if largest is None else largest
        for name, factors in site_inputs(sites).items():
            self.register_buffer(name, factors.to(next(model.parameters()).device))

    def forward(
        self, inputs: Mapping[str, Tensor], amax: Tensor | None = None, *, observe: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute outputs, and what the activations' ranges were.

        Args:
            inputs: Int64 ``(batch, seq)`` by name: ``input_ids``, ``attention_mask`` (1 on tokens, 0 on padding), and
                what else the model takes.
            amax: Float32 ``(n_sites,)``, range of each site; None leaves activations float. If it requires a gradient,
                scales get theirs.
            observe: Whether to note the range that each site's values need, padding left out.

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
        scales = None if amax is None else _by_site(scale_from_amax(amax))
        with self._hooks(scales, mask, noted):
            result = self.model(**{**inputs, "attention_mask": additive_mask})
        outputs = {name: getattr(result, name) for name in self._outputs}
        return outputs, torch.stack(observations) if observations else torch.zeros(0, device=mask.device)

    @contextmanager
    def _hooks(
        self, scales: Sequence[Tensor] | Tensor | None, mask: Tensor, observations: list[Tensor] | None
    ) -> Iterator[None]:
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
        self, index: int, scales: Sequence[Tensor] | Tensor | None, mask: Tensor, observations: list[Tensor] | None
    ) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
        shared: list[Tensor] = []  # the result for the first reader serves the others

        def quantize_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            if not shared:
                x = self._smooth(args[0], index)
                if observations is not None:
                    observations.append(self._observed(x.detach(), mask, index))
                shared.append(x if scales is None else self._quantize(x, scales[index], self._zero_point(index), index))
            return (shared[0],)

        return quantize_input

    def _observed(self, x: Tensor, mask: Tensor, index: int) -> Tensor:
        if self._sites[index].first_token_only:
            x, mask = x[:, :1], mask[:, :1]
        return self._largest(x, mask, self._zero_point(index))

    def _zero_point(self, index: int) -> Tensor:
        zero_points: Tensor = getattr(self, ZERO_POINTS)
        return zero_points[index]

    def _smooth(self, x: Tensor, index: int) -> Tensor:
        if not self._sites[index].smoothing:
            return x
        factors: Tensor = getattr(self, smoothing_name(index))
        return x * factors.to(x.dtype)


def _by_site(scales: Tensor) -> Sequence[Tensor] | Tensor:
    # the gradient of Unbind is one Stack; gradients of indices would be added up one by one
    return scales.unbind() if scales.requires_grad else scales


def smoothing_name(site: int) -> str:
    """Return the name under which a site's smoothing, what its activation is multiplied by, stands in every program."""
    return f"smoothing_{site}"


def site_inputs(sites: Sequence[Site]) -> dict[str, Tensor]:
    """Return what was decided of the sites' grids, as a program takes it.

    Args:
        sites: Where activations are quantized.

    Returns:
        :func:`smoothing_name` → what an activation is multiplied by, powers of 1/2, float32 ``(features,)``, of
        smoothed sites only; ``zero_points``, float32 ``(n_sites,)``, if there are sites.
    """
    smoothing = {smoothing_name(index): 1.0 / site.factors() for index, site in enumerate(sites) if site.smoothing}
    zero_points = torch.tensor([float(site.zero_point) for site in sites])
    return smoothing | ({ZERO_POINTS: zero_points} if sites else {})


def largest_of_tokens(x: Tensor, mask: Tensor, zero_point: Tensor) -> Tensor:
    """Return the range that real tokens need; ``max |x|`` where the zero point is 0.

    Args:
        x: ``(batch, seq, features)``, or ``(batch, features)`` with one row a text and no padding.
        mask: Int64 ``(batch, seq)``, 1 on tokens, 0 on padding.
        zero_point: Float32 scalar.

    Returns:
        Float32 scalar, real units; see :func:`~q8bert.training.quantization.zero_points.covering_amax`.
    """
    # reads x twice; abs() would write a copy
    largest = covering_amax(x.amin(dim=-1).float(), x.amax(dim=-1).float(), zero_point)
    if x.dim() == 3:
        largest = torch.where(mask.bool(), largest, 0.0)  # ranges are >= 0, so a padded 0 never wins
    return largest.max()
