"""A teacher that is there before the run: what it says is what its own library says, and who cannot teach is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from q8bert.data.readers import read_split
from q8bert.spec.errors import CheckpointError, ModelError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.metrics import score
from q8bert.text.encoded import Encoded, Rows
from q8bert.training import TrainConfig, train
from q8bert.training.loop.batches import TokenizedSplit
from q8bert.training.loop.processes import Processes
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders
from q8bert.training.runs.identity.run_record import read_record
from q8bert.training.runs.run_folder import best_checkpoint
from q8bert.training.teachers.finished import load_teacher
from q8bert.training.teachers.teacher import ask

Make = Callable[..., TrainConfig]


class StoppedError(Exception):
    """Stands for a crash."""


def stop_at_8(step: int, *_: Any) -> None:
    if step == 8:
        raise StoppedError


def outputs_for(config: TrainConfig, split: str = "train") -> torch.Tensor:
    """Return what a configuration's teacher says of a split."""
    texts = read_split(config.task, config.data_dir, split)
    learner = Tokenizer.from_file(str(Path(config.model) / "tokenizer.json"))
    teacher = load_teacher(config, texts, learner, torch.device("cpu"), lambda _: None).teacher
    return ask(teacher, n_outputs=config.task.head.n_outputs, batch_size=64, processes=Processes())


@pytest.fixture
def copied(small: Any, tmp_path: Path) -> Path:
    """A fine-tuned model in a folder of its own: the best float checkpoint of SST-2."""
    return shutil.copytree(best_checkpoint(small.run("SST-2", "float32")).path, tmp_path / "copied")


def edit_config(folder: Path, **values: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | values))


def test_a_float_run_says_what_transformers_computes_of_its_best_checkpoint(
    small: Any, config: Make, tmp_path: Path, by_transformers: Callable[..., torch.Tensor]
) -> None:
    folder = best_checkpoint(small.run("SST-2", "float32")).path
    expected = by_transformers(folder, folder)
    for place in (small.run("SST-2", "float32"), folder):
        torch.testing.assert_close(outputs_for(config(tmp_path, teacher=str(place)))[:60], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("task", "precision"), [("SST-2", "int8"), ("STS-B", "int8"), ("STS-B", "float32")])
def test_a_run_teaches_what_it_was_scored_with(
    small: Any, config: Make, tmp_path: Path, task: str, precision: str
) -> None:
    run = small.run(task, precision)
    asked = config(tmp_path, task=task, teacher=str(run))
    outputs = outputs_for(asked, "dev").numpy()
    labels = read_split(asked.task, asked.data_dir, "dev").labels()
    # from training's own engine, batches and scale
    expected = best_checkpoint(run).progress.metrics
    assert score(asked.task, outputs, labels) == pytest.approx(dict(expected), abs=1e-4)
    if task == "STS-B":  # which a correlation does not see: standardized scores would have a mean of 0
        assert abs(float(np.mean(outputs)) - float(np.mean(labels))) < 1.0


def test_labels_in_another_order_are_put_in_the_tasks(small: Any, config: Make, tmp_path: Path, copied: Path) -> None:
    expected = outputs_for(config(tmp_path, teacher=str(copied)))
    weights = load_file(copied / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    names = glue_task("SST-2").head.labels[::-1]
    edit_config(copied, id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})
    assert torch.equal(outputs_for(config(tmp_path, teacher=str(copied))), expected)
    assert not torch.equal(expected, expected.flip(1))


def test_a_teacher_reads_by_its_own_tokenizer(small: Any, config: Make, tmp_path: Path, copied: Path) -> None:
    expected = outputs_for(config(tmp_path, teacher=str(copied)))
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    moved = dict(zip(words, [vocabulary[word] for word in words[1:] + words[:1]], strict=True))
    weights = load_file(copied / "model.safetensors")
    table = weights["bert.embeddings.word_embeddings.weight"]
    weights["bert.embeddings.word_embeddings.weight"] = new = table.clone()
    for word, index in moved.items():
        new[index] = table[vocabulary[word]]
    tokenizer["model"]["vocab"] = vocabulary | moved
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(outputs_for(config(tmp_path, teacher=str(copied))), expected)


