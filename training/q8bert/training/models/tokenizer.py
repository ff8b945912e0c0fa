"""Where a model's tokenizer comes from."""

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from q8bert.spec.errors import ModelError

__all__ = ["load_tokenizer"]


def load_tokenizer(source: str) -> tuple[Tokenizer, int]:
    """Load the fast tokenizer of a model.

    Args:
        source: A folder or a hub id.

    Returns:
        The tokenizer, and the id that fills shorter rows.

    Raises:
        ModelError: If it has no fast tokenizer, or no padding token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{source!r} has no fast tokenizer (tokenizer.json or a vocabulary): {error}") from error
    if tokenizer.pad_token_id is None:
        raise ModelError(f"the tokenizer of {source!r} has no padding token")
    return backend, tokenizer.pad_token_id
