"""A fingerprint follows the content, all of it, and nothing else."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from q8bert.data.examples import Example, Split
from q8bert.training.models.source import SourceModel, load_source_model
from q8bert.training.runs.identity.fingerprints import fingerprint_of_rows, fingerprints_of_model


def rows(*examples: Example, source: str = "train.tsv") -> Split:
    return Split(examples, source)


def test_rows_that_differ_in_anything_have_other_fingerprints() -> None:
    splits = [
        rows(Example("a", "b", 1), Example("c", "d", 0)),
        rows(Example("c", "d", 0), Example("a", "b", 1)),
        rows(Example("a", "b", 0), Example("c", "d", 0)),
        rows(Example("a", "b", 1)),
        rows(Example("a", "b", 1), Example("c", "d", 0), Example("c", "d", 0)),
        rows(Example("ab", "", 1), Example("c", "d", 0)),
        rows(Example("ab", None, 1), Example("c", "d", 0)),
        rows(Example('a", "b', None, 1), Example("c", "d", 0)),
        rows(Example("a", "b", 0.1), Example("c", "d", 0.0)),
        rows(Example("a", "b", 0.1 + 2**-55), Example("c", "d", 0.0)),
        rows(Example("a", "ä", 1), Example("c", "d", 0)),
        rows(Example("a", "a\u0308", 1), Example("c", "d", 0)),
        rows(),
    ]
    found = [fingerprint_of_rows(split) for split in splits]
    assert len({one.sha256 for one in found}) == len(splits)
    assert [one.size for one in found] == [len(split.examples) for split in splits]
    again = rows(*splits[0].examples, source="elsewhere.jsonl")
    assert fingerprint_of_rows(again) == found[0]


@pytest.fixture(scope="module")
def headless(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a classifier, whose head is drawn."""
    folder = tmp_path_factory.mktemp("headless")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=33, **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(small.model).save_pretrained(folder)
    return folder


def load(folder: Path, *, seed: int = 0) -> SourceModel:
    torch.manual_seed(seed)
    return load_source_model(str(folder), n_outputs=2, labels=("a", "b"), max_length=16, dropout=0.0)


def test_a_head_that_is_drawn_is_no_part_of_the_weights_and_one_that_is_loaded_is(
    headless: Path, tmp_path: Path
) -> None:
    first, second = load(headless), load(headless, seed=1)
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)
    assert first.drawn == {"classifier.weight", "classifier.bias"}
    of_first, of_second = (fingerprints_of_model(source) for source in (first, second))
    assert of_first == of_second
    for number, source in enumerate((first, second)):
        source.model.save_pretrained(tmp_path / str(number))
        PreTrainedTokenizerFast.from_pretrained(headless).save_pretrained(tmp_path / str(number))
    heads = [fingerprints_of_model(load(tmp_path / name))["weights"] for name in ("0", "1")]
    assert heads[0] != heads[1]


def test_every_weight_and_its_name_and_shape_count(headless: Path) -> None:
    source = load(headless)
    found = {fingerprints_of_model(source)["weights"].sha256}
    for name, parameter in source.model.named_parameters():
        if name not in source.drawn:
            with torch.no_grad():
                parameter.flatten()[-1] += 1.0
            found.add(fingerprints_of_model(source)["weights"].sha256)
    n_loaded = sum(name not in source.drawn for name, _ in source.model.named_parameters())
    assert len(found) == 1 + n_loaded
    some, *_ = (name for name, _ in source.model.named_parameters() if name not in source.drawn)
    assert (
        fingerprints_of_model(replace(source, report=replace(source.report, drawn=(*source.report.drawn, some))))[
            "weights"
        ].sha256
        not in found
    )


def test_what_a_tokenizer_is_set_to_for_the_moment_does_not_count(headless: Path) -> None:
    source = load(headless)
    before = fingerprints_of_model(source)["tokenizer"]
    source.tokenizer.enable_truncation(5)
    source.tokenizer.enable_padding(length=9)
    assert fingerprints_of_model(source)["tokenizer"] == before
    others = [replace(source, pad_token_id=4), replace(source, input_names=("input_ids", "attention_mask"))]
    found = [fingerprints_of_model(other)["tokenizer"] for other in (source, *others)]
    source.tokenizer.add_tokens(["new"])
    found.append(fingerprints_of_model(source)["tokenizer"])
    assert all(a != b for a, b in itertools.combinations(found, 2))
