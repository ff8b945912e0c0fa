"""Any text becomes ids, long ones are cut."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from q8bert.spec.errors import InputError
from q8bert.text.tokenizer import TextTokenizer


@pytest.fixture
def word_tokenizer() -> Tokenizer:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=50)  # as some published tokenizers come; it must not survive
    return tokenizer


def test_the_longer_text_of_a_pair_is_cut_first(word_tokenizer: Tokenizer) -> None:
    encoded = TextTokenizer(word_tokenizer, max_length=8).encode(["a b c d e f"], ["g h"])
    # eight tokens: three special ones, two of the shorter text, so three of the longer one
    assert encoded.input_ids[0].tolist() == [1, 4, 5, 6, 2, 10, 11, 2]
    assert encoded.token_type_ids[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert encoded.lengths.tolist() == [8]


def test_any_text_can_be_encoded(word_tokenizer: Tokenizer) -> None:
    texts = ["", " ", "\x00", "\u202e\u0301", "日本語 🤖", "a" * 10000]
    encoded = TextTokenizer(word_tokenizer, max_length=6).encode(texts)
    assert len(encoded) == len(texts)
    assert encoded.input_ids[0].tolist() == [1, 2]
    assert encoded.lengths.max() <= 6


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a readable tokenizer"):
        TextTokenizer.load(path, max_length=8)
