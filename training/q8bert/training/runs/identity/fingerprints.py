"""What a run is made of, by content: rows, weights, configuration, tokenizer.

Where these stand decides nothing: files that only moved are the same, files that changed in place are not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from q8bert.data.examples import Split
from q8bert.spec.files import read_json
from q8bert.text.tokenizer import truncation_side
from q8bert.training.models.source import SourceModel
from q8bert.training.quantization.sites import Site

__all__ = ["Fingerprint", "fingerprint_of_grids", "fingerprint_of_rows", "fingerprints_of_model"]

# what loads and truncates anew, and what only says by whom a file was written
_TOKENIZER_STATE = {"truncation", "padding"}
_WRITER = "transformers_version"


@dataclass(frozen=True)
class Fingerprint:
    """The content of one thing that a run is made of.

    Attributes:
        sha256: Of the content, hexadecimal.
        size: Rows, numbers, keys or entries, to tell people how it changed.
    """

    sha256: str
    size: int


def fingerprint_of_rows(split: Split) -> Fingerprint:
    """Return the fingerprint of a split: texts or token ids, and labels, as they were read, in their order.

    Args:
        split: The rows.

    Returns:
        Its size is their number.
    """
    found = hashlib.sha256()
    for example in split.examples:
        found.update(example.content())
    return Fingerprint(found.hexdigest(), len(split.examples))


def fingerprint_of_grids(sites: Sequence[Site], amax: Tensor) -> Fingerprint:
    """Return the fingerprint of ranges, smoothing and zero points.

    Args:
        sites: Where activations are quantized, and how.
        amax: Float32 ``(n_sites,)``, their ranges.

    Returns:
        Its size is the number of activations.
    """
    grids = [
        [site.name, site.smoothing, site.zero_point, value.hex()]
        for site, value in zip(sites, amax.double().tolist(), strict=True)
    ]
    return _of_json({"grids": grids}, size=len(sites))


def fingerprints_of_model(source: SourceModel) -> dict[str, Fingerprint]:
    """Return the fingerprints of a model as it was loaded, before it is trained.

    Parameters that were drawn are left out: they follow from the seed, but to the last bit only on one kind of CPU. The
    configuration is the file's, not what a release of transformers makes of it.

    Args:
        source: What was loaded.

    Returns:
        Of ``weights``, ``configuration`` and ``tokenizer``.
    """
    found, n_numbers = hashlib.sha256(), 0
    for parameter_name, parameter in sorted(source.model.named_parameters()):
        if parameter_name not in source.drawn:
            values = parameter.detach().to("cpu", torch.float32).contiguous()
            found.update(f"{parameter_name} {tuple(values.shape)}\n".encode())
            found.update(values.numpy().data)
            n_numbers += values.numel()
    configuration = read_json(source.folder / "config.json")
    tokenizer = json.loads(source.tokenizer.to_str())
    kept = {key: value for key, value in tokenizer.items() if key not in _TOKENIZER_STATE}
    return {
        "weights": Fingerprint(found.hexdigest(), n_numbers),
        "configuration": _of_json({
            key: value for key, value in configuration.items() if key != _WRITER and not key.startswith("_")
        }),
        "tokenizer": _of_json({
            "tokenizer": kept, "truncation_side": truncation_side(source.tokenizer),
            "pad_token_id": source.pad_token_id, "input_names": source.input_names,
        }, size=source.tokenizer.get_vocab_size()),
    }  # fmt: skip


def _of_json(content: Mapping[str, object], *, size: int | None = None) -> Fingerprint:
    text = json.dumps(content, sort_keys=True)
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), len(content) if size is None else size)
