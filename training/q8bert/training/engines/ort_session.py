"""An ONNX Runtime session that reads and writes torch tensors by address: nothing is copied."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from q8bert.machine.onnx_runtime import ort
from q8bert.machine.spinning import spin_briefly
from q8bert.spec.errors import ProviderError
from q8bert.training.engines.device import CUDA_PROVIDER

__all__ = ["BoundSession"]

# element types that numpy has no name for are given as ONNX's own numbers
_BFLOAT16 = 16
_ELEMENT_TYPES: Mapping[torch.dtype, Any] = {
    torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: _BFLOAT16, torch.int64: np.int64,
    torch.bool: np.bool_,
}  # fmt: skip
_TORCH_TYPES = {
    "tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}  # fmt: skip


class BoundSession:
    """Runs a program on the memory of torch tensors.

    Args:
        model: The ONNX program.
        device: Where its tensors are.
        threads: CPU threads; 0 leaves the choice to ONNX Runtime.

    Attributes:
        inputs: Names of the program's inputs.
        outputs: Name of each output → its type and sizes; ``batch`` and ``seq`` stand for those of the batch.
        metadata: The program's own.

    Raises:
        ProviderError: If ONNX Runtime cannot run the program on the device.
    """

    def __init__(self, model: bytes, device: torch.device, threads: int) -> None:
        self._device = device
        # kernels are ordered by a stream of their own on a GPU: torch's default one has no address to give away
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        session = ort.InferenceSession(model, _session_options(threads), providers=[self._provider()])
        if device.type == "cuda" and CUDA_PROVIDER not in session.get_providers():
            raise ProviderError(
                f"ONNX Runtime {ort.__version__} could not start {CUDA_PROVIDER} on {device}; `q8bert doctor` says "
                "which library is missing"
            )
        self.inputs = {value.name for value in session.get_inputs()}
        self.outputs = {value.name: (_TORCH_TYPES[value.type], tuple(value.shape)) for value in session.get_outputs()}
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self._session = session
        self._binding: Any = session.io_binding()
        self._run_options = ort.RunOptions()
        if self._stream is not None:
            # streams wait for one another, the host for none of them
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind_input(self, name: str, tensor: Tensor) -> None:
        """Read an input of every run to come from a tensor, which the caller keeps; other names are passed over."""
        if name in self.inputs:
            self._binding.bind_input(name, *_layout(tensor))

    def bind_output(self, name: str, tensor: Tensor) -> None:
        """Write an output of every run to come into a tensor, which the caller keeps; other names are passed over."""
        if name in self.outputs:
            self._binding.bind_output(name, *_layout(tensor))

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Run once.

        Args:
            inputs: What was not bound before; moved to the device where they are not there yet.
            outputs: Those that are wanted anew, in tensors of their own.
            sizes: What ``batch`` and ``seq`` are in this run.

        Returns:
            The wanted outputs by name.
        """
        # the binding holds addresses only; `kept` holds the memory until the run is over
        kept = [tensor.to(self._device).contiguous() for tensor in inputs.values()]
        for name, tensor in zip(inputs, kept, strict=True):
            self.bind_input(name, tensor)
        results = {name: self._empty(name, sizes) for name in outputs}
        for name, tensor in results.items():
            self.bind_output(name, tensor)
        if self._stream is None:
            self._session.run_with_iobinding(self._binding, self._run_options)
            return results
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        self._session.run_with_iobinding(self._binding, self._run_options)
        current.wait_stream(self._stream)
        return results

    def _empty(self, name: str, sizes: Mapping[str, int]) -> Tensor:
        dtype, shape = self.outputs[name]
        return torch.empty([sizes.get(size, size) for size in shape], dtype=dtype, device=self._device)

    def _provider(self) -> Any:
        if self._stream is None:
            return "CPUExecutionProvider"
        return (
            CUDA_PROVIDER,
            {
                "device_id": str(self._device.index),
                "user_compute_stream": str(self._stream.cuda_stream),
                # float32 means float32: ONNX Runtime would take TF32 by itself, torch does not
                "use_tf32": "1" if torch.backends.cuda.matmul.allow_tf32 else "0",
            },
        )


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    spin_briefly(options)
    # nodes as soon as their inputs are there, not level by level: inputs are still in the cache
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # A planned block for each shape of a batch would stand beside what the arena has kept of others.
    options.enable_mem_pattern = False
    # Fake quantization is meant as it is written. Looking for integer products, ONNX Runtime would first give each
    # reader of an activation a DequantizeLinear of its own.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _layout(tensor: Tensor) -> tuple[str, int, Any, list[int], int]:
    if not tensor.is_contiguous():
        raise ValueError("only contiguous tensors can be bound by address")
    device = tensor.device
    return device.type, device.index or 0, _ELEMENT_TYPES[tensor.dtype], list(tensor.shape), tensor.data_ptr()
