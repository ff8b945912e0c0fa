"""Which tokens of a row that is too long stay: the rule that the ``tokenizers`` library calls ``longest_first``.

The library cuts before it adds special tokens, keeps every piece that it cut off, and combines each piece of the first
text with each of the second: time and memory grow with the product of their lengths, to gigabytes for two texts of
60 kB. Here a row is tokenized whole, special tokens and all, and loses tokens afterwards. The result is the same, for
special tokens stand before, between and behind the texts, whatever these are.
"""

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from q8bert.spec.errors import InputError

__all__ = ["kept_tokens", "longest_first"]


def longest_first(n_first: int, n_second: int, room: int) -> tuple[int, int]:
    """Share the room for tokens between two texts: the longer one loses tokens until both are equally long.

    Args:
        n_first: Tokens of the first text.
        n_second: Tokens of the second text, 0 for a single text.
        room: Tokens that may stay; fewer than there are.

    Returns:
        How many stay of each. Where both are cut and the room is odd, the longer text has one more, and the second
        text where they are equally long.
    """
    swapped = n_first > n_second
    short, long = (n_second, n_first) if swapped else (n_first, n_second)
    if 2 * short <= room:
        long = room - short
    else:
        short, long = room // 2, room - room // 2
    return (long, short) if swapped else (short, long)


def kept_tokens(encoding: Encoding, *, room: int, direction: str) -> NDArray[np.int64]:
    """Choose the tokens of a row that stay.

    Args:
        encoding: The whole row, special tokens included.
        room: Tokens of the texts that may stay.
        direction: ``right`` cuts at the end of a text, ``left`` at its start.

    Returns:
        Places of the tokens that stay, in order; all special tokens are among them.

    Raises:
        InputError: If the tokenizer puts a text into the row more than once, which no rule can cut.
    """
    texts = np.array([-1 if text is None else text for text in encoding.sequence_ids])
    places = [np.flatnonzero(texts == text) for text in (0, 1)]
    special = np.flatnonzero((texts == -1) & np.array(encoding.special_tokens_mask, dtype=bool))
    if len(special) + len(places[0]) + len(places[1]) != len(texts):
        raise InputError("the tokenizer's post-processor repeats a text, so a long row cannot be truncated")
    counts = longest_first(len(places[0]), len(places[1]), room)
    kept = [
        place[len(place) - count :] if direction == "left" else place[:count]
        for place, count in zip(places, counts, strict=True)
    ]
    return np.sort(np.concatenate([special, *kept]))
