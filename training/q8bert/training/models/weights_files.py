"""A model's folder → its weights by name, as they stand in the file.

Safetensors or pickles, whole or in shards, in the order in which transformers looks for them. A pickle is read with
tensors alone let in (``weights_only``): code in it is never run.
"""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from q8bert.spec.errors import ModelError
from q8bert.training.models.border import library_border
from q8bert.training.models.model_files import FETCH_AGAIN, check_file, read_object

__all__ = ["read_weights"]

_INDEX = ".index.json"
_FILES = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_ID_BUFFERS = ("position_ids", "token_type_ids")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a model.

    Args:
        folder: Its folder.

    Returns:
        Name in the file → tensor of a floating type; tensors may share memory and need not be contiguous. Buffers of
        ids, which older releases of transformers saved with them, are left out.

    Raises:
        ModelError: If there are none, a file is not what its name says, or they are quantized.
    """
    found = next((path for path in (folder / name for name in _FILES) if path.exists() or path.is_symlink()), None)
    if found is None:
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.name[0] != ".")[:8]) or "nothing"
        raise ModelError(
            f"{folder} holds no weights: {_FILES[0]}, {_FILES[2]} or the {_INDEX} of either is needed; there is {there}"
        )
    held = _read_shards(found) if found.name.endswith(_INDEX) else _read_file(found)
    weights = {name: tensor for name, tensor in held.items() if not name.endswith(_ID_BUFFERS)}
    if quantized := [(name, tensor) for name, tensor in weights.items() if tensor.dtype not in _FLOATS]:
        name, tensor = quantized[0]
        raise ModelError(
            f"{found}: {name} is of type {str(tensor.dtype).removeprefix('torch.')}; quantized weights cannot be "
            "trained on. Give the float model that they were made from"
        )
    return weights


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index} says of no weight in which file it is (weight_map). {FETCH_AGAIN}")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise ModelError(f"{index} names {shard!r}, which is not a file beside it. {FETCH_AGAIN}")
        held = _read_file(index.with_name(shard))
        if lost := [name for name, place in places.items() if place == shard and name not in held]:
            raise ModelError(f"{index} says that {shard} holds {lost[0]}, and it does not. Copy or download both again")
        weights |= held
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    check_file(path)
    with library_border(f"{path} is cut or damaged", FETCH_AGAIN):
        return load_file(path) if path.suffix == ".safetensors" else _unpickle(path)


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or holds other Python objects than tensors, which are never loaded, because they can "
            "run code. Copy it again, or save the model as model.safetensors"
        ) from error
    is_flat = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )
    if not is_flat:
        raise ModelError(f"{path} is not a table of weights by name. Save the model as model.safetensors")
    return dict(content)
