"""Smoothing: exact in float, by the formula, found on real tokens only, and kept with the run."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig

from q8bert.spec.errors import CalibrationError, CheckpointError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.engines.engine import Batch
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import Classification
from q8bert.training.quantization import calibration
from q8bert.training.quantization.calibration import calibrate, see_sites
from q8bert.training.quantization.seen_site import SeenSite
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.smoothing import exponent_candidates
from q8bert.training.quantization.weights import TrainableWeights, prepare_weights, quantized_parameters
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint

OUTLIER = 7  # of 64 channels


class Outlying:
    """A BERT with one channel that LayerNorm blows up, and a batch with padding."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50,
            max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2,
        )  # fmt: skip
        self.model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            self.model.bert.encoder.layer[0].attention.output.LayerNorm.weight[OUTLIER] = 40.0
        self.sites = find_sites(self.model)
        mask = torch.ones(4, 10, dtype=torch.int64)
        mask[1, 6:], mask[3, 2:] = 0, 0
        ids = torch.where(mask == 1, torch.randint(5, 50, mask.shape), 0)
        self.batch = Batch({"input_ids": ids, "attention_mask": mask}, {"labels": torch.tensor([0, 1, 1, 0])})


@pytest.fixture(scope="module")
def outlying() -> Outlying:
    return Outlying()


def outliers_by_hand(amax: list[float]) -> list[int]:
    threshold = sorted(amax, reverse=True)[int(0.02 * len(amax))]
    exponents = []
    for value in amax:
        exponent = 0
        while value > threshold * 2**exponent:
            exponent += 1
        exponents.append(exponent)
    return exponents


@given(st.lists(st.floats(0.0625, 100, width=16), min_size=1, max_size=150), st.integers(0, 8))
def test_exponents_of_outliers_follow_the_formula(values: list[float], blow_up: int) -> None:
    values = [*values, 100.0 * 2**blow_up]
    found = exponent_candidates(torch.tensor(values), torch.ones(len(values)))
    assert found[0].tolist() == outliers_by_hand(values)


