"""Quantize a float bundle after training with NNCF, run it on OpenVINO, and write what it answers.

    python tools/nncf_peer.py FLOAT_BUNDLE --task STS-B --data-dir GLUE/STS-B --answers answers.npy

NNCF's post-training quantization as its guide advises it for transformers (``model_type`` TRANSFORMER, the mixed preset
that goes with it), calibrated with training rows drawn by the seed. The model runs on the CPU with floats in float32.
Prints one JSON object: size of the saved model in bytes (what is not INT8 in float32, as it runs), rows, versions.
Runs where `nncf` and `openvino` are installed.
"""

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import Split
from q8bert.data.readers import read_split
from q8bert.runtime import Classifier
from q8bert.spec.bundle.bundle import MODEL_FILE
from q8bert.tasks.glue import glue_task
from q8bert.text.batching import model_inputs

_CALIBRATION_ROWS = 512  # as `q8bert quantize` takes


def inputs_of(classifier: Classifier, rows: Split, order: NDArray[np.int64]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Yield rows as the model takes them, one at a time, int64 ``(1, seq)`` by name."""
    manifest, encoded = classifier.bundle.manifest, classifier.encode(*rows.columns())
    for number in order:
        yield model_inputs(encoded, np.array([number]), manifest.input_names, pad_token_id=manifest.pad_token_id)


def quantize_and_answer(args: argparse.Namespace) -> tuple[int, int]:
    """Do the work.

    Args:
        args: Of the command line.

    Returns:
        Size of the saved model in bytes, and rows that were calibrated with.
    """
    openvino: Any = importlib.import_module("q8bert.machine.openvino_runtime").openvino  # without its reports
    nncf: Any = importlib.import_module("nncf")

    task, classifier = glue_task(args.task), Classifier.load(args.bundle, threads=args.threads)
    train, dev = (read_split(task, args.data_dir, name, skip_malformed=True) for name in ("train", "dev"))
    drawn = np.random.default_rng(args.seed).permutation(len(train.examples))[:_CALIBRATION_ROWS]
    core = openvino.Core()
    model = nncf.quantize(
        core.read_model(args.bundle / MODEL_FILE),
        nncf.Dataset(list(inputs_of(classifier, train, drawn))),
        subset_size=len(drawn),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": args.threads}
    compiled = core.compile_model(model, "CPU", options)
    answers = [
        np.array(compiled(batch)["logits"]) for batch in inputs_of(classifier, dev, np.arange(len(dev.examples)))
    ]
    np.save(args.answers, np.concatenate(answers))
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / "model.xml", compress_to_fp16=False)  # what was run
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return size, len(drawn)


def main() -> None:
    """Quantize, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a float bundle, as `q8bert export` writes it")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seed", type=int, default=11, help="of the draw of calibration rows")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to OpenVINO")
    parser.add_argument("--answers", type=Path, required=True, help="file of the logits of the dev rows, .npy")
    parser.add_argument("--json", action="store_true", help="taken, and always so")
    args = parser.parse_args()
    with redirect_stdout(sys.stderr):  # NNCF speaks and draws bars on stdout
        size, n_rows = quantize_and_answer(args)
    versions = {name: version(name) for name in ("nncf", "openvino")}
    sys.stdout.write(json.dumps({"bytes": size, "calibration_rows": n_rows, "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
