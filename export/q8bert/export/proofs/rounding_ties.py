"""Take another model's side where an activation lies between two codes, and note how near to the border it lay."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from q8bert.spec.quant import ACTIVATION_QMAX, ACTIVATION_QMIN
from q8bert.training.quantization.fake_quantize import fake_quantize

__all__ = ["RowTies", "TieResolver"]


@dataclass
class RowTies:
    """Codes of one row, padding left out, that fell to the other side of a tie.

    Attributes:
        count: How many.
        first_site: Number of the first site that has one; all that differs later may follow from it.
        first_distance: How far from the border between two codes it lay, in codes.
    """

    count: int = 0
    first_site: int | None = None
    first_distance: float = 0.0


class TieResolver:
    """Quantizes as the exported model did, and notes where that is another code than its own.

    Attributes:
        rows: What was found in each row of the batch at hand.
        n_codes: Codes taken over, of all batches.
        n_ties: Codes among them that are not what plain rounding gives.
        max_tie_distance: Farthest from the border between two codes that one of these lay, in codes; half a code and
            more is no tie. Infinite where an activation is not a number.
    """

    def __init__(self) -> None:
        self.codes: list[Tensor] = []
        self.rows: list[RowTies] = []
        self._mask = torch.zeros(0, 0, dtype=torch.bool)
        self.n_codes = self.n_ties = 0
        self.max_tie_distance = 0.0

    def start_batch(self, codes: list[Tensor], attention_mask: Tensor) -> None:
        """Take the exported model's codes of a batch.

        Args:
            codes: One float32 tensor a site, ``(batch, seq, features)`` or ``(batch, features)``, −128…127; or
                ``(batch, 1, features)``, where the model computes the first token's row alone.
            attention_mask: Int64 ``(batch, seq)``, 1 on tokens, 0 on padding.
        """
        self.codes, self.rows = codes, [RowTies() for _ in range(len(attention_mask))]
        self._mask = attention_mask.bool()

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
        """Return what the exported model's codes of a site stand for, in place of ``x`` rounded by plain rules.

        Args:
            x: Float32 activations of the shape of the site's codes, real units.
            scale: Float32 scalar, real units per step.
            zero_point: Float32 scalar, code of 0.
            site: Number of the site.

        Returns:
            Float32 of the shape of ``x``, real units.
        """
        n_tokens = self.codes[site].shape[1]
        if x.dim() == 3 and n_tokens < x.shape[1]:
            # nothing reads the other rows
            others = fake_quantize(x[:, n_tokens:], scale, zero_point)
            return torch.cat([self._resolved(x[:, :n_tokens], scale, zero_point, site), others], dim=1)
        return self._resolved(x, scale, zero_point, site)

    def _resolved(self, x: Tensor, scale: Tensor, zero_point: Tensor, site: int) -> Tensor:
        steps, theirs = x / scale, self.codes[site] - zero_point
        other = torch.round(steps).clamp(ACTIVATION_QMIN - zero_point, ACTIVATION_QMAX - zero_point) != theirs
        self.n_codes += theirs.numel()
        if bool(other.any()):
            distances = torch.where(other, (steps - theirs).abs() - 0.5, 0.0).nan_to_num(nan=math.inf)
            self.max_tie_distance = max(self.max_tie_distance, float(distances.max()))
            self.n_ties += int(other.sum())
            if x.dim() == 3:  # nothing reads padding, so no answer follows from it
                other = other & self._mask[:, : x.shape[1], None]
                distances = torch.where(other, distances, 0.0)
            counts = other.flatten(1).sum(dim=1)
            for row in torch.nonzero(counts).flatten().tolist():
                ties = self.rows[row]
                ties.count += int(counts[row])
                if ties.first_site is None:
                    ties.first_site, ties.first_distance = site, float(distances[row].max())
        return theirs * scale
