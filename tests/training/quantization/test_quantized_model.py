"""What a quantized model gives back, whatever device it is on."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from q8bert.training.engines.torch_engine import quantize_activation
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import find_sites


@pytest.mark.parametrize("quantize", [True, False])
@pytest.mark.parametrize("observe", [True, False])
def test_everything_stays_on_the_models_device(quantize: bool, observe: bool) -> None:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30,
        attn_implementation="eager",
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    sites = find_sites(model) if quantize else ()
    # no GPU is at hand: the meta device stands for any that is not the CPU, and refuses to mix with it like a GPU
    device = torch.device("meta")
    ids = torch.ones(3, 5, dtype=torch.int64, device=device)
    amax = torch.ones(len(sites), device=device) if quantize else None
    program = QuantizedModel(model.to(device), sites, quantize_activation)
    outputs, observations = program({"input_ids": ids, "attention_mask": ids}, amax, observe=observe)
    assert outputs["logits"].device == device
    assert observations.device == device
    assert observations.shape == (len(sites) if observe else 0,)
