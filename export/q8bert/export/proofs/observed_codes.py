"""The integer codes of every activation, as ONNX Runtime computes them when the exported model runs.

More outputs on the exported graph would keep ONNX Runtime from fusing its products, and another computation would be
observed. So the graph is observed *after* optimization: ONNX Runtime writes what it made of the model, the outputs of
``QuantizeLinear`` are added there, and the result runs with optimization switched off. Its logits are bit-equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from q8bert.export.layer_names import layers_of
from q8bert.export.proofs.optimized import CPU_ONLY, optimized_graph
from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session_options import session_options
from q8bert.spec.errors import ExportError
from q8bert.training.quantization.sites import Site

__all__ = ["CodeObserver"]

_CODES = ".weight_codes"
_SHAPED = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class CodeObserver:
    """Runs an exported model and gives the codes of its activations besides its logits.

    Args:
        model: As exported.
        sites: Where activations are quantized.
        threads: CPU threads; 0 for the cores that this process may use.

    Raises:
        ExportError: If a site cannot be found in what ONNX Runtime made of the model.
    """

    def __init__(self, model: onnx.ModelProto, sites: Sequence[Site], *, threads: int = 0) -> None:
        optimized = optimized_graph(model, threads=threads)
        outputs = _outputs_of_sites(optimized, sites)
        missing = [site.name for site in sites if site.name not in outputs]
        if missing:
            raise ExportError(f"ONNX Runtime {ort.__version__} does not quantize {', '.join(missing)} any more")
        self._names = [outputs[site.name] for site in sites]
        optimized.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names)
        options = session_options(replace(RuntimeOptions.batch(threads=threads), optimization="none"))
        self._session = ort.InferenceSession(optimized.SerializeToString(), options, providers=CPU_ONLY)

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Compute logits and codes.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.

        Returns:
            Float32 logits ``(batch, n_outputs)``, and for each site its codes, −128…127, as float32 of the shape of
            what is quantized, ``(batch, seq, features)`` or ``(batch, features)``; ``(batch, 1, features)`` where the
            model computes the first token's row alone.
        """
        logits, *codes = self._session.run(["logits", *self._names], dict(inputs))
        return logits, [_as_codes(array) for array in codes]


def _outputs_of_sites(optimized: onnx.ModelProto, sites: Sequence[Site]) -> dict[str, str]:
    """Return where the codes of each site are, by its name.

    A site is told by the weights that its codes are multiplied by, for the optimizer gives constants of equal value one
    name. Where the first token's row is quantized apart, the codes are those of all rows.
    """
    producers = {name: node for node in optimized.graph.node for name in node.output}
    whole: dict[str, str] = {}
    of_one_row: dict[str, str] = {}
    for node in optimized.graph.node:
        weight = next((name for name in node.input if name.endswith(_CODES)), None)
        quantizer = None if weight is None else _quantizer_before(node.input[0], producers)
        if weight is not None and quantizer is not None:
            before = producers.get(quantizer.input[0])
            is_cut = before is not None and before.op_type == "Gather"
            codes = dict.fromkeys(layers_of(weight.removesuffix(_CODES)), quantizer.output[0])
            (of_one_row if is_cut else whole).update(codes)
    return {
        site.name: codes[linear]
        for site in sites
        for codes in (of_one_row, whole)  # the last one found stands
        for linear in site.linears
        if linear in codes
    }


def _quantizer_before(name: str, producers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    node = producers.get(name)
    while node is not None and node.op_type in _SHAPED:
        node = producers.get(node.input[0])
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _as_codes(array: NDArray[np.generic]) -> NDArray[np.float32]:
    codes = array.astype(np.float32)
    if array.dtype == np.uint8:
        codes -= 128.0  # x86 kernels take uint8 with zero point 128
    if codes.ndim == 4:
        # what attention puts together, (batch, heads, seq, features of a head), is quantized before it is
        batch, heads, seq, width = codes.shape
        codes = codes.transpose(0, 2, 1, 3).reshape(batch, seq, heads * width)
    return codes
