"""What is known of each execution provider: one row a provider.

A provider that has no row here may be named as well; of it, nothing is assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from q8bert.spec.bundle.targets import CUDA_TARGET, FLOAT16_TARGET

__all__ = ["CPU_PROVIDER", "CUDA_PROVIDER", "TENSORRT_PROVIDER", "ProviderFacts", "facts_of"]

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"


@dataclass(frozen=True, kw_only=True)
class ProviderFacts:
    """One provider.

    Attributes:
        name: ONNX Runtime's full name.
        needs_cuda: Whether it needs CUDA's libraries, a driver and a GPU.
        memory: Kind of device that inputs and outputs are bound to, for example ``cuda``; None for main memory.
        is_savable: Whether the graph that it optimizes is an ordinary ONNX file; others compile parts of it.
        int8_option: Option without which it takes no quantized graph; None where there is none.
        defaults: Options that it gets where the caller does not say otherwise.
        folds_no_weights: Whether it dequantizes weights anew in every run, unless ONNX Runtime is told to leave
            quantized graphs as they are, which then folds them once.
        has_profiles: Whether it compiles the graph for a range of shapes, and keeps what it compiled.
        targets: Of the bundle's other forms of the model, those that it runs faster than ``model.onnx``: first what
            keeps INT8, which the gate asks for, though half precision may be faster.
        float_note: What to know where a quantized graph ran in float on it; empty where nothing is known.
    """

    name: str
    needs_cuda: bool = False
    memory: str | None = None
    is_savable: bool = False
    int8_option: str | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)
    folds_no_weights: bool = False
    has_profiles: bool = False
    targets: tuple[str, ...] = ()
    float_note: str = ""


_TABLE = (
    ProviderFacts(
        name=CPU_PROVIDER,
        is_savable=True,
        float_note="It fuses INT8 kernels at the optimization levels 'extended' and 'all'.",
    ),
    ProviderFacts(
        name=CUDA_PROVIDER,
        needs_cuda=True,
        memory="cuda",
        is_savable=True,
        defaults={"use_tf32": "0"},  # else products of floats lose 13 of 23 bits
        folds_no_weights=True,
        targets=(CUDA_TARGET, FLOAT16_TARGET),
        float_note=(
            "The CUDA provider has no INT8 kernels for quantized graphs: it dequantizes and multiplies in float32. "
            "Export the bundle with --target float16, the fastest there, or with --target cuda, which it multiplies in "
            "INT8."
        ),
    ),
    ProviderFacts(
        name=TENSORRT_PROVIDER,
        needs_cuda=True,
        memory="cuda",
        int8_option="trt_int8_enable",
        has_profiles=True,
    ),
    ProviderFacts(name="NvTensorRTRTXExecutionProvider", needs_cuda=True),
)


def facts_of(name: str) -> ProviderFacts:
    """Return what is known of a provider; for one without a row, that nothing is."""
    return next((facts for facts in _TABLE if facts.name == name), ProviderFacts(name=name))
