"""What can be seen of a tokenizer from its vocabulary, and what should be said of it before weeks of training."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from q8bert.text.encoded import Encoded

__all__ = ["lost_capitals", "model_of", "notes_on_tokenizer", "other_vocabulary"]

# Latin, Greek and Cyrillic, without letters that byte-level vocabularies write bytes with
_CAPITAL = re.compile("[A-ZΑ-ΩА-Я]")
_LETTER = re.compile("[A-Za-zΑ-Ωα-ωА-Яа-я]")
_UNKNOWN_SHARE = 0.2
# of the tokens with letters; vocabularies without capitals have next to none but special ones
_CASED_SHARE, _UNCASED_SHARE = 0.1, 0.01
# a vocabulary of few words says nothing of what it lacks
_MANY_WORDS = 100


def model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``model`` section of a tokenizer's file."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def lost_capitals(tokenizer: Tokenizer) -> str | None:
    """Say how many tokens have capitals that a tokenizer never lets through; None where they are few."""
    n_cased, n_words = _capitals(tokenizer)
    return f"{n_cased} of {n_words}" if _lowers_case(tokenizer) and n_cased > _CASED_SHARE * n_words else None


def notes_on_tokenizer(tokenizer: Tokenizer, rows: Encoded) -> list[str]:
    """Find what makes a tokenizer doubtful for some rows, though it works.

    Args:
        tokenizer: Text → ids.
        rows: Rows that it gave.

    Returns:
        A sentence for each doubt.
    """
    notes = []
    if lost := lost_capitals(tokenizer):
        notes.append(
            f"the tokenizer lower-cases text, so {lost} tokens, those with capitals, are never reached; was the model "
            "trained so?"
        )
    n_cased, n_words = _capitals(tokenizer)
    if not _lowers_case(tokenizer) and n_words >= _MANY_WORDS and n_cased < _UNCASED_SHARE * n_words:
        notes.append(
            "the vocabulary has no capitals, but the tokenizer does not lower-case text: words with capitals are "
            "unknown or fall to pieces; was the model trained so?"
        )
    model = model_of(tokenizer)
    if (dropped := _dropped(tokenizer, model)) is not None:
        notes.append(f"the tokenizer has no unknown token and drops what its vocabulary lacks, such as {dropped!r}")
    unknown = _unknown_id(tokenizer, model)
    flat = rows.input_ids.flat
    if unknown is not None and len(flat) and (share := float(np.mean(flat == unknown))) > _UNKNOWN_SHARE:
        notes.append(
            f"{share:.0%} of the tokens of the training rows are unknown ({tokenizer.id_to_token(unknown)}): the "
            "vocabulary does not fit these texts"
        )
    return notes


def other_vocabulary(folder: Path, tokenizer: Tokenizer) -> str | None:
    """Say in what a tokenizer differs from the one that stands in a model's folder.

    Args:
        folder: The model's folder.
        tokenizer: What is used in its place.

    Returns:
        How many tokens have another id, or none; None where all are the same, or the folder has no tokenizer that
        could be read.
    """
    try:
        own = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    except Exception:  # noqa: BLE001 - the library's own; it is not this one that is used
        return None
    here = tokenizer.get_vocab(with_added_tokens=True)
    n_others = sum(here.get(token) != number for token, number in own.items())
    return f"{n_others} of its {len(own)} tokens have another id or none" if n_others else None


def _capitals(tokenizer: Tokenizer) -> tuple[int, int]:
    """Count the tokens with capitals, and those with letters; added tokens, special ones among them, do not count."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    words = [token for token in tokenizer.get_vocab(with_added_tokens=False) if _LETTER.search(token)]
    words = [word for word in words if word not in added and not word.startswith("[unused")]
    return sum(bool(_CAPITAL.search(word)) for word in words), len(words)


def _lowers_case(tokenizer: Tokenizer) -> bool:
    return tokenizer.normalizer is not None and not _CAPITAL.search(tokenizer.normalizer.normalize_str("A"))


def _unknown_id(tokenizer: Tokenizer, model: dict[str, Any]) -> int | None:
    if isinstance(model.get("unk_id"), int):  # Unigram
        return int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def _dropped(tokenizer: Tokenizer, model: dict[str, Any]) -> str | None:
    if model.get("type") != "BPE" or model.get("unk_token") is not None or model.get("byte_fallback"):
        return None
    return next((text for text in "日é%Ж🤖" if not tokenizer.encode(text, add_special_tokens=False).ids), None)
