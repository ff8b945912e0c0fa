"""Any text becomes ids, long ones are cut."""

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_but_how_many_texts_are_tokenized_at_once(
    word_tokenizer: Tokenizer, threads: int
) -> None:
    word_tokenizer.no_padding()
    texts = [" ".join(random.Random(number).choices("abcdefgh", k=number % 9)) for number in range(2500)]
    copy = Tokenizer.from_str(word_tokenizer.to_str())
    plain, counted = TextTokenizer(word_tokenizer, max_length=6), TextTokenizer(copy, max_length=6, threads=threads)
    busy = most = 0
    lock = threading.Lock()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(copy, name)

        def encode_batch(self, rows: Any) -> Any:
            nonlocal busy, most
            assert len(rows) == 1, "the library shares a batch out to threads of its own"
            with lock:
                busy += 1
                most = max(most, busy)
            try:
                return copy.encode_batch(rows)
            finally:
                with lock:
                    busy -= 1

    counted._tokenizer = Watched()  # type: ignore[assignment]
    ours, expected = counted.encode(texts), plain.encode(texts)
    np.testing.assert_array_equal(ours.input_ids.flat, expected.input_ids.flat)
    np.testing.assert_array_equal(ours.input_ids.starts, expected.input_ids.starts)
    assert ours.truncated == expected.truncated
    assert 1 <= most <= threads
