"""Make the files that `bench_inference.py` runs when no trained bundles are given: one model, in every precision.

``huggingface/``  weights, configuration and tokenizer, for torch and the Hugging Face pipeline
``float32/``      bundle of the same weights in float
``int8/``         bundle of the same weights in INT8, its ranges observed on random tokens

BERT-base has random weights (normal, σ = 0.02), MiniLM-L6 its own with a random head: time and size do not depend
on the values. Runs in the training environment.

    python tools/make_bench_model.py build/bench/minilm-l6-SST-2 --size minilm-l6 --task SST-2 --seed 0
"""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from q8bert.export.bundle.library_files import model_configuration
from q8bert.export.bundle.writer import write_bundle
from q8bert.export.graph.build import build_graph
from q8bert.export.proofs.fusion import examine_fusion
from q8bert.export.proofs.saturation import what_it_took
from q8bert.spec.bundle.bundle import Manifest
from q8bert.tasks.glue import glue_task
from q8bert.tasks.task import Task
from q8bert.training.models.source import SourceModel, count_parameters, load_source_model
from q8bert.training.quantization.calibration import calibrate
from q8bert.training.quantization.fake_quantize import WeightGrid
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters
from q8bert.training.versions import library_versions

SIZES = ("minilm-l6", "bert-base")
MAX_LENGTH = 128


def make_source(size: str, task: Task, *, seed: int) -> SourceModel:
    """Return a classifier with a random head; BERT-base has random weights throughout and MiniLM's tokenizer."""
    torch.manual_seed(seed)
    minilm = load_source_model(
        "minilm-l6", n_outputs=task.head.n_outputs, labels=task.head.labels, max_length=MAX_LENGTH, dropout=None
    )
    if size == "minilm-l6":
        return minilm
    config: Any = BertConfig(vocab_size=minilm.tokenizer.get_vocab_size())
    config.id2label, config.label2id = minilm.model.config.id2label, minilm.model.config.label2id
    config.problem_type = minilm.model.config.problem_type
    factory: Any = AutoModelForSequenceClassification
    model = factory.from_config(config, attn_implementation="eager")
    return replace(minilm, model=model)


def observe(source: SourceModel) -> tuple[tuple[Site, ...], torch.Tensor]:
    """Return the sites on their grids, and the range of each, ``(n_sites,)``, after a float pass over random tokens."""
    shape = (16, MAX_LENGTH)
    ids = torch.randint(1000, source.tokenizer.get_vocab_size(), shape)
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.int64), "token_type_ids": ids * 0
    }  # fmt: skip
    found = find_sites(source.model)
    sites, ranges = calibrate(source.model, found, [[inputs]], decay=0.0, smoothing=True)
    return sites, ranges.amax()


def write_huggingface(target: Path, source: SourceModel) -> None:
    """Write weights, configuration and tokenizer as ``transformers.pipeline`` reads them."""
    source.model.save_pretrained(target)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(source.tokenizer.to_str()),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_max_length=MAX_LENGTH, model_input_names=list(source.input_names),
    ).save_pretrained(target)  # fmt: skip


def write_bundles(target: Path, source: SourceModel, task: Task, *, size: str, seed: int) -> None:
    """Write the INT8 and the float bundle of one model."""
    sites, amax = observe(source)
    quantized = quantized_parameters(source.model, per_channel=True)
    nothing: dict[str, Any] = {}
    for precision, found, ranges, names in (
        ("int8", sites, amax, quantized),
        ("float32", (), torch.zeros(0), nothing),
    ):
        graph = build_graph(source.model, found, ranges, names, input_names=source.input_names)
        manifest = Manifest(
            precision=precision,
            task=task.to_json(),
            max_length=MAX_LENGTH,
            pad_token_id=source.pad_token_id,
            input_names=source.input_names,
            files={},
            quantization=_quantization(source.model, graph, names, found) if found else {},
            versions=library_versions(),
            model={
                "source": f"{size}, untrained, seed {seed}", "architecture": type(source.model).__name__,
                "n_parameters": count_parameters(source.model),
            },
        )  # fmt: skip
        write_bundle(
            target / precision, graph=graph, tokenizer=source.tokenizer, manifest=manifest, parity=None,
            configuration=model_configuration(source.model.config, labels=task.head.labels),
        )  # fmt: skip


def _quantization(
    model: PreTrainedModel, graph: onnx.ModelProto, quantized: Mapping[str, WeightGrid], sites: tuple[Site, ...]
) -> dict[str, object]:
    return {
        "method": "qat", "num_bits": 8, "weight_granularity": "per_channel", "table_granularity": "per_column",
        "float_layers": [],
        "smoothed_activations": [site.name for site in sites if site.smoothing],
        "products": asdict(examine_fusion(graph)),
        "saturation": asdict(what_it_took(prepare_weights(model, quantized, sites))),
    }  # fmt: skip


def main() -> None:
    """Make everything below the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", choices=SIZES, default="minilm-l6")
    parser.add_argument("--task", default="SST-2", help="names the labels, and whether rows are pairs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    shutil.rmtree(args.target, ignore_errors=True)
    task = glue_task(args.task)
    source = make_source(args.size, task, seed=args.seed)
    write_huggingface(args.target / "huggingface", source)
    write_bundles(args.target, source, task, size=args.size, seed=args.seed)


if __name__ == "__main__":
    main()
