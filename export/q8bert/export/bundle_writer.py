"""Writes the folder that the runtime reads; :mod:`q8bert.spec.bundle` defines it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx
from tokenizers import Tokenizer

from q8bert.export.model_card import model_card
from q8bert.export.parity import ParityReport
from q8bert.spec.bundle import (
    EXTERNAL_DATA_FILE,
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    PARITY_FILE,
    TOKENIZER_FILE,
    Bundle,
    FileRecord,
    Manifest,
    open_bundle,
)
from q8bert.spec.errors import ExportError
from q8bert.spec.files import new_folder, read_json, sha256_of, write_json, write_text

__all__ = ["check_target", "write_bundle"]

# protobuf's own limit is 2 GiB; larger models keep their weights in a file beside
_MAX_PROTO_BYTES = 2**31 - 2**20


def write_bundle(
    target: Path,
    *,
    graph: onnx.ModelProto,
    tokenizer: Tokenizer,
    manifest: Manifest,
    parity: ParityReport | None,
) -> Bundle:
    """Write a bundle, whole or not at all, and read it back.

    Args:
        target: The bundle's folder; an existing bundle there is replaced.
        graph: The model.
        tokenizer: Text → ids.
        manifest: Everything but ``files``, which is filled in here.
        parity: Written as ``parity.json`` and into the model card.

    Returns:
        The bundle as the runtime sees it.

    Raises:
        ExportError: If ``target`` holds something other than a bundle.
    """
    check_target(target)
    with new_folder(target) as folder:
        _save_graph(graph, folder)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(folder / TOKENIZER_FILE))
        if parity is not None:
            write_json(folder / PARITY_FILE, dataclasses.asdict(parity))
        sizes = _records(folder)
        write_text(folder / MODEL_CARD_FILE, model_card(dataclasses.replace(manifest, files=sizes), parity))
        complete = dataclasses.replace(manifest, files=_records(folder))
        write_json(folder / MANIFEST_FILE, complete.to_json())
    return open_bundle(target)


def check_target(target: Path) -> None:
    """Check that a bundle may be written to a place.

    Args:
        target: The bundle's folder.

    Raises:
        ExportError: If something other than a bundle or an empty folder stands there.
    """
    if not target.exists() or (target.is_dir() and (not any(target.iterdir()) or _is_bundle(target))):
        return
    raise ExportError(f"{target} exists and is no bundle; it is not overwritten. Give another --output-dir")


def _is_bundle(folder: Path) -> bool:
    # other programs have a manifest.json too
    try:
        return {"format_version", "files", "precision"} <= read_json(folder / MANIFEST_FILE).keys()
    except (OSError, ValueError):
        return False


def _save_graph(graph: onnx.ModelProto, folder: Path) -> None:
    if graph.ByteSize() < _MAX_PROTO_BYTES:
        onnx.save_model(graph, str(folder / MODEL_FILE))
    else:
        onnx.save_model(graph, str(folder / MODEL_FILE), save_as_external_data=True, location=EXTERNAL_DATA_FILE)


def _records(folder: Path) -> Mapping[str, FileRecord]:
    return {path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
