"""Where a model's tokenizer comes from: its ``tokenizer.json``, as it stands.

transformers is asked in two cases alone: where there is no such file, to build one from the vocabulary; and where
``tokenizer_config.json`` says how text is to be split, to see whether that is what the file does
(:mod:`q8bert.training.models.tokenizer.agreement`). A folder of ``tokenizer.json`` and ``config.json``, as checkpoints
are, is read without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from q8bert.spec.errors import InputError, ModelError
from q8bert.text.tokenizer import read_tokenizer, truncation_side
from q8bert.training.models.tokenizer.agreement import (
    first_difference,
    probe_texts,
    refuse_disagreement,
    stated_tokenizer,
)
from q8bert.training.models.tokenizer.checks import refuse_other_added_tokens, refuse_unusable, token_text
from q8bert.training.models.tokenizer.files import source_file, statements, transformers_tokenizer
from q8bert.training.models.tokenizer.vocabulary import lost_capitals

__all__ = ["POSITIONS_AFTER_PADDING", "load_tokenizer"]

# families that number the positions of tokens from pad_token_id + 1 on, by comparing ids with it
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_TOKENIZER_FILE = "tokenizer.json"
# classes without rules of their own: they take tokenizer.json as it is
_GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
_HOW_TEXT_IS_SPLIT = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")


def load_tokenizer(source: str, config: Any) -> tuple[Tokenizer, int]:
    """Load the tokenizer of a model.

    Args:
        source: The model's folder.
        config: The model's configuration: vocabulary size, token types, padding token, family.

    Returns:
        The tokenizer, which neither pads nor truncates but where long texts lose their start, and then says so; and the
        id that fills shorter rows.

    Raises:
        ModelError: If there is none, or no whole one; if it has no ``tokenizer.json`` form, disagrees with what the
            model says of it, fails on a text, or gives ids that the model has no rows for.
    """
    stated = statements(source)
    path = source_file(source, _TOKENIZER_FILE)
    theirs = None
    if path is None:
        class_name = stated.get("tokenizer_class") or getattr(config, "tokenizer_class", None)
        theirs = transformers_tokenizer(source, class_name=class_name)
        tokenizer = _built(source, theirs, stated)
    else:
        tokenizer = _read(path)
    side = stated.get("truncation_side") or truncation_side(tokenizer)
    padding_token = (tokenizer.padding or {}).get("pad_token")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    refuse_unusable(source, tokenizer, config)
    refuse_other_added_tokens(source, tokenizer, stated)
    if path is not None and _says_how(stated):
        theirs = stated_tokenizer(source, stated)
        refuse_disagreement(source, tokenizer, theirs)
    if padding_token is None and theirs is not None:
        padding_token = theirs.pad_token
    padding = _padding(source, tokenizer, stated, config, default=padding_token)
    if side not in ("left", "right"):
        raise ModelError(f"truncation_side of {source!r} is {side!r}; it must be left or right")
    if side == "left":  # kept in tokenizer.json, in checkpoint and bundle; the length is set by who encodes
        tokenizer.enable_truncation(config.max_position_embeddings, direction="left")
    return tokenizer, padding


def _read(path: Path) -> Tokenizer:
    try:
        return read_tokenizer(path)
    except InputError as error:
        raise ModelError(str(error)) from error


def _says_how(stated: Mapping[str, Any]) -> bool:
    """Whether ``tokenizer_config.json`` says how text is split, beside what ``tokenizer.json`` says."""
    if class_name := stated.get("tokenizer_class"):
        return str(class_name).removesuffix("Fast") not in _GENERIC_CLASSES
    return any(key in stated for key in _HOW_TEXT_IS_SPLIT)


def _built(source: str, theirs: Any, stated: Mapping[str, Any]) -> Tokenizer:
    """Take the tokenizer out of what transformers built from a vocabulary, as its file would be."""
    names = [name for key, name in type(theirs).vocab_files_names.items() if key != "tokenizer_file"]
    missing = [name for name in names if source_file(source, name) is None]
    if missing:  # transformers makes one up of the special tokens alone
        raise ModelError(
            f"{source!r} has no tokenizer: neither tokenizer.json nor {' and '.join(missing)}. Copy the tokenizer's "
            "files into the model's folder"
        )
    backend = theirs.backend_tokenizer
    try:
        tokenizer = Tokenizer.from_str(backend.to_str())
        texts = probe_texts(backend)
        rows = [[encoding.ids for encoding in each.encode_batch(texts)] for each in (backend, tokenizer)]
    except Exception as error:
        raise ModelError(f"the tokenizer of {source!r} has no tokenizer.json form that works: {error}") from error
    if (at := first_difference(rows[0], rows[1])) is not None:
        raise ModelError(
            f"the tokenizer of {source!r} has no tokenizer.json form: for {texts[at][:80]!r} it gives "
            f"{rows[0][at][:12]}, and {rows[1][at][:12]} after it was saved"
        )
    if "do_lower_case" not in stated and (lost := lost_capitals(tokenizer)):
        raise ModelError(
            f"{source!r} does not say whether text is lower-cased, as {type(theirs).__name__} does where nothing is "
            f"said, but {lost} tokens of its vocabulary have capitals, and none of them would be reached. Write a "
            'tokenizer_config.json beside it: {"do_lower_case": false}, or true if the model was trained so'
        )
    return tokenizer


def _padding(source: str, tokenizer: Tokenizer, stated: Mapping[str, Any], config: Any, *, default: str | None) -> int:
    """Find the id that fills shorter rows: the tokenizer's, or else the model's."""
    name = token_text(stated.get("pad_token"))
    found = tokenizer.token_to_id(name or default or "")
    if name and found is None:
        raise ModelError(f"the padding token {name!r} of {source!r} is not in its tokenizer's vocabulary")
    of_model = getattr(config, "pad_token_id", None)
    padding = of_model if found is None else found
    if padding is None:
        raise ModelError(f"{source!r} has no padding token; name one as pad_token in tokenizer_config.json")
    if not 0 <= padding < config.vocab_size:
        raise ModelError(f"pad_token_id of {source!r} is {padding}; its word table has {config.vocab_size} rows")
    if config.model_type in POSITIONS_AFTER_PADDING and padding != of_model:
        raise ModelError(
            f"the padding token {name or default!r} of {source!r} has id {padding}, but pad_token_id in config.json "
            f"is {of_model}, from which a {config.model_type} model counts positions; make them the same"
        )
    return int(padding)
