"""Writes the folder that the runtime reads; :mod:`q8bert.spec.bundle` defines it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx
from tokenizers import Tokenizer

from q8bert.export.bundle.model_card import model_card
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.spec.bundle import (
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
from q8bert.text.tokenizer import truncation_side

__all__ = ["check_target", "write_bundle"]


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
        tokenizer: Text → ids; the bundle's maximum length is set in it.
        manifest: Everything but ``files``, which is filled in here.
        parity: Written as ``parity.json`` and into the model card.

    Returns:
        The bundle as the runtime sees it.

    Raises:
        ExportError: If ``target`` holds something other than a bundle.
    """
    check_target(target)
    with new_folder(target) as folder:
        onnx.save_model(graph, str(folder / MODEL_FILE))
        tokenizer.no_padding()
        tokenizer.enable_truncation(manifest.max_length, direction=truncation_side(tokenizer))
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
        ExportError: If something other than a bundle or an empty folder stands there, or a bundle with other files.
    """
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ExportError(f"{target} cannot be made: {parent} is a file. Give another --output-dir")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if target.is_dir() and _is_bundle(target):
        strays = {path.name for path in target.iterdir()} - {MANIFEST_FILE, *_listed_files(target)}
        if not strays:
            return
        raise ExportError(
            f"{target} is a bundle that also holds {', '.join(sorted(strays))}, which would be lost; move it away, or "
            "give another --output-dir"
        )
    raise ExportError(f"{target} exists and is no bundle; it is not overwritten. Give another --output-dir")


def _listed_files(folder: Path) -> set[str]:
    files = read_json(folder / MANIFEST_FILE)["files"]
    return {str(name) for name in files} if isinstance(files, Mapping) else set()


def _is_bundle(folder: Path) -> bool:
    # other programs have a manifest.json too
    try:
        return {"format_version", "files", "precision"} <= read_json(folder / MANIFEST_FILE).keys()
    except (OSError, ValueError):
        return False


def _records(folder: Path) -> Mapping[str, FileRecord]:
    return {path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
