"""Where a tokenizer puts special tokens around and between the texts of a row.

Rows that come as token ids are held to it: what was made with another vocabulary, or in another form, is seen by its
special tokens before anything is learned from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from q8bert.spec.errors import InputError

__all__ = ["LayoutError", "RowLayout"]

# texts of which at least one becomes a token, whatever the vocabulary
_PROBES = ("a", "1", ".", "the", "日")


class LayoutError(Exception):
    """A row that has not the form that the tokenizer gives, before it is known which row it is."""


@dataclass(frozen=True)
class RowLayout:
    """The form of a row.

    Attributes:
        before: Special tokens before the first text.
        between: Special tokens between two texts; none in a row of one.
        after: Special tokens behind the last text.
        types: Token types of the parts in their order: ``before``, first text, ``between``, second text, ``after``.
        is_pair: Whether there are two texts.
        special: Ids that no text may hold; None where texts may spell special tokens out.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], ...]
    is_pair: bool
    special: frozenset[int] | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, is_pair: bool, special: frozenset[int] | None) -> "RowLayout":
        """Read the form off a row that a tokenizer makes.

        Args:
            tokenizer: It neither pads nor truncates.
            is_pair: Whether rows have two texts.
            special: See :class:`RowLayout`.

        Returns:
            The form.

        Raises:
            InputError: If it puts texts in another order, or more than once.
        """
        encoding = next(
            (found for text in _PROBES if _has_texts(found := _encode(tokenizer, text, is_pair=is_pair))), None
        )
        if encoding is None:
            raise InputError("the tokenizer makes no tokens of a text, so rows of token ids cannot be held against it")
        ids, types, texts = encoding.ids, encoding.type_ids, encoding.sequence_ids
        places = [[at for at, text in enumerate(texts) if text == number] for number in range(1 + is_pair)]
        bounds = [(found[0], found[-1] + 1) for found in places]
        if any(stop - start != len(found) for (start, stop), found in zip(bounds, places, strict=True)) or (
            is_pair and bounds[0][1] > bounds[1][0]
        ):
            raise InputError("the tokenizer mixes the texts of a row, so rows of token ids cannot be held against it")
        (start, stop), (second, end) = bounds[0], bounds[-1]
        if not is_pair:
            second = end
        parts = [slice(0, start), slice(start, start + 1), slice(stop, second), slice(second, second + is_pair)]
        parts.append(slice(end, len(ids)))
        return cls(
            before=tuple(ids[:start]),
            between=tuple(ids[stop:second]),
            after=tuple(ids[end:]),
            types=tuple(tuple(types[part]) for part in parts),
            is_pair=is_pair,
            special=special,
        )

    @property
    def n_special(self) -> int:
        """Special tokens of a row."""
        return len(self.before) + len(self.between) + len(self.after)

    def lengths(self, ids: NDArray[np.int32], types: NDArray[np.int32]) -> tuple[int, int]:
        """Take a row apart.

        Args:
            ids: Ids of the row, ``(n,)``.
            types: Its token types, ``(n,)``.

        Returns:
            Tokens of the first text and of the second, 0 where there is none.

        Raises:
            LayoutError: If the row has another form; it says which.
        """
        _check_end("begin", self.before, ids[: len(self.before)])
        _check_end("end", self.after, ids[len(ids) - len(self.after) :])
        if len(ids) < self.n_special:
            raise LayoutError(f"the row has {len(ids)} tokens, and the tokenizer adds {self.n_special} special ones")
        texts = ids[len(self.before) : len(ids) - len(self.after)]
        first = self._first(texts, types[len(self.before) : len(ids) - len(self.after)])
        lengths = first, len(texts) - first - len(self.between)
        expected = self.token_types(*lengths)
        if any(any(part) for part in self.types) and not np.array_equal(types, expected):
            at = int(np.flatnonzero(types != expected)[0])
            raise LayoutError(f"the token type at place {at} is {types[at]}, where the tokenizer gives {expected[at]}")
        return lengths

    def token_types(self, n_first: int, n_second: int) -> NDArray[np.int32]:
        """Return the token types of a row whose texts have so many tokens."""
        before, first, between, second, after = self.types
        parts = (before, first * n_first, between, second * n_second, after)
        return np.array([kind for part in parts for kind in part], dtype=np.int32)

    def _first(self, texts: NDArray[np.int32], types: NDArray[np.int32]) -> int:
        """Return how many tokens the first text has, and check what stands behind it."""
        found = self._special_places(texts)
        if not self.is_pair:
            if len(found):
                raise LayoutError(
                    f"a special token (id {texts[found[0]]}) stands within the text at place "
                    f"{found[0] + len(self.before)}; does the row have two texts, where the task has one?"
                )
            return len(texts)
        n_between = len(self.between)
        if self.special is None:
            return self._first_of_obeyed(texts, types)
        if not len(found):
            raise LayoutError(f"the row lacks {_named(self.between)} between two texts, which the task has")
        at = int(found[0])
        if len(found) != n_between or tuple(texts[at : at + n_between].tolist()) != self.between:
            raise LayoutError(
                f"special tokens {texts[found].tolist()[:4]} within the texts, where the tokenizer puts "
                f"{_named(self.between)} between them and no others"
            )
        return at

    def _first_of_obeyed(self, texts: NDArray[np.int32], types: NDArray[np.int32]) -> int:
        """Find the second text where texts may hold special tokens: by its types, or behind the first ``between``."""
        n_between, (_, first, _, second, _) = len(self.between), self.types
        for at in range(len(texts) - n_between + 1):
            if tuple(texts[at : at + n_between].tolist()) != self.between:
                continue
            if first == second or bool((types[at + n_between :] == second[0]).all()):
                return at
        raise LayoutError(f"the row lacks {_named(self.between)} between two texts, which the task has")

    def _special_places(self, texts: NDArray[np.int32]) -> NDArray[np.int64]:
        if self.special is None:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(np.isin(texts, list(self.special)))


def _encode(tokenizer: Tokenizer, text: str, *, is_pair: bool) -> Encoding:
    return tokenizer.encode(text, text) if is_pair else tokenizer.encode(text)


def _has_texts(encoding: Encoding) -> bool:
    texts = [text for text in encoding.sequence_ids if text is not None]
    return bool(texts) and len(set(texts)) == encoding.n_sequences


def _check_end(verb: str, wanted: Sequence[int], found: NDArray[np.int32]) -> None:
    if tuple(found.tolist()) != tuple(wanted):
        raise LayoutError(f"the row does not {verb} with {_named(wanted)} but with {found.tolist()}")


def _named(ids: Sequence[int]) -> str:
    return f"the special token{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"
