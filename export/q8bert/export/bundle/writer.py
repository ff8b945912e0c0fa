"""Writes the folder that the runtime reads; :mod:`q8bert.spec.bundle.bundle` defines it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import onnx
from tokenizers import Tokenizer

from q8bert.export.bundle.library_files import special_tokens, tokenizer_configuration
from q8bert.export.bundle.model_card import model_card
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.spec.bundle.bundle import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    PARITY_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    Bundle,
    FileRecord,
    Manifest,
    open_bundle,
)
from q8bert.spec.bundle.targets import TargetGraph
from q8bert.spec.errors import ExportError
from q8bert.spec.files import PARTIAL, read_json, sha256_of, write_json, write_text
from q8bert.spec.folders import entries, new_folder, refuse_unwritable
from q8bert.text.tokenizer import truncation_side

__all__ = ["check_target", "write_bundle"]

_BUNDLE_FILES = {
    MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE, MODEL_CARD_FILE, PARITY_FILE, CONFIG_FILE, TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
}  # fmt: skip


class TargetForm(Protocol):
    """A graph, and what the manifest says of it."""

    @property
    def graph(self) -> onnx.ModelProto:
        """The graph."""

    @property
    def about(self) -> TargetGraph:
        """Name of its file, and what was found."""


def write_bundle(
    target: Path,
    *,
    graph: onnx.ModelProto,
    targets: Mapping[str, TargetForm] = MappingProxyType({}),
    tokenizer: Tokenizer,
    configuration: Mapping[str, Any],
    manifest: Manifest,
    parity: ParityReport | None,
) -> Bundle:
    """Write a bundle, whole or not at all, and read it back.

    Args:
        target: The bundle's folder; an existing bundle there is replaced.
        graph: The model.
        targets: Other forms of it, by what they are for.
        tokenizer: Text → ids; the bundle's maximum length is set in it.
        configuration: Content of ``config.json``, as :func:`~q8bert.export.bundle.library_files.model_configuration`
            gives it.
        manifest: Everything but ``files``, which is filled in here.
        parity: Written as ``parity.json`` and into the model card.

    Returns:
        The bundle as the runtime sees it.

    Raises:
        ExportError: If ``target`` holds something other than a bundle.
    """
    check_target(target)
    with new_folder(target, last=MANIFEST_FILE) as folder:
        onnx.save_model(graph, str(folder / MODEL_FILE))
        for form in targets.values():
            onnx.save_model(form.graph, str(folder / form.about.file))
        tokenizer.no_padding()
        tokenizer.enable_truncation(manifest.max_length, direction=truncation_side(tokenizer))
        write_text(folder / TOKENIZER_FILE, tokenizer.to_str(pretty=True))
        special = special_tokens(tokenizer, pad_token_id=manifest.pad_token_id)
        write_json(folder / CONFIG_FILE, configuration)
        write_json(folder / TOKENIZER_CONFIG_FILE, tokenizer_configuration(tokenizer, manifest, special))
        write_json(folder / SPECIAL_TOKENS_FILE, special)
        if parity is not None:
            write_json(folder / PARITY_FILE, dataclasses.asdict(parity))
        about = {target: form.about for target, form in targets.items()}
        complete = dataclasses.replace(manifest, files=_records(folder), targets=about)
        write_text(folder / MODEL_CARD_FILE, model_card(complete, parity))
        write_json(folder / MANIFEST_FILE, complete.to_json())
    return open_bundle(target)


def check_target(target: Path) -> None:
    """Check that a bundle may and can be written to a place.

    Args:
        target: The bundle's folder.

    Raises:
        ExportError: If something other than a bundle or an empty folder stands there, or a bundle with other files.
        OutputError: If nothing can be written there.
    """
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ExportError(f"{target} cannot be made: {parent} is a file. Give another --output-dir")
    if target.exists() and not _may_be_replaced(target):
        raise ExportError(f"{target} exists and is no bundle; it is not overwritten. Give another --output-dir")
    refuse_unwritable(target)


def _may_be_replaced(target: Path) -> bool:
    if not target.is_dir():
        return False
    there = {path.name for path in entries(target)}
    # one that was being put into a folder that cannot be renamed has its manifest among the unfinished until the end
    manifests = [content for folder in (target, *target.glob(f"*{PARTIAL}")) if (content := _manifest(folder))]
    if there and not manifests:
        return False
    listed = {str(name) for content in manifests for name in content["files"]}
    if strays := there - _BUNDLE_FILES - listed:
        raise ExportError(
            f"{target} is a bundle that also holds {', '.join(sorted(strays))}, which would be lost; move it away, or "
            "give another --output-dir"
        )
    return True


def _manifest(folder: Path) -> Mapping[str, Any]:
    """Return the manifest of a bundle, nothing where there is none: other programs have a manifest.json too."""
    try:
        content = read_json(folder / MANIFEST_FILE)
    except (OSError, ValueError):
        return {}
    is_ours = {"format_version", "files", "precision"} <= content.keys() and isinstance(content["files"], dict)
    return content if is_ours else {}


def _records(folder: Path) -> Mapping[str, FileRecord]:
    return {path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
