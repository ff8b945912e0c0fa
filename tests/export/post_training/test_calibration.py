"""What a float model becomes by calibration."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from q8bert.data.readers import read_split
from q8bert.export.post_training.calibration import calibrated
from q8bert.export.post_training.float_model import load_float_run
from q8bert.training.quantization.config import QuantizationConfig


def test_tables_have_the_granularity_that_the_model_names_whatever_the_float_run_was_told(
    small: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(small.run("SST-2", "float32"), tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["options"]["table_granularity"] = "per_tensor"
    (run / "run.json").write_text(json.dumps(record))
    model = load_float_run(run).model
    rows = model.encode(read_split(model.task, str(small.data("SST-2")), "dev"), labelled=False)
    quantized = calibrated(model, rows.select(rows.spread(16)), options=QuantizationConfig(), seed=1)
    assert quantized.table_granularity == "per_column"
    table = model.source.model.get_parameter("bert.embeddings.word_embeddings.weight").detach()
    scale = table.abs().amax(dim=0) / 127
    codes = quantized.weights.effective["bert.embeddings.word_embeddings.weight"] / scale
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
