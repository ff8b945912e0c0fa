"""Convert a Hugging Face folder for CTranslate2 in INT8: what `bench_inference.py` compares with.

CTranslate2 runs the encoder and its pooler; the head, one Linear, is kept beside it and multiplied in numpy. Reads
``huggingface/`` of a folder, writes ``ctranslate2/``. Runs in an environment with ctranslate2, torch and transformers.

    python tools/make_bench_ctranslate2.py build/bench/minilm-l6-SST-2-0
"""

import argparse
import importlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as `make_bench_model.py` made it")
    folder: Path = parser.parse_args().folder
    converters: Any = importlib.import_module("ctranslate2.converters")
    target = folder / "ctranslate2"
    with tempfile.TemporaryDirectory() as copied:
        shutil.copytree(folder / "huggingface", copied, dirs_exist_ok=True)
        config = Path(copied) / "config.json"
        # it reads what transformers 5 no longer writes
        content = {"position_embedding_type": "absolute", **json.loads(config.read_text(encoding="utf-8"))}
        config.write_text(json.dumps(content), encoding="utf-8")
        converters.TransformersConverter(copied).convert(str(target), quantization="int8", force=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder / "huggingface")
    head = model.classifier
    np.savez(target / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())


if __name__ == "__main__":
    main()
