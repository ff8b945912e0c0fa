"""A Hugging Face classifier whose activations are quantized where a Linear reads them.

The model itself is not rewritten: for the length of one forward pass, hooks on its Linear layers
replace their input by the quantized one and note its largest absolute value, both after smoothing. Ranges go in as an
argument and observations come out as a result; nothing is remembered between passes. How a tensor
is quantized is given from outside, because three programs run through here: torch training
(straight-through), the ONNX training graph (``com.microsoft::FakeQuant``) and the exported graph
(``QuantizeLinear`` → ``DequantizeLinear``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from q8bert.training.quantization.fake_quantize import scale_from_amax
from q8bert.training.quantization.sites import Site

__all__ = ["ActivationQuantizer", "QuantizedModel", "classification_loss", "smoothing_inputs", "smoothing_name"]


class ActivationQuantizer(Protocol):
    """Quantizes the activation of one site: ``(x, scale, index of the site) → x on the int8 grid``."""

    def __call__(self, x: Tensor, scale: Tensor, site: int, /) -> Tensor:
        """Return ``x`` on its int8 grid, in real units."""
        ...


class QuantizedModel(nn.Module):
    """Runs a classifier with quantized activations and observes them.

    Args:
        model: Hugging Face sequence classifier with eager attention.
        sites: Where activations are quantized; empty for a float model.
        quantize: How; see :class:`ActivationQuantizer`.

    Weights of Linear layers that read a smoothed activation must be smoothed too
    (:class:`~q8bert.training.quantization.weights.TrainableWeights`).
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], quantize: ActivationQuantizer) -> None:
        super().__init__()
        self.model = model
        self._sites = tuple(sites)
        self._quantize = quantize
        for name, factors in smoothing_inputs(sites).items():
            self.register_buffer(name, factors.to(next(model.parameters()).device))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        amax: Tensor | None = None,
        *,
        observe: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Compute logits, and what the activations' ranges were.

        Args:
            input_ids: Int64 ``(batch, seq)``.
            attention_mask: Int64 ``(batch, seq)``, 1 on tokens, 0 on padding.
            token_type_ids: Int64 ``(batch, seq)``, or None for a model without them.
            amax: Float32 ``(n_sites,)``, range of each site; None leaves activations float.
            observe: Whether to note each site's largest absolute value, padding left out.

        Returns:
            Logits ``(batch, n_outputs)`` and observations ``(n_sites,)``; the latter are empty when not asked for.
        """
        observations: list[Tensor] = []
        # An additive float mask that broadcasts over heads and queries. Handed a two-dimensional mask, the
        # model would build this itself, with twenty more nodes of shape arithmetic in the exported graph.
        dtype = next(self.model.parameters()).dtype
        hidden = (1.0 - attention_mask.to(dtype)) * torch.finfo(dtype).min
        additive_mask = hidden.unsqueeze(1).unsqueeze(2)  # (batch, 1, 1, seq)
        kwargs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": additive_mask}
        if token_type_ids is not None:
            kwargs["token_type_ids"] = token_type_ids
        noted = observations if observe else None
        scales = None if amax is None else scale_from_amax(amax)
        with self._hooks(scales, attention_mask, noted):
            logits = self.model(**kwargs).logits
        return logits, torch.stack(observations) if observations else torch.zeros(0)

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
                    observations.append(_largest(x, mask))
                shared.append(x if scales is None else self._quantize(x, scales[index], index))
            return (shared[0],)

        return quantize_input

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


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of a batch: cross-entropy, or squared error for one output.

    Args:
        logits: Float32 ``(batch, n_outputs)``.
        labels: Int64 label ids ``(batch,)``, or float32 scores ``(batch,)`` for one output.

    Returns:
        Float32 scalar.
    """
    if labels.is_floating_point():
        return nn.functional.mse_loss(logits[:, 0], labels)
    return nn.functional.cross_entropy(logits, labels)


def _largest(x: Tensor, mask: Tensor) -> Tensor:
    """Return max |x| over real tokens; a two-dimensional x has one row a text and no padding."""
    x = x.detach()
    largest = torch.maximum(x.amax(dim=-1), -x.amin(dim=-1))  # reads x twice; abs() would write a copy besides
    if x.dim() == 3:
        largest = torch.where(mask.bool(), largest, 0.0)  # magnitudes are >= 0, so a padded 0 never wins
    return largest.max()
