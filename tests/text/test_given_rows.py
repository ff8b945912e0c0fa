"""Rows of token ids are held to what the tokenizer makes of texts, and cut as the tokenizers library cuts texts."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from q8bert.spec.errors import InputError
from q8bert.text.layout import LayoutError, RowLayout
from q8bert.text.tokenizer import TextTokenizer

WORDS = [f"w{number}" for number in range(20)]
BERT = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
ROBERTA = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] [SEP] $B [SEP]"}
XLNET = {"single": "$A:0 [SEP]:0 [CLS]:2", "pair": "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2"}
BARE = {"single": "$A", "pair": "$A $B:1"}


def make(template: dict[str, str]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(**template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize("template", [BERT, ROBERTA, XLNET], ids=["bert", "roberta", "xlnet"])
def test_whole_rows_are_taken_and_long_ones_cut_as_the_library_cuts(
    template: dict[str, str], is_pair: bool, direction: str
) -> None:
    rng, max_length = random.Random(0), 12
    whole, cutting = make(template), make(template)
    cutting.enable_truncation(max_length, strategy="longest_first", direction=direction)
    ours = make(template)
    ours.enable_truncation(max_length, direction=direction)
    given = TextTokenizer(ours, max_length=max_length, pad_token_id=0).given_rows(is_pair=is_pair)
    n_cut = 0
    for _ in range(200):
        texts = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 15))) for _ in range(1 + is_pair)]
        full, wanted = whole.encode(*texts), cutting.encode(*texts)
        ids, types, is_cut = given.taken(ints(*full.ids), ints(*full.type_ids))
        assert (ids.tolist(), types.tolist()) == (wanted.ids, wanted.type_ids)
        assert is_cut == (len(full.ids) > max_length)
        n_cut += is_cut
    assert 0 < n_cut < 200


def test_empty_texts_have_their_place() -> None:
    given = TextTokenizer(make(BERT), max_length=12, pad_token_id=0).given_rows(is_pair=True)
    for first, second in [("", ""), ("w1", ""), ("", "w1 w2")]:
        encoding = make(BERT).encode(first, second)
        ids, types, is_cut = given.taken(ints(*encoding.ids), ints(*encoding.type_ids))
        assert (ids.tolist(), types.tolist(), is_cut) == (encoding.ids, encoding.type_ids, False)


# words begin at id 5
@pytest.mark.parametrize(
    ("ids", "types", "message"),
    [
        ([5, 6, 3, 7, 3], [0, 0, 0, 1, 1], r"does not begin with the special token 2 but with \[5\]"),
        ([2, 5, 3, 7, 8], [0, 0, 0, 1, 1], r"does not end with the special token 3 but with \[8\]"),
        ([2, 5, 7, 3], [0, 0, 0, 0], "the row lacks the special token 3 between two texts, which the task has"),
        ([2, 5, 3, 7, 3, 8, 3], [0, 0, 0, 1, 1, 1, 1], r"special tokens \[3, 3\] within the texts"),
        ([2, 5, 2, 7, 3], [0, 0, 0, 1, 1], r"special tokens \[2\] within the texts"),
        ([2, 5, 0, 7, 3], [0, 0, 0, 1, 1], r"special tokens \[0\] within the texts"),
        ([2, 5, 3, 7, 3], [0, 0, 1, 1, 1], "the token type at place 2 is 1, where the tokenizer gives 0"),
        ([2, 5, 3, 7, 3], [0, 0, 0, 0, 0], "the token type at place 3 is 0, where the tokenizer gives 1"),
        ([2, 5, 3, 25, 3], [0, 0, 0, 1, 1], "id 25 is beyond the vocabulary, which ends at 24"),
        ([2, 3], [0, 0], "the row has 2 tokens, and the tokenizer adds 3 special ones"),
        ([2], [0], "does not end with"),
    ],
)
def test_what_the_tokenizer_did_not_make_is_refused(ids: list[int], types: list[int], message: str) -> None:
    given = TextTokenizer(make(BERT), max_length=12, pad_token_id=0).given_rows(is_pair=True)
    with pytest.raises(LayoutError, match=message):
        given.taken(ints(*ids), ints(*types))


def test_two_texts_where_the_task_has_one_are_refused() -> None:
    given = TextTokenizer(make(BERT), max_length=12, pad_token_id=0).given_rows(is_pair=False)
    with pytest.raises(LayoutError, match=r"\(id 3\) stands within the text at place 2; does the row have two texts"):
        given.taken(ints(2, 5, 3, 7, 3), ints(0, 0, 0, 1, 1))


def test_types_are_the_tokenizers_where_it_tells_no_texts_apart() -> None:
    given = TextTokenizer(make(ROBERTA), max_length=12, pad_token_id=0).given_rows(is_pair=True)
    ids, types, _ = given.taken(ints(2, 5, 3, 3, 7, 3), ints(0, 0, 0, 0, 1, 1))
    assert (ids.tolist(), types.tolist()) == ([2, 5, 3, 3, 7, 3], [0] * 6)


@pytest.mark.parametrize("template", [BERT, ROBERTA], ids=["bert", "roberta"])
def test_special_tokens_of_texts_are_taken_where_they_are_obeyed(template: dict[str, str]) -> None:
    tokenizer = make(template)
    text = "w1 [MASK] w2"
    encoding = tokenizer.encode(text, text)
    assert 4 in encoding.ids
    obeying, refusing = (
        TextTokenizer(make(template), max_length=12, pad_token_id=0, obey_special_tokens=obey).given_rows(is_pair=True)
        for obey in (True, False)
    )
    ids, types, _ = obeying.taken(ints(*encoding.ids), ints(*encoding.type_ids))
    assert (ids.tolist(), types.tolist()) == (encoding.ids, encoding.type_ids)
    with pytest.raises(LayoutError, match="within the texts"):
        refusing.taken(ints(*encoding.ids), ints(*encoding.type_ids))


def test_an_unknown_token_is_a_word_like_any_other() -> None:
    given = TextTokenizer(make(BERT), max_length=12, pad_token_id=0).given_rows(is_pair=False)
    assert given.taken(ints(2, 1, 5, 3), ints(0, 0, 0, 0))[0].tolist() == [2, 1, 5, 3]


def test_a_tokenizer_without_special_tokens_or_one_that_mixes_texts_is_told_apart() -> None:
    layout = RowLayout.of(make(BARE), is_pair=False, special=frozenset())
    assert (layout.before, layout.after, layout.n_special) == ((), (), 0)
    swapped = make({"single": "$A", "pair": "[CLS] $B [SEP] $A"})
    with pytest.raises(InputError, match="the tokenizer mixes the texts of a row"):
        RowLayout.of(swapped, is_pair=True, special=frozenset())
    with pytest.raises(
        InputError, match=r"leaves no room for text: the tokenizer adds 3 special tokens. Take at least 4"
    ):
        TextTokenizer(make(BERT), max_length=3, pad_token_id=0).given_rows(is_pair=True)
