"""An option of config.json means what it meant, is set where only the form depends on it, or is refused by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from q8bert.spec.errors import ModelError


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("position_embedding_type", "relative_key"),
        ("hidden_act", "relu"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("per_layer_config", {"0": {"hidden_dropout_prob": 0.5}}),
        ("fusion_config", {"patch_embeddings": True}),
        ("transformers_weights", "other.safetensors"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("quantization_config", {"quant_method": "torchao"}),
    ],
)
def test_what_would_make_it_another_model_is_refused_by_name(
    make_source: Any, edit_config: Any, load: Any, option: str, value: Any
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_config(folder, **{option: value})
    with pytest.raises(ModelError, match=rf"config\.json: .*{option}.*Give ") as raised:
        load(folder)
    assert option != "quantization_config" or value["quant_method"] in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("return_dict", False),
        ("output_hidden_states", True),
        ("output_attentions", True),
        ("torchscript", True),
        ("chunk_size_feed_forward", 1),
        ("gradient_checkpointing", True),
    ],
)
def test_what_only_changes_the_form_is_set_and_said(
    make_source: Any, edit_config: Any, load: Any, logits: Any, option: str, value: Any
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    edit_config(folder, **{option: value})
    source = load(folder)
    (line,) = [line for line in source.report.lines() if line.startswith("options set")]
    assert option in line
    result = source.model(input_ids=torch.tensor([[2, 4, 3]]))  # as the engines ask: by the configuration alone
    assert list(result) == ["logits"]
    assert not any(getattr(module, "gradient_checkpointing", False) for module in source.model.modules())
    torch.testing.assert_close(logits(source.model), wanted)


def test_what_the_model_obeys_is_kept(make_source: Any, load: Any, logits: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification, layer_norm_eps=0.5)
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    torch.testing.assert_close(logits(load(folder).model), wanted)


def test_an_option_that_transformers_does_not_know_is_told_and_left_out(
    make_source: Any, edit_config: Any, load: Any
) -> None:
    folder = make_source(AutoModelForSequenceClassification, "distilbert")
    edit_config(folder, layer_norm_eps=1e-3, rotary_base=7, type_vocab_size=2, pooler_type="first_token_transform")
    source = load(folder)
    assert (
        "options that transformers does not read: layer_norm_eps, rotary_base, type_vocab_size" in source.report.lines()
    )
    assert source.input_names == ("input_ids", "attention_mask")
    assert not hasattr(source.model.config, "rotary_base")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "albert"}, "family 'albert'"),
        ({"model_type": ["bert"]}, "family"),
        ({"hidden_size": 15}, r"config\.json"),
        ({"hidden_size": "wide"}, r"config\.json does not describe a bert model"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is not a finite number"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label and label2id"),
        ({"id2label": ["a", "b"]}, "id2label and label2id"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}, "the same labels other numbers"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    make_source: Any, edit_config: Any, load: Any, options: dict[str, Any], message: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    edit_config(folder, **options)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_configuration_without_a_family_is_refused(make_source: Any, load: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model_type.*bert, roberta"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused_and_never_run(
    make_source: Any, edit_config: Any, load: Callable[..., Any], file: str
) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    for name in ("code.py", "configuration.py"):
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass A: pass\n")
    maps = {f"Auto{kind}": "code.A" for kind in ("Config", "Model", "ModelForSequenceClassification")}
    content = {"auto_map": maps | {"AutoTokenizer": ["code.A", "code.A"]}, "tokenizer_class": "A"}
    if file == "config.json":
        edit_config(folder, **content)
    else:
        import json

        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    with pytest.raises(ModelError, match=rf"{file} names code.*never runs.*remove auto_map"):
        load(folder)
    assert not (folder / "ran").exists()
