"""Rows of any source → token ids: texts are tokenized, token ids checked against the tokenizer and cut like texts.

So whoever trains, scores or exports sees the same rows, whatever file they came from.
"""

from collections.abc import Sequence

from q8bert.data.examples import AnyExample, TokenExample, text_columns
from q8bert.spec.errors import InputError
from q8bert.text.encoded import Encoded, Rows
from q8bert.text.layout import LayoutError
from q8bert.text.tokenizer import TextTokenizer

__all__ = ["count_blank", "encode_examples"]


def encode_examples(examples: Sequence[AnyExample], tokenizer: TextTokenizer, *, source: str) -> Encoded:
    """Encode rows, in order.

    Args:
        examples: Rows of one task: all texts, or all token ids.
        tokenizer: Text → ids.
        source: Where they came from, for messages.

    Returns:
        Ids of every row, and which of them lost tokens.

    Raises:
        InputError: If the tokenizer fails on a text, or did not make a row of token ids.
    """
    tokens = [example for example in examples if isinstance(example, TokenExample)]
    if not tokens:
        return tokenizer.encode(*text_columns(examples))
    given = tokenizer.given_rows(is_pair=tokens[0].is_pair)
    ids, types, truncated = [], [], []
    for at, example in enumerate(tokens):
        try:
            row_ids, row_types, is_cut = given.taken(example.input_ids, example.token_type_ids)
        except LayoutError as error:
            raise InputError(
                f"{source}, record {example.record}, column input_ids: {error}. These are not the ids that this "
                "model's tokenizer gives to rows of the task: take the tokenizer that the file was made with "
                "(--tokenizer of `q8bert train`), or write the file anew"
            ) from error
        ids.append(row_ids)
        types.append(row_types)
        if is_cut:
            truncated.append(at)
    return Encoded(Rows.of(ids), Rows.of(types), frozenset(truncated))


def count_blank(examples: Sequence[AnyExample], tokenizer: TextTokenizer) -> int:
    """Count the rows with a text that holds nothing, or nothing but white space.

    Args:
        examples: Rows of one task: all texts, or all token ids that :func:`encode_examples` takes.
        tokenizer: Text → ids.

    Returns:
        How many they are.
    """
    tokens = [example for example in examples if isinstance(example, TokenExample)]
    if not tokens:
        texts, pairs = text_columns(examples)
        return sum(not text.strip() or not pair.strip() for text, pair in zip(texts, pairs or texts, strict=True))
    layout = tokenizer.given_rows(is_pair=tokens[0].is_pair).layout
    n_texts = 2 if layout.is_pair else 1
    return sum(0 in layout.lengths(example.input_ids, example.token_type_ids)[:n_texts] for example in tokens)
