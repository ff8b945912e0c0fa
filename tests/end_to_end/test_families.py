"""Every family from a folder of weights to predictions: what only a whole run can break."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from q8bert.data.readers import read_split
from q8bert.export import export
from q8bert.runtime import Classifier
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.1,
}
CONFIGS: dict[str, Any] = {
    "roberta": lambda more: RobertaConfig(**SMALL, **more, type_vocab_size=1),
    "electra": lambda more: ElectraConfig(**SMALL, **more, embedding_size=16),
    "mpnet": lambda more: MPNetConfig(**SMALL, **more),
    "distilbert": lambda more: DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **more),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_family_goes_the_whole_way(small: Any, tmp_path: Path, family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small.model)
    torch.manual_seed(0)
    config = CONFIGS[family](
        {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id}
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    options: dict[str, Any] = {"data_dir": str(small.data("SST-2")), "output_dir": tmp_path / "run", "threads": 1}
    options |= {"dropout": 0.1, "quantize_from": 0.0, "max_steps": 4, "max_length": 24}
    result = train(TrainConfig.from_options(task=glue_task("SST-2"), model=str(tmp_path / "model"), **options))
    bundle, report = export(result.path, tmp_path / "bundle")
    assert report.fusion.n_float == 0
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0
    assert dict(report.parity.exported) == pytest.approx(result.metrics, abs=0.011)  # two of 200 rows on ties
    texts = [example.text for example in read_split(glue_task("SST-2"), small.data("SST-2"), "dev").examples]
    classifier = Classifier.load(bundle.path)
    assert classifier.bundle.manifest.input_names == tuple(
        name for name in ("input_ids", "attention_mask", "token_type_ids") if family == "electra" or "type" not in name
    )
    # padding must not move an answer: alone and in batches of rows of other lengths
    together, alone = classifier.logits(texts[:40], batch_size=8), classifier.logits(texts[:40], batch_size=1)
    assert np.abs(together - alone).max() < 0.2 * alone.std()
