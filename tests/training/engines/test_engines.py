"""The heart: both engines compute the same loss and gradients, for every family."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

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

from q8bert.machine.builds import installed_ort_build
from q8bert.training.engines.engine import Batch, Engine
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.torch_engine import TorchEngine, quantize_activation
from q8bert.training.models.source import load_source_model
from q8bert.training.objectives.objective import Classification, Objective, Regression
from q8bert.training.programs.cache import Programs
from q8bert.training.programs.dropout import read_dropout_inputs
from q8bert.training.quantization.quantized_model import QuantizedModel
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters

needs_ort_training = pytest.mark.skipif(
    not installed_ort_build().builds_gradients, reason="needs onnxruntime-training or onnxruntime-training-cpu 1.19.2"
)
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
        self.objective: Objective = Regression() if regression else Classification()
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
        self.sites: tuple[Site, ...] = self._on_many_grids(find_sites(self.model)) if quantize else ()
        self.quantized = quantized_parameters(self.model, per_channel=per_channel) if quantize else {}
        self.batch = self.make_batch(
            3, 9, pad_token_id=config.pad_token_id, types=getattr(config, "type_vocab_size", 0)
        )
        self.amax = torch.linspace(1.5, 3.0, len(self.sites)) if quantize else None

    def _on_many_grids(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Smooth every other site, the first one with several readers among them, and give two of three zero points."""
        widths = [self.model.get_parameter(f"{site.linears[0]}.weight").shape[1] for site in sites]
        exponents = [tuple(torch.randint(0, 4, (width,)).tolist()) for width in widths]
        return tuple(
            replace(site, smoothing=exponents[index] if index % 2 == 0 else (), zero_point=(-40, 0, 22)[index % 3])
            for index, site in enumerate(sites)
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
        return Batch(inputs, {"labels": labels})

    def _distance_to_ties(self) -> float:
        distances: list[float] = []

        def measure(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
            codes = x / scale
            distances.append(float((codes - codes.floor() - 0.5).abs().min()))
            return quantize_activation(x, scale, zero_point, site)

        weights = self.weights()
        model = QuantizedModel(self.model, self.sites, measure).eval()
        state = {f"model.{name}": tensor for name, tensor in weights.effective.items()}
        with torch.no_grad():
            torch.func.functional_call(model, state, (self.batch.inputs, self.amax))
        return min(distances)

    def weights(self) -> TrainableWeights:
        return prepare_weights(self.model, self.quantized, self.sites)

    def ort_engine(self, weights: TrainableWeights, built: Callable[..., Programs], **options: Any) -> OrtEngine:
        programs = built(self.model, self.sites, self.objective, input_names=list(self.batch.inputs), **options)
        return OrtEngine(programs, self.sites, weights, self.objective, threads=1)

    def torch_engine(self, weights: TrainableWeights, **options: Any) -> TorchEngine:
        return TorchEngine(self.model, self.sites, weights, self.objective, **options)


def assert_same_gradients(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    for name, expected in reference.items():
        largest = 1.0 if name.endswith(KEY_BIASES) else float(expected.abs().max())
        difference = float((ours[name] - expected).abs().max())
        # 1e-5 of the tensor's largest element: float32 sums of some hundred terms in another order
        assert difference <= 1e-5 * largest, f"{name}: {difference} of {largest}"


CASES = [
    pytest.param("bert", False, True, True, id="bert-classification-per_channel"),
    pytest.param("bert", True, True, True, id="bert-regression-per_channel", marks=pytest.mark.slow),
    pytest.param("bert", False, False, True, id="bert-classification-per_tensor", marks=pytest.mark.slow),
    pytest.param("bert", False, False, False, id="bert-float", marks=pytest.mark.slow),
    *(
        pytest.param(
            family,
            family in {"distilbert", "mpnet"},
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
    family: str, regression: bool, per_channel: bool, quantize: bool, built: Callable[..., Programs]
) -> None:
    case = Case(family, regression=regression, per_channel=per_channel, quantize=quantize)
    weights = case.weights()
    reference = case.torch_engine(weights).step(case.batch, case.amax, seed=1)
    expected = {name: gradient.clone() for name, gradient in weights.gradients.items()}
    evaluated = case.torch_engine(weights).outputs(case.batch.inputs, case.amax)

    ours_weights = case.weights()
    engine = case.ort_engine(ours_weights, built)
    ours = engine.step(case.batch, case.amax, seed=1)

    assert float(ours.loss) == pytest.approx(float(reference.loss), rel=1e-6)
    torch.testing.assert_close(ours.outputs, reference.outputs, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.observations, reference.observations, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(engine.outputs(case.batch.inputs, case.amax), evaluated, rtol=0, atol=1e-5)
    assert any(float(gradient.abs().max()) > 0 for gradient in expected.values())
    assert_same_gradients(ours_weights.gradients, expected)


@needs_ort_training
@pytest.mark.parametrize(
    ("regression", "per_channel", "quantize"),
    [
        (False, True, True),
        pytest.param(True, True, True, marks=pytest.mark.slow),
        pytest.param(False, False, True, marks=pytest.mark.slow),
        pytest.param(False, True, False, marks=pytest.mark.slow),
    ],
)
def test_gradients_by_onnxruntime_training_are_those_of_torch(
    regression: bool, per_channel: bool, quantize: bool, built: Callable[..., Programs]
) -> None:
    case = Case("bert", regression=regression, per_channel=per_channel, quantize=quantize)
    results, gradients = {}, {}
    for who in ("torch", "onnxruntime-training"):
        weights = case.weights()
        results[who] = case.ort_engine(weights, built, gradients=who).step(case.batch, case.amax, seed=1)
        gradients[who] = {name: gradient.clone() for name, gradient in weights.gradients.items()}
    ours, theirs = results["torch"], results["onnxruntime-training"]
    assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-6)
    torch.testing.assert_close(ours.outputs, theirs.outputs, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.observations, theirs.observations, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients["torch"], gradients["onnxruntime-training"])


def test_one_ort_engine_serves_every_batch_shape_and_writes_gradients_in_place(
    small_model: Path, built: Callable[..., Programs]
) -> None:
    # a float model, for batches drawn afresh may meet rounding ties; its program comes with the small model
    source = load_source_model(str(small_model), n_outputs=2, labels=("a", "b"), max_length=32, dropout=0.0)
    model, objective = source.model, Classification()
    weights = prepare_weights(model, {}, ())
    engine = OrtEngine(built(model, (), objective, input_names=source.input_names), (), weights, objective, threads=1)
    addresses = {name: gradient.data_ptr() for name, gradient in weights.gradients.items()}
    for n_rows, length in ((1, 5), (4, 12), (3, 9), (2, 1)):
        mask = torch.ones(n_rows, length, dtype=torch.int64)
        mask[-1, length // 2 + 1 :] = 0
        ids = torch.randint(5, 30, mask.shape) * mask
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.randint(0, 2, mask.shape)}
        logits = engine.step(Batch(inputs, {"labels": torch.ones(n_rows, dtype=torch.int64)}), None, seed=3).outputs
        expected = TorchEngine(model, (), weights, objective).outputs(inputs, None)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert addresses == {name: gradient.data_ptr() for name, gradient in weights.gradients.items()}
    assert all(model.get_parameter(name).grad.data_ptr() == address for name, address in addresses.items())


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name != "bert")]
)
def test_engines_agree_on_the_gradient_of_learned_ranges(family: str, built: Callable[..., Programs]) -> None:
    case = Case(family, regression=False, per_channel=True)
    weights, plain_weights, our_weights = case.weights(), case.weights(), case.weights()
    # as many values are clamped as are not
    case.amax = torch.linspace(0.5, 1.5, len(case.sites))
    reference = case.torch_engine(weights, learns_ranges=True).step(case.batch, case.amax, seed=1, loss_scale=8.0)
    plain = case.torch_engine(plain_weights).step(case.batch, case.amax, seed=1, loss_scale=8.0)
    engine = case.ort_engine(our_weights, built, learns_ranges=True)
    ours = engine.step(case.batch, case.amax, seed=1, loss_scale=8.0)
    assert reference.range_gradient.shape == case.amax.shape
    assert float(ours.loss) == pytest.approx(float(reference.loss), rel=1e-6)
    assert_same_gradients({"amax": ours.range_gradient}, {"amax": reference.range_gradient})
    assert_same_gradients(our_weights.gradients, weights.gradients)
    # all else is as without
    assert (len(plain.range_gradient), float(plain.loss)) == (0, float(reference.loss))
    assert torch.equal(plain_weights.gradient, weights.gradient)


def test_padding_adds_nothing_to_the_gradient_of_ranges() -> None:
    case = Case("bert", regression=False, per_channel=True)
    engine = case.torch_engine(case.weights(), learns_ranges=True)
    found = engine.step(case.batch, case.amax, seed=1).range_gradient
    alone = torch.zeros_like(found)
    lengths = case.batch.inputs["attention_mask"].sum(dim=1).tolist()
    for row, length in enumerate(lengths):
        inputs = {name: tensor[row : row + 1, :length] for name, tensor in case.batch.inputs.items()}
        labels = {"labels": case.batch.targets["labels"][row : row + 1]}
        alone += engine.step(Batch(inputs, labels), case.amax, seed=1).range_gradient / len(lengths)
    assert_same_gradients({"amax": found}, {"amax": alone})


def test_observations_are_those_of_the_rows_without_padding() -> None:
    case = Case("bert", regression=False, per_channel=True)
    model = QuantizedModel(case.model, case.sites, quantize_activation).eval()
    truth = torch.zeros(len(case.sites))
    with torch.no_grad():
        _, observed = model(case.batch.inputs, observe=True)
        for row, length in enumerate(case.batch.inputs["attention_mask"].sum(dim=1).tolist()):
            alone = {name: tensor[row : row + 1, :length] for name, tensor in case.batch.inputs.items()}
            truth = torch.maximum(truth, model(alone, observe=True)[1])
    torch.testing.assert_close(observed, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_float_model_equals_hugging_face_with_its_own_mask(family: str) -> None:
    case = Case(family, regression=False, per_channel=True, quantize=False)
    with torch.no_grad():
        expected = case.model.eval()(**case.batch.inputs).logits
        ours, _ = QuantizedModel(case.model, (), quantize_activation).eval()(case.batch.inputs)
    torch.testing.assert_close(ours["logits"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_site_is_of_the_first_token_where_no_other_row_of_it_moves_an_output(family: str) -> None:
    case = Case(family, regression=False, per_channel=True, quantize=False)
    model, found = case.model.eval(), []
    with torch.no_grad():
        expected = model(**case.batch.inputs).logits
        for site in find_sites(model):

            def move(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
                x = args[0].clone()
                x[:, 1:] += 0.5  # of a head's, which has no tokens, other features
                return (x,)

            handles = [model.get_submodule(name).register_forward_pre_hook(move) for name in site.linears]
            is_moved = not torch.equal(model(**case.batch.inputs).logits, expected)
            for handle in handles:
                handle.remove()
            assert site.first_token_only is not is_moved, site.name
            found.append(site.first_token_only)
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("engine_name", ["torch", "ort"])
def test_dropout_follows_from_the_seed_alone(
    engine_name: str, built: Callable[..., Programs], one_layer_bert: Callable[..., PreTrainedModel]
) -> None:
    model, objective = one_layer_bert(), Classification()
    sites, mask = find_sites(model), torch.ones(4, 6, dtype=torch.int64)
    weights = prepare_weights(model, quantized_parameters(model, per_channel=True), sites)
    inputs = {"input_ids": torch.arange(24).reshape(4, 6) % 20, "attention_mask": mask}
    batch, amax = Batch(inputs, {"labels": torch.tensor([0, 1, 1, 0])}), torch.full((len(sites),), 3.0)
    engine: Engine = TorchEngine(model, sites, weights, objective)
    if engine_name == "ort":
        engine = OrtEngine(built(model, sites, objective, input_names=list(inputs)), sites, weights, objective)
    losses = [float(engine.step(batch, amax, seed=seed).loss) for seed in (7, 7, 8)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_hooks_are_gone_after_a_forward_pass_that_failed() -> None:
    case = Case("bert", regression=False, per_channel=True)

    def fail(x: Tensor, scale: Tensor, zero_point: Tensor, site: int, /) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        QuantizedModel(case.model, case.sites, fail)(case.batch.inputs, case.amax)
    assert not any(module._forward_pre_hooks for module in case.model.modules())


# ---- dropout ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", list(CONFIGS))
def test_the_training_graph_drops_out_what_the_model_drops_out(
    family: str, monkeypatch: pytest.MonkeyPatch, built: Callable[..., Programs]
) -> None:
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
    programs = built(case.model, (), case.objective, input_names=list(case.batch.inputs))
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(programs.training).metadata_props}
    n_rows, length = case.batch.inputs["input_ids"].shape
    sizes = {"batch": n_rows, "seq": length}
    masks = read_dropout_inputs(metadata)
    # of the last layer the first token alone is computed
    narrow = [mask for mask in masks if 1 in mask.shape]
    assert len(narrow) == (2 if family == "distilbert" else 3)  # DistilBERT drops nothing out of attention's output
    found = [
        (mask.probability, tuple(sizes.get(size, length if size == 1 else size) for size in mask.shape))
        for mask in masks
    ]
    assert len(expected) >= 5
    assert sorted(found) == sorted(expected)
