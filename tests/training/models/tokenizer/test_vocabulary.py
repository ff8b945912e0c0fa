"""What is said of a tokenizer that works and yet cannot be right for the model or the rows."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.models.tokenizer.vocabulary import lost_capitals, notes_on_tokenizer

LOWER = [f"{first}{second}" for first in "abcdefghijkl" for second in "mnopqrstuv"]
CASED = [word.capitalize() for word in LOWER[:30]]


def word_tokenizer(vocabulary: list[str], *, lowercase: bool) -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[unused1]", *vocabulary]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if lowercase:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    return tokenizer


def notes(tokenizer: Tokenizer, *texts: str) -> str:
    copy = Tokenizer.from_str(tokenizer.to_str())
    return " ".join(notes_on_tokenizer(tokenizer, TextTokenizer(copy, max_length=16).encode(texts)))


@pytest.mark.parametrize(
    ("vocabulary", "lowercase", "said"),
    [
        (LOWER + CASED, True, "lower-cases text, so 30 of 150 tokens, those with capitals, are never reached"),
        (LOWER, False, "no capitals, but the tokenizer does not lower-case text"),
        (LOWER + CASED, False, ""),
        (LOWER, True, ""),
        (LOWER[:5], False, ""),  # too few words to tell
    ],
)
def test_capitals_that_are_lost_are_said(vocabulary: list[str], lowercase: bool, said: str) -> None:
    found = notes(word_tokenizer(vocabulary, lowercase=lowercase), "am an")
    assert said in found if said else not found


def test_a_large_share_of_unknown_tokens_is_said() -> None:
    tokenizer = word_tokenizer(LOWER + CASED, lowercase=False)
    assert "40% of the tokens of the training rows are unknown ([UNK])" in notes(tokenizer, "am an x", "ao y")
    assert not notes(tokenizer, "am an ao ap x")  # 20 %
    assert not notes(tokenizer)


@pytest.mark.parametrize(
    ("model", "dropped"),
    [
        (models.BPE({"a": 0, "b": 1, "é": 2}, []), "日"),
        (models.BPE({"a": 0, "b": 1, "?": 2}, [], unk_token="?"), None),
        (models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True), None),
    ],
)
def test_a_tokenizer_that_drops_text_is_said(model: Any, dropped: str | None) -> None:
    found = notes(Tokenizer(model), "ab")
    assert f"drops what its vocabulary lacks, such as {dropped!r}" in found if dropped else "drops" not in found


def test_unknown_pieces_of_unigram_models_count() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert "50% of the tokens of the training rows are unknown (<unk>)" in notes(tokenizer, "a z")


def test_byte_level_vocabularies_are_not_taken_for_capitals() -> None:
    # bytes are written with letters such as Ġ and Ã, which are capitals of their own
    vocab = {token: index for index, token in enumerate(["Ġam", "Ãn", "Ġan", "ao"])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.normalizer = normalizers.Lowercase()
    assert lost_capitals(tokenizer) is None
