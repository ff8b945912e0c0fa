"""The page for those who come from elsewhere: each of their flags stands there, and each of ours exists."""

import re
from pathlib import Path

import pytest
import typer.main

from q8bert.runtime.cli import build_app
from q8bert.training.options import flat_fields
from q8bert.training.runs.config import TrainConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.md"
# as their argument parsers have them
MINDSPORE = """
device_target do_eval epoch_num device_id do_shuffle enable_data_sink save_ckpt_step max_ckpt_num data_sink_steps
load_ckpt_path train_data_dir eval_data_dir do_quant logging_step task_name dataset_type file_name file_format ckpt_file
"""
NLP_ARCHITECT = """
task_name data_dir model_type output_dir tokenizer_name max_seq_length cache_dir do_lower_case per_gpu_eval_batch_size
no_cuda overwrite_output_dir overwrite_cache model_name_or_path config_name evaluate_during_training
per_gpu_train_batch_size gradient_accumulation_steps learning_rate weight_decay adam_epsilon max_grad_norm
num_train_epochs max_steps warmup_steps logging_steps save_steps eval_all_checkpoints seed model_path
load_quantized_model evaluate
"""
CONFIG_PY = """
batch_size loss_scale_value scale_factor scale_window learning_rate end_learning_rate power weight_decay eps warmup_ratio
seq_length vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range use_relative_positions dtype
compute_type
"""


def rows() -> list[list[str]]:
    """The cells of every row of a table on the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [cells for cells in found if not set("".join(cells)) <= set("-")]


def flags_of(command: str) -> set[str]:
    group = typer.main.get_command(build_app())
    return {name for option in group.commands[command].params for name in (*option.opts, *option.secondary_opts)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("flag", (MINDSPORE + NLP_ARCHITECT).split())
def test_every_flag_of_theirs_stands_in_the_first_column(flag: str) -> None:
    assert any(f"`--{flag}`" in cells[0] for cells in rows())


@pytest.mark.parametrize("name", CONFIG_PY.split())
def test_every_value_of_config_py_stands_in_the_first_column(name: str) -> None:
    assert any(re.search(rf"`(\w+\.)?{name}`", cells[0]) for cells in rows())


def test_every_flag_of_ours_exists() -> None:
    elsewhere = {
        "--quantization": "export", "--input": "predict", "--output": "predict", "--provider": "predict",
    }  # fmt: skip
    named = {flag for cells in rows() for cell in cells[2:3] for flag in re.findall(r"--[a-z][a-z0-9-]+", cell)}
    named |= {flag for cells in rows() if len(cells) < 4 for flag in re.findall(r"--[a-z][a-z0-9-]+", cells[1])}
    train = flags_of("train")
    assert len(named) > 40
    for flag in sorted(named - train):
        assert flag in elsewhere, flag
    for flag, command in elsewhere.items():
        assert flag in flags_of(command), flag


def test_the_page_and_the_presets_are_said_where_users_look() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "SQuAD v1.1" in text
    assert "--preset seed" in text
    readme = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "docs/migration.md" in readme


DEFAULTS = {
    "--epochs": "epochs", "--batch-size": "batch_size", "--eval-batch-size": "eval_batch_size",
    "--weight-decay": "weight_decay", "--adam-epsilon": "adam_epsilon", "--max-grad-norm": "max_grad_norm",
    "--seed": "seed", "--max-length": "max_length", "--gradient-accumulation": "gradient_accumulation",
    "--keep-checkpoints": "keep_checkpoints", "--decay-power": "decay_power", "--end-learning-rate": "end_learning_rate",
}  # fmt: skip


@pytest.mark.parametrize("flag", DEFAULTS)
def test_our_defaults_are_those_that_stand_there(flag: str) -> None:
    default = next(field.default for _, field, _ in flat_fields(TrainConfig) if field.name == DEFAULTS[flag])
    told = [cells[3] for cells in rows() if len(cells) == 4 and cells[2].startswith(f"`{flag}`")]
    assert told
    assert {float(cell) for cell in told} == {float(default)}
