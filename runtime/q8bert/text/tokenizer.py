"""Text → ids, the same code and the same file in training and in serving.

A thin face over the ``tokenizers`` library: the file ``tokenizer.json`` says how text becomes tokens, where the special
tokens go, and at which end a long text is cut; the maximum length is given, and :mod:`q8bert.text.truncation` cuts.
Padding is left to :mod:`q8bert.text.batching`, which knows the batch.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from q8bert.spec.errors import InputError
from q8bert.spec.files import LFS_POINTER
from q8bert.text.encoded import Encoded, Rows
from q8bert.text.given_rows import GivenRows
from q8bert.text.layout import RowLayout
from q8bert.text.special_tokens import SpecialTokens
from q8bert.text.truncation import kept_tokens

__all__ = ["TextTokenizer", "parse_tokenizer", "read_tokenizer", "truncation_side"]

# What is tokenized at once. The library keeps a hundred bytes and more for a token: some megabytes for a portion, where
# all rows of a data set would take gigabytes; and it is as fast on a thousand rows as on all.
_PORTION_ROWS = 1024
_PORTION_CHARACTERS = 500_000

_Row = str | tuple[str, str]


class TextTokenizer:
    """Encodes texts or pairs of texts up to a maximum length; several threads may use one.

    Args:
        tokenizer: Is made its own: truncation and padding are switched off in it.
        max_length: Longest row in tokens, special tokens included; longer ones lose tokens of their longer text, at
            the end, or at the start where the tokenizer's truncation says ``left``.
        obey_special_tokens: Whether special tokens that a text spells out, such as ``[SEP]``, are what they say;
            otherwise they are text.
        pad_token_id: Id of the padding token, which no text then becomes.
        threads: How many texts are tokenized at once; None for one a core that this process may use.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        obey_special_tokens: bool = False,
        pad_token_id: int | None = None,
        threads: int | None = None,
    ) -> None:
        self._direction = truncation_side(tokenizer)
        self._max_length = max_length
        self._threads = threads
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._special = None if obey_special_tokens else SpecialTokens(tokenizer, pad_token_id=pad_token_id)
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path, *, max_length: int, obey_special_tokens: bool = False) -> "TextTokenizer":
        """Read a ``tokenizer.json``.

        Args:
            path: The file.
            max_length: Longest row in tokens, special tokens included.
            obey_special_tokens: Whether special tokens that a text spells out are what they say.

        Returns:
            The tokenizer.

        Raises:
            InputError: If the file is missing or is not a tokenizer.
        """
        return cls(read_tokenizer(path), max_length=max_length, obey_special_tokens=obey_special_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Tokens in the vocabulary, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def tokens(self) -> list[str]:
        """Return the tokens of the vocabulary as it spells them, without those that were added to it."""
        return list(self._tokenizer.get_vocab(with_added_tokens=False))

    def is_same_as(self, other: "TextTokenizer") -> bool:
        """Whether another one makes the same ids of every text, up to the same length."""
        mine, theirs = (
            (one._tokenizer.to_str(), one._direction, one._max_length, one._special is None) for one in (self, other)
        )
        return mine == theirs

    @property
    def largest_id(self) -> int:
        """The largest id that a text can become."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def given_rows(self, *, is_pair: bool) -> GivenRows:
        """Return what takes rows that came as token ids, as this tokenizer would have made them.

        Args:
            is_pair: Whether rows have two texts.

        Returns:
            What checks and cuts them.

        Raises:
            InputError: If the special tokens leave no room for text, or the tokenizer mixes the texts of a row.
        """
        special = None if self._special is None else self._special.ids
        layout = RowLayout.of(self._tokenizer, is_pair=is_pair, special=special)
        return GivenRows(layout, self.largest_id + 1, self._max_length, self._direction)

    def encode(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Encoded:
        """Encode rows, in order; time and memory grow with the texts and no faster.

        Args:
            texts: First or only texts, length n.
            text_pairs: Second texts, length n, or None.

        Returns:
            Ids of n rows, and which of them lost tokens.

        Raises:
            InputError: If the two lengths differ, the special tokens leave no room for text, or the tokenizer fails on
                a text.
        """
        if text_pairs is not None and len(texts) != len(text_pairs):
            raise InputError(f"{len(texts)} texts and {len(text_pairs)} second texts do not pair up")
        rows: Sequence[_Row] = texts if text_pairs is None else list(zip(texts, text_pairs, strict=True))
        room = self._room(is_pair=text_pairs is not None)
        ids: list[Rows] = []
        types: list[Rows] = []
        truncated: list[int] = []
        for start, portion in _portions(rows):
            encodings = self._encodings(portion)
            long = {at: encoding for at, encoding in enumerate(encodings) if len(encoding) > self._max_length}
            kept = {at: kept_tokens(encoding, room=room, direction=self._direction) for at, encoding in long.items()}
            ids.append(Rows.of([_kept(encoding.ids, kept.get(at)) for at, encoding in enumerate(encodings)]))
            if self._special is not None:
                self._special.replace(ids[-1], encodings, [kept.get(at) for at in range(len(encodings))])
            types.append(Rows.of([_kept(encoding.type_ids, kept.get(at)) for at, encoding in enumerate(encodings)]))
            truncated += [start + at for at in long]
        return Encoded(Rows.joined(ids), Rows.joined(types), frozenset(truncated))

    def _room(self, *, is_pair: bool) -> int:
        n_special = int(self._tokenizer.num_special_tokens_to_add(is_pair))
        if n_special >= self._max_length:
            raise InputError(
                f"a maximum length of {self._max_length} leaves no room for text: the tokenizer adds {n_special} "
                f"special tokens to {'a pair of texts' if is_pair else 'a text'}. Take at least {n_special + 1}"
            )
        return self._max_length - n_special

    def _encodings(self, rows: list[_Row]) -> list[Encoding]:
        try:
            return self._encoded_at_once(rows)
        except Exception as error:
            raise InputError(
                f"the tokenizer fails on {_first_failing(self._tokenizer, rows)!r:.80}: {error}"
            ) from error

    def _encoded_at_once(self, rows: list[_Row]) -> list[Encoding]:
        # a batch is shared out to the library's own threads, one a core; a row is not, and costs no more
        if self._threads is None:
            return self._tokenizer.encode_batch(rows)
        if self._threads == 1 or len(rows) == 1:
            return [self._tokenizer.encode_batch([row])[0] for row in rows]
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(lambda row: self._tokenizer.encode_batch([row])[0], rows))


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` as it stands.

    Args:
        path: The file.

    Returns:
        The tokenizer.

    Raises:
        InputError: If the file is missing or is not a tokenizer; the message says what it is instead.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable tokenizer: {error}. Copy or download it again") from error
    return parse_tokenizer(content, source=path)


def parse_tokenizer(content: str, *, source: Path) -> Tokenizer:
    """Make a tokenizer of the content of a ``tokenizer.json``.

    Args:
        content: The content.
        source: Where it came from, for messages.

    Returns:
        The tokenizer.

    Raises:
        InputError: If it is not a tokenizer; the message says what it is instead.
    """
    if not content.strip():
        raise InputError(f"{source} is not a readable tokenizer: it is empty. Copy or download it again")
    if content.startswith(LFS_POINTER.decode()):
        raise InputError(
            f"{source} is not a readable tokenizer: it is a Git LFS pointer, which stands for the file. "
            "Run `git lfs pull` in its folder, or download it again"
        )
    try:
        return Tokenizer.from_str(content)
    except Exception as error:
        raise InputError(f"{source} is not a readable tokenizer: {error}. {_remedy(content)}") from error


def truncation_side(tokenizer: Tokenizer) -> str:
    """Return at which end a tokenizer cuts long texts, ``right`` or ``left``; ``right`` where it does not say."""
    truncation = tokenizer.truncation or {}
    return str(truncation.get("direction", "right"))


def _remedy(content: str) -> str:
    try:
        json.loads(content)
    except ValueError:
        return "It is cut off or damaged: copy or download it again"
    return "It is JSON, but not of this form, or newer than the tokenizers library installed here"


def _portions(rows: Sequence[_Row]) -> Iterator[tuple[int, list[_Row]]]:
    """Yield rows in portions that are small in rows and in characters, each with the number of its first row."""
    start = n_characters = 0
    for row, texts in enumerate(rows):
        n_characters += len(texts) if isinstance(texts, str) else len(texts[0]) + len(texts[1])
        if row + 1 - start == _PORTION_ROWS or n_characters >= _PORTION_CHARACTERS:
            yield start, list(rows[start : row + 1])
            start, n_characters = row + 1, 0
    if start < len(rows):
        yield start, list(rows[start:])


def _kept(tokens: list[int], places: np.ndarray | None) -> list[int]:
    return tokens if places is None else [tokens[place] for place in places]


def _first_failing(tokenizer: Tokenizer, rows: list[_Row]) -> _Row:
    for row in rows:
        try:
            tokenizer.encode_batch([row])
        except Exception:  # noqa: BLE001  # whatever it was, the caller raises it
            return row
    return rows[0]
