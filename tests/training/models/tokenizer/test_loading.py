"""A model's ``tokenizer.json`` is its tokenizer, and what contradicts it or cannot work is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from q8bert.spec.errors import ModelError
from q8bert.text.tokenizer import TextTokenizer, truncation_side
from q8bert.training.models.tokenizer import files
from q8bert.training.models.tokenizer.loading import load_tokenizer

FAMILIES: dict[str, Any] = {
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
    "camembert": transformers.CamembertConfig,
    "distilbert": transformers.DistilBertConfig,
    "electra": transformers.ElectraConfig,
    "mpnet": transformers.MPNetConfig,
}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "bad", "##ly", "a", "##s", "!"]
CASED = [*VOCAB, "Good", "Film", "Paris", "London", "NASA", "The"]
PIECES: list[tuple[str, float]] = [
    ("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁good", -3.0), ("▁film", -3.5),
    *((letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyzGF"), ("<mask>", 0.0),
]  # fmt: skip
TEXTS = ["Good film", "good films, BAD!", "", "naïve 日本 🤖", "<s> good </s>", "goodly", "a a a"]


def word_piece(words: list[str] = VOCAB, *, lowercase: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(VOCAB[:5])
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(PIECES, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    return tokenizer


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(CASED)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def byte_pairs() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet, "oo", "Ġf"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("o", "o"), ("Ġ", "f")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


MADE: dict[str, Callable[[], Tokenizer]] = {
    "cased WordPiece": lambda: word_piece(CASED), "uncased WordPiece": lambda: word_piece(lowercase=True),
    "Unigram": unigram, "WordLevel": words, "byte-level BPE": byte_pairs,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., tuple[str, Any]]:
    """Make the folder of a model without weights; return it with the model's configuration."""

    def make(
        family: str = "bert", *, tokenizer: Tokenizer | str | bytes | None = None, stated: Any = None, vocab: Any = None,
        **options: Any,
    ) -> tuple[str, Any]:  # fmt: skip
        config = FAMILIES[family](**({"vocab_size": 300, "pad_token_id": 1} | options))
        config.save_pretrained(tmp_path)
        if isinstance(tokenizer, Tokenizer):
            tokenizer.save(str(tmp_path / "tokenizer.json"))
        elif tokenizer is not None:
            content = tokenizer.encode() if isinstance(tokenizer, str) else tokenizer
            (tmp_path / "tokenizer.json").write_bytes(content)
        if stated is not None:
            (tmp_path / "tokenizer_config.json").write_text(stated if isinstance(stated, str) else json.dumps(stated))
        if vocab is not None:
            (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
        return str(tmp_path), config

    return make


def ids_of(tokenizer: Tokenizer) -> list[Any]:
    rows = [*TEXTS, *zip(TEXTS, reversed(TEXTS), strict=True)]
    return [(encoding.ids, encoding.type_ids) for encoding in tokenizer.encode_batch(rows)]


@pytest.mark.parametrize("stated", [None, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": None}])
@pytest.mark.parametrize("kind", list(MADE))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_file_is_the_tokenizer_whatever_the_family(folder: Any, family: str, kind: str, stated: Any) -> None:
    made = MADE[kind]()
    loaded, pad_token_id = load_tokenizer(*folder(family, tokenizer=made, stated=stated))
    assert ids_of(loaded) == ids_of(made)
    assert pad_token_id == 1


@pytest.mark.parametrize(
    ("family", "kind", "class_name"),
    [
        ("bert", "uncased WordPiece", "BertTokenizer"), ("electra", "uncased WordPiece", "ElectraTokenizerFast"),
        ("roberta", "byte-level BPE", "RobertaTokenizer"),
    ],
)  # fmt: skip
def test_a_class_that_says_the_same_is_accepted(folder: Any, family: str, kind: str, class_name: str) -> None:
    made = MADE[kind]()
    pad = 0 if family in {"bert", "electra"} else 1
    loaded, found = load_tokenizer(*folder(family, tokenizer=made, stated={"tokenizer_class": class_name}))
    assert ids_of(loaded) == ids_of(made)
    assert found == pad


@pytest.mark.parametrize(
    ("class_name", "family", "vocab"),
    [
        ("BertTokenizer", "bert", {word: index for index, word in enumerate(VOCAB)}),
        ("XLMRobertaTokenizer", "xlm-roberta", PIECES),
        ("CamembertTokenizer", "camembert", PIECES),
        ("MPNetTokenizer", "mpnet", {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "[UNK]", "good", "<mask>"])}),
    ],
)
def test_what_transformers_saves_is_accepted(
    folder: Any, tmp_path: Path, class_name: str, family: str, vocab: Any
) -> None:
    theirs = getattr(transformers, class_name)(vocab=vocab)
    theirs.save_pretrained(tmp_path)
    source, config = folder(family)
    loaded, pad_token_id = load_tokenizer(source, config)
    assert [loaded.encode(text).ids for text in TEXTS] == theirs(TEXTS)["input_ids"]
    assert pad_token_id == theirs.pad_token_id


# ---- two tokenizers in one folder ---------------------------------------------------------------


CONTRADICTIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "capitals": ("bert", "cased WordPiece", {"tokenizer_class": "BertTokenizer"}),
    "do_lower_case": ("bert", "cased WordPiece", {"do_lower_case": True}),
    "another model": ("bert", "WordLevel", {"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    "another post-processor": ("xlm-roberta", "Unigram", {"tokenizer_class": "XLMRobertaTokenizer"}),
    "add_prefix_space": ("roberta", "byte-level BPE", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONTRADICTIONS))
def test_a_class_that_says_otherwise_is_refused_and_both_remedies_work(folder: Any, tmp_path: Path, name: str) -> None:
    family, kind, stated = CONTRADICTIONS[name]
    made = MADE[kind]()
    if name == "another post-processor":
        made.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
        )
    source, config = folder(family, tokenizer=made, stated=stated)
    with pytest.raises(ModelError, match=r"two tokenizers.*are \[[\d, …]*\] by the first and \[[\d, …]*\] by"):
        load_tokenizer(source, config)
    theirs = AutoTokenizer.from_pretrained(source)
    folder(family, stated=stated | {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert ids_of(load_tokenizer(source, config)[0]) == ids_of(made)
    theirs.save_pretrained(source)
    loaded, _ = load_tokenizer(source, config)
    assert [loaded.encode(text).ids for text in TEXTS] == theirs(TEXTS)["input_ids"]


def test_a_token_added_by_the_configuration_alone_is_refused(folder: Any) -> None:
    stated = {"tokenizer_class": "TokenizersBackend", "added_tokens_decoder": {"12": {"content": "[ENTITY]"}}}
    with pytest.raises(ModelError, match=r"adds the token '\[ENTITY\]' with id 12; in tokenizer.json it is missing"):
        load_tokenizer(*folder(tokenizer=word_piece(), stated=stated))


def test_a_token_added_by_the_file_is_kept(folder: Any) -> None:
    made = word_piece(lowercase=True)
    made.add_tokens([AddedToken("COVID", normalized=False), AddedToken("x y", single_word=True)])
    loaded, _ = load_tokenizer(*folder(tokenizer=made, stated={"tokenizer_class": "BertTokenizer"}))
    texts = ["a COVID film", "covid", "x y", "xx yy"]
    assert [loaded.encode(text).ids for text in texts] == [made.encode(text).ids for text in texts]


@pytest.mark.parametrize("class_name", ["BertJapaneseTokenizer", "MyOwnTokenizer"])
def test_a_class_that_cannot_be_made_leaves_the_comparison_open(folder: Any, class_name: str) -> None:
    stated = {"tokenizer_class": class_name, "word_tokenizer_type": "mecab"}
    if class_name == "MyOwnTokenizer":  # transformers then takes the file as it stands
        load_tokenizer(*folder(tokenizer=word_piece(), stated=stated))
        return
    with pytest.raises(ModelError, match=r'cannot be compared.*"tokenizer_class": "PreTrainedTokenizerFast"'):
        load_tokenizer(*folder(tokenizer=word_piece(), stated=stated))


# ---- vocabularies without a tokenizer.json ------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_a_vocabulary_is_built_by_transformers(folder: Any, family: str) -> None:
    source, config = folder(family, vocab=VOCAB)
    loaded, pad_token_id = load_tokenizer(source, config)
    assert [loaded.encode(text).ids for text in TEXTS] == AutoTokenizer.from_pretrained(source)(TEXTS)["input_ids"]
    assert pad_token_id == 0


def test_a_folder_without_a_tokenizer_is_refused(folder: Any) -> None:
    # transformers makes one up of five special tokens, which turns every text into unknown tokens
    with pytest.raises(ModelError, match=r"has no tokenizer: neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(*folder())


def test_a_vocabulary_with_capitals_has_to_say_whether_text_is_lower_cased(folder: Any) -> None:
    with pytest.raises(ModelError, match=r"does not say whether text is lower-cased.*of its vocabulary have capitals"):
        load_tokenizer(*folder(vocab=CASED))
    loaded, _ = load_tokenizer(*folder(vocab=CASED, stated={"do_lower_case": False}))
    assert loaded.encode("Good Film").tokens == ["[CLS]", "Good", "Film", "[SEP]"]
    loaded, _ = load_tokenizer(*folder(vocab=CASED, stated={"do_lower_case": True}))
    assert loaded.encode("Good Film").tokens == ["[CLS]", "good", "film", "[SEP]"]


def test_python_tokenizers_have_no_file(folder: Any) -> None:
    stated = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    with pytest.raises(ModelError, match=r"BertJapaneseTokenizer, has no tokenizer\.json form"):
        load_tokenizer(*folder(vocab=VOCAB, stated=stated))


def test_packages_that_are_missing_are_named(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, config = folder("xlm-roberta")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\x0a\x05abc")
    installed = {"google.protobuf"}
    monkeypatch.setattr(files, "_is_installed", lambda module: module in installed)
    with pytest.raises(ModelError, match=r"takes the package sentencepiece, not installed here. Run: pip install sent"):
        load_tokenizer(source, config)
    installed.clear()
    with pytest.raises(ModelError, match="Run: pip install sentencepiece protobuf"):
        load_tokenizer(source, config)
    installed |= {"google.protobuf", "sentencepiece"}
    with pytest.raises(ModelError, match=r"sentencepiece\.bpe\.model is not readable as a SentencePiece model"):
        load_tokenizer(source, config)


# ---- files that are no tokenizers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 466247\n", "Git LFS pointer.*git lfs pull"),
        ("", "it is empty"),
        (b"\xff\xfe\x00", "utf-8"),
        ("[1, 2]", "JSON, but not of this form"),
        ("{}", "JSON, but not of this form"),
    ],
)
def test_a_damaged_file_is_named_with_its_cause(folder: Any, content: Any, cause: str) -> None:
    with pytest.raises(ModelError, match=rf"(?s)tokenizer\.json is not a readable tokenizer.*{cause}"):
        load_tokenizer(*folder(tokenizer=content, vocab=VOCAB))


def test_a_file_that_is_cut_off_says_so(folder: Any) -> None:
    with pytest.raises(ModelError, match="It is cut off or damaged: copy"):
        load_tokenizer(*folder(tokenizer=word_piece().to_str()[:500]))


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_configuration_is_named(folder: Any, content: str) -> None:
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is (cut or damaged|empty)"):
        load_tokenizer(*folder(tokenizer=word_piece(), stated=content))


# ---- what cannot work ---------------------------------------------------------------------------


def test_ids_beyond_the_word_table_are_refused_with_both_numbers(folder: Any) -> None:
    with pytest.raises(ModelError, match=r"ids up to 11 \('!'\), but the model's word table has 11 rows"):
        load_tokenizer(*folder(tokenizer=word_piece(), vocab_size=11))


def test_token_types_beyond_their_table_are_refused(folder: Any) -> None:
    made = word_piece()
    made.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:2")
    with pytest.raises(ModelError, match="gives the token type 2, but the model has 2 rows"):
        load_tokenizer(*folder(tokenizer=made))


@pytest.mark.parametrize("kind", ["WordPiece", "WordLevel", "Unigram"])
def test_a_tokenizer_that_would_fail_on_a_text_is_refused(folder: Any, kind: str) -> None:
    model: Any = {
        "WordPiece": models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"),
        "WordLevel": models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"),
        "Unigram": models.Unigram([("a", 0.0), ("b", 0.0)]),
    }[kind]
    with pytest.raises(ModelError, match=r"fails on '.*unknown token \(unk_token\)"):
        load_tokenizer(*folder(tokenizer=Tokenizer(model)))


def test_dropout_is_refused(folder: Any) -> None:
    made = byte_pairs()
    made.model.dropout = 0.1
    with pytest.raises(ModelError, match=r"dropout of 0\.1"):
        load_tokenizer(*folder(tokenizer=made))


def test_the_padding_token_is_the_tokenizers_or_else_the_models(folder: Any) -> None:
    def padding(family: str = "bert", tokenizer: Any = None, **stated: Any) -> int:
        return load_tokenizer(*folder(family, tokenizer=tokenizer or words(), stated=stated, pad_token_id=4))[1]

    assert padding() == 4
    assert padding(pad_token="[SEP]") == 3
    assert padding(pad_token={"content": "[SEP]", "lstrip": False}) == 3
    padded = words()
    padded.enable_padding(pad_id=2, pad_token="[CLS]")
    assert padding(tokenizer=padded) == 2
    with pytest.raises(ModelError, match=r"padding token '<pad>' of .* is not in its tokenizer's vocabulary"):
        padding(pad_token="<pad>")
    with pytest.raises(ModelError, match=r"has id 3, but pad_token_id in config.json is 4, from which a roberta model"):
        padding("roberta", pad_token="[SEP]")


def test_the_padding_token_has_a_row(folder: Any) -> None:
    with pytest.raises(ModelError, match=r"pad_token_id of .* is 300; its word table has 300 rows"):
        load_tokenizer(*folder(tokenizer=words(), pad_token_id=300))
    with pytest.raises(ModelError, match="has no padding token"):
        load_tokenizer(*folder(tokenizer=words(), pad_token_id=None))


# ---- truncation, checkpoints --------------------------------------------------------------------


def test_the_side_on_which_long_texts_are_cut_is_kept(folder: Any, tmp_path: Path) -> None:
    source, config = folder(tokenizer=words(), stated={"truncation_side": "left", "padding_side": "left"})
    loaded, _ = load_tokenizer(source, config)
    saved = tmp_path / "checkpoint"
    saved.mkdir()
    config.save_pretrained(saved)
    loaded.save(str(saved / "tokenizer.json"))
    again, _ = load_tokenizer(str(saved), config)
    assert TextTokenizer(again, max_length=2).encode(["good film bad"]).input_ids[0].tolist() == [6, 7]


def test_truncation_and_padding_of_the_file_are_left_to_the_encoder(folder: Any) -> None:
    made = words()
    made.enable_truncation(1)
    made.enable_padding(length=9, pad_id=1, pad_token="[UNK]")
    loaded, _ = load_tokenizer(*folder(tokenizer=made))
    assert loaded.encode("good film").ids == [5, 6]
    assert truncation_side(loaded) == "right"
    with pytest.raises(ModelError, match=r"truncation_side of .* is 'lef'; it must be left or right"):
        load_tokenizer(*folder(tokenizer=made, stated={"truncation_side": "lef"}))
