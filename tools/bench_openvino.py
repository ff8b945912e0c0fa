"""OpenVINO on a file as its users run it, for `bench_inference_worker.py`: hints, streams, static or dynamic shapes."""

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OpenVinoModel"]

Arrays = dict[str, NDArray[np.int64]]


class OpenVinoModel:
    """Runs a file on OpenVINO.

    With the hint THROUGHPUT each thread is a stream of its own, and a batch is split over the streams; with LATENCY all
    threads work on the whole batch.

    Args:
        path: The file.
        threads: CPU threads.
        options: ``precision`` (``f32`` or ``bf16``, of what is not INT8), ``shapes`` (``static`` compiles anew for each
            shape, ``dynamic`` once for all) and ``hint``.

    Raises:
        RuntimeError: If bfloat16 is asked for, and this CPU has none.
    """

    def __init__(self, path: str, *, threads: int, options: Mapping[str, str]) -> None:
        self._openvino: Any = importlib.import_module("q8bert.machine.openvino_runtime").openvino
        self._core = self._openvino.Core()
        self._path = path
        self._is_static = options["shapes"] == "static"
        hint = options["hint"]
        self._n_streams = threads if hint == "THROUGHPUT" else 1
        self._settings = {
            "PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": options["precision"],
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": self._n_streams,
        }  # fmt: skip
        if options["precision"] == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("OpenVINO has no bfloat16 on this CPU")
        self._shape: tuple[int, ...] = ()
        self._requests: list[Any] = []

    def __call__(self, arrays: Arrays) -> NDArray[np.float32]:
        """Return logits ``(batch, n_outputs)``."""
        shape = arrays["input_ids"].shape
        if shape != self._shape:
            self._prepare(*shape)
        if len(self._requests) == 1:
            results = self._requests[0].infer(self._named(arrays), share_inputs=True)
            return np.array(results[0])
        parts = {name: np.split(array, len(self._requests)) for name, array in self._named(arrays).items()}
        for index, request in enumerate(self._requests):
            request.start_async({name: part[index] for name, part in parts.items()}, share_inputs=True)
        for request in self._requests:
            request.wait()
        return np.concatenate([request.get_output_tensor(0).data for request in self._requests])

    def _prepare(self, batch: int, length: int) -> None:
        n_parts = math.gcd(batch, self._n_streams)
        if self._is_static or not self._requests:
            model = self._core.read_model(self._path)
            self._names = [value.any_name for value in model.inputs]
            if self._is_static:
                model.reshape({name: [batch // n_parts, length] for name in self._names})
            self._compiled = self._core.compile_model(model, "CPU", self._settings)
        self._requests = [self._compiled.create_infer_request() for _ in range(n_parts)]
        self._shape = (batch, length)

    def _named(self, arrays: Arrays) -> Arrays:
        return {name: arrays[name] for name in self._names}
