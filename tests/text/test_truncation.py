"""Rows that are too long lose the tokens that the tokenizers library takes from them, at no more than their own cost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from q8bert.spec.errors import InputError
from q8bert.text.tokenizer import TextTokenizer

SPECIAL = [("[CLS]", 1), ("[SEP]", 2)]
POST_PROCESSORS: dict[str, Any] = {
    "none": None,
    "bert": processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)),
    "roberta": processors.RobertaProcessing(("[SEP]", 2), ("[CLS]", 1)),
    "template": processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=SPECIAL
    ),
    "second text first": processors.TemplateProcessing(
        single="$A:3 [SEP]:3", pair="[CLS] [CLS] $B:1 [SEP]:2 $A", special_tokens=SPECIAL
    ),
    "sequence": processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="$A [SEP]", pair="$A [SEP] $B:1", special_tokens=SPECIAL),
    ]),
}  # fmt: skip


def word_tokenizer(post_processor: Any) -> Tokenizer:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:4])
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


texts = st.lists(st.sampled_from([*"abcdefgh", "[SEP]", "é"]), max_size=40).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(list(POST_PROCESSORS)),
    firsts=st.lists(texts, min_size=1, max_size=4),
    seconds=st.one_of(st.none(), st.lists(texts, min_size=4, max_size=4)),
    room=st.integers(1, 30),
    direction=st.sampled_from(["right", "left"]),
)
def test_a_long_row_loses_what_the_library_would_take(
    kind: str, firsts: list[str], seconds: list[str] | None, room: int, direction: str
) -> None:
    pairs = None if seconds is None else seconds[: len(firsts)]
    oracle = word_tokenizer(POST_PROCESSORS[kind])
    max_length = room + oracle.num_special_tokens_to_add(pairs is not None)
    oracle.enable_truncation(max_length, strategy="longest_first", direction=direction)
    rows: Any = firsts if pairs is None else list(zip(firsts, pairs, strict=True))
    expected = oracle.encode_batch(rows)
    ours = TextTokenizer(Tokenizer.from_str(oracle.to_str()), max_length=max_length, obey_special_tokens=True).encode(
        firsts, pairs
    )
    assert [ids.tolist() for ids in ours.input_ids] == [encoding.ids for encoding in expected]
    assert [ids.tolist() for ids in ours.token_type_ids] == [encoding.type_ids for encoding in expected]
    assert ours.truncated == {row for row, encoding in enumerate(expected) if encoding.overflowing}


def test_rows_of_several_portions_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q8bert.text.tokenizer._PORTION_ROWS", 3)
    monkeypatch.setattr("q8bert.text.tokenizer._PORTION_CHARACTERS", 8)
    rows = ["a", "b", "c", "d e f g h i", "j", "k l m n o", "p", "q"]
    encoded = TextTokenizer(word_tokenizer(None), max_length=5).encode(rows)
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    assert ["".join(alphabet[token - 4] for token in ids) for ids in encoded.input_ids] == [
        "a", "b", "c", "defgh", "j", "klmno", "p", "q",
    ]  # fmt: skip
    assert encoded.truncated == {3}
    assert encoded.select([3, 0]).truncated == {0}
    assert [ids.tolist() for ids in encoded.select([4, 3]).input_ids] == [[13], [7, 8, 9, 10, 11]]


def test_a_length_that_the_special_tokens_fill_is_refused() -> None:
    tokenizer = TextTokenizer(word_tokenizer(POST_PROCESSORS["roberta"]), max_length=4)
    assert tokenizer.encode(["a b c"]).input_ids[0].tolist() == [1, 4, 5, 2]
    with pytest.raises(InputError, match=r"adds 4 special tokens to a pair of texts\. Take at least 5"):
        tokenizer.encode(["a"], ["b"])


def test_a_text_that_the_post_processor_repeats_cannot_be_cut() -> None:
    twice = processors.TemplateProcessing(single="$A [SEP] $A", pair="$A $B:1", special_tokens=SPECIAL)
    with pytest.raises(InputError, match="repeats a text"):
        TextTokenizer(word_tokenizer(twice), max_length=4).encode(["a b c d"])


def test_a_text_that_the_tokenizer_fails_on_is_named() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match=r"fails on 'a b': .*Missing \[UNK\] token"):
        TextTokenizer(tokenizer, max_length=4).encode(["a", "a b"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_two_long_texts_take_memory_in_proportion(tmp_path: Path) -> None:
    # cut by the library itself, these two take 4.5 GB: each piece cut off the one is combined with each off the other
    path = tmp_path / "tokenizer.json"
    word_tokenizer(POST_PROCESSORS["template"]).save(str(path))
    program = f"""
from pathlib import Path
from q8bert.text.tokenizer import TextTokenizer
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
tokenizer = TextTokenizer.load(Path({str(path)!r}), max_length=128)
before = peak()
encoded = tokenizer.encode(["a b " * 15_000], ["c d " * 15_000])
assert encoded.lengths.tolist() == [128] and encoded.truncated == {{0}}
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250, f"{done.stdout.strip()} MB"
