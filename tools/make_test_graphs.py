"""Export a small random model of every family and the widths of real sizes, for the tests of other runtimes.

Writes ``NAME.onnx`` (INT8) and ``NAME.npz`` (inputs, logits and activation codes on this ONNX Runtime) for each
into a folder; other releases of ONNX Runtime and OpenVINO then run them.

    python tools/make_test_graphs.py build/test-graphs
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
)

from q8bert.export.graph.build import build_graph
from q8bert.export.graph.passes.keep_first_token import FIRST_TOKEN
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.runtime.engines.session import Session
from q8bert.training.quantization.calibration import see_sites
from q8bert.training.quantization.grid_choice import observed_ranges
from q8bert.training.quantization.sites import find_sites
from q8bert.training.quantization.weights import quantized_parameters

SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 200,
    "max_position_embeddings": 64, "initializer_range": 0.2, "num_labels": 3,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "electra": ElectraConfig(**SMALL, embedding_size=32),
    "mpnet": MPNetConfig(**SMALL),
    "distilbert": DistilBertConfig(  # type: ignore[call-arg]
        dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=200, max_position_embeddings=64, num_labels=3
    ),
    "width-of-minilm": BertConfig(
        **SMALL | {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "initializer_range": 0.05}
    ),
    "width-of-bert-base": BertConfig(
        **SMALL | {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "initializer_range": 0.05}
    ),
}


def make(name: str, config: PretrainedConfig, target: Path, *, per_channel: bool) -> None:
    """Export one random model and run it."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="eager"
    ).eval()
    mask = torch.ones(8, 24, dtype=torch.int64)
    mask[1, 17:], mask[2, 5:] = 0, 0
    ids = torch.where(mask == 1, torch.randint(5, 200, mask.shape), int(config.pad_token_id or 0))
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(mask)
    found = find_sites(model)
    seen = see_sites(model, found, [[inputs]])
    # random models have no outliers: three of four sites are smoothed by chance, and two of three have a zero point
    sites = tuple(
        replace(
            site,
            smoothing=tuple(torch.randint(0, 4, of_site.rows.shape[1:]).tolist()) if index % 4 != 3 else (),
            zero_point=(-20, 0, 44)[index % 3],
        )
        for index, (site, of_site) in enumerate(zip(found, seen, strict=True))
    )
    amax = observed_ranges(sites, seen)[0]
    quantized = quantized_parameters(model, per_channel=per_channel)
    graph = build_graph(model, sites, amax, quantized, input_names=list(inputs))
    arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
    stem = f"{name}-{'per_channel' if per_channel else 'per_tensor'}"
    (target / f"{stem}.onnx").write_bytes(graph.SerializeToString())
    logits = Session(graph.SerializeToString()).run(arrays)
    observed, codes = CodeObserver(graph, sites).run(arrays)
    np.testing.assert_array_equal(observed, logits)
    given = {site.name: array.astype(np.int8) for site, array in zip(sites, codes, strict=True)}
    quantized_here = [node.input[1] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    for place in (scale.removesuffix(".quantize_scale") for scale in quantized_here):
        if place.endswith(FIRST_TOKEN):
            given[place] = given[place.removesuffix(FIRST_TOKEN)][:, :1]
    results: dict[str, Any] = {"logits": logits, "n_products": len(quantized_here), **arrays}
    results |= {f"codes of {place}": array for place, array in given.items()}
    np.savez(target / f"{stem}.npz", **results)


def main() -> None:
    """Make everything in the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target: Path = parser.parse_args().target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, config in CONFIGS.items():
        for per_channel in (True, False) if name == "bert" else (True,):
            make(name, config, target, per_channel=per_channel)


if __name__ == "__main__":
    main()
