"""torchao's quantized program as a contender of `bench_inference.py`: compiled for this CPU as PyTorch's guide does."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TorchaoModel"]


class TorchaoModel:
    """Runs a program that `make_bench_torchao.py` wrote, for any batch and length; the first call compiles.

    Args:
        path: The file.
        threads: CPU threads.
    """

    def __init__(self, path: str, *, threads: int) -> None:
        self._torch: Any = importlib.import_module("torch")
        importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")  # names the operators
        self._torch.set_num_threads(threads)
        # without it weights are packed, and dequantized, in every call
        importlib.import_module("torch._inductor.config").freezing = True  # type: ignore[attr-defined]
        self._run = self._torch.compile(self._torch.export.load(path).module(), dynamic=True)

    def __call__(self, arrays: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the logits of a batch, ``(batch, n_outputs)``.

        Args:
            arrays: Inputs by name, int64 ``(batch, seq)``.
        """
        ids = arrays["input_ids"]
        tensors = [
            self._torch.from_numpy(arrays.get(name, np.zeros_like(ids)))
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        with self._torch.no_grad():
            return np.asarray(self._run(*tensors).numpy())
