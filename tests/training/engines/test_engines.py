"""The heart: both engines compute the same loss and gradients, for every family."""

from collections.abc import Mapping
from dataclasses import replace

import onnx
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PreTrainedModel,
    RobertaConfig,
)

from q8bert.training.engines.dropout import read_dropout_inputs
from q8bert.training.engines.engine import Batch
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.programs import Programs, build_programs
from q8bert.training.engines.torch_engine import TorchEngine, quantize_activation
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters

BERT_LIKE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
CONFIGS = {
    "bert": lambda: BertConfig(**BERT_LIKE, **NO_DROPOUT),
    "roberta": lambda: RobertaConfig(**BERT_LIKE, **NO_DROPOUT, pad_token_id=1),
    "electra": lambda: ElectraConfig(**BERT_LIKE, **NO_DROPOUT, embedding_size=16, summary_last_dropout=0.0),
    "mpnet": lambda: MPNetConfig(**BERT_LIKE, **NO_DROPOUT),
    "distilbert": lambda: DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=100, max_position_embeddings=64,
        initializer_range=0.3, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    ),
}  # fmt: skip
# softmax does not change when every key moves alike, so the true gradient of these is zero
KEY_BIASES = ("key.bias", "k_lin.bias", "attn.k.bias")
# a code this close to the middle between two integers may round either way in two correct implementations
TIE_DISTANCE = 1e-4


