"""Where the files of a tokenizer are, and the border to transformers, which builds one where there is no file.

Whatever a library raises here becomes a :class:`ModelError` that names the source, the cause and the remedy.
"""

import importlib.util
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from q8bert.spec.errors import ModelError
from q8bert.training.models.border import quiet_transformers
from q8bert.training.models.model_files import read_object

__all__ = ["source_file", "statements", "transformers_tokenizer"]

_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
# import names by the name of the package to install
_SENTENCEPIECE_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}


def source_file(source: str, name: str) -> Path | None:
    """Return where a file of a model is; None if the model has no such file."""
    path = Path(source) / name
    return path if path.exists() or path.is_symlink() else None


def statements(source: str) -> dict[str, Any]:
    """Read what a model says of its tokenizer beside the tokenizer's own file.

    Args:
        source: The model's folder.

    Returns:
        ``tokenizer_config.json``, empty where there is none, and the padding token of ``special_tokens_map.json``,
        where models of before 2023 have it.

    Raises:
        ModelError: If a file is no JSON object, or names code to run.
    """
    stated, special_tokens = (
        {} if (path := source_file(source, name)) is None else read_object(path)
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    if special_tokens.get("pad_token"):
        stated.setdefault("pad_token", special_tokens["pad_token"])
    return stated


def transformers_tokenizer(source: str, *, class_name: str | None) -> Any:
    """Load the tokenizer that transformers makes of a model's files.

    Args:
        source: The model's folder.
        class_name: The class that the model names, if it names one.

    Returns:
        The tokenizer, of a class on top of the ``tokenizers`` library.

    Raises:
        ModelError: If it cannot be made, or is written in Python, so that nothing but Python could serve it.
    """
    named = getattr(transformers, str(class_name).removesuffix("Fast"), None) if class_name else None
    if isinstance(named, type) and not issubclass(named, PreTrainedTokenizerFast):
        raise ModelError(_no_form(source, named.__name__))
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"the tokenizer of {source!r} cannot be made: {_cause(source, error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(_no_form(source, type(tokenizer).__name__))
    return tokenizer


def _no_form(source: str, class_name: str) -> str:
    return (
        f"the tokenizer of {source!r}, {class_name}, has no tokenizer.json form: it is Python code, which a service "
        "without transformers cannot run. Take a model whose tokenizer is of the tokenizers library"
    )


def _cause(source: str, error: Exception) -> str:
    # transformers takes a SentencePiece model for a tiktoken file where it cannot read it, and then asks for tiktoken
    model = next((name for name in _SENTENCEPIECE_FILES if source_file(source, name)), None)
    missing = [package for package, name in _SENTENCEPIECE_PACKAGES.items() if not _is_installed(name)]
    if model and missing:
        return (
            f"reading {model} takes the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}, not "
            f"installed here. Run: pip install {' '.join(missing)}"
        )
    if model:
        return f"{model} is not readable as a SentencePiece model ({_first_line(error)}). Copy or download it again"
    if isinstance(error, ImportError) and error.name:
        return f"it takes the package {error.name}, not installed here. Run: pip install {error.name}"
    return f"{_first_line(error)} ({type(error).__name__}). Give a folder with its tokenizer.json"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a submodule is missing
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
