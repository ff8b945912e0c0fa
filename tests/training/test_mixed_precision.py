"""Half precision: the loss scale's rules, skipped steps, and gradients near those of float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BertConfig

from q8bert.spec.errors import CalibrationError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.engines.engine import Batch, Engine
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.loss_scale import LossScale
from q8bert.training.objectives.objective import Classification
from q8bert.training.programs.cache import Programs
from q8bert.training.quantization.sites import find_sites
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint

# ---- the rules of the scale ----------------------------------------------------------------------


def test_the_scale_falls_at_once_and_rises_after_a_window() -> None:
    def after_steps(scale: LossScale) -> list[LossScale]:
        scales = [scale.after_step()]
        scales += [scales[0].after_step(), scales[0].after_step().after_step()]
        return scales

    steps = after_steps(LossScale(1024.0, 2.0, 3))
    assert [scale.scale for scale in steps] == [1024.0, 1024.0, 2048.0]
    fallen = steps[-1].after_step().after_step().after_overflow()
    assert (fallen.scale, fallen.n_skipped, fallen.steps_since_change) == (1024.0, 1, 0)
    assert [scale.scale for scale in after_steps(fallen)] == [1024.0, 1024.0, 2048.0]


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([2.0, 4.0, 10.0]), st.integers(1, 5))
def test_skipped_steps_are_counted_and_the_scale_stays_positive(finite: list[bool], factor: float, window: int) -> None:
    scale = LossScale(2.0**16, factor, window)
    for is_finite in finite:
        if not is_finite and scale.scale / factor < 2.0**-10:
            with pytest.raises(CalibrationError, match="training has diverged"):
                scale.after_overflow()
            return
        scale = scale.after_step() if is_finite else scale.after_overflow()
        assert 0 < scale.scale <= 2.0**40
    assert scale.n_skipped == finite.count(False)


def test_a_fixed_scale_takes_an_overflow_for_an_error() -> None:
    assert LossScale().after_step().scale == 1.0
    with pytest.raises(CalibrationError, match="not finite at a loss scale of 1"):
        LossScale().after_overflow()


# ---- the engines ---------------------------------------------------------------------------------


class Case:
    """A small BERT with padding, and its engines in a precision."""

    def __init__(self, built: Callable[..., Programs]) -> None:
        self._built = built
        torch.manual_seed(0)
        config: Any = BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=100,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.2,
        )  # fmt: skip
        self.model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
        self.sites = find_sites(self.model)
        self.amax = torch.full((len(self.sites),), 3.0)
        mask = torch.ones(4, 8, dtype=torch.int64)
        mask[1, 5:] = 0
        ids = torch.randint(5, 100, mask.shape) * mask
        self.batch = Batch({"input_ids": ids, "attention_mask": mask}, {"labels": torch.randint(0, 2, (4,))})

    def engine(self, kind: str, precision: str, weights: TrainableWeights, *, learns_ranges: bool = False) -> Engine:
        objective = Classification()
        if kind == "torch":
            options: dict[str, Any] = {"precision": precision, "learns_ranges": learns_ranges}
            return TorchEngine(self.model, self.sites, weights, objective, **options)
        programs = self.programs(precision, learns_ranges=learns_ranges)
        return OrtEngine(programs, self.sites, weights, objective, precision=precision, threads=1)

    def programs(self, precision: str, **more: Any) -> Programs:
        names = tuple(self.batch.inputs)
        return self._built(self.model, self.sites, Classification(), input_names=names, precision=precision, **more)

    def range_gradient(self, kind: str, precision: str, *, loss_scale: float) -> torch.Tensor:
        weights = prepare_weights(self.model, quantized_parameters(self.model, per_channel=True), self.sites)
        engine = self.engine(kind, precision, weights, learns_ranges=True)
        return engine.step(self.batch, self.amax, seed=1, loss_scale=loss_scale).range_gradient / loss_scale

    def gradient(self, kind: str, precision: str, *, loss_scale: float) -> tuple[torch.Tensor, float, torch.Tensor]:
        weights = prepare_weights(self.model, quantized_parameters(self.model, per_channel=True), self.sites)
        engine = self.engine(kind, precision, weights)
        result = engine.step(self.batch, self.amax, seed=1, loss_scale=loss_scale)
        evaluated = engine.outputs(self.batch.inputs, self.amax)["logits"]
        assert evaluated.dtype == result.outputs["logits"].dtype == torch.float32
        return weights.gradient / loss_scale, float(result.loss), evaluated


@pytest.mark.parametrize(
    ("kind", "precision", "loss_scale"),
    [
        ("torch", "float32", 64.0), ("torch", "bfloat16", 1.0), ("torch", "float16", 1024.0),
        pytest.param("ort", "float32", 64.0, marks=pytest.mark.slow),
        pytest.param("ort", "float16", 1024.0, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_gradients_are_near_those_of_float32(
    kind: str, precision: str, loss_scale: float, built: Callable[..., Programs]
) -> None:
    case = Case(built)
    expected, loss, logits = case.gradient("torch", "float32", loss_scale=1.0)
    ours, our_loss, our_logits = case.gradient(kind, precision, loss_scale=loss_scale)
    # unit roundoff 2**-11 and 2**-8, through two layers and back, and codes that fall to the other side of a tie
    relative = {"float32": 1e-5, "float16": 0.1, "bfloat16": 0.4}[precision]
    assert our_loss == pytest.approx(loss, rel=relative)
    torch.testing.assert_close(our_logits, logits, rtol=0, atol=relative)
    assert float((ours - expected).norm() / expected.norm()) < relative
    assert float(torch.cosine_similarity(ours, expected, dim=0)) > 1 - relative / 2


@pytest.mark.parametrize(
    ("kind", "precision", "loss_scale"),
    [
        ("torch", "bfloat16", 1.0), ("torch", "float16", 1024.0),
        pytest.param("ort", "float16", 1024.0, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_gradients_of_ranges_are_float32_and_near_those_of_float32(
    kind: str, precision: str, loss_scale: float, built: Callable[..., Programs]
) -> None:
    case = Case(built)
    case.amax = torch.full((len(case.sites),), 0.5)  # where many values are clamped, for rounding errors are noise
    expected = case.range_gradient("torch", "float32", loss_scale=1.0)
    ours = case.range_gradient(kind, precision, loss_scale=loss_scale)
    assert ours.dtype == torch.float32
    relative = {"float16": 0.1, "bfloat16": 0.4}[precision]
    assert float((ours - expected).norm() / expected.norm()) < relative


@pytest.mark.slow
def test_the_float16_program_holds_float16_weights_and_gradients(built: Callable[..., Programs]) -> None:
    case = Case(built)
    graph = onnx.load_model_from_string(case.programs("float16").training).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    names = dict(case.model.named_parameters())
    assert all(types[name] == half for name in names)
    assert all(types[f"{name}_grad"] == half for name in names if f"{name}_grad" in types)
    assert {types["loss"], types["logits"], types["observations"], types["loss_scale"]} == {single}


@pytest.mark.slow
def test_a_bfloat16_program_compares_nothing_in_bfloat16(built: Callable[..., Programs]) -> None:
    # ONNX Runtime's CUDA provider has no such kernels
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(Case(built).programs("bfloat16").training))
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    compared = [types[node.input[0]] for node in graph.node if node.op_type in {"ReduceMax", "ReduceMin"}]
    assert len(compared) > 0
    assert set(compared) == {onnx.TensorProto.FLOAT}
    assert types["observations"] == onnx.TensorProto.FLOAT


# ---- whole runs ----------------------------------------------------------------------------------


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "engine": "torch", "max_steps": 30,
        "batch_size": 32, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "log_every": 1, "eval_every": 15,
        "dropout": 0.1, "quantize_from": 0.0,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


class Overflowing:
    """An engine whose gradient overflows in chosen steps, or above a loss scale."""

    def __init__(self, inner: Any, *, above: float) -> None:
        self.n_sites = inner.n_sites
        self._inner, self._above = inner, above

    def step(self, batch: Batch, amax: Any, *, seed: int, loss_scale: float = 1.0) -> Any:
        result = self._inner.step(batch, amax, seed=seed, loss_scale=loss_scale)
        if loss_scale > self._above:
            self._inner._weights.gradient[3] = float("inf")
        return result

    def outputs(self, inputs: Any, amax: Any) -> Any:
        return self._inner.outputs(inputs, amax)


@pytest.mark.parametrize("interrupted", [False, True])
def test_steps_that_overflow_are_left_out_counted_and_resumed(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    from q8bert.training.runs import engine_choice

    class StoppedError(Exception):
        pass

    def stop(step: int, n_steps: int, loss: float) -> None:
        if interrupted and step == 20:
            raise StoppedError

    options = {"precision": "float16", "loss_scale": 2.0**14, "loss_scale_window": 8, "save_every": 7}
    original = engine_choice.TorchEngine
    monkeypatch.setattr(
        engine_choice, "TorchEngine", lambda *args, **more: Overflowing(original(*args, **more), above=2.0**12)
    )
    run = tmp_path / "run"
    if interrupted:
        with pytest.raises(StoppedError):
            train(config(small, run, **options), show_step=stop)
    result = train(config(small, run, **options))
    # 2**14 and 2**13 overflow; then eight good steps, 2**13 overflows again, and so on every nine steps
    expected = [1, 2, 11, 20, 29]
    log = [line for line in (run / "log.jsonl").read_text().splitlines() if '"skipped"' in line]
    assert [int(line.partition('"step": ')[2].partition(",")[0]) for line in log] == expected
    assert result.n_skipped_steps == len(expected)
    checkpoint = load_checkpoint(max(checkpoint_folders(run).values()))
    assert checkpoint.loss_scale.n_skipped == len(expected)
    assert checkpoint.ranges.count == 8 + 30 - len(expected)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.weights.values())


def test_learned_ranges_take_no_step_where_weights_take_none(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from q8bert.training.runs import engine_choice

    original = engine_choice.TorchEngine
    monkeypatch.setattr(
        engine_choice, "TorchEngine", lambda *args, **more: Overflowing(original(*args, **more), above=2.0**12)
    )
    options = {"precision": "float16", "loss_scale": 2.0**14, "max_steps": 8, "save_every": 1, "keep_checkpoints": 8}
    train(config(small, tmp_path / "run", **options, ranges="learned"))
    found = [load_checkpoint(path).ranges for path in checkpoint_folders(tmp_path / "run").values()]
    assert [ranges.count for ranges in found] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(found[0].amax(), found[1].amax())
    assert all(bool(torch.isfinite(ranges.amax()).all()) for ranges in found)


def test_a_gradient_that_always_overflows_ends_the_run(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from q8bert.training.runs import engine_choice

    original = engine_choice.TorchEngine
    monkeypatch.setattr(
        engine_choice, "TorchEngine", lambda *args, **more: Overflowing(original(*args, **more), above=0.0)
    )
    with pytest.raises(CalibrationError, match=r"not finite at a loss scale of 0\.00"):
        train(config(small, tmp_path / "run", precision="float16"))
    with pytest.raises(CalibrationError, match="not finite at a loss scale of 1:"):
        train(config(small, tmp_path / "single"))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "precision"), [("torch", "bfloat16"), ("torch", "float16"), ("ort", "float16")])
def test_half_precision_learns_what_float32_learns(small: Any, tmp_path: Path, engine: str, precision: str) -> None:
    result = train(config(small, tmp_path / "run", engine=engine, precision=precision, max_steps=76, eval_every=76))
    reference = train(config(small, tmp_path / "reference", engine="torch", max_steps=76, eval_every=76))
    assert result.metrics["accuracy"] == pytest.approx(reference.metrics["accuracy"], abs=0.1)
    assert result.metrics["accuracy"] > 0.75
