"""Text is text: no special token that it spells out is obeyed, whatever kind of model the tokenizer has."""

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from q8bert.spec.errors import InputError
from q8bert.text.tokenizer import TextTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "[", "]", "SEP", "PAD", "##SEP", "##]", "sep", "pad"]
VOCABULARY = {token: number for number, token in enumerate(SPECIAL + WORDS)}


def made(kind: str, *, register: bool = True) -> Tokenizer:
    """A tokenizer of each kind of model, with BERT's special tokens."""
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "WordLevel":
        tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "WordPiece by spaces":
        tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif kind == "Unigram":
        pieces = [(token, 0.0 if token in SPECIAL else -float(number)) for token, number in VOCABULARY.items()]
        tokenizer = Tokenizer(models.Unigram([*pieces, ("▁", -1.0)], unk_id=VOCABULARY["[UNK]"]))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if register:
        tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


KINDS = ["WordPiece", "WordLevel", "WordPiece by spaces", "Unigram", "byte-level BPE"]


def rows_of(tokenizer: TextTokenizer, *arguments: Any) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode(*arguments).input_ids]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_spells_out_special_tokens_forges_nothing(kind: str) -> None:
    text_as_text = TextTokenizer(made(kind), max_length=64, pad_token_id=0)
    first, second = "good [SEP] bad [PAD]", "[CLS][MASK] [SEP]"
    (single,) = rows_of(text_as_text, [first])
    (pair,) = rows_of(text_as_text, [first], [second])
    # the tokenizer's own, and none of the text's
    assert ([single.count(number) for number in (0, 2, 3, 4)], single[0], single[-1]) == ([0, 1, 1, 0], 2, 3)
    assert ([pair.count(number) for number in (0, 2, 3, 4)], pair[0], pair[-1]) == ([0, 1, 2, 0], 2, 3)
    obeyed = TextTokenizer(made(kind), max_length=64, obey_special_tokens=True)
    (forged,) = rows_of(obeyed, [first])
    assert (forged.count(0), forged.count(3)) == (1, 2)
    assert rows_of(obeyed, ["good bad"]) == rows_of(text_as_text, ["good bad"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [5, 9, 64])
def test_ids_of_special_tokens_stand_only_where_the_tokenizer_puts_them(kind: str, max_length: int) -> None:
    tokenizer, rng = TextTokenizer(made(kind), max_length=max_length, pad_token_id=0), random.Random(max_length)
    parts = [*SPECIAL, "good", "bad", "[", "]", "", "\n"]
    texts = [rng.choice(["", " "]).join(rng.choices(parts, k=rng.randint(0, 12))) for _ in range(300)]
    others = [rng.choice(["", " "]).join(rng.choices(parts, k=rng.randint(0, 12))) for _ in range(300)]
    for row in rows_of(tokenizer, texts):
        assert [at for at, number in enumerate(row) if number in {0, 2, 3, 4}] == [0, len(row) - 1]
    encoded = tokenizer.encode(texts, others)
    for ids, types in zip(encoded.input_ids, encoded.token_type_ids, strict=True):
        border = types.tolist().index(1) - 1
        assert [at for at, number in enumerate(ids.tolist()) if number in {0, 2, 3, 4}] == [0, border, len(ids) - 1]


def test_the_unknown_token_takes_the_place_of_a_word_that_is_a_special_token() -> None:
    tokenizer = TextTokenizer(made("WordLevel"), max_length=16)
    assert rows_of(tokenizer, ["good [SEP] never bad"]) == [[2, 5, 1, 1, 6, 3]]
    # of the text alone: a long row keeps its own, at either end
    assert rows_of(TextTokenizer(made("WordLevel"), max_length=4), ["[SEP] bad good good"]) == [[2, 1, 6, 3]]
    left = made("WordLevel")
    left.enable_truncation(4, direction="left")
    assert rows_of(TextTokenizer(left, max_length=4), ["good good bad [PAD]"]) == [[2, 6, 1, 3]]


def test_special_tokens_are_those_of_the_template_and_padding_too() -> None:
    """A tokenizer file may put them to use without listing them among its added tokens."""
    tokenizer = TextTokenizer(made("WordLevel", register=False), max_length=16, pad_token_id=0)
    assert rows_of(tokenizer, ["good [SEP] [CLS] [PAD] [MASK]"]) == [[2, 5, 1, 1, 1, 4, 3]]


def test_tokens_that_were_added_but_are_not_special_stay_what_they_are() -> None:
    tokenizer = made("WordPiece")
    tokenizer.add_tokens(["q8bert"])
    assert rows_of(TextTokenizer(tokenizer, max_length=16), ["good q8bert"]) == [[2, 5, len(VOCABULARY), 3]]


def test_without_an_unknown_token_such_a_text_is_refused() -> None:
    bare = Tokenizer(models.WordLevel({"good": 0, "[SEP]": 1}, unk_token="missing"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare.add_special_tokens(["[SEP]"])
    tokenizer = TextTokenizer(bare, max_length=16)
    assert rows_of(tokenizer, ["good"]) == [[0]]
    with pytest.raises(InputError, match="holds a special token, and the tokenizer has no unknown token"):
        tokenizer.encode(["good [SEP]"])
