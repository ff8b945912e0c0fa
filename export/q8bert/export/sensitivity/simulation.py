"""A model with some of its parts on their int8 grids and the rest in float, computed by torch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.training.engines.torch_engine import quantize_activation
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site

__all__ = ["PartlyQuantized", "simulate"]


@dataclass(frozen=True)
class PartlyQuantized:
    """Which parts of a model are on their grids.

    Attributes:
        activations: Names of sites.
        weights: Names of Linear and Embedding layers.
        keep_float: Layers that read their input in float too, whatever else reads it in int8.
    """

    activations: frozenset[str]
    weights: frozenset[str]
    keep_float: frozenset[str] = frozenset()

    @classmethod
    def whole(cls, model: ModelToExport, *, keep_float: Collection[str] = ()) -> "PartlyQuantized":
        """Return the model with all that it quantizes, as ``keep_float`` would leave it."""
        layers = {name.removesuffix(".weight") for name in model.weights.quantized} - set(keep_float)
        return cls(frozenset(site.name for site in model.sites), frozenset(layers), frozenset(keep_float))


def simulate(
    model: ModelToExport,
    parts: PartlyQuantized,
    rows: EncodedRows,
    *,
    batch_size: int,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> NDArray[np.float32]:
    """Compute the logits of a partly quantized model.

    Args:
        model: With its grids.
        parts: Which of them are used.
        rows: What it is run on.
        batch_size: Rows a batch.
        show_progress: Called with rows done and rows in all.

    Returns:
        Float32 ``(n, n_outputs)``, in the user's units.
    """
    sites = _read_by_others(model.sites, parts.keep_float)
    amax = _ranges(model, sites)

    def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
        return quantize_activation(x, scale, zero_point, site) if sites[site].name in parts.activations else x

    network = QuantizedModel(model.source.model, sites, quantize).eval()
    weights = {f"model.{name}": tensor for name, tensor in _weights(model, parts).items()}
    n_done = 0
    logits = np.zeros((len(rows), model.task.head.n_outputs), dtype=np.float32)
    with torch.no_grad():
        for numbers, inputs in rows.batches(batch_size):
            outputs, _ = functional_call(network, weights, (inputs, amax))
            logits[numbers] = model.target_scale.restore(outputs["logits"]).numpy()
            n_done += len(numbers)
            show_progress(n_done, len(rows))
    return logits


def _read_by_others(sites: tuple[Site, ...], keep_float: Collection[str]) -> tuple[Site, ...]:
    """Return the sites without the readers that stay float; what nobody else reads is no site."""
    left = (replace(site, linears=tuple(name for name in site.linears if name not in keep_float)) for site in sites)
    return tuple(site for site in left if site.linears)


def _ranges(model: ModelToExport, sites: tuple[Site, ...]) -> Tensor | None:
    if model.amax is None:
        return None
    by_name = dict(zip((site.name for site in model.sites), model.amax, strict=True))
    return torch.stack([by_name[site.name] for site in sites]) if sites else None


def _weights(model: ModelToExport, parts: PartlyQuantized) -> dict[str, Tensor]:
    """Return what the forward pass reads: a smoothed activation's readers have smoothed weights, in float too."""
    weights = model.weights
    chosen = {}
    for name, master in weights.masters.items():
        layer = name.removesuffix(".weight")
        if layer in parts.keep_float or name not in weights.quantized:
            chosen[name] = master.detach()
        else:
            chosen[name] = weights.effective[name] if layer in parts.weights else weights.smoothed(name)
    return chosen
