"""One contender of `bench_training.py`, in a process of its own: takes a step for each batch that it is sent.

Heavy libraries are imported where they are used, so that plain torch is timed in a process without ONNX Runtime.
"""

import contextlib
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

# the ONNX Runtime engine with another session option
VARIANTS: dict[str, tuple[str, Any]] = {
    "ort_no_arena": ("enable_cpu_mem_arena", False),
    "ort_no_mem_pattern": ("enable_mem_pattern", False),
    "ort_parallel_nodes": ("execution_mode", "ORT_PARALLEL"),
}
SIZES: dict[str, dict[str, int]] = {
    "minilm-l6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}


class Contender:
    """One way to train, in this process.

    Args:
        kind: One of ``CONTENDERS``.
        size: One of ``SIZES``.
        threads: CPU threads.
    """

    def __init__(self, kind: str, size: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, BertConfig

        from q8bert.training.engines.ort_engine import OrtEngine
        from q8bert.training.engines.torch_engine import TorchEngine
        from q8bert.training.loop.optimization import adamw
        from q8bert.training.objectives.objective import Classification
        from q8bert.training.programs.cache import build_programs
        from q8bert.training.quantization.sites import find_sites
        from q8bert.training.quantization.weights import prepare_weights, quantized_parameters

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        config: Any = BertConfig(**{**SIZES[size], "num_labels": 2})  # type: ignore[arg-type]
        factory: Any = AutoModelForSequenceClassification
        self._model = factory.from_config(config, attn_implementation="eager")
        self._is_plain = kind == "torch_fp32"
        if self._is_plain:
            self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5, fused=True)
            return
        sites = find_sites(self._model) if kind != "ort_float" else ()
        objective = Classification()
        self._weights = prepare_weights(
            self._model, quantized_parameters(self._model, per_channel=True) if sites else {}, sites
        )
        self._optimizer = adamw(self._weights.masters, weight_decay=0.01)
        for group in self._optimizer.param_groups:
            group["lr"] = 1e-5
        self._amax = torch.full((len(sites),), 4.0) if sites else None
        self._engine: Any
        if kind in ("torch_qat", "torch_bf16"):
            precision = "bfloat16" if kind == "torch_bf16" else "float32"
            self._engine = TorchEngine(self._model, sites, self._weights, objective, precision=precision)
        else:
            names = ("input_ids", "attention_mask", "token_type_ids")
            _apply_variant(kind)
            programs = build_programs(self._model, sites, objective, input_names=names)
            self._engine = OrtEngine(programs, sites, self._weights, objective, threads=threads)

    def step(self, arrays: dict[str, np.ndarray[Any, Any]], labels: np.ndarray[Any, Any], seed: int) -> None:
        """Take one optimizer step."""
        import torch

        from q8bert.training.engines.engine import Batch
        from q8bert.training.loop.step import apply_gradients

        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        targets = torch.from_numpy(labels)
        if self._is_plain:
            self._model.train()
            self._model(**inputs, labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            return
        result = self._engine.step(Batch(inputs, {"labels": targets}), self._amax, seed=seed)
        norm = torch.linalg.vector_norm(self._weights.gradient)
        apply_gradients(self._optimizer, norm, torch.isfinite(result.observations).all(), max_norm=1.0)
        self._weights.refresh()


def _apply_variant(kind: str) -> None:
    """Make every session of this process one of a variant."""
    import onnxruntime as ort

    name, value = VARIANTS.get(kind, ("", None))
    if not name:
        return
    make_options = ort.SessionOptions

    def session_options() -> Any:
        options = make_options()
        setattr(options, name, getattr(ort.ExecutionMode, value) if isinstance(value, str) else value)
        return options

    ort.SessionOptions = session_options


def serve(pipe: Connection, kind: str, size: str, threads: int) -> None:
    """Answer each batch that comes through the pipe with wall seconds, CPU seconds and peak memory."""
    contender = Contender(kind, size, threads)
    _forget_peak_memory()  # of building the graph
    pipe.send("ready")
    for seed, (arrays, labels) in enumerate(iter(pipe.recv, None)):
        wall, cpu = time.perf_counter(), time.process_time()
        contender.step(arrays, labels, 1_000_000_007 * (seed + 1) % 2**31)
        answer = (time.perf_counter() - wall, time.process_time() - cpu)
        pipe.send((*answer, _peak_memory_mb()))


def _forget_peak_memory() -> None:
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if peak is None else int(peak) / 1024
