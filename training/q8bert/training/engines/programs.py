"""The two ONNX programs of a model, forward with gradients and forward alone, and the cache that keeps them.

Building them takes some ten seconds for a model of six layers. They hold no weights, only the model's structure,
so one entry serves every run of that structure. An entry's name is a hash of all that decides its
content: the model's modules and configuration, the sites, the options, the versions of every library that takes part,
and q8bert's own source. An entry is a SHA-256 and a zip file, which it is the sum of.
"""

import copy
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from q8bert.spec import quant
from q8bert.spec.files import write_bytes
from q8bert.training.engines.gradient_graph import append_gradients, evaluation_graph, export_forward
from q8bert.training.quantization.sites import Site
from q8bert.training.versions import library_versions

__all__ = ["Programs", "build_programs", "cached_programs", "entry_name"]


@dataclass(frozen=True)
class Programs:
    """Serialized ONNX models.

    Attributes:
        training: Forward, loss and every gradient.
        evaluation: Forward without dropout and observations.
    """

    training: bytes
    evaluation: bytes


def build_programs(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    quantize: bool,
    input_names: Sequence[str],
    regression: bool,
    precision: str = "float32",
    device_type: str = "cpu",
) -> Programs:
    """Export a model and append its gradients.

    Args:
        model: Float Hugging Face classifier.
        sites: Activations to observe, and to quantize.
        quantize: False leaves activations float, for the steps before quantization starts.
        input_names: Inputs that the model takes.
        regression: Whether labels are scores.
        precision: ``float32`` or ``float16``, the type of parameters, activations and gradients in the programs.
        device_type: ``cpu`` or ``cuda``; decides which gradient kernels are written out.

    Returns:
        Both programs.

    Raises:
        ExportError: If torch or ONNX Runtime cannot make them.
    """
    if precision != "float32":
        model = copy.deepcopy(model).to(getattr(torch, precision))
    forward = export_forward(model, sites, quantize=quantize, input_names=input_names, regression=regression)
    training = append_gradients(forward, expand_kernels=device_type == "cpu")
    return Programs(training.SerializeToString(), evaluation_graph(forward).SerializeToString())


def cached_programs(
    model: nn.Module,
    sites: Sequence[Site],
    *,
    quantize: bool,
    input_names: Sequence[str],
    regression: bool,
    precision: str,
    device_type: str,
    cache_dir: Path,
    report: Callable[[str], None],
) -> Programs:
    """Return a model's programs from the cache, or build them and keep them there.

    Args:
        model: Float Hugging Face classifier.
        sites: Activations to observe, and to quantize.
        quantize: False leaves activations float.
        input_names: Inputs that the model takes.
        regression: Whether labels are scores.
        precision: As in :func:`build_programs`.
        device_type: As in :func:`build_programs`.
        cache_dir: Folder of the cache; made where it is missing.
        report: Called with a sentence on what happens.

    Returns:
        Both programs.

    Raises:
        ExportError: If torch or ONNX Runtime cannot make them.
    """
    options: dict[str, Any] = {
        "quantize": quantize, "input_names": tuple(input_names), "regression": regression, "precision": precision,
        "device_type": device_type,
    }  # fmt: skip
    path = cache_dir / f"{entry_name(model, sites, options)}.zip"
    if path.is_file():
        try:
            programs = _unpacked(path.read_bytes())
        except (OSError, ValueError) as error:
            report(f"warning: the cached training graph {path} is damaged ({error}) and is built again")
        else:
            report(f"training graph from the cache, {path}")
            return programs
    report("building the training graph for ONNX Runtime (some ten seconds; kept for the next time)")
    programs = build_programs(model, sites, **options)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _packed(programs))
    except OSError as error:
        report(f"warning: the training graph could not be kept in {cache_dir} ({error})")
    return programs


def entry_name(model: nn.Module, sites: Sequence[Site], options: Mapping[str, object]) -> str:
    """Return a hash of everything that decides the programs.

    Args:
        model: Float Hugging Face classifier.
        sites: Activations to observe, and to quantize.
        options: The other arguments of :func:`build_programs`.

    Returns:
        Hexadecimal digits.
    """
    config = getattr(model, "config", None)
    content = {
        "modules": repr(model),
        "parameters": [(name, str(value.dtype), list(value.shape)) for name, value in model.named_parameters()],
        "config": {} if config is None else {k: v for k, v in config.to_dict().items() if k != "_name_or_path"},
        "sites": [[bool(site.smoothing), site.name, *site.linears] for site in sites],
        "options": dict(options),
        "versions": library_versions(),
        "source": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _sources()],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _sources() -> list[Path]:
    # the formula's constants stand in the graph too
    return [*sorted(Path(__file__).parents[1].rglob("*.py")), Path(quant.__file__)]


def _packed(programs: Programs) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("training.onnx", programs.training)
        archive.writestr("evaluation.onnx", programs.evaluation)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def _unpacked(entry: bytes) -> Programs:
    digest, content = entry[:32], entry[32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum is another")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return Programs(archive.read("training.onnx"), archive.read("evaluation.onnx"))
