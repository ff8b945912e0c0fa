"""Heads and families beyond those that q8bert offers train on ONNX Runtime as Hugging Face has them: in float, for a start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
)

from q8bert.training.engines.engine import Batch
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.objectives.objective import Classification, TargetSpec
from q8bert.training.programs.cache import Programs
from q8bert.training.quantization.weights import prepare_weights

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IGNORED = -100
# softmax does not change when every key, or every token's score, moves alike: the true gradient of these is zero
WITHOUT_EFFECT = ("key.bias", "key_proj.bias", "qa_outputs.bias")


@dataclass(frozen=True)
class Tagging:
    """A label for each token; those of padding do not count."""

    outputs: tuple[str, ...] = ("logits",)

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        return {"tags": TargetSpec(torch.int64, ("batch", "seq"))}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(
            outputs["logits"].flatten(0, 1), targets["tags"].flatten(), ignore_index=IGNORED
        )


@dataclass(frozen=True)
class Spans:
    """Where an answer starts and where it ends."""

    outputs: tuple[str, ...] = ("start_logits", "end_logits")

    @property
    def targets(self) -> Mapping[str, TargetSpec]:
        return {"start": TargetSpec(torch.int64), "end": TargetSpec(torch.int64)}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        starts = functional.cross_entropy(outputs["start_logits"], targets["start"])
        return (starts + functional.cross_entropy(outputs["end_logits"], targets["end"])) / 2


class WithMaskOfTokens(nn.Module):
    """Gives a model that reads its mask as 1 and 0 what it expects: DeBERTa's attention knows no additive mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> Any:
        if attention_mask.dim() == 4:
            attention_mask = (attention_mask[:, 0, 0] == 0).long()
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)


def classifier(config: Any) -> Any:
    config.num_labels = 3
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def albert() -> nn.Module:
    return classifier(AlbertConfig(**SIZES, **NO_DROPOUT, embedding_size=16, classifier_dropout_prob=0.0))


def deberta() -> nn.Module:
    config = DebertaV2Config(
        **SIZES, **NO_DROPOUT, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, pooler_dropout=0.0,
    )  # fmt: skip
    return WithMaskOfTokens(classifier(config))


def modernbert() -> nn.Module:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return classifier(ModernBertConfig(**SIZES, **ids, global_attn_every_n_layers=1, initializer_cutoff_factor=2.0))


def tagger() -> nn.Module:
    config = BertConfig(**SIZES, **NO_DROPOUT, num_labels=5)
    return AutoModelForTokenClassification.from_config(config, attn_implementation="eager")


def reader() -> nn.Module:
    model = AutoModelForQuestionAnswering.from_config(BertConfig(**SIZES, **NO_DROPOUT), attn_implementation="eager")
    # like that of the head, it moves every token's score alike
    model.get_parameter("bert.encoder.layer.1.output.LayerNorm.bias").requires_grad_(requires_grad=False)
    return model


def labels_of(mask: Tensor) -> dict[str, Tensor]:
    return {"labels": torch.randint(0, 3, (len(mask),))}


def tags_of(mask: Tensor) -> dict[str, Tensor]:
    return {"tags": torch.where(mask == 1, torch.randint(0, 5, mask.shape), IGNORED)}


def spans_of(mask: Tensor) -> dict[str, Tensor]:
    return {"start": torch.randint(0, 3, (len(mask),)), "end": torch.randint(0, 3, (len(mask),))}


def batch_of(targets: Callable[[Tensor], dict[str, Tensor]]) -> Batch:
    # neither of the sizes that a program is traced with
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[1, 7:], mask[2, 4:] = 0, 0
    ids = torch.where(mask == 1, torch.randint(5, 100, mask.shape), 0)
    return Batch({"input_ids": ids, "attention_mask": mask}, targets(mask))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "objective", "targets"),
    [
        pytest.param(albert, Classification(), labels_of, id="albert"),
        pytest.param(deberta, Classification(), labels_of, id="deberta-v2"),
        pytest.param(modernbert, Classification(), labels_of, id="modernbert"),
        pytest.param(tagger, Tagging(), tags_of, id="bert-tags"),
        pytest.param(reader, Spans(), spans_of, id="bert-spans"),
    ],
)
def test_loss_outputs_and_gradients_are_those_of_hugging_faces_model(
    make: Callable[[], nn.Module], objective: Any, targets: Any, built: Callable[..., Programs]
) -> None:
    torch.manual_seed(1)
    model, batch = make().train(), batch_of(targets)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # LayerNorm and biases start at 1 and 0, where mistakes can hide
            nn.init.normal_(parameter.data, float(parameter.data.mean()), 0.1)
    given_by_model = model(**batch.inputs)
    expected_outputs = {name: getattr(given_by_model, name) for name in objective.outputs}
    expected_loss = objective.loss(expected_outputs, batch.targets)
    expected_loss.backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    assert all(float(gradient.abs().max()) > 0 for gradient in expected.values())

    weights = prepare_weights(model, {}, ())
    programs = built(model, (), objective, input_names=list(batch.inputs))
    engine = OrtEngine(programs, (), weights, objective, threads=1)
    found = engine.step(batch, None, seed=1)
    assert float(found.loss) == pytest.approx(float(expected_loss.detach()), rel=1e-6, abs=1e-6)
    for name, output in expected_outputs.items():
        torch.testing.assert_close(found.outputs[name], output.detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(engine.outputs(batch.inputs, None)[name], output.detach(), rtol=0, atol=1e-5)
    for name, gradient in expected.items():
        largest = 1.0 if name.endswith(WITHOUT_EFFECT) else float(gradient.abs().max())
        # 1e-5 of the tensor's largest element: float32 sums of some hundred terms in another order
        assert float((weights.gradients[name] - gradient).abs().max()) <= 1e-5 * largest, name
