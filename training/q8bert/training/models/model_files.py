"""The files of a model's folder, before any library reads them: there, a file, not empty, and not a stand-in."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from q8bert.spec.errors import ModelError
from q8bert.spec.files import LFS_POINTER, read_json
from q8bert.training.models.border import library_border

__all__ = ["FETCH_AGAIN", "check_file", "check_tokenizer_files", "read_object"]

FETCH_AGAIN = "Copy or download the file again"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model",
)  # fmt: skip


def check_file(path: Path) -> None:
    """Check that a file can hold what its name says.

    Args:
        path: The file.

    Raises:
        ModelError: If it is missing, a folder, empty, unreadable or a Git LFS pointer.
    """
    if path.is_dir():
        raise ModelError(f"{path} is a folder, where a file is needed")
    if not path.exists():
        raise ModelError(f"{path} {'is a link to nothing' if path.is_symlink() else 'is missing'}. {FETCH_AGAIN}")
    with library_border(f"{path} cannot be read", "Check its permissions"), path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise ModelError(f"{path} is empty. {FETCH_AGAIN}")
    if start == LFS_POINTER:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was cloned, or download "
            "the file"
        )


def check_tokenizer_files(folder: Path) -> None:
    """Check the files that a tokenizer may be read from; which of them are needed is the tokenizer's own matter.

    Args:
        folder: The model's folder.

    Raises:
        ModelError: If one cannot hold what its name says.
    """
    for name in _TOKENIZER_FILES:
        if (folder / name).exists() or (folder / name).is_symlink():
            check_file(folder / name)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes a model or its tokenizer.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ModelError: If it is no JSON object, names code to run, or holds a number that is not finite.
    """
    check_file(path)
    with library_border(f"{path} is cut or damaged", FETCH_AGAIN):
        content = read_json(path)
    if content.get("auto_map"):
        raise ModelError(
            f"{path} names code that comes with the model (auto_map). q8bert never runs such code. Where the model "
            "does without it, remove auto_map from the file"
        )
    if wrong := next((name for name, value in _numbers(content) if not math.isfinite(value)), None):
        raise ModelError(f"{path}: {wrong} is not a finite number. Correct it")
    return content


def _numbers(content: dict[str, Any]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in content.items() if isinstance(value, float))
