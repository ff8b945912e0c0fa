"""The rows of the table of presets: what they set, what wins over them, and that they train."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from q8bert import training
from q8bert.runtime.cli import build_app
from q8bert.spec.errors import ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.options import flat_fields, flat_values
from q8bert.training.presets import PRESETS

# as their own files say: nlp-architect's procedures/transformers/base.py, its documentation, and the configuration of its
# quantized BERT; MindSpore's official/nlp/q8bert/src/config.py and run_train.py
SAID = {
    "paper": {
        "epochs": 3, "batch_size": 8, "eval_batch_size": 8, "learning_rate": 2e-5, "weight_decay": 0.0,
        "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "warmup_ratio": 0.0, "seed": 42, "max_length": 128, "log_every": 50,
        "eval_every": 50, "save_every": 500, "range_decay": 0.9999, "granularity": "per_tensor",
        "table_granularity": "per_tensor", "zero_points": False, "smoothing": False, "quantize_from": 0.0, "dropout": 0.1,
    },
    "seed": {
        "epochs": 3, "batch_size": 16, "eval_batch_size": 32, "learning_rate": 5e-5, "end_learning_rate": 1e-14,
        "decay_power": 1.0, "weight_decay": 1e-4, "adam_epsilon": 1e-6, "warmup_ratio": 0.1, "seed": 1,
        "keep_checkpoints": 1, "eval_every": 100, "save_every": 100, "log_every": 100, "range_decay": 0.999,
        "granularity": "per_tensor", "dropout": 0.1, "initializer_range": 0.02, "max_length": 128, "quantize": True,
    },
}  # fmt: skip


def config(preset: str | None, task: str = "STS-B", **options: Any) -> TrainConfig:
    values: dict[str, Any] = {"data_dir": "data", "output_dir": Path("run")}
    return TrainConfig.from_options(task=glue_task(task), preset=preset, **(values | options))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_its_original_says(name: str) -> None:
    values = flat_values(config(name))
    assert {option: values[option] for option in SAID[name]} == SAID[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_options_alone_and_leaves_the_others_as_they_are(name: str) -> None:
    known = {field.name for _, field, _ in flat_fields(TrainConfig)}
    row = PRESETS[name]
    set_options = set(row.options) | set(row.in_float16) | {option for by in row.by_task.values() for option in by}
    assert set_options <= known
    ours, plain = flat_values(config(name)), flat_values(config(None))
    assert {option for option in plain if ours[option] != plain[option]} <= set_options
    assert row.differences
    assert all(sentence.strip() == sentence for sentence in row.differences)


def test_what_is_given_wins() -> None:
    given = config("paper", learning_rate=1e-3, keep_float=("classifier",))
    assert given.optimization.learning_rate == 1e-3
    assert given.quantization.keep_float == ("classifier",)
    assert given.optimization.batch_size == 8


def test_what_contradicts_what_is_given_is_left_out() -> None:
    twin = config("seed", quantize=False)
    assert (twin.quantization.keep_float, twin.optimization.learning_rate) == ((), 5e-5)
    unseen = config("paper", evaluate=False)
    assert (unseen.evaluation.eval_every, unseen.evaluation.candidates) == (0, 0)
    warm = config("seed", warmup_steps=7)
    assert (warm.optimization.warmup_steps, warm.optimization.warmup_ratio) == (7, 0.1)
    assert config("paper", warmup_steps=7).optimization.warmup_steps == 7


def test_what_a_task_or_a_precision_has_otherwise() -> None:
    assert config("seed", task="SST-2").max_length == 64
    assert config("seed", task="SST-2", max_length=32).max_length == 32
    assert config("seed").execution.loss_scale_window == 1000
    half = config("seed", precision="float16", device="cuda").execution
    assert (half.loss_scale, half.loss_scale_factor, half.loss_scale_window) == (65536.0, 2.0, 50)


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="preset must be one of paper, seed, got 'tinybert'"):
        config("tinybert")


def test_on_the_command_line_what_is_given_wins_also_where_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TrainConfig] = []

    def stop(given: TrainConfig, **_: Any) -> None:
        told.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop, raising=False)
    done = CliRunner().invoke(build_app(), [
        "train", "--task", "RTE", "--data-dir", "x", "--output-dir", str(tmp_path), "--preset", "seed",
        "--learning-rate", "1e-4", "--smoothing",
    ])  # fmt: skip
    (given,) = told
    assert given == config("seed", task="RTE", data_dir="x", output_dir=tmp_path, learning_rate=1e-4, smoothing=True)
    assert (given.optimization.learning_rate, given.quantization.smoothing) == (1e-4, True)
    for difference in PRESETS["seed"].differences:
        assert f"note: {difference}\n" in done.stderr
    refused = CliRunner().invoke(build_app(), [
        "train", "--task", "RTE", "--data-dir", "x", "--output-dir", str(tmp_path), "--preset", "tinybert",
    ])  # fmt: skip
    assert (refused.exit_code, refused.stderr) == (2, "error: preset must be one of paper, seed, got 'tinybert'\n")


@pytest.mark.parametrize(("name", "n_sites", "stay_float"), [("paper", 10, 1), ("seed", 6, 11)])
def test_a_preset_trains_and_quantizes_what_it_names(
    small: Any, tmp_path: Path, name: str, n_sites: int, stay_float: int
) -> None:
    from q8bert.training.runs.run_folder import best_checkpoint

    result = train(
        config(
            name, data_dir=str(small.data("STS-B")), model=str(small.model), output_dir=tmp_path / "run", engine="torch",
            max_length=32, max_steps=3, threads=1,
        )
    )  # fmt: skip
    # of two layers: the paper's has one site for query, key and value, one for attention's output and two for
    # feed-forward each, pooler and classifier; the seed's lacks the first, pooler and classifier
    assert len(best_checkpoint(result.path).sites) == n_sites
    # token types; three tables, pooler, classifier and three projections a layer
    assert len(result.float_layers) == stay_float
