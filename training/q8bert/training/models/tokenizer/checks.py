"""What a model's tokenizer must be able to do, checked when it is loaded."""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from q8bert.spec.errors import ModelError
from q8bert.training.models.tokenizer.agreement import PROBES
from q8bert.training.models.tokenizer.vocabulary import model_of

__all__ = ["refuse_other_added_tokens", "refuse_unusable", "token_text"]


def refuse_unusable(source: str, tokenizer: Tokenizer, config: Any) -> None:
    """Check that a tokenizer takes any text, always in the same way, to ids that a model has rows for.

    Args:
        source: The model, for the message.
        tokenizer: Its tokenizer.
        config: Its configuration.

    Raises:
        ModelError: If not.
    """
    model = model_of(tokenizer)
    if model.get("dropout"):
        raise ModelError(
            f"the tokenizer of {source!r} has a dropout of {model['dropout']}: the same text gets other tokens every "
            "time. Set dropout to null in the model section of its tokenizer.json"
        )
    for text in PROBES:
        try:
            pair = tokenizer.encode(text, text)
        except Exception as error:
            raise ModelError(
                f"the tokenizer of {source!r} fails on {text[:80]!r}: {error}. It needs an unknown token (unk_token) "
                "that its vocabulary holds"
            ) from error
        if max(pair.type_ids, default=0) >= (n_types := getattr(config, "type_vocab_size", 0)) > 1:
            raise ModelError(
                f"the tokenizer of {source!r} gives the token type {max(pair.type_ids)}, but the model has {n_types} "
                "rows for token types; correct the post-processor of its tokenizer.json"
            )
    token, largest = max(
        tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1], default=("", -1)
    )
    if largest >= config.vocab_size:
        raise ModelError(
            f"the tokenizer of {source!r} has ids up to {largest} ({token!r}), but the model's word table has "
            f"{config.vocab_size} rows. Give the tokenizer that belongs to the model, or enlarge the table with "
            f"model.resize_token_embeddings({largest + 1}) and train it"
        )


def refuse_other_added_tokens(source: str, tokenizer: Tokenizer, stated: Mapping[str, Any]) -> None:
    """Check that the tokens that ``tokenizer_config.json`` adds are those of the tokenizer.

    Args:
        source: The model, for the message.
        tokenizer: Its tokenizer.
        stated: What ``tokenizer_config.json`` says.

    Raises:
        ModelError: If one of them is missing or has another id.
    """
    entries = stated.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        raise ModelError(
            f"added_tokens_decoder in tokenizer_config.json of {source!r} must be an object of tokens by id"
        )
    for number, entry in entries.items():
        content = token_text(entry)
        if content is not None and str(found := tokenizer.token_to_id(content)) != str(number):
            raise ModelError(
                f"tokenizer_config.json of {source!r} adds the token {content!r} with id {number}; in tokenizer.json "
                f"it {'is missing' if found is None else f'has id {found}'}. Take it out of added_tokens_decoder, or "
                "save the tokenizer anew with transformers' save_pretrained"
            )


def token_text(token: Any) -> str | None:
    """Return the text of a special token, which files have as text or as an object."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None
