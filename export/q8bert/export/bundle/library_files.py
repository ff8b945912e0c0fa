"""What other libraries want to find beside a model: its configuration, and what its tokenizer's tokens are for.

transformers reads these files in Python and transformers.js in JavaScript; q8bert itself needs none of them. The class
of the tokenizer is the one without rules of its own, so ``tokenizer.json`` is taken as it stands.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PretrainedConfig

from q8bert.spec.bundle.bundle import Manifest
from q8bert.text.tokenizer import truncation_side

__all__ = ["model_configuration", "special_tokens", "tokenizer_configuration"]

# of training alone: the exported graph ends in the user's units
_OF_TRAINING = ("target_scale",)


def model_configuration(config: PretrainedConfig, *, labels: Sequence[str]) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Args:
        config: The classifier's configuration, which has the names of the labels.
        labels: Names of the outputs; none for a score.

    Returns:
        The configuration with the kind of problem, and the one name of transformers.js: ``fp32`` is its word for
        ``model.onnx`` without a suffix, whatever the file holds.
    """
    content: dict[str, Any] = json.loads(config.to_json_string())
    content["problem_type"] = "single_label_classification" if labels else "regression"
    content["transformers.js_config"] = {"dtype": "fp32"}
    return {key: value for key, value in content.items() if key not in _OF_TRAINING}


def special_tokens(tokenizer: Tokenizer, *, pad_token_id: int) -> dict[str, str]:
    """Return the content of ``special_tokens_map.json``: what the tokenizer's special tokens are for.

    Args:
        tokenizer: Puts a token before and after each text; the mask's token has its name.
        pad_token_id: Id that fills shorter rows.

    Returns:
        Role → token, for the roles that there are.
    """
    around = tokenizer.encode("").tokens
    unknown = getattr(tokenizer.model, "unk_token", None)
    added = (token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    found = {
        "cls_token": around[0] if around else None,
        "sep_token": around[-1] if around else None,
        "pad_token": tokenizer.id_to_token(pad_token_id),
        "unk_token": unknown if isinstance(unknown, str) else None,
        "mask_token": next((token for token in added if token.strip("<[]>").lower() == "mask"), None),
    }
    return {role: token for role, token in found.items() if token is not None}


def tokenizer_configuration(tokenizer: Tokenizer, manifest: Manifest, special: Mapping[str, str]) -> dict[str, object]:
    """Return the content of ``tokenizer_config.json``.

    Args:
        tokenizer: Says on which side long texts are cut.
        manifest: Says everything else.
        special: As :func:`special_tokens` gives them.

    Returns:
        A JSON object.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": manifest.max_length,
        "model_input_names": list(manifest.input_names),
        "truncation_side": truncation_side(tokenizer),
        "split_special_tokens": not manifest.obey_special_tokens,
        **special,
    }