class Case:
    """A small random model, a padded batch, and ranges, with no activation near a rounding tie."""

    def __init__(self, family: str, *, regression: bool, per_channel: bool, quantize: bool = True) -> None:
        self.regression = regression
        for seed in range(100):
            self._draw(family, seed, per_channel=per_channel, quantize=quantize)
            if not quantize or self._distance_to_ties() > TIE_DISTANCE:
                return
        raise AssertionError("no seed keeps clear of rounding ties")

    def _draw(self, family: str, seed: int, *, per_channel: bool, quantize: bool) -> None:
        torch.manual_seed(seed)
        config = CONFIGS[family]()
        config.num_labels = 1 if self.regression else 3
        self.n_outputs = config.num_labels
        self.model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            config, attn_implementation="eager"
        )
        for parameter in self.model.parameters():
            if parameter.dim() == 1:  # LayerNorm and biases start at 1 and 0, where mistakes can hide
                torch.nn.init.normal_(parameter.data, float(parameter.data.mean()), 0.1)
        self.sites: tuple[Site, ...] = self._some_smoothed(find_sites(self.model)) if quantize else ()
        self.quantized = quantized_parameters(self.model, per_channel=per_channel) if quantize else {}
        self.batch = self.make_batch(
            3, 9, pad_token_id=config.pad_token_id, types=getattr(config, "type_vocab_size", 0)
        )
        self.amax = torch.linspace(1.5, 3.0, len(self.sites)) if quantize else None

    def _some_smoothed(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Smooth every other site, the first one with several readers among them."""
        widths = [self.model.get_parameter(f"{site.linears[0]}.weight").shape[1] for site in sites]
        exponents = [tuple(torch.randint(0, 4, (width,)).tolist()) for width in widths]
        return tuple(
            replace(site, smoothing=exponents[index] if index % 2 == 0 else ()) for index, site in enumerate(sites)
        )

    def make_batch(self, n_rows: int, length: int, *, pad_token_id: int, types: int) -> Batch:
        mask = torch.ones(n_rows, length, dtype=torch.int64)
        for row in range(1, n_rows):
            mask[row, length - 2 * row :] = 0
        ids = torch.where(mask == 1, torch.randint(5, 100, mask.shape), pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if types > 1:
            inputs["token_type_ids"] = (torch.arange(length) > 3).long().repeat(n_rows, 1)
        labels = torch.rand(n_rows) * 5 if self.regression else torch.randint(0, 3, (n_rows,))
        return Batch(inputs, labels)

    def _distance_to_ties(self) -> float:
        distances: list[float] = []

        def measure(x: Tensor, scale: Tensor, site: int, /) -> Tensor:
            codes = x / scale
            distances.append(float((codes - codes.floor() - 0.5).abs().min()))
            return quantize_activation(x, scale, site)

        weights = self.weights()
        model = QuantizedModel(self.model, self.sites, measure).eval()
        state = {f"model.{name}": tensor for name, tensor in weights.effective.items()}
        with torch.no_grad():
            torch.func.functional_call(model, state, kwargs={**self.batch.inputs, "amax": self.amax})
        return min(distances)

    def weights(self) -> TrainableWeights:
        return prepare_weights(self.model, self.quantized, self.sites)

    def ort_engine(self, weights: TrainableWeights) -> OrtEngine:
        def make_programs(*, quantize: bool) -> Programs:
            return build_programs(
                self.model, self.sites, quantize=quantize, input_names=list(self.batch.inputs),
                regression=self.regression,
            )  # fmt: skip

        return OrtEngine(make_programs, weights, sites=self.sites, n_outputs=self.n_outputs, threads=1)


def assert_same_gradients(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    for name, expected in reference.items():
        largest = 1.0 if name.endswith(KEY_BIASES) else float(expected.abs().max())
        difference = float((ours[name] - expected).abs().max())
        # 1e-5 of the tensor's largest element: float32 sums of some hundred terms in another order
        assert difference <= 1e-5 * largest, f"{name}: {difference} of {largest}"


CASES = [
    pytest.param("bert", False, True, True, id="bert-classification-per_channel"),
    pytest.param("bert", True, True, True, id="bert-regression-per_channel"),
    pytest.param("bert", False, False, True, id="bert-classification-per_tensor", marks=pytest.mark.slow),
    pytest.param("bert", False, False, False, id="bert-float", marks=pytest.mark.slow),
    *(
        pytest.param(
            family,
            family == "mpnet",
            per_channel,
            True,
            id=f"{family}-per_{'channel' if per_channel else 'tensor'}",
            marks=[] if family == "distilbert" and per_channel else pytest.mark.slow,
        )
        for family in ("roberta", "distilbert", "electra", "mpnet")
        for per_channel in (True, False)
    ),
]


@pytest.mark.parametrize(("family", "regression", "per_channel", "quantize"), CASES)
def test_engines_agree_on_loss_gradients_and_observations(
    family: str, regression: bool, per_channel: bool, quantize: bool
) -> None:
    case = Case(family, regression=regression, per_channel=per_channel, quantize=quantize)
    weights = case.weights()
    reference = TorchEngine(case.model, case.sites, weights).step(case.batch, case.amax, seed=1)
    expected = {name: gradient.clone() for name, gradient in weights.gradients.items()}
    evaluated = TorchEngine(case.model, case.sites, weights).logits(case.batch.inputs, case.amax)

    ours_weights = case.weights()
    engine = case.ort_engine(ours_weights)
    ours = engine.step(case.batch, case.amax, seed=1)

    assert ours.loss == pytest.approx(reference.loss, rel=1e-6)
    torch.testing.assert_close(ours.logits, reference.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.observations, reference.observations, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(engine.logits(case.batch.inputs, case.amax), evaluated, rtol=0, atol=1e-5)
    assert any(float(gradient.abs().max()) > 0 for gradient in expected.values())
    assert_same_gradients(ours_weights.gradients, expected)


def test_one_ort_engine_serves_every_batch_shape_and_writes_gradients_in_place() -> None:
    # a float model, for batches drawn afresh may meet rounding ties
    case = Case("bert", regression=False, per_channel=True, quantize=False)
    weights = case.weights()
    engine = case.ort_engine(weights)
    addresses = {name: gradient.data_ptr() for name, gradient in weights.gradients.items()}
    for n_rows, length in ((1, 5), (4, 12), (3, 9)):
        batch = case.make_batch(n_rows, length, pad_token_id=0, types=2)
        logits = engine.step(batch, case.amax, seed=3).logits
        expected = TorchEngine(case.model, case.sites, weights).logits(batch.inputs, case.amax)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert addresses == {name: gradient.data_ptr() for name, gradient in weights.gradients.items()}
    assert all(case.model.get_parameter(name).grad.data_ptr() == address for name, address in addresses.items())


def test_observations_are_those_of_the_rows_without_padding() -> None:
    case = Case("bert", regression=False, per_channel=True)
    model = QuantizedModel(case.model, case.sites, quantize_activation).eval()
    truth = torch.zeros(len(case.sites))
    with torch.no_grad():
        _, observed = model(**case.batch.inputs, observe=True)
        for row, length in enumerate(case.batch.inputs["attention_mask"].sum(dim=1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in case.batch.inputs.items()}
            truth = torch.maximum(truth, model(**alone, observe=True)[1])
    torch.testing.assert_close(observed, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_float_model_equals_hugging_face_with_its_own_mask(family: str) -> None:
    case = Case(family, regression=False, per_channel=True, quantize=False)
    with torch.no_grad():
        expected = case.model.eval()(**case.batch.inputs).logits
        ours, _ = QuantizedModel(case.model, (), quantize_activation).eval()(**case.batch.inputs)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine_name", ["torch", "ort"])
def test_dropout_follows_from_the_seed_alone(engine_name: str) -> None:
    case = Case("bert", regression=False, per_channel=True)
    for module in case.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    weights = case.weights()
    engine = case.ort_engine(weights) if engine_name == "ort" else TorchEngine(case.model, case.sites, weights)
    losses = [engine.step(case.batch, case.amax, seed=seed).loss for seed in (7, 7, 8)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_hooks_are_gone_after_a_forward_pass_that_failed() -> None:
    case = Case("bert", regression=False, per_channel=True)

    def fail(x: Tensor, scale: Tensor, site: int, /) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        QuantizedModel(case.model, case.sites, fail)(**case.batch.inputs, amax=case.amax)
    assert not any(module._forward_pre_hooks for module in case.model.modules())


# ---- dropout ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", list(CONFIGS))
def test_the_training_graph_drops_out_what_the_model_drops_out(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(family, regression=False, per_channel=True, quantize=False)
    for module in case.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.25
        if hasattr(module, "dropout_prob"):  # of attention, which calls the function
            module.dropout_prob = 0.25
    expected: list[tuple[float, tuple[int, ...]]] = []

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training and p > 0:
            expected.append((p, tuple(x.shape)))
        return x

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", dropout)
        case.model.train()(**case.batch.inputs)
    programs = build_programs(case.model, (), quantize=False, input_names=list(case.batch.inputs), regression=False)
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(programs.training).metadata_props}
    n_rows, length = case.batch.inputs["input_ids"].shape
    sizes = {"batch": n_rows, "seq": length}
    found = [
        (mask.probability, tuple(sizes.get(size, size) for size in mask.shape))
        for mask in read_dropout_inputs(metadata)
    ]
    assert len(expected) >= 5
    assert sorted(found) == sorted(expected)
