"""A text has the same ids by the source's file, in training, from a checkpoint and from a bundle, whatever the tokenizer."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertTokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from q8bert.data.readers import read_split
from q8bert.export import export
from q8bert.export.bundle.writer import write_bundle
from q8bert.runtime import Classifier
from q8bert.spec.bundle.bundle import Manifest
from q8bert.tasks.glue import glue_task
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training import TrainConfig, train
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.loop.optimization import adamw
from q8bert.training.loop.progress import Progress
from q8bert.training.models.tokenizer.loading import load_tokenizer
from q8bert.training.objectives.target_scale import UNSCALED
from q8bert.training.quantization.ranges import RangeState
from q8bert.training.runs.checkpoints.checkpoint import save_checkpoint

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
PIECES = ["good", "film", "Good", "un", "able", "é", "É", "日", "本", "ß", "!", "▁", "▁good", "Ġ", "##film", "##s"]
LETTERS = [chr(code) for code in range(33, 127)]


def word_piece(draw: Any) -> Any:
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *PIECES, *LETTERS]))}
    prefix = draw(st.sampled_from(["##", "@@"]))
    return models.WordPiece(vocab, unk_token="<unk>", continuing_subword_prefix=prefix, max_input_chars_per_word=12)


def word_level(draw: Any) -> Any:
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *PIECES]))}
    return models.WordLevel(vocab, unk_token="<unk>")


def byte_pairs(draw: Any) -> Any:
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *LETTERS, "▁", "go", "od", "good"]))}
    merges = draw(st.permutations([("g", "o"), ("o", "d"), ("go", "od")]))
    fused, fallback = draw(st.booleans()), draw(st.booleans())
    return models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=fused, byte_fallback=fallback)


def byte_level(draw: Any) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *alphabet, "oo", "Ġf", "oo!"]))}
    return models.BPE(vocab, [("o", "o"), ("Ġ", "f"), ("oo", "!")])


def unigram(draw: Any) -> Any:
    scores = draw(st.lists(st.floats(-9, -1, width=32), min_size=len(PIECES), max_size=len(PIECES)))
    pieces = [*((token, 0.0) for token in SPECIAL), *zip(PIECES, scores, strict=True), *((c, -9.5) for c in "odfilmab")]
    return models.Unigram(pieces, unk_id=1, byte_fallback=False)


MODELS: dict[str, Any] = {
    "WordPiece": word_piece, "WordLevel": word_level, "BPE": byte_pairs, "byte-level BPE": byte_level, "Unigram": unigram,
}  # fmt: skip
NORMALIZERS: list[Any] = [
    None,
    normalizers.BertNormalizer(lowercase=True),
    normalizers.BertNormalizer(lowercase=False, strip_accents=True, handle_chinese_chars=False),
    normalizers.NFKC(),
    normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Prepend("▁")]),
]
PRE_TOKENIZERS: list[Any] = [
    None,
    pre_tokenizers.BertPreTokenizer(),
    pre_tokenizers.WhitespaceSplit(),
    pre_tokenizers.Metaspace(prepend_scheme="first"),
    pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]),
    pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), pre_tokenizers.Punctuation()]),
]
ENDS = [("<s>", 2), ("</s>", 3)]
POST_PROCESSORS: list[Any] = [
    None,
    processors.BertProcessing(("</s>", 3), ("<s>", 2)),
    processors.RobertaProcessing(("</s>", 3), ("<s>", 2), add_prefix_space=False),
    processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=ENDS),
    processors.TemplateProcessing(single="$A </s>", pair="$B:1 </s> $A <s>", special_tokens=ENDS),
    processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A </s> </s> $B", special_tokens=ENDS),
    ]),
]  # fmt: skip


@st.composite
def tokenizers_of(draw: Any, kind: str) -> Tokenizer:
    tokenizer = Tokenizer(MODELS[kind](draw))
    if (normalizer := draw(st.sampled_from(NORMALIZERS))) is not None:
        tokenizer.normalizer = normalizer
    if kind == "byte-level BPE":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=draw(st.booleans()))
    elif (pre_tokenizer := draw(st.sampled_from(PRE_TOKENIZERS))) is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if (post_processor := draw(st.sampled_from(POST_PROCESSORS))) is not None:
        tokenizer.post_processor = post_processor
    tokenizer.add_special_tokens(SPECIAL)
    added = draw(st.lists(st.sampled_from(["COVID", "ab c", "ﬁ", "<ent>"]), unique=True))
    flags = {name: draw(st.booleans()) for name in ("lstrip", "rstrip", "normalized", "single_word")}
    tokenizer.add_tokens([AddedToken(token, **flags) for token in added])
    return tokenizer


texts = st.lists(
    st.one_of(
        st.sampled_from(
            ["Good film", "unable", "ÉTÉ é", "日本", "COVID", "ab c", "<ent>", "</s>", "  ", "straße!", "ﬁlm 12"]
        ),
        st.text(max_size=6),
    ),
    max_size=5,
).map(" ".join)


@pytest.fixture(scope="module")
def model() -> Any:
    """Make what a checkpoint needs besides a tokenizer."""
    config = BertConfig(
        vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )  # fmt: skip
    return BertForSequenceClassification(config)


def saved_checkpoint(run: Path, model: Any, tokenizer: Tokenizer, pad_token_id: int) -> Path:
    return save_checkpoint(
        run, model=model, tokenizer=tokenizer, optimizer=adamw(dict(model.named_parameters()), weight_decay=0.0),
        ranges=RangeState.empty(0, decay=0.9), sites=(), progress=Progress(), loss_scale=LossScale(),
        target_scale=UNSCALED,
            input_names=("input_ids", "attention_mask"), pad_token_id=pad_token_id,
    )  # fmt: skip


def saved_bundle(target: Path, tokenizer: Tokenizer, *, max_length: int, pad_token_id: int) -> Path:
    value = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["logits"])], "g", [value], [])
    manifest = Manifest(
        precision="float32", task=glue_task("SST-2").to_json(), max_length=max_length, pad_token_id=pad_token_id,
        input_names=("input_ids",), files={}, model={"n_parameters": 1},
    )  # fmt: skip
    onnx_model = onnx.ModelProto() if graph is None else helper.make_model(graph)
    bundle = write_bundle(
        target, graph=onnx_model, tokenizer=tokenizer, configuration={}, manifest=manifest, parity=None
    )
    return bundle.tokenizer_path


@pytest.mark.parametrize("kind", list(MODELS))
def test_ids_are_those_of_the_sources_file_from_end_to_end(kind: str, model: Any, tmp_path: Path) -> None:
    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(
        made=tokenizers_of(kind),
        firsts=st.lists(texts, min_size=3, max_size=3),
        seconds=st.one_of(st.none(), st.lists(texts, min_size=3, max_size=3)),
        side=st.sampled_from(["left", "right"]),
        room=st.integers(1, 12),
    )
    def check(made: Tokenizer, firsts: list[str], seconds: list[str] | None, side: str, room: int) -> None:
        max_length = max(3, room + made.num_special_tokens_to_add(seconds is not None))
        rows: Any = firsts if seconds is None else list(zip(firsts, seconds, strict=True))
        source = tmp_path / "source"
        shutil.rmtree(source, ignore_errors=True)
        model.config.save_pretrained(source)
        made.enable_truncation(max_length, strategy="longest_first", direction=side)
        made.save(str(source / "tokenizer.json"))
        oracle = [(encoding.ids, encoding.type_ids) for encoding in made.encode_batch(rows)]

        def found(tokenizer: TextTokenizer) -> list[Any]:
            encoded = tokenizer.encode(firsts, seconds)
            pairs = zip(encoded.input_ids, encoded.token_type_ids, strict=True)
            return [(ids.tolist(), types.tolist()) for ids, types in pairs]

        def copy_of(tokenizer: Tokenizer) -> Tokenizer:
            return Tokenizer.from_str(tokenizer.to_str())

        loaded, pad_token_id = load_tokenizer(str(source), model.config)
        assert found(TextTokenizer(copy_of(loaded), max_length=max_length, obey_special_tokens=True)) == oracle
        checkpoint = saved_checkpoint(tmp_path / "run", model, loaded, pad_token_id)
        again, _ = load_tokenizer(str(checkpoint), model.config)
        assert found(TextTokenizer(copy_of(again), max_length=max_length, obey_special_tokens=True)) == oracle
        path = saved_bundle(tmp_path / "bundle", again, max_length=max_length, pad_token_id=pad_token_id)
        assert found(TextTokenizer.load(path, max_length=max_length, obey_special_tokens=True)) == oracle
        # and whoever reads the bundle's file without q8bert cuts in the same way
        assert [(row.ids, row.type_ids) for row in Tokenizer.from_file(str(path)).encode_batch(rows)] == oracle

    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config_class", "tokenizer_class"),
    [(XLMRobertaConfig, XLMRobertaTokenizer), (CamembertConfig, CamembertTokenizer)],
)
def test_models_with_pieces_go_the_whole_way(
    small: Any, tmp_path: Path, config_class: Any, tokenizer_class: Any
) -> None:
    words = ["▁good", "▁bad", "▁film", "▁the", "▁a", "▁was", *("▁abcdefghijklmnopqrstuvwxyz,.")]
    vocab = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [(word, -3.0 - index / 10) for index, word in enumerate(words)] + [("<mask>", 0.0)]
    theirs = tokenizer_class(vocab=vocab)
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(theirs), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, type_vocab_size=1, initializer_range=0.1,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    theirs.save_pretrained(tmp_path / "model")
    options: dict[str, Any] = {"data_dir": str(small.data("SST-2")), "output_dir": tmp_path / "run", "threads": 1}
    options |= {"engine": "torch", "quantize_from": 0.0, "max_steps": 2, "max_length": 24}
    result = train(TrainConfig.from_options(task=glue_task("SST-2"), model=str(tmp_path / "model"), **options))
    bundle, report = export(result.path, tmp_path / "bundle")
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0
    classifier = Classifier.load(bundle.path)
    rows = [example.text for example in read_split(glue_task("SST-2"), small.data("SST-2"), "dev").examples[:20]]
    rows += ["A Good film, was bad!", "", "日本 🤖"]
    found = [ids.tolist() for ids in classifier.encode(rows).input_ids]
    assert found == theirs(rows, truncation=True, max_length=24)["input_ids"]
    assert np.isfinite(classifier.logits(rows)).all()
