"""Small models of every family as folders, and what breaks them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from q8bert.training.models.source import SourceModel, load_source_model

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DISTIL_SIZES = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
WORDS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "good", "bad", "film"]
COMMON = {"vocab_size": len(WORDS), "max_position_embeddings": 32, "pad_token_id": 1, "initializer_range": 0.5}
CONFIGS: dict[str, Callable[..., Any]] = {
    "bert": lambda **more: BertConfig(**SIZES | COMMON | more),
    "roberta": lambda **more: RobertaConfig(**SIZES | COMMON | {"type_vocab_size": 1} | more),
    "xlm-roberta": lambda **more: XLMRobertaConfig(**SIZES | COMMON | {"type_vocab_size": 1} | more),
    "camembert": lambda **more: CamembertConfig(**SIZES | COMMON | {"type_vocab_size": 1} | more),
    "distilbert": lambda **more: DistilBertConfig(**DISTIL_SIZES | COMMON | more),
    "electra": lambda **more: ElectraConfig(**SIZES | COMMON | {"embedding_size": 8} | more),
    "mpnet": lambda **more: MPNetConfig(**SIZES | COMMON | more),
}


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Path]:
    """Write a random model of a family, of the class that an Auto class picks, with a tokenizer; return its folder."""

    def make(auto: Any, family: str = "bert", *, folder: str = "model", **options: Any) -> Path:
        torch.manual_seed(5)
        path = tmp_path / folder
        auto.from_config(CONFIGS[family](**options)).save_pretrained(path)
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def edit_config() -> Callable[..., None]:
    def edit(folder: Path, **options: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | options))

    return edit


@pytest.fixture(scope="session")
def edit_weights() -> Callable[..., None]:
    """Replace weights of a folder; None takes one away."""

    def edit(folder: Path, weights: dict[str, Any]) -> None:
        path = folder / "model.safetensors"
        content = {name: tensor.clone() for name, tensor in load_file(path).items()} | weights
        save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path)

    return edit


@pytest.fixture(scope="session")
def load() -> Callable[..., SourceModel]:
    """Load a model for two labels, or as the arguments say."""

    def load_it(folder: Path | str, labels: tuple[str, ...] = ("negative", "positive"), **more: Any) -> SourceModel:
        options: dict[str, Any] = {"n_outputs": len(labels) or 1, "max_length": 16, "dropout": 0.0} | more
        return load_source_model(str(folder), labels=labels, **options)

    return load_it


@pytest.fixture(scope="session")
def logits() -> Callable[..., torch.Tensor]:
    def compute(model: PreTrainedModel) -> torch.Tensor:
        ids = torch.tensor([[2, 4, 6, 3], [2, 5, 3, 1]])
        with torch.no_grad():
            return model.eval()(input_ids=ids, attention_mask=(ids != 1).long(), return_dict=True).logits

    return compute
