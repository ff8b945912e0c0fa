"""Fixtures of the training tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from q8bert.training.programs.cache import Programs, cached_programs


@pytest.fixture(scope="session")
def small_model(small: Any) -> Path:
    """Folder of the tiny BERT in Hugging Face's layout."""
    model: Path = small.model
    return model


@pytest.fixture(scope="session")
def one_layer_bert() -> Callable[..., PreTrainedModel]:
    """Make a random BERT of one layer, with dropout; its programs are those of every other one with the same options."""

    def make(**options: Any) -> PreTrainedModel:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(**(sizes | {"vocab_size": 20} | options))
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")

    return make


@pytest.fixture(scope="session")
def program_cache(cache_of_its_own: Path) -> Path:
    """Where ``train`` keeps the programs that it builds."""
    return cache_of_its_own / "q8bert" / "graphs"


@pytest.fixture(scope="session")
def built(program_cache: Path) -> Callable[..., Programs]:
    """``build_programs``, with a memory that all tests and workers share: a program takes seconds."""

    def build(*parts: Any, gradients: str = "torch", precision: str = "float32", **more: Any) -> Programs:
        options: dict[str, Any] = {"gradients": gradients, "precision": precision, "report": lambda _: None} | more
        return cached_programs(*parts, cache_dir=program_cache, **options)

    return build
