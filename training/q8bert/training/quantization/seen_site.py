"""What calibration sees of an activation: the extremes of each channel, and a sample of its rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from q8bert.training.quantization.sites import Site

__all__ = ["RowSample", "SeenSite", "visit_rows"]


@dataclass(frozen=True)
class SeenSite:
    """One activation of a float model, padding left out, before it is smoothed.

    Attributes:
        lowest: Least value of each channel in each observation, or 0 if that is less; float32
            ``(n_observations, features)``, real units, on the CPU.
        highest: Greatest value, or 0 if that is greater; likewise.
        rows: Some rows of all observations, float32 ``(n_rows, features)``, on the model's device.
    """

    lowest: Tensor
    highest: Tensor
    rows: Tensor


class RowSample:
    """Keeps rows evenly over all that come, however many: every first, second, fourth, … of them.

    Args:
        limit: Most rows that are kept; once there were as many, at least half of it are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride = 1
        self._n_seen = 0
        self._kept: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Take some of ``(n, features)``."""
        first = -self._n_seen % self._stride
        self._n_seen += len(rows)
        self._kept.append(rows[first :: self._stride].clone())  # a view would keep all of them
        while sum(map(len, self._kept)) > self._limit:
            self._kept = [torch.cat(self._kept)[::2].clone()]
            self._stride *= 2

    def rows(self) -> Tensor:
        """Return what was kept, ``(n_rows, features)``."""
        return torch.cat(self._kept)


def visit_rows(
    model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Tensor], visit: Callable[[int, Tensor], None]
) -> None:
    """Run a float model and show the rows of each site, padding left out, before it is smoothed.

    Args:
        model: Float classifier in evaluation mode.
        sites: Where to look.
        inputs: Int64 ``(batch, seq)`` by name; ``attention_mask`` among them.
        visit: Called with the number of a site and its rows, ``(n_rows, features)``.
    """
    mask = inputs["attention_mask"].bool()

    def hook(index: int, site: Site) -> torch.utils.hooks.RemovableHandle:
        def show(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if x.dim() == 3:  # a two-dimensional one has one row a text and no padding
                x = x[:, 0] if site.first_token_only else x[mask]
            visit(index, x)

        return model.get_submodule(site.linears[0]).register_forward_pre_hook(show)

    handles = [hook(index, site) for index, site in enumerate(sites)]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
