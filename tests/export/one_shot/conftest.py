"""Fine-tuned models as people have them, and rows for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

WORDS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(40))]
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": len(WORDS), "max_position_embeddings": 40, "pad_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture
def fine_tuned(tmp_path: Path) -> Callable[..., Path]:
    """Write a random classifier of a family with its tokenizer, in Hugging Face's layout; return its folder."""

    def make(family: str = "bert", *, headless: bool = False, **options: Any) -> Path:
        torch.manual_seed(3)
        kind: Any = {"bert": BertConfig, "roberta": RobertaConfig}[family]
        more = {"type_vocab_size": 1} if family == "roberta" else {}
        auto: Any = AutoModelForMaskedLM if headless else AutoModelForSequenceClassification
        path = tmp_path / "fine-tuned"
        auto.from_config(kind(**SIZES | more | options)).save_pretrained(path)
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
        return path

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows of random words as JSON lines; return the file."""

    def write(n_rows: int, *, pairs: bool = False, label: Callable[[int], object] | None = None) -> Path:
        generator = torch.Generator().manual_seed(n_rows)

        def text() -> str:
            length = int(torch.randint(2, 12, (), generator=generator))
            return " ".join(WORDS[4 + int(number)] for number in torch.randint(0, 40, (length,), generator=generator))

        path = tmp_path / f"rows-{n_rows}.jsonl"
        with path.open("w") as file:
            for number in range(n_rows):
                row: dict[str, object] = {"text": text()} | ({"text_pair": text()} if pairs else {})
                file.write(json.dumps(row | ({"label": label(number)} if label else {})) + "\n")
        return path

    return write
