"""Other forms of an exported model for other runtimes, each held to the model on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from q8bert.export.graph.targets import graph_for
from q8bert.export.model_to_export import ModelToExport
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.spec.bundle.targets import CUDA_TARGET, TargetGraph, target_file
from q8bert.spec.errors import ConfigError, ExportError
from q8bert.text.batching import model_inputs
from q8bert.text.encoded import Encoded, Rows

__all__ = ["MadeTarget", "make_targets", "refuse_targets"]

_N_ROWS, _SEED = 16, 0
# a code that rounds to its other side moves a row by more now and then, a defect moves most rows
_MAX_MEDIAN_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class MadeTarget:
    """One form.

    Attributes:
        graph: The graph.
        about: What the manifest says of it.
    """

    graph: onnx.ModelProto
    about: TargetGraph


def refuse_targets(targets: Sequence[str], method: str) -> None:
    """Check that targets go with a kind of model.

    Args:
        targets: ``cuda``, ``float16``.
        method: How the model is quantized: ``none``, ``dynamic``, ``static``, ``ptq`` or ``qat``.

    Raises:
        ConfigError: If they do not.
    """
    if targets and method in {"dynamic", "static"}:
        raise ConfigError([f"targets are forms of this project's own graphs, and quantization {method} makes none"])
    if CUDA_TARGET in targets and method == "none":
        raise ConfigError(
            [f"target {CUDA_TARGET} multiplies in INT8, and the model is a float one; float16 is for both"]
        )


def make_targets(targets: Sequence[str], graph: onnx.ModelProto, model: ModelToExport) -> dict[str, MadeTarget]:
    """Make other forms of a model, and run each on the CPU beside it, on rows of random tokens.

    Args:
        targets: ``cuda``, ``float16``.
        graph: As exported.
        model: What it was made of.

    Returns:
        Each form, by its target.

    Raises:
        ExportError: If there is no such form, or it does not compute what the graph does.
    """
    if not targets:
        return {}
    options = RuntimeOptions(threads=1)
    inputs = _random_rows(model)
    expected = Session(graph.SerializeToString(), options=options).run(inputs)
    made = {}
    for target in dict.fromkeys(targets):
        other = graph_for(target, graph)
        logits = Session(other.SerializeToString(), options=options).run(inputs)
        if not np.isfinite(logits).all():
            raise ExportError(f"target {target}: logits are not finite; values are too large for it. Leave it out")
        of_rows = np.abs(logits - expected).max(axis=1)
        # in the units of the user's scores
        limit = _MAX_MEDIAN_DIFFERENCE * model.target_scale.std
        if target == CUDA_TARGET and float(np.median(of_rows)) > limit:
            raise ExportError(
                f"target {target} does not compute what the model does: logits of most of {len(of_rows)} rows "
                f"differ by more than {limit:.3g}"
            )
        about = TargetGraph(target_file(target), max_abs_diff=float(of_rows.max()), n_rows=len(of_rows))
        made[target] = MadeTarget(other, about)
    return made


def _random_rows(model: ModelToExport) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    rng = np.random.default_rng(_SEED)
    n_ids = model.source.tokenizer.get_vocab_size()
    lengths = np.linspace(min(4, model.max_length), model.max_length, _N_ROWS).astype(int)
    rows = Rows.of([rng.integers(0, n_ids, length) for length in lengths])
    encoded = Encoded(rows, Rows(np.zeros_like(rows.flat), rows.starts))
    numbers = np.arange(_N_ROWS)
    return model_inputs(encoded, numbers, model.source.input_names, pad_token_id=model.source.pad_token_id)
