"""Models, a tokenizer and a task that `gpu_check.py` makes in place: nothing is fetched.

The task: sentences of a few telling words of one kind, good or bad, among others that tell nothing. Which kind it is
can be learned in some tens of steps by a model that starts at random.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

__all__ = ["INPUT_NAMES", "SIZES", "full_text", "majority_share", "make_classifier", "write_data", "write_model"]

GOOD = ("good", "great", "fine", "warm", "bright", "clever", "funny", "moving")
BAD = ("bad", "poor", "dull", "cold", "slow", "silly", "empty", "tired")
FILLER = ("the", "film", "a", "story", "was", "and", "very", "its", "actors", "plot", "in", "of")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
             "vocab_size": 64},
    "minilm-l6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
                  "vocab_size": 30522},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
                  "vocab_size": 30522},
}  # fmt: skip


def make_classifier(size: str, *, attention: str = "eager") -> PreTrainedModel:
    """Return a BERT with two labels and random weights, without dropout.

    Args:
        size: One of ``SIZES``.
        attention: Hugging Face's name of how attention is computed.

    Returns:
        The model, on the CPU; the same weights at every call.
    """
    torch.manual_seed(0)
    values: dict[str, Any] = {**SIZES[size], "num_labels": 2}
    config = BertConfig(**values, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    factory: Any = AutoModelForSequenceClassification
    model: PreTrainedModel = factory.from_config(config, attn_implementation=attention)
    return model


def write_model(folder: Path, size: str) -> None:
    """Write a random model and a tokenizer of the task's words in Hugging Face's layout."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *GOOD, *BAD, *FILLER])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    make_classifier(size).save_pretrained(folder)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip


def write_data(folder: Path, *, n_train: int, n_dev: int) -> None:
    """Write ``train.tsv`` and ``dev.tsv`` in the form of SST-2."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, n_rows in (("train", n_train), ("dev", n_dev)):
        labels = draw.integers(0, 2, n_rows)
        rows = [f"{_sentence(draw, GOOD if label else BAD)}\t{label}" for label in labels]
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")


def majority_share(folder: Path) -> float:
    """Return the accuracy on the dev split of who always gives its most frequent label."""
    lines = (folder / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    share = sum(line.endswith("\t1") for line in lines) / len(lines)
    return max(share, 1 - share)


def full_text(n_tokens: int, seed: int) -> str:
    """Return a text of exactly so many tokens, the two special ones included: every word is one token."""
    draw = np.random.default_rng(seed)
    return " ".join(draw.choice([*GOOD, *BAD, *FILLER], n_tokens - len(("[CLS]", "[SEP]"))).tolist())


def _sentence(draw: np.random.Generator, telling: tuple[str, ...]) -> str:
    words = [*draw.choice(telling, draw.integers(1, 4)), *draw.choice(FILLER, draw.integers(1, 9))]
    draw.shuffle(words)
    return " ".join(map(str, words))
