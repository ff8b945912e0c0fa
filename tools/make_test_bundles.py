"""Make the small models and bundles that the tests of both environments use.

A tiny BERT with random weights and a vocabulary of its own learns to tell sentences of good words from sentences of bad
ones, in float32 and INT8; a second pair learns a score of two texts. A minute in all, nothing downloaded.

    python tools/make_test_bundles.py build/test-bundles
"""

import argparse
import itertools
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from q8bert.export import export
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train

GOOD = ["good", "great", "fine", "warm", "bright", "clever", "funny", "moving"]
BAD = ["bad", "poor", "dull", "cold", "slow", "silly", "empty", "tired"]
FILLER = ["the", "film", "a", "story", "was", "and", "very", "its", "actors", "plot", ",", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_model(folder: Path) -> None:
    """Write a tiny BERT with its tokenizer in Hugging Face's layout."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *GOOD, *BAD, *FILLER])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def make_data(folder: Path) -> None:
    """Write an SST-2 folder and an STS-B folder whose answers follow from the words."""
    rng = np.random.default_rng(0)

    def sentence(share_good: float) -> str:
        length = int(rng.integers(1, 12))
        pools = [GOOD if rng.random() < share_good else BAD if rng.random() < 0.5 else FILLER for _ in range(length)]
        return " ".join(str(rng.choice(pool)) for pool in pools)

    def n_good(text: str) -> int:
        return sum(word in GOOD for word in text.split())

    for split, n_rows in (("train", 600), ("dev", 200)):
        texts = [sentence(rng.random()) for _ in range(n_rows)]
        labels = [int(n_good(text) > sum(word in BAD for word in text.split())) for text in texts]
        if split == "dev":  # a few wrong ones, so that no model gets all of them right
            labels = [label ^ (number % 40 == 0) for number, label in enumerate(labels)]
        rows = [f"{text}\t{label}" for text, label in zip(texts, labels, strict=True)]
        _write(folder / "SST-2" / f"{split}.tsv", "sentence\tlabel", rows)
        pairs = [(sentence(rng.random()), sentence(rng.random())) for _ in range(n_rows)]
        rows = [f"{a}\t{b}\t{5 - min(5, abs(n_good(a) - n_good(b))):.3f}" for a, b in pairs]
        _write(folder / "STS-B" / f"{split}.tsv", "sentence1\tsentence2\tscore", rows)


def train_and_export(target: Path, task_and_engine: tuple[str, str], precision: str) -> None:
    """Write a run and its bundle."""
    name, engine = task_and_engine
    run = target / name / f"{precision}-run"
    config = TrainConfig.from_options(
        task=glue_task(name), data_dir=str(target / "data" / name), model=str(target / "model"), output_dir=run,
        engine=engine, quantize=precision == "int8", epochs=4, batch_size=16, learning_rate=3e-3, max_length=32,
        quantize_from=0.0, threads=1, log_every=10, cache_dir=target / "graphs",
    )  # fmt: skip
    train(config)
    export(run, target / name / precision)


def main() -> None:
    """Make everything below the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target: Path = parser.parse_args().target
    shutil.rmtree(target, ignore_errors=True)
    make_model(target / "model")
    make_data(target / "data")
    runs = itertools.product([target], [("SST-2", "ort"), ("STS-B", "torch")], ["float32", "int8"])
    # two at a time: a process takes some seconds to import torch, and a core
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(train_and_export, *zip(*runs, strict=True)))


def _write(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
