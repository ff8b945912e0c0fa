"""Text → ids, the same code and the same file in training and in serving.

A thin face over the ``tokenizers`` library: the file ``tokenizer.json`` says how text becomes
tokens and where the special tokens go; the maximum length and longest-first truncation are set
here. Padding is left to :mod:`q8bert.text.batching`, which knows the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from q8bert.spec.errors import InputError

__all__ = ["Encoded", "TextTokenizer"]


@dataclass(frozen=True)
class Encoded:
    """Token ids of some rows, unpadded.

    Attributes:
        input_ids: One int64 array a row, special tokens included.
        token_type_ids: Same shapes; 0 for the first text, 1 for the second where the model tells them apart.
        truncated: Numbers of the rows that were longer than the maximum length and lost tokens.
    """

    input_ids: tuple[NDArray[np.int64], ...]
    token_type_ids: tuple[NDArray[np.int64], ...]
    truncated: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens a row, shape ``(n,)``."""
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)

    def select(self, rows: Sequence[int]) -> "Encoded":
        """Return some of the rows, in the order given and numbered anew."""
        return Encoded(
            tuple(self.input_ids[row] for row in rows),
            tuple(self.token_type_ids[row] for row in rows),
            frozenset(at for at, row in enumerate(rows) if row in self.truncated),
        )


class TextTokenizer:
    """Encodes texts or pairs of texts up to a maximum length; several threads may use one."""

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path, *, max_length: int) -> "TextTokenizer":
        """Read a ``tokenizer.json``.

        Args:
            path: The file.
            max_length: Longest row in tokens, special tokens included; longer ones lose tokens from the
                end of their longer text.

        Returns:
            The tokenizer.

        Raises:
            InputError: If the file is missing or is not a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise InputError(f"{path} is not a readable tokenizer: {error}") from error
        return cls(tokenizer, max_length=max_length)

    @property
    def vocabulary_size(self) -> int:
        """Tokens in the vocabulary, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Encoded:
        """Encode rows, in order.

        Args:
            texts: First or only texts, length n.
            text_pairs: Second texts, length n, or None.

        Returns:
            Ids of n rows, and which of them lost tokens.

        Raises:
            InputError: If the two lengths differ.
        """
        if text_pairs is None:
            encodings = self._tokenizer.encode_batch(list(texts))
        elif len(texts) != len(text_pairs):
            raise InputError(f"{len(texts)} texts and {len(text_pairs)} second texts do not pair up")
        else:
            encodings = self._tokenizer.encode_batch(list(zip(texts, text_pairs, strict=True)))
        return Encoded(
            tuple(np.array(encoding.ids, dtype=np.int64) for encoding in encodings),
            tuple(np.array(encoding.type_ids, dtype=np.int64) for encoding in encodings),
            frozenset(row for row, encoding in enumerate(encodings) if encoding.overflowing),
        )
