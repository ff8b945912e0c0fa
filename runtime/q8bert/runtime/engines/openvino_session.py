"""A loaded ONNX model on OpenVINO's CPU plugin, which runs on the CPUs of every maker."""

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.machine.openvino_runtime import IMPORTED_IN, openvino
from q8bert.runtime.engines.engine import OPENVINO
from q8bert.runtime.engines.kernels import Products
from q8bert.runtime.engines.openvino_limits import RowLimits
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import NamedProviders, Provider, named_providers
from q8bert.runtime.engines.providers.table import CPU_PROVIDER
from q8bert.spec.errors import BundleError, ConfigError, ForkedError, ProviderError

__all__ = ["OpenVinoSession"]

_RELEASE = f"OpenVINO {openvino.__version__.partition('-')[0]}"
_TOLD = frozenset({"layerType", "runtimePrecision"})
_INTEGERS = frozenset({"i8", "u8"})
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoSession:
    """Runs a model on the CPU. Several threads may use one; their calls run one after the other, each on all threads.

    Args:
        model: Content of the ONNX file.
        weights: Has to be empty: OpenVINO takes no bytes for weights in other files.
        name: What the model is called in messages.
        providers: Has to be the CPU's alone, as providers are ONNX Runtime's.
        options: Threads, and whether floats are computed in bfloat16.

    Raises:
        BundleError: If OpenVINO cannot load the model.
        ConfigError: If providers or options do not fit.
        ForkedError: If this process was forked after OpenVINO was used.
        ProviderError: If bfloat16 is asked for and the CPU has no instructions for it.
    """

    engine = OPENVINO
    runs_together = False

    def __init__(
        self,
        model: bytes,
        *,
        weights: Mapping[str, bytes] | None = None,
        name: str = "the model",
        providers: Sequence[Provider] = (CPU_PROVIDER,),
        options: RuntimeOptions | None = None,
    ) -> None:
        self.options = options or RuntimeOptions()
        self.providers: NamedProviders = named_providers(providers)
        self.place = f"CPU, {_RELEASE}"
        self.float_note = ""
        if os.getpid() != IMPORTED_IN:
            raise ForkedError(
                "OpenVINO was used before this process was forked, and its threads stayed behind. Fork before a model "
                "is loaded, or start processes by spawn"
            )
        if faults := _option_faults(self.providers, self.options):
            raise ConfigError(faults)
        if weights:
            raise BundleError(
                f"{name} takes weights from {', '.join(weights)}, which OpenVINO could only read by itself, unchecked. "
                "Load it with engine='onnxruntime'"
            )
        self._core = openvino.Core()
        if self.options.bfloat16 and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ProviderError(
                "bfloat16 was asked for, but this CPU has no instructions for it. Leave it out: then it is float32"
            )
        try:
            self._model = self._core.read_model(model)
            self._logits = self._model.output("logits").get_index()
            self._compiled = self._compile()
        except RuntimeError as error:
            raise BundleError(f"{_RELEASE} could not load {name}: {_one_line(error)}") from error
        self.input_names = tuple(value.get_any_name() for value in self._model.inputs)
        self.products: Products | None = None
        self._limits = RowLimits(self._core, self._model)
        self._lock = threading.Lock()
        self._process = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_never_end, weakref.ref(self)))

    def count_products(self) -> None:
        """Count in :attr:`products` what the compiled model runs its products with weights in."""
        self.products = _count(self._compiled.get_runtime_model())

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.

        Returns:
            Float32 ``(batch, n_outputs)``.

        Raises:
            BundleError: If the model cannot be run on these inputs, for example on more tokens than it has positions
                for.
            ForkedError: If this process was forked after the model was loaded.
        """
        if os.getpid() != self._process:
            raise ForkedError(
                "the model was loaded before this process was forked, and OpenVINO's threads stayed behind. Fork "
                "before it is loaded, or start processes by spawn"
            )
        with self._lock:
            fault = self._limits.fault(inputs, self.input_names)
            if fault is None:
                return self._infer(inputs)
        raise self._error(inputs, fault)

    def _infer(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        # not infer(), which says nothing of failures where there is one thread, and ends the process at the next
        request = self._compiled.create_infer_request()
        try:
            request.start_async(dict(inputs))
            request.wait()
        except RuntimeError as error:
            self._compiled = self._compile()  # a failure leaves it unusable
            raise self._error(inputs, _one_line(error)) from error
        return np.array(request.get_output_tensor(self._logits).data, dtype=np.float32)  # the request's memory goes

    def _error(self, inputs: Mapping[str, NDArray[np.int64]], fault: str) -> BundleError:
        shape = next(iter(inputs.values())).shape
        return BundleError(f"{_RELEASE} could not run the model on {shape}: {fault}")

    def _compile(self) -> Any:
        return self._core.compile_model(
            self._model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if self.options.bfloat16 else "f32",
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else it quantizes activations that the bundle leaves in float
                "INFERENCE_NUM_THREADS": self.options.n_threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # several processes would pin their threads to the same cores
                "ENABLE_HYPER_THREADING": True,  # as many threads as were asked for
            },
        )


def _option_faults(providers: NamedProviders, options: RuntimeOptions) -> list[str]:
    faults = []
    if [name for name, _ in providers] != [CPU_PROVIDER]:
        faults.append(
            f"providers are ONNX Runtime's; the engine openvino runs on the CPU, got "
            f"{', '.join(name for name, _ in providers) or 'none'}"
        )
    for name, given, usual in (
        ("optimization", options.optimization, "all"),
        ("memory_arena", options.memory_arena, True),
        ("cache_dir", options.cache_dir, None),
    ):
        if given != usual:
            faults.append(f"{name} is an option of ONNX Runtime, the engine openvino has none; got {given}")
    return [f"{fault}. Leave it out" for fault in faults]


def _count(compiled: Any) -> Products | None:
    """Count products with weights: those that are fully connected, and others with one factor of rows and columns."""
    precisions = []
    for node in compiled.get_ordered_ops():
        about = {key: str(value.astype(str)) for key, value in node.get_rt_info().items() if key in _TOLD}
        shapes = [value.get_partial_shape() for value in node.inputs()][:2]
        is_weighted = about.get("layerType") == "FullyConnected" or (
            about.get("layerType") == "MatMul" and any(shape.rank.get_length() <= 2 for shape in shapes)
        )
        if is_weighted:
            precisions.append(about["runtimePrecision"])
    n_integer = sum(precision in _INTEGERS for precision in precisions)
    others = {precision for precision in precisions if precision not in _INTEGERS}
    if not precisions or len(others) > 1 or not others <= _PRECISIONS.keys():
        return None
    return Products(n_integer, len(precisions) - n_integer, *(_PRECISIONS[precision] for precision in others))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[-400:]


def _never_end(reference: "weakref.ref[OpenVinoSession]") -> None:
    # a forked process that ends would wait for the threads, which it does not have: let it keep the session
    session = reference()
    if session is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
