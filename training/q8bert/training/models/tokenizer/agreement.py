"""Whether ``tokenizer.json`` and what transformers makes of ``tokenizer_config.json`` are the same tokenizer.

transformers builds many tokenizers anew: it takes the vocabulary out of ``tokenizer.json``, and normalizer,
pre-tokenizer and special tokens from the class that ``tokenizer_config.json`` names. Where the two differ, nobody can
tell from the files which of them the weights were trained with, so the user has to say.

What is not compared cannot matter here: truncation and padding, which q8bert does itself, token types that the model's
class does not read, and how special tokens that stand in a text swallow the spaces beside them.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from q8bert.spec.errors import ModelError
from q8bert.training.models.border import quiet_transformers
from q8bert.training.models.tokenizer.files import transformers_tokenizer

__all__ = ["PROBES", "first_difference", "probe_texts", "refuse_disagreement", "stated_tokenizer"]

# capitals, accents, letters that change when they are normalized, scripts with and without spaces, numbers,
# punctuation, emoji, white space of all kinds, control characters, a long word, a long text, none
PROBES = (
    "", " ", "The quick brown fox jumps over the lazy dog.", "HELLO World iPhone NASA",
    "naïve café Straße Ünïcödé ÉÀÇ", "cafe\u0301 \ufb01ne \u00bd \u2460 \uff21\uff22 \u0130stanbul \u01c5",
    "Ελληνικά Привет мир Ёлка", "日本語の文 中文字符 한국어", "हिन्दी ไทย العربية עברית",
    "1234567890 3.14 1,000 007 50% x2", "a-b c_d e.f g/h user@example.com #tag $9.99 (x) [y]",
    "“quoted” … — ¿qué? don't won't it's", "🤖 👩‍👩‍👧 ❤️",
    " two  spaces\ttab\nline\r\n\u00a0nbsp\u200bzero\u3000wide ", "\x00\ufffd\u202e\u0007bell", "x" * 150,
    "word Word " * 60,
)  # fmt: skip
_N_SAMPLED_TOKENS = 48
_N_PAIRS = 8
_SHOWN_IDS = 12
_REMEDY = (
    'If it was tokenizer.json, write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json. If it '
    "was transformers', load the folder with transformers.AutoTokenizer and save it over itself with save_pretrained"
)


def probe_texts(tokenizer: Tokenizer) -> list[str]:
    """Return texts on which two tokenizers of one vocabulary would differ.

    Args:
        tokenizer: Whose vocabulary and added tokens are among the texts.

    Returns:
        :data:`PROBES`, words of the vocabulary in lower case, capitals and beside one another, and each added token.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    ids = range(0, size, max(1, size // _N_SAMPLED_TOKENS))
    pieces = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    words = [piece.replace("##", "").replace("▁", " ").strip() for piece in pieces]
    texts = list(PROBES)
    for word, following in itertools.pairwise(words):
        texts += [word, word.lower(), word.upper(), word.capitalize(), f"{word} {following}", f"{word}{following}."]
    return texts + [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def stated_tokenizer(source: str, stated: Mapping[str, Any]) -> Any:
    """Load what transformers makes of a model that has a ``tokenizer.json`` and says more in ``tokenizer_config.json``.

    Args:
        source: The model's folder.
        stated: What ``tokenizer_config.json`` says.

    Returns:
        transformers' tokenizer.

    Raises:
        ModelError: If it cannot be made; the message says how to do without.
    """
    try:
        return transformers_tokenizer(source, class_name=stated.get("tokenizer_class"))
    except ModelError as error:
        raise ModelError(
            f"tokenizer.json of {source!r} cannot be compared with what tokenizer_config.json says: {error}. {_REMEDY}"
        ) from error


def refuse_disagreement(source: str, tokenizer: Tokenizer, theirs: Any) -> None:
    """Compare a tokenizer with transformers' on probes, single and in pairs.

    Args:
        source: The model, for the message.
        tokenizer: What stands in ``tokenizer.json``, without truncation and padding.
        theirs: What transformers makes of the model.

    Raises:
        ModelError: If they differ, with a text on which they do, the ids of both, and what to do in either case.
    """
    added = [str(token) for token in theirs.added_tokens_decoder.values() if not token.special]
    texts = probe_texts(tokenizer) + added
    short = texts[: len(PROBES) + _N_PAIRS]
    for columns in ((texts,), (short, short[::-1])):
        rows = texts if len(columns) == 1 else list(zip(*columns, strict=True))
        try:
            encodings = tokenizer.encode_batch(rows)
            with quiet_transformers():
                found = theirs(*columns, truncation=False, padding=False)
        except Exception as error:
            raise ModelError(f"the tokenizer of {source!r} fails on a text: {error}. {_REMEDY}") from error
        for kind, ours in (
            ("input_ids", [encoding.ids for encoding in encodings]),
            ("token_type_ids", [encoding.type_ids for encoding in encodings]),
        ):
            if kind in found and (at := first_difference(ours, found[kind])) is not None:
                raise ModelError(
                    f"{source!r} has two tokenizers: tokenizer.json, and the {type(theirs).__name__} that transformers "
                    f"makes of tokenizer_config.json. For {repr(rows[at])[:80]} the {kind} are {_shown(ours[at])} by "
                    f"the first and {_shown(found[kind][at])} by the second; which of them the weights were trained "
                    f"with cannot be told. {_REMEDY}"
                )


def first_difference(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> int | None:
    """Return the number of the shortest row in which two tokenizers differ; None if in none."""
    different = [row for row, (a, b) in enumerate(zip(ours, theirs, strict=True)) if list(a) != list(b)]
    return min(different, key=lambda row: len(ours[row]), default=None)


def _shown(ids: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ids[:_SHOWN_IDS]))}{', …' if len(ids) > _SHOWN_IDS else ''}]"
