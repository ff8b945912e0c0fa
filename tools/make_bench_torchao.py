"""Quantize a Hugging Face folder with torchao after training, for x86: what `bench_inference.py` compares with.

PyTorch's way of today (PT2E): the exported program, with the quantizer that its inductor has for x86. In
``torchao_static.pt2`` ranges of activations are those of random rows, as the other baselines have them; in
``torchao_dynamic.pt2`` they are found at run time. Linear layers are quantized, embedding tables stay float. Reads
``huggingface/`` of a folder. Runs in an environment with torchao, torch, transformers and q8bert.

    python tools/make_bench_torchao.py build/bench/minilm-l6-SST-2-0
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

N_ROWS, BATCH, LENGTH = 32, 8, 128
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Logits(torch.nn.Module):
    """A classifier from named inputs, int64 ``(batch, seq)``, to logits alone, ``(batch, n_outputs)``.

    Args:
        model: The classifier.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return the logits."""
        found: Any = self._model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        logits: Tensor = found.logits
        return logits


def quantized(model: Any, *, is_dynamic: bool, seed: int) -> Any:
    """Return the exported program of a quantized model, of any batch and length."""
    pt2e: Any = importlib.import_module("torchao.quantization.pt2e")
    steps: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86: Any = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(N_ROWS // BATCH):
        ids = torch.randint(1000, 30000, (BATCH, LENGTH), generator=draw)
        batches.append((ids, torch.ones_like(ids), torch.zeros_like(ids)))
    axes = {0: torch.export.Dim("batch", max=512), 1: torch.export.Dim("seq", min=2, max=LENGTH)}
    shapes = dict.fromkeys(_INPUTS, axes)
    exported = torch.export.export(Logits(model), batches[0], dynamic_shapes=shapes).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=is_dynamic))
    prepared = steps.prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch in batches:
            prepared(*batch)
    converted = steps.convert_pt2e(prepared)
    pt2e.move_exported_model_to_eval(converted)
    _drop_float_weights(converted)
    return torch.export.export(converted, batches[0], dynamic_shapes=shapes)


def _drop_float_weights(converted: torch.fx.GraphModule) -> None:
    """Drop the parameters that the graph reads no more, which would double the file."""
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in converted.named_parameters(remove_duplicate=False) if name not in used]:
        parent, _, leaf = name.rpartition(".")
        delattr(converted.get_submodule(parent), leaf)


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="as `make_bench_model.py` made it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in ("static", "dynamic"):
        model: Any = AutoModelForSequenceClassification.from_pretrained(args.folder / "huggingface").eval()
        program = quantized(model, is_dynamic=name == "dynamic", seed=args.seed)
        torch.export.save(program, args.folder / f"torchao_{name}.pt2")


if __name__ == "__main__":
    main()
