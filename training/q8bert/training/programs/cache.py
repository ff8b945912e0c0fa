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
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from q8bert.spec import quant
from q8bert.spec.errors import ConfigError, ExportError
from q8bert.spec.files import write_bytes
from q8bert.spec.private_folders import make_private, prune, refuse_shared
from q8bert.training.objectives.objective import Objective
from q8bert.training.programs.ort_gradients import build_with_ort_gradients
from q8bert.training.programs.training_graph import build_training_graph, evaluation_graph
from q8bert.training.quantization.sites import Site
from q8bert.training.versions import library_versions

__all__ = ["Programs", "build_programs", "cached_programs", "entry_name"]


_DAYS_KEPT = 90
# what a model's configuration says of names and of the task: the programs are the same whatever stands there
_NOT_STRUCTURE = ("_name_or_path", "id2label", "label2id", "problem_type", "architectures", "transformers_version")


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
    objective: Objective,
    *,
    input_names: Sequence[str],
    gradients: str = "torch",
    precision: str = "float32",
    learns_ranges: bool = False,
) -> Programs:
    """Write a model's programs.

    Args:
        model: Float Hugging Face encoder with a head.
        sites: Activations to quantize and observe; empty for float training.
        objective: Which outputs are read, and the loss.
        input_names: Inputs that the model takes.
        gradients: Who writes the backward pass: ``torch``, or ``onnxruntime-training``, which knows float32 alone.
        precision: ``float32``, ``float16`` or ``bfloat16``, the type of parameters, activations and gradients in the
            programs.
        learns_ranges: Whether the ranges of the activations get gradients too; torch alone writes those.

    Returns:
        Both programs.

    Raises:
        ExportError: If torch or ONNX Runtime cannot make them.
    """
    is_as_wanted = precision == "float32" and next(model.parameters()).device.type == "cpu"
    if not is_as_wanted:  # a program is traced on the CPU, wherever it will run
        model = copy.deepcopy(model).to(device="cpu", dtype=getattr(torch, precision))
    if gradients == "torch":
        training = build_training_graph(model, sites, objective, input_names=input_names, learns_ranges=learns_ranges)
    elif learns_ranges:
        raise ExportError(f"gradients of ranges are written by torch, not by {gradients}")
    else:
        training = build_with_ort_gradients(model, sites, objective, input_names=input_names)
    return Programs(*(_serialized(graph) for graph in (training, evaluation_graph(training, objective))))


def cached_programs(
    model: nn.Module,
    sites: Sequence[Site],
    objective: Objective,
    *,
    input_names: Sequence[str],
    gradients: str,
    precision: str,
    learns_ranges: bool = False,
    cache_dir: Path,
    report: Callable[[str], None],
) -> Programs:
    """Return a model's programs from the cache, or build them and keep them there.

    Args:
        model: Float Hugging Face encoder with a head.
        sites: Activations to quantize and observe.
        objective: Which outputs are read, and the loss.
        input_names: Inputs that the model takes.
        gradients: As in :func:`build_programs`.
        precision: As in :func:`build_programs`.
        learns_ranges: As in :func:`build_programs`.
        cache_dir: Folder of the cache; made where it is missing.
        report: Called with a sentence on what happens.

    Returns:
        Both programs.

    Raises:
        ConfigError: If the cache is not the user's alone.
        ExportError: If torch or ONNX Runtime cannot make them.
    """
    options: dict[str, Any] = {
        "input_names": tuple(input_names), "gradients": gradients, "precision": precision,
        "learns_ranges": learns_ranges,
    }  # fmt: skip
    path = cache_dir / f"{entry_name(model, sites, objective, options)}.zip"
    refuse_shared(cache_dir, option="cache_dir")
    if path.is_file():
        try:
            programs = _unpacked(path.read_bytes())
        except (OSError, ValueError) as error:
            report(f"warning: the cached training graph {path} is damaged ({error}) and is built again")
        else:
            with suppress(OSError):  # the cache may be read only
                os.utime(path)
            report(f"training graph from the cache, {path}")
            return programs
    report("building the training graph for ONNX Runtime (some ten seconds; kept for the next time)")
    programs = build_programs(model, sites, objective, **options)
    try:
        make_private(cache_dir, option="cache_dir")
        prune(cache_dir.glob("*.zip"), days=_DAYS_KEPT)
        write_bytes(path, _packed(programs))
    except (OSError, ConfigError) as error:
        report(f"warning: the training graph could not be kept in {cache_dir} ({error})")
    return programs


def entry_name(model: nn.Module, sites: Sequence[Site], objective: Objective, options: Mapping[str, object]) -> str:
    """Return a hash of everything that decides the programs; names of labels and the task do not.

    Args:
        model: Float Hugging Face encoder with a head.
        sites: Activations to quantize and observe.
        objective: Which outputs are read, and the loss.
        options: The other arguments of :func:`build_programs`.

    Returns:
        Hexadecimal digits.
    """
    config = getattr(model, "config", None)
    content = {
        "modules": repr(model),
        "parameters": [
            (name, str(value.dtype), list(value.shape), value.requires_grad) for name, value in model.named_parameters()
        ],
        "config": {} if config is None else {k: v for k, v in config.to_dict().items() if k not in _NOT_STRUCTURE},
        "objective": repr(objective),
        "sites": [[bool(site.smoothing), site.name, *site.linears] for site in sites],
        "options": dict(options),
        "versions": library_versions(),
        "source": [hashlib.sha256(path.read_bytes()).hexdigest() for path in _sources()],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _sources() -> list[Path]:
    # the rooms that decide what stands in a program; the formula's constants do too
    rooms = (Path(__file__).parents[1] / room for room in ("programs", "objectives", "quantization"))
    return [*sorted(path for room in rooms for path in room.rglob("*.py")), Path(quant.__file__)]


def _serialized(graph: ir.Model) -> bytes:
    proto = ir.serde.serialize_model(graph)
    del proto.graph.value_info[:]  # torch's idea of types between nodes, which in half precision is not always ONNX's
    content: bytes = proto.SerializeToString()
    return content


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
