"""Rows that come as token ids → rows as the tokenizer would have made them: checked, and cut where too long."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from q8bert.spec.errors import InputError
from q8bert.text.layout import LayoutError, RowLayout
from q8bert.text.truncation import longest_first

__all__ = ["GivenRows"]


@dataclass(frozen=True)
class GivenRows:
    """What a tokenizer takes rows of token ids for.

    Attributes:
        layout: Where it puts special tokens.
        n_ids: Ids that it knows: 0 to ``n_ids`` − 1.
        max_length: Longest row in tokens, special tokens included.
        direction: At which end a text is cut, ``right`` or ``left``.
    """

    layout: RowLayout
    n_ids: int
    max_length: int
    direction: str

    def __post_init__(self) -> None:
        """Check that there is room for text."""
        if self.layout.n_special >= self.max_length:
            raise InputError(
                f"a maximum length of {self.max_length} leaves no room for text: the tokenizer adds "
                f"{self.layout.n_special} special tokens. Take at least {self.layout.n_special + 1}"
            )

    def taken(
        self, ids: NDArray[np.int32], types: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], bool]:
        """Check a row, and cut it by the rule that texts are cut by.

        Args:
            ids: Ids, ``(n,)``, none negative, special tokens included.
            types: Token types, ``(n,)``.

        Returns:
            Ids and token types of the row, and whether it lost tokens. Types are those that the tokenizer gives, which
            may tell no texts apart.

        Raises:
            LayoutError: If an id is beyond the vocabulary, or special tokens stand where the tokenizer puts none.
        """
        if (largest := int(ids.max(initial=0))) >= self.n_ids:
            raise LayoutError(f"id {largest} is beyond the vocabulary, which ends at {self.n_ids - 1}")
        lengths = self.layout.lengths(ids, types)
        if len(ids) <= self.max_length:
            return ids, self.layout.token_types(*lengths), False
        kept = longest_first(*lengths, self.max_length - self.layout.n_special)
        before, between, after = (len(part) for part in (self.layout.before, self.layout.between, self.layout.after))
        second = before + lengths[0] + between
        places = [
            np.arange(before), self._kept(before, lengths[0], kept[0]), np.arange(second - between, second),
            self._kept(second, lengths[1], kept[1]), np.arange(len(ids) - after, len(ids)),
        ]  # fmt: skip
        return ids[np.concatenate(places)], self.layout.token_types(*kept), True

    def _kept(self, start: int, length: int, kept: int) -> NDArray[np.int64]:
        first = start + length - kept if self.direction == "left" else start
        return np.arange(first, first + kept)
