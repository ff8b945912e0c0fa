"""The options of a run: faults together, groups and flat names alike, and runs of earlier days."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.training.engines.config import ExecutionConfig
from q8bert.training.loop.config import EvaluationConfig, OptimizationConfig, RecordConfig
from q8bert.training.options import flat_fields
from q8bert.training.quantization.config import QuantizationConfig
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.identity.run_record import RunRecord, read_record, read_run

# as version 0.1.0 wrote it before options had groups
RUN_JSON = """
{
  "run_version": 4,
  "options": {
    "task": {
      "name": "SST-2", "text_column": "sentence", "text_pair_column": null, "label_column": "label",
      "labels": ["negative", "positive"], "metrics": ["accuracy"], "label_codes": ["0", "1"], "files": {},
      "headerless_columns": [], "hub_name": "sst2", "has_training_data": true
    },
    "data_dir": "/data/SST-2", "model": "/data/model", "engine": "torch", "device": "cpu", "quantize": true,
    "granularity": "per_tensor", "saturation_free": true, "smoothing": false, "keep_float": ["classifier"], "epochs": 4,
    "max_steps": 0, "batch_size": 16, "gradient_accumulation": 3, "learning_rate": 0.003, "weight_decay": 0.01,
    "warmup_ratio": 0.1, "decay_power": 1.0, "end_learning_rate": 0.0, "max_grad_norm": 1.0, "max_length": 32,
    "range_decay": 0.99, "calibration_batches": 8, "quantize_from": 0.25, "freeze_ranges_from": 1.0,
    "precision": "bfloat16", "loss_scale": 65536.0, "loss_scale_factor": 2.0, "loss_scale_window": 1000, "dropout": 0.1,
    "eval_batch_size": 64, "eval_every": 7, "patience": 0, "seed": 12, "skip_malformed": true
  },
  "processes": 1,
  "versions": {"python": "3.11.7", "q8bert": "0.1.0"}
}
"""


def flat(**options: Any) -> TrainConfig:
    return TrainConfig.from_options(task=glue_task("SST-2"), data_dir="/data/SST-2", output_dir=Path("run"), **options)


def test_a_run_of_earlier_days_is_read_and_new_options_have_their_defaults_there(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(RUN_JSON)
    read = read_run(tmp_path)
    assert read == TrainConfig(
        task=glue_task("SST-2"), data_dir="/data/SST-2", output_dir=tmp_path, model="/data/model", max_length=32,
        dropout=0.1, seed=12, skip_malformed=True,
        obey_special_tokens=True,  # there was no other way
        quantization=QuantizationConfig(
            granularity="per_tensor", table_granularity="per_tensor", smoothing=False, zero_points=False,
            keep_float=("classifier",), quantize_from=0.25,
        ),
        optimization=OptimizationConfig(gradient_accumulation=3, learning_rate=0.003),
        evaluation=EvaluationConfig(eval_every=7),
        execution=ExecutionConfig(engine="torch", precision="bfloat16"),
    )  # fmt: skip
    new = {
        "gradients": "torch", "format": None, "revision": None, "quantized_learning_rate": None,
        "quantized_warmup_ratio": 0.1, "average_weights": 0.0, "candidates": 0, "teacher": None,
        "teacher_revision": None, "teacher_temperature": 2.0, "teacher_weight": 0.5, "obey_special_tokens": True,
        "table_granularity": "per_tensor", "zero_points": False, "ranges": "ema", "range_rate_ratio": 10.0,
        "range_percentile": 99.99, "grids_from": "calibration", "shuffle": True, "evaluate": True, "warmup_steps": None,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "hidden_dropout": None, "attention_dropout": None,
        "initializer_range": None, "from_scratch": False, "layers": None, "heads": None, "hidden_size": None,
        "intermediate_size": None, "max_positions": None,
        "train_file": None, "dev_file": None, "schema": None, "tokenizer": None,
    }  # fmt: skip
    assert read.identity() == json.loads(RUN_JSON)["options"] | new


def test_a_run_of_earlier_days_is_gone_on_with_by_the_options_it_had(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(RUN_JSON)
    there, asked = read_record(tmp_path), read_run(tmp_path)
    assert there.differences(RunRecord.of(asked, {}, n_processes=1)) == []
    other = RunRecord.of(replace(asked, seed=13, data_dir="/elsewhere"), {}, n_processes=2)
    assert there.differences(other) == ["other options (processes 1 there, 2 asked; seed 12 there, 13 asked)"]


def test_a_run_of_earlier_days_keeps_its_grids_and_says_which_options_they_are(tmp_path: Path) -> None:
    content = json.loads(RUN_JSON)
    (tmp_path / "run.json").write_text(json.dumps(content))
    there = read_record(tmp_path)
    quantization = replace(there.config(tmp_path).quantization, table_granularity="per_column", zero_points=True)
    asked = replace(there.config(tmp_path), quantization=quantization)
    assert there.differences(RunRecord.of(asked, {}, n_processes=1)) == [
        "other options (table_granularity 'per_tensor' there, 'per_column' asked; zero_points False there, True asked)"
    ]
    content["options"] |= {"quantize": False, "keep_float": []}  # a float twin has no grids: its defaults are today's
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert read_run(tmp_path).quantization.table_granularity == "per_column"


def test_a_run_with_an_option_that_is_unknown_here_was_made_by_another_release(tmp_path: Path) -> None:
    content = json.loads(RUN_JSON)
    content["options"]["colour"] = "red"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="made by another release: unknown options: colour"):
        read_run(tmp_path)


def test_flat_options_find_their_groups() -> None:
    assert flat(epochs=2, quantize=False, threads=3, save_every=5) == TrainConfig(
        glue_task("SST-2"),
        "/data/SST-2",
        output_dir=Path("run"),
        optimization=OptimizationConfig(epochs=2),
        quantization=QuantizationConfig(quantize=False),
        execution=ExecutionConfig(threads=3),
        record=RecordConfig(save_every=5),
    )
    with pytest.raises(TypeError, match="unknown options: epoch, lr"):
        flat(lr=1.0, epoch=2)


def test_what_does_not_decide_results_is_no_part_of_the_identity() -> None:
    others = {"threads": 4, "log_every": 1, "save_every": 9, "keep_checkpoints": 5, "cache_dir": Path("cache")}
    assert flat(**others).identity() == flat().identity()
    assert flat(batch_size=32).identity() != flat().identity()


def test_all_faults_of_the_options_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_options(
            task=glue_task("AX"), data_dir="x", model="m", output_dir=tmp_path, engine="jax", granularity="per_row",
            epochs=0, learning_rate=float("nan"), dropout=1.0, max_length=2,
        )  # fmt: skip
    text = str(caught.value)
    for fault in ("engine", "granularity", "epochs", "learning_rate", "dropout", "max_length", "AX has no training"):
        assert fault in text
    assert len(caught.value.faults) == 7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 2**63, "seed must be 0 or more and below 2**63, got 9223372036854775808"),
        ("weight_decay", -0.5, "weight_decay must be 0 or more, got -0.5"),
        ("learning_rate", 0.0, "learning_rate must be above 0, got 0.0"),
        ("batch_size", "many", "batch_size must be a whole number, at least 1, got 'many'"),
        ("log_every", True, "log_every must be a whole number, at least 1, got True"),
        ("precision", "int4", "precision must be one of float32, float16, bfloat16, got 'int4'"),
        ("gradients", "ort", "gradients must be one of torch, onnxruntime-training, got 'ort'"),
        ("epochs", 2.5, "epochs must be a whole number, at least 1, got 2.5"),
        ("epochs", None, "epochs must be a whole number, at least 1, got None"),
        ("quantize", "no", "quantize must be true or false, got 'no'"),
        ("smoothing", 0, "smoothing must be true or false, got 0"),
        ("keep_float", "classifier", "keep_float must be a list of texts, got 'classifier'"),
        ("max_length", "128", "max_length must be a whole number, at least 8, special tokens included, got '128'"),
        ("device", "gpu", "device must be cpu, cuda or cuda:N, got 'gpu'"),
        ("device", None, "device must be a text, cpu, cuda or cuda:N, got None"),
        ("cache_dir", "", "cache_dir must be a path or none, got ''"),
        ("model", "", "model must be a folder or a name, got ''"),
        ("dev_file", "", "dev_file must be the path of a file, got ''"),
        (
            "format",
            "xml",
            "format must be one of tsv, quoted-tsv, csv, jsonl, parquet, tfrecord, mindrecord, got 'xml'",
        ),
        ("max_grad_norm", 0, "max_grad_norm must be above 0, got 0"),
    ],
)
def test_a_fault_says_what_is_allowed_and_what_was_given(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        flat(**{name: value})
    assert caught.value.faults == (message,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradients": "onnxruntime-training", "engine": "torch"},
            "are for the engine ort; the engine torch has its own",
        ),
        ({"gradients": "onnxruntime-training", "precision": "float16"}, "are float32 alone, got precision float16"),
        (
            {"learning_rate": 1e-5, "end_learning_rate": 1e-4},
            r"end_learning_rate \(0.0001\) is above learning_rate \(1e-05\)",
        ),
        (
            {"end_learning_rate": 1e-5, "decay_power": 0},
            r"end_learning_rate \(1e-05\) is never reached: decay_power is 0",
        ),
        ({"loss_scale": 1024}, r"loss_scale \(1024.0\) is for float16, got precision float32"),
        (
            {"loss_scale_window": 7, "precision": "bfloat16", "engine": "torch"},
            r"loss_scale_window \(7\) is for float16",
        ),
        ({"precision": "bfloat16"}, "on the CPU, ONNX Runtime has no kernels for bfloat16; train with --engine torch"),
    ],
)
def test_options_that_exclude_one_another_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flat(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"gradients": "onnxruntime-training"},
        {"precision": "float16", "loss_scale": 1024.0, "loss_scale_window": 7},
        {"learning_rate": 1e-4, "end_learning_rate": 1e-4},
        {"precision": "bfloat16", "engine": "torch"},
        {"precision": "bfloat16", "device": "cuda"},
    ],
)
def test_options_that_go_together_are_taken(options: dict[str, Any]) -> None:
    identity = flat(**options).identity()
    assert {name: identity[name] for name in options} == options


def test_paths_and_numbers_are_taken_in_every_usual_form() -> None:
    given = TrainConfig(
        glue_task("SST-2"), data_dir=Path("/data"), output_dir="run", model=Path("/model"),  # type: ignore[arg-type]
        max_length=np.int64(32), dropout=0,
        optimization=OptimizationConfig(epochs=np.int32(2), learning_rate=np.float32(0.5)),  # type: ignore[arg-type]
        quantization=QuantizationConfig(keep_float=["classifier"]),  # type: ignore[arg-type]
        execution=ExecutionConfig(cache_dir="cache"),  # type: ignore[arg-type]
    )  # fmt: skip
    assert given == TrainConfig(
        glue_task("SST-2"), data_dir="/data", output_dir=Path("run"), model="/model", max_length=32, dropout=0.0,
        optimization=OptimizationConfig(epochs=2, learning_rate=0.5),
        quantization=QuantizationConfig(keep_float=("classifier",)), execution=ExecutionConfig(cache_dir=Path("cache")),
    )  # fmt: skip
    assert TrainConfig.from_identity(json.loads(json.dumps(given.identity())), output_dir=Path("run")) == replace(
        given, execution=ExecutionConfig()
    )


def test_wrong_types_of_all_groups_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_options(
            task="SST-2", data_dir=3, output_dir=None, seed="11", quantize="no", epochs=2.5, patience=True, engine=1,  # type: ignore[arg-type]
            log_every="10",
        )  # fmt: skip
    named = {fault.partition(" ")[0] for fault in caught.value.faults}
    assert named == {
        "task", "data_dir", "output_dir", "seed", "quantize", "epochs", "patience", "engine", "log_every",
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"optimization must be a q8bert\.training\.loop\.config\.OptimizationConfig, got \{\}"
    ):
        TrainConfig(glue_task("SST-2"), "x", output_dir=Path("y"), optimization={})  # type: ignore[arg-type]


def test_every_option_refuses_what_is_of_no_type_at_all() -> None:
    for _, field, _ in flat_fields(TrainConfig):
        with pytest.raises(ConfigError, match=f"{field.name} must be"):
            TrainConfig.from_options(
                **({"task": glue_task("SST-2"), "data_dir": "x", "output_dir": "y"} | {field.name: object()})
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"quantized_warmup_ratio": 0.2},
            "quantized_warmup_ratio (0.2) is of quantized_learning_rate, which is not given",
        ),
        (
            {"quantized_learning_rate": 1e-6, "end_learning_rate": 1e-5},
            "end_learning_rate (1e-05) is above quantized_learning_rate (1e-06)",
        ),
        ({"average_weights": 0.2, "patience": 2}, "average_weights (0.2) is of the last steps that are planned"),
        ({"average_weights": 0.6}, "average_weights (0.6) begins before quantization starts (quantize_from 0.5)"),
    ],
)
def test_a_budget_that_contradicts_itself_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        flat(**options)
    assert message in str(caught.value)


def test_a_float_run_has_no_quantization_that_a_mean_may_not_reach_back_over() -> None:
    assert flat(average_weights=0.6, quantize=False).optimization.average_weights == 0.6
    assert flat(average_weights=0.1, quantize_from=0.9).optimization.average_weights == 0.1


def test_rows_of_the_hub_have_no_format() -> None:
    with pytest.raises(ConfigError, match="format csv is for files, but data_dir is hub:nyu-mll/glue"):
        TrainConfig(glue_task("SST-2"), "hub:nyu-mll/glue", output_dir=Path("run"), format="csv")
