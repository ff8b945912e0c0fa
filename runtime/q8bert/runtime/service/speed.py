"""How fast the model is here: the time of a batch as a line over its tokens, from the batches of late.

A batch costs something however small it is, and something for each token, so tokens a second of a lone row say little
of those of a full batch. The line is the least-squares one of all batches, each older one weighing a tenth less; where
all had the same size it is flat, which is too fast for larger ones until the first of them is measured.
"""

from dataclasses import dataclass

__all__ = ["BatchSpeed"]

_WEIGHT = 0.1


@dataclass
class BatchSpeed:
    """The line; made of weighted means of tokens, seconds, and their products."""

    _n_batches: int = 0
    _tokens: float = 0.0
    _seconds: float = 0.0
    _square: float = 0.0
    _product: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a batch has been measured."""
        return self._n_batches > 0

    def add(self, tokens: int, seconds: float) -> None:
        """Take in one batch: its tokens and how long the model ran."""
        self._n_batches += 1
        weight = max(_WEIGHT, 1 / self._n_batches)
        self._tokens += weight * (tokens - self._tokens)
        self._seconds += weight * (seconds - self._seconds)
        self._square += weight * (tokens * tokens - self._square)
        self._product += weight * (tokens * seconds - self._product)

    def seconds(self, tokens: float, *, n_batches: float = 1.0) -> float:
        """Return how long one worker takes for some tokens in so many batches; 0 before anything was measured."""
        variance = self._square - self._tokens**2
        covariance = self._product - self._tokens * self._seconds
        # rounding leaves a variance of some 1e-16 of the square where there is none
        a_token = max(0.0, covariance / variance) if variance > 1e-9 * self._square else 0.0
        a_token = min(a_token, self._seconds / self._tokens if self._tokens else 0.0)
        return n_batches * (self._seconds - a_token * self._tokens) + a_token * tokens