def test_scores_of_a_teacher_in_other_units_are_learned_in_those_of_the_run(
    small: Any, config: Make, tmp_path: Path
) -> None:
    run = small.run("STS-B", "float32")
    plain = outputs_for(config(tmp_path, task="STS-B", teacher=str(run)))
    train(config(tmp_path / "run", task="STS-B", teacher=str(run), max_steps=2, eval_every=2))
    kept = load_file(tmp_path / "run" / "teacher.safetensors")["outputs"]
    assert torch.equal(kept, plain)
    # by hand: the targets of a batch are standardized by the mean and the deviation of the training rows' scores
    labels = read_split(glue_task("STS-B"), str(small.data("STS-B")), "train").labels()
    scale = TargetScale(float(np.mean(labels)), float(np.std(labels)))
    ids = Rows.of([[1]] * len(labels))
    split = TokenizedSplit(
        Encoded(ids, ids), torch.tensor(labels, dtype=torch.float64), ("input_ids",), 0, scale, teacher=kept
    )
    targets = split.batch(np.array([3, 0])).targets
    expected = (kept[[3, 0]].numpy() - np.mean(labels)) / np.std(labels)
    np.testing.assert_allclose(targets["teacher_logits"].numpy(), expected, rtol=1e-6)
    assert torch.equal(
        split.select(np.array([3, 0])).batch(np.array([0, 1])).targets["teacher_logits"], targets["teacher_logits"]
    )


@pytest.mark.parametrize("quantize", [True, False])
def test_a_run_learns_from_its_first_step_on_and_ends_as_one_never_interrupted(
    small: Any, config: Make, tmp_path: Path, quantize: bool, assert_same_runs: Callable[[Path, Path], None]
) -> None:
    options = {"teacher": str(small.run("SST-2", "float32")), "teacher_weight": 1.0, "quantize": quantize}
    train(config(tmp_path / "whole", **options))
    with pytest.raises(StoppedError):
        train(config(tmp_path / "cut", **options), show_step=stop_at_8)
    train(config(tmp_path / "cut", **options))
    assert_same_runs(tmp_path / "cut", tmp_path / "whole")
    train(config(tmp_path / "plain", quantize=quantize))
    first = [
        json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[1])["loss"] for run in ("whole", "plain")
    ]
    assert first[0] != first[1]


def test_what_a_finished_teacher_said_may_be_asked_again(
    small: Any, config: Make, tmp_path: Path, assert_same_runs: Callable[[Path, Path], None]
) -> None:
    options = {"teacher": str(small.run("SST-2", "int8"))}
    train(config(tmp_path / "whole", **options))
    with pytest.raises(StoppedError):
        train(config(tmp_path / "cut", **options), show_step=stop_at_8)
    file = tmp_path / "cut" / "teacher.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"is damaged .* or delete it: the same command asks the teacher again"):
        train(config(tmp_path / "cut", **options))
    file.unlink()
    train(config(tmp_path / "cut", **options))
    assert_same_runs(tmp_path / "cut", tmp_path / "whole")


def test_another_teacher_is_refused_and_one_that_moved_is_not(
    small: Any, config: Make, tmp_path: Path, copied: Path
) -> None:
    with pytest.raises(StoppedError):
        train(config(tmp_path / "run", teacher=str(copied)), show_step=stop_at_8)
    moved = copied.rename(tmp_path / "moved")
    weights = load_file(moved / "model.safetensors")
    other = {name: tensor.clone() for name, tensor in weights.items()}
    other["classifier.bias"][0] += 1e-3
    save_file(other, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"another teacher than {moved} \(its weights differ\)"):
        train(config(tmp_path / "run", teacher=str(moved)))
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="teacher 'another model' there, 'twin' asked"):
        train(config(tmp_path / "run", teacher="twin"))
    assert train(config(tmp_path / "run", teacher=str(moved))).n_steps == 10
    assert read_record(tmp_path / "run").options["teacher"] == str(moved)


def without_pooler(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def infinite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: edit_config(folder, id2label={"0": "cat", "1": "dog"}, label2id={"cat": 0, "dog": 1}),
            r"cannot teach task SST-2: as to its head, the model's own is for cat, dog\. Give a model that was fine-tuned "
            r"on the task, with the labels negative, positive",
        ),
        (without_pooler, r"lacks weights \(bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight\)"),
        (shutil.rmtree, "the teacher .* is not there"),
        (infinite, r"gives outputs that are not finite for \d+ training rows, the first of which is row 1\."),
    ],
)
def test_a_model_that_cannot_teach_is_refused(
    config: Make, tmp_path: Path, copied: Path, change: Callable[[Path], None], message: str
) -> None:
    change(copied)
    with pytest.raises(ModelError, match=message):
        train(config(tmp_path / "run", teacher=str(copied)))


def test_a_run_of_another_head_or_without_a_checkpoint_is_refused(small: Any, config: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="as to its head, the model's own has 1 output, the task 2"):
        train(config(tmp_path / "run", teacher=str(small.run("STS-B", "float32"))))
    with pytest.raises(
        ModelError, match=r"as to its head, the model's own has 2 outputs, the task 1.*one output, a score"
    ):
        train(config(tmp_path / "run", task="STS-B", teacher=str(small.run("SST-2", "float32"))))
    empty = shutil.copytree(small.run("SST-2", "float32"), tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        train(config(tmp_path / "run", teacher=str(empty)))
    assert not (tmp_path / "run").exists()
    assert checkpoint_folders(tmp_path / "run") == {}