@given(
    st.lists(st.tuples(st.integers(-6, 8), st.integers(-6, 8)), min_size=1, max_size=99), st.sampled_from([0.5, 0.75])
)
def test_balanced_exponents_follow_smoothquants_formula(logarithms: list[tuple[int, int]], alpha: float) -> None:
    channels, weights = (2.0 ** torch.tensor(of, dtype=torch.float32) for of in zip(*logarithms, strict=True))
    found = exponent_candidates(channels, weights)[1 if alpha == 0.5 else 2].numpy()
    exact = np.array([alpha * of_channel - (1 - alpha) * of_weight for of_channel, of_weight in logarithms])
    rounded = np.rint(exact)
    np.testing.assert_array_equal(found, np.clip(rounded - np.sort(rounded)[(len(rounded) - 1) // 2], -12, 12))


def test_what_is_always_0_is_not_smoothed() -> None:
    assert exponent_candidates(torch.zeros(8), torch.ones(8)) == []
    dead = torch.tensor([0.0, 1.0, 1.0, 0.0])
    for exponents in exponent_candidates(dead, torch.tensor([1.0, 0.0, 1.0, 0.0])):
        assert exponents.abs().max() <= 12


def rows_by_hand(outlying: Outlying) -> list[np.ndarray]:
    """The rows of each site that are neither padding nor read by nobody, by hooks of our own."""
    seen: dict[str, np.ndarray] = {}
    names = [site.linears[0] for site in outlying.sites]
    handles = [
        outlying.model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: seen.update({name: args[0].detach().numpy()})
        )
        for name in names
    ]
    outlying.model.eval()(**outlying.batch.inputs)
    for handle in handles:
        handle.remove()
    mask = outlying.batch.inputs["attention_mask"].numpy().astype(bool)
    x = [seen[name] for name in names]
    return [
        rows if rows.ndim == 2 else rows[:, 0] if site.first_token_only else rows[mask]
        for site, rows in zip(outlying.sites, x, strict=True)
    ]


def test_what_calibration_sees_leaves_padding_out(outlying: Outlying) -> None:
    found = see_sites(outlying.model, outlying.sites, [[outlying.batch.inputs]])
    assert [site.linears[0] for site in outlying.sites if site.first_token_only] == [
        f"bert.encoder.layer.{len(outlying.model.bert.encoder.layer) - 1}.{part}.dense"
        for part in ("attention.output", "intermediate", "output")
    ]
    for rows, seen in zip(rows_by_hand(outlying), found, strict=True):
        np.testing.assert_array_equal(seen.rows.numpy(), rows)
        np.testing.assert_array_equal(seen.lowest.numpy()[0], np.minimum(rows.min(axis=0), 0))
        np.testing.assert_array_equal(seen.highest.numpy()[0], np.maximum(rows.max(axis=0), 0))


def test_the_outlier_is_found_where_it_is(outlying: Outlying) -> None:
    sites, _ = calibrate(outlying.model, outlying.sites, [[outlying.batch.inputs]], decay=0.9, smoothing=True)
    smoothing = {site.linears[0]: site.smoothing for site in sites}
    after = "bert.encoder.layer.0.intermediate.dense"
    assert np.argmax(smoothing[after]) == OUTLIER
    assert max(smoothing[after]) >= 3
    assert tuple(replace(site, smoothing=(), zero_point=0) for site in sites) == outlying.sites


@pytest.mark.parametrize("shared", [False, True])
def test_the_float_model_and_its_gradients_stay_what_they_were_to_the_bit(outlying: Outlying, shared: bool) -> None:
    results = []
    chosen = tuple(
        site if shared or len(site.linears) == 1 else replace(site, smoothing=())
        for site in every_site_smoothed(outlying)
    )
    for sites in (outlying.sites, chosen):
        weights = smoothed_but_float(outlying, sites)
        step = TorchEngine(outlying.model, sites, weights, Classification()).step(outlying.batch, None, seed=0)
        results.append((step.loss, step.outputs["logits"], weights.gradient.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    if shared:  # those of query, key and value are added before they meet that of the residual
        largest = float(results[0][2].abs().max())
        torch.testing.assert_close(results[0][2], results[1][2], rtol=0, atol=1e-6 * largest)
    else:
        assert torch.equal(results[0][2], results[1][2])


def smoothed_but_float(outlying: Outlying, sites: tuple[Site, ...]) -> TrainableWeights:
    """Weights whose columns are multiplied where their input is divided, and that nothing has rounded."""
    weights = prepare_weights(outlying.model, quantized_parameters(outlying.model, per_channel=True), sites)
    for name, effective in weights.effective.items():
        effective.copy_(weights.smoothed(name))
    return weights


def test_a_range_is_that_of_the_smoothed_activation(outlying: Outlying) -> None:
    sites = every_site_smoothed(outlying)
    engine = TorchEngine(outlying.model, sites, smoothed_but_float(outlying, sites), Classification())
    observed = engine.step(outlying.batch, None, seed=0).observations
    expected = [
        np.abs(rows / 2.0 ** np.array(site.smoothing)).max()
        for rows, site in zip(rows_by_hand(outlying), sites, strict=True)
    ]
    np.testing.assert_allclose(observed.numpy(), expected, rtol=1e-6)


def every_site_smoothed(outlying: Outlying) -> tuple[Site, ...]:
    generator = torch.Generator().manual_seed(1)
    widths = [outlying.model.get_parameter(f"{site.linears[0]}.weight").shape[1] for site in outlying.sites]
    exponents = [tuple(torch.randint(0, 5, (width,), generator=generator).tolist()) for width in widths]
    return tuple(replace(site, smoothing=found) for site, found in zip(outlying.sites, exponents, strict=True))


# ---- whole runs ----------------------------------------------------------------------------------


def choose_everywhere(site: Site, seen: SeenSite, readers: Any, **_: Any) -> Site:
    # the small model has no outliers; where one Linear reads, gradients stay the same to the bit
    exponents = tuple(index % 3 for index in range(seen.rows.shape[1]))
    return replace(site, smoothing=exponents, zero_point=-20) if len(site.linears) == 1 else site


def config(small: Any, output_dir: Path, **options: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "data_dir": str(small.data("SST-2")), "model": str(small.model), "max_steps": 8, "eval_every": 4,
        "batch_size": 16, "learning_rate": 1e-3, "max_length": 32, "threads": 1, "log_every": 1,
    }  # fmt: skip
    return TrainConfig.from_options(task=glue_task("SST-2"), output_dir=output_dir, **(values | options))


def weights_of(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folders(run)[step] / "model.safetensors")


@pytest.mark.parametrize("engine", ["torch", pytest.param("ort", marks=pytest.mark.slow)])
def test_a_smoothed_run_is_its_float_twin_until_quantization_starts(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(calibration, "choose_grid", choose_everywhere)
    train(config(small, tmp_path / "int8", engine=engine))
    train(config(small, tmp_path / "float32", engine=engine, quantize=False))
    ours, twin = (weights_of(tmp_path / name, 4) for name in ("int8", "float32"))
    assert all(torch.equal(ours[name], value) for name, value in twin.items())
    quantized, floats = (weights_of(tmp_path / name, 8) for name in ("int8", "float32"))
    assert any(not torch.equal(value, floats[name]) for name, value in quantized.items())


def test_smoothing_is_kept_and_a_resumed_run_goes_on_with_it(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: int, n_steps: int, loss: float) -> None:
        if step == 7:
            raise StoppedError

    monkeypatch.setattr(calibration, "choose_grid", choose_everywhere)
    train(config(small, tmp_path / "whole", engine="torch", save_every=6))
    with pytest.raises(StoppedError):
        train(config(small, tmp_path / "cut", engine="torch", save_every=6), show_step=stop)
    monkeypatch.undo()  # what goes on is what the checkpoint of step 6 says, not what would be found now
    train(config(small, tmp_path / "cut", engine="torch", save_every=6))
    for name, value in weights_of(tmp_path / "whole", 8).items():
        assert torch.equal(value, weights_of(tmp_path / "cut", 8)[name]), name
    checkpoint = load_checkpoint(checkpoint_folders(tmp_path / "cut")[8])
    assert {(len(site.linears), site.smoothing[:4], site.zero_point) for site in checkpoint.sites} == {
        (3, (), 0), (1, (0, 1, 2, 0), -20),
    }  # fmt: skip
    state = json.loads((checkpoint.path / "state.json").read_text())
    assert state["sites"][1]["smoothing"][:4] == [0, 1, 2, 0]
    state["sites"][1]["smoothing"].pop()
    (checkpoint.path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"is of another model: .*31 smoothed channels of bert\..*output\.dense"):
        train(config(small, tmp_path / "cut", engine="torch", save_every=6))


@pytest.mark.parametrize(("smoothing", "zero_points"), [(False, True), (True, False), (False, False)])
def test_what_is_switched_off_is_at_no_site(small: Any, tmp_path: Path, smoothing: bool, zero_points: bool) -> None:
    train(config(small, tmp_path / "run", engine="torch", smoothing=smoothing, zero_points=zero_points))
    sites = load_checkpoint(checkpoint_folders(tmp_path / "run")[8]).sites
    assert any(site.smoothing for site in sites) is smoothing
    assert any(site.zero_point for site in sites) is zero_points
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["smoothing"], options["zero_points"]) == (smoothing, zero_points)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_calibration_refuses_a_model_that_diverged(outlying: Outlying, value: float) -> None:
    bias = outlying.model.bert.encoder.layer[0].attention.output.LayerNorm.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[3] = value
    with pytest.raises(CalibrationError, match="not finite"):
        calibrate(outlying.model, outlying.sites, [[outlying.batch.inputs]], decay=0.9, smoothing=True)
    with torch.no_grad():
        bias.copy_(before)
