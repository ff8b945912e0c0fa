"""The rows that a bundle is timed on: those of a file, or rows of given lengths made of words of its vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import text_columns
from q8bert.data.readers import read_file
from q8bert.runtime.predict.parts import task_and_tokenizer
from q8bert.spec.bundle.bundle import TOKENIZER_FILE, load_bundle
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task
from q8bert.text.tokenizer import TextTokenizer

__all__ = ["TimedRows", "rows_of_bundle"]

_WORDS_TRIED = 4000  # of a vocabulary; some hundred that are one token each are enough
_ROWS_OF_A_LENGTH = 64


@dataclass(frozen=True)
class TimedRows:
    """Rows, shortest first.

    Attributes:
        texts: First or only texts.
        pairs: Second texts; None where the task has none.
        lengths: Tokens of each row, int64 ``(n,)``.
        source: Where they are from, in words.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    lengths: NDArray[np.int64]
    source: str

    def batches(self, batch_size: int, n_batches: int) -> list[tuple[list[str], list[str] | None]]:
        """Return batches of rows of like length, spread over all lengths as the rows are.

        Args:
            batch_size: Rows a batch.
            n_batches: How many.

        Returns:
            First texts and second texts of each batch, shortest first.
        """
        n_rows = len(self.texts)
        found = []
        for number in range(n_batches):
            start = round((number + 0.5) / n_batches * n_rows - batch_size / 2)
            # few rows are taken again and again
            chosen = [min(max(start, 0), max(n_rows - batch_size, 0)) + at for at in range(batch_size)]
            rows = [row % n_rows for row in chosen]
            pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
            found.append(([self.texts[row] for row in rows], pairs))
        return found


def rows_of_bundle(
    bundle: Path,
    *,
    data: Path | None,
    format: str | None,  # noqa: A002 - as on the command line
    lengths: Sequence[int],
    seed: int,
) -> TimedRows:
    """Return rows that fit a bundle.

    Args:
        bundle: The bundle's folder.
        data: A file of rows; None to make some.
        format: How it is written; see :func:`q8bert.data.readers.read_file`.
        lengths: Tokens of the rows that are made; none for a quarter, half and all of the bundle's maximum length.
        seed: Of the words that are drawn.

    Returns:
        The rows.

    Raises:
        BundleError: If the bundle is incomplete or altered.
        InputError: If the file cannot be read or has no rows, or a length cannot be made.
    """
    opened, contents = load_bundle(bundle)
    task, tokenizer = task_and_tokenizer(opened, contents[TOKENIZER_FILE].decode("utf-8", "replace"), threads=1)
    if data is None:
        longest = opened.manifest.max_length
        wanted = lengths or sorted({max(1, longest // 4), max(1, longest // 2), longest})
        if too_long := [length for length in wanted if length > longest]:
            raise InputError(f"rows of {max(too_long)} tokens were asked for, the bundle takes {longest} at most")
        return _made(task, tokenizer, wanted, seed=seed)
    split = read_file(task, data, labelled=False, format=format)
    if not split.examples:
        raise InputError(f"{data} has no rows to time")
    texts, pairs = text_columns(split.examples)
    return _sorted(texts, pairs, tokenizer, source=str(data))


def _made(task: Task, tokenizer: TextTokenizer, lengths: Sequence[int], *, seed: int) -> TimedRows:
    has_pairs = task.data.has_pairs
    rng = np.random.default_rng(seed)
    words = _words(tokenizer, rng)
    n_special = int(tokenizer.encode([""], [""] if has_pairs else None).lengths[0])
    first: list[str] = []
    second: list[str] = []
    for length in lengths:
        n_words = length - n_special
        if n_words < 1 + has_pairs:
            raise InputError(
                f"rows of {length} tokens leave no room for text: {n_special} are special tokens. Take at least "
                f"{n_special + 1 + has_pairs}"
            )
        for drawn in rng.choice(words, (_ROWS_OF_A_LENGTH, n_words)):
            n_first = n_words - n_words // 2 if has_pairs else n_words
            first.append(" ".join(drawn[:n_first]))
            second.append(" ".join(drawn[n_first:]))
    about = f"rows of {', '.join(map(str, lengths))} tokens, made of {len(words)} words of the vocabulary"
    return _sorted(first, second if has_pairs else None, tokenizer, source=about)


def _words(tokenizer: TextTokenizer, rng: np.random.Generator) -> NDArray[np.str_]:
    """Return words that are one token each, wherever they stand."""
    # marks of SentencePiece and of byte-level tokens for a space before the word
    known = sorted({word for token in tokenizer.tokens() if (word := token.lstrip("▁Ġ")).isalpha()})
    if not known:
        raise InputError("the bundle's vocabulary has no words to make rows of. Give a file of rows: --data")
    drawn = rng.permutation(np.array(known))[:_WORDS_TRIED]
    twice = tokenizer.encode([f"{word} {word}" for word in drawn]).lengths
    whole = drawn[twice == twice.min()]
    found: NDArray[np.str_] = whole
    return found


def _sorted(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: TextTokenizer, *, source: str) -> TimedRows:
    lengths = tokenizer.encode(texts, pairs).lengths
    order = np.argsort(lengths, kind="stable").tolist()
    return TimedRows(
        texts=tuple(texts[row] for row in order),
        pairs=None if pairs is None else tuple(pairs[row] for row in order),
        lengths=lengths[order],
        source=source,
    )
