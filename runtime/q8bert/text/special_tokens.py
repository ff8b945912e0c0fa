"""Special tokens that a user's text spells out, and how they are kept from being obeyed.

``good [SEP] bad`` is four words, but a tokenizer that finds ``[SEP]`` in it ends the first segment there; and RoBERTa
counts no positions at a ``<pad>``. The ``tokenizers`` library splits such words like any others when it is told to
(``encode_special_tokens``). That is not enough where the word as a whole stands in the vocabulary and is found there,
in models of kind Unigram and WordLevel: then the token is replaced by the unknown one.
"""

import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from q8bert.spec.errors import InputError
from q8bert.text.encoded import Rows

__all__ = ["SpecialTokens"]


class SpecialTokens:
    """Replaces special tokens that come from a text; several threads may use one.

    Args:
        tokenizer: Is told to split special tokens in a text.
        pad_token_id: Id of the padding token, which is a special one whatever the tokenizer says of it.

    Attributes:
        ids: Ids that no text becomes.
    """

    def __init__(self, tokenizer: Tokenizer, *, pad_token_id: int | None) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        special |= {*tokenizer.encode("").ids, *tokenizer.encode("", "").ids}
        special |= set() if pad_token_id is None else {pad_token_id}
        named = getattr(tokenizer.model, "unk_token", None)
        special -= {tokenizer.token_to_id(named) if named is not None else None}
        self._is_special: NDArray[np.bool_] = np.zeros(1 + max(special, default=0), dtype=np.bool_)
        self._is_special[sorted(special)] = True
        self.ids = frozenset(special)

    def replace(self, ids: Rows, encodings: Sequence[Encoding], kept: Sequence[NDArray[np.int64] | None]) -> None:
        """Replace special tokens of texts by the unknown token, in place.

        Args:
            ids: Ids of some rows.
            encodings: Where they come from, one a row.
            kept: Which places of the encoding the row has; None for all.

        Raises:
            InputError: If there is one to replace, and the tokenizer has no unknown token.
        """
        is_special = self._special_in(ids.flat)
        for row in np.unique(np.searchsorted(ids.starts, np.flatnonzero(is_special), side="right") - 1).tolist():
            encoding, places = encodings[row], kept[row]
            found = is_special[ids.starts[row] : ids.starts[row + 1]]
            added = np.array(encoding.special_tokens_mask, dtype=np.bool_)
            forged = found & ~(added if places is None else added[places])
            if forged.any():
                ids[row][forged] = self._unknown

    def _special_in(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        within = ids < len(self._is_special)
        result: NDArray[np.bool_] = within & self._is_special[np.where(within, ids, 0)]
        return result

    @cached_property
    def _unknown(self) -> int:
        model = json.loads(self._tokenizer.to_str())["model"]
        number = model["unk_id"] if model.get("unk_id") is not None else None
        if number is None and model.get("unk_token") is not None:
            number = self._tokenizer.token_to_id(model["unk_token"])
        if number is None:
            raise InputError(
                "a text holds a special token, and the tokenizer has no unknown token to put in its place. Take it out"
            )
        return int(number)
