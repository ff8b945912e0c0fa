"""A fine-tuned model and rows → a bundle that answers as the float model does, without labels."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from scipy import stats
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from q8bert.export import export, quantize
from q8bert.runtime import Classifier, evaluate
from q8bert.runtime.predict.files import predict_file
from q8bert.spec.errors import ConfigError, ExportError, InputError, ModelError
from q8bert.tasks.glue import glue_task
from q8bert.training.quantization.sites import find_sites
from q8bert.training.runs.run_folder import best_checkpoint

LABELS = {0: "safe", 1: "toxic", 2: "spam"}


def their_logits(folder: Path, texts: list[str], pairs: list[str] | None = None) -> np.ndarray[Any, Any]:
    """What transformers computes of a float model, row by row, so that nothing is padded."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"return_tensors": "pt", "return_token_type_ids": model.config.type_vocab_size > 1}
    with torch.no_grad():
        rows = zip(texts, pairs, strict=True) if pairs else ((text,) for text in texts)
        return np.concatenate([model(**tokenizer(*row, **options)).logits.numpy() for row in rows])


def columns(path: Path) -> tuple[list[str], list[str] | None]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["text"] for row in rows], [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pairs", "labels", "symmetric"),
    [
        ("bert", False, LABELS, False),
        ("roberta", True, LABELS, False),
        ("bert", True, None, True),
        ("roberta", False, None, True),
    ],
    ids=["classifier", "roberta on pairs", "reranker", "roberta regressor"],
)
def test_a_fine_tuned_model_is_quantized_with_its_own_labels(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path, family: str, pairs: bool,
    labels: dict[int, str] | None, symmetric: bool,
) -> None:  # fmt: skip
    options = (
        {"num_labels": 1} if labels is None else {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    )
    folder, rows = fine_tuned(family, **options), write_rows(100, pairs=pairs)
    bundle, report = quantize(folder, tmp_path / "bundle", calibration_data=rows, symmetric=symmetric)
    assert bundle.manifest.quantization["symmetric"] is symmetric
    graph = onnx.load(bundle.model_path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert bundle.manifest.quantization["activation_zero_points"]
    assert any(point.any() for point in points) is not symmetric  # where additions stand for them, all are 0
    assert report.labels == tuple((labels or {}).values())
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0  # the exported graph is the simulation
    assert report.parity.resolved.max_abs_diff < 1e-4
    assert (report.saturation.n_unsafe, report.fusion.n_float) == (0, 0)
    # the last query stands apart from its key and value: it is computed for the first token alone
    assert report.fusion.n_integer == len(bundle.manifest.quantization["activation_scales"]) + 1  # type: ignore[arg-type]
    assert bundle.manifest.quantization["method"] == "ptq"
    assert bundle.manifest.metrics == {}  # nobody measured any
    texts, second = columns(rows)
    ours, theirs = Classifier.load(bundle.path).logits(texts, second), their_logits(folder, texts, second)
    assert ours.shape == theirs.shape
    # INT8 rounds, but says the same: measured against transformers' own float model
    assert np.mean((ours - theirs) ** 2) < 0.05 * theirs.var()
    answer = Classifier.load(bundle.path)([*zip(texts, second, strict=True)] if second else texts)[0]
    assert (answer.label in labels.values() and answer.score is None) if labels else answer.score is not None
    assert predict_file(bundle.path, rows, tmp_path / "predictions.jsonl").n_rows == 100  # the same file serves both
    card = (bundle.path / "README.md").read_text()
    assert "after training, in one shot, without labels" in card
    assert "activations with ranges of 80 rows" in card
    assert "no score was measured" in card


@pytest.mark.slow
def test_what_is_reported_without_labels_is_what_numpy_finds(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    folder, rows = fine_tuned(id2label=LABELS, label2id={v: k for k, v in LABELS.items()}), write_rows(60)
    threads, before = set(), torch.get_num_threads()
    bundle, report = quantize(
        folder, tmp_path / "bundle", calibration_data=rows, check_parity=False, threads=3,
        show_progress=lambda *_: threads.add(torch.get_num_threads()),
    )  # fmt: skip
    assert (threads, torch.get_num_threads()) == ({3}, before)
    assert (report.n_calibration_rows, report.comparison.n_rows, report.comparison.split) == (48, 12, "held-out")
    order = np.random.default_rng(11).permutation(60)  # the draw of the seed
    texts = [columns(rows)[0][row] for row in order[48:]]
    ours, theirs = Classifier.load(bundle.path).logits(texts), their_logits(folder, texts)
    found = report.comparison
    assert found.agreement == np.mean(ours.argmax(1) == theirs.argmax(1))
    np.testing.assert_allclose(found.max_abs_diff, np.abs(ours - theirs).max(), rtol=1e-3)
    np.testing.assert_allclose(found.mean_abs_diff, np.abs(ours - theirs).mean(), rtol=1e-3)
    centred = [logits - logits.mean(axis=1, keepdims=True) for logits in (ours, theirs)]
    expected = np.mean((centred[0] - centred[1]) ** 2) / np.mean(centred[1].var(axis=0))
    np.testing.assert_allclose(found.relative_error, expected, rtol=1e-3)
    assert (found.metrics, found.relative_loss, found.rank_correlation) == ({}, None, None)
    # texts of the rows are kept nowhere, their fingerprint is
    content = b"".join(path.read_bytes() for path in bundle.path.iterdir() if path.name != "tokenizer.json")
    assert not [text for text in columns(rows)[0] if text.encode() in content]
    assert bundle.manifest.quantization["calibration"]["rows_sha256"] == report.calibration_sha256  # type: ignore[index]


@pytest.mark.slow
def test_ranges_are_the_mean_of_the_largest_values_of_observations(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    folder, rows = fine_tuned(num_labels=2), write_rows(40)
    said: list[str] = []
    bundle, _ = quantize(
        folder,
        tmp_path / "bundle",
        calibration_data=rows,
        smoothing=False,
        zero_points=False,
        check_parity=False,
        report=said.append,
    )
    assert any("they are LABEL_0, LABEL_1; a --task-file names them" in sentence for sentence in said)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [columns(rows)[0][row] for row in np.random.default_rng(11).permutation(40)[:32]]
    texts = [texts[row] for row in np.random.default_rng(11).permutation(32)]
    sites = find_sites(model)
    seen: dict[str, list[float]] = {site.name: [] for site in sites}
    for site in sites:

        def look(_: Any, args: tuple[torch.Tensor, ...], site: Any = site) -> None:
            x = args[0][:, :1] if site.first_token_only and args[0].dim() == 3 else args[0]
            seen[site.name].append(float(x.abs().max()))

        model.get_submodule(site.linears[0]).register_forward_pre_hook(look)
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt"))
    largest = np.array(list(seen.values())).T
    observations = largest.reshape(2, 16, len(sites)).max(axis=1)
    scales = bundle.manifest.quantization["activation_scales"]
    assert isinstance(scales, dict)
    np.testing.assert_allclose(list(scales.values()), observations.mean(axis=0) / 127, rtol=1e-5)


@pytest.mark.slow
def test_ranges_of_a_percentile_leave_the_largest_values_out_and_tables_may_have_one_scale(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    folder, rows = fine_tuned(num_labels=2), write_rows(40)
    told = {"calibration_data": rows, "smoothing": False, "zero_points": False, "check_parity": False}
    some, most = (
        quantize(
            folder, tmp_path / f"to-{percentile}", ranges="percentile", range_percentile=percentile,
            table_granularity="per_tensor", **told,
        )[0].manifest.quantization
        for percentile in (95.0, 100.0)
    )  # fmt: skip
    means = quantize(folder, tmp_path / "means", **told)[0].manifest.quantization["activation_scales"]
    assert (some["ranges"], some["range_percentile"], some["table_granularity"]) == ("percentile", 95.0, "per_tensor")
    for name, scale in most["activation_scales"].items():  # type: ignore[attr-defined]
        assert some["activation_scales"][name] < scale  # type: ignore[index]
        assert means[name] <= scale * (1 + 1e-6)  # type: ignore[index]
    path = tmp_path / "to-95.0"
    assert "ranges of a percentile of the values of 32 rows" in (path / "README.md").read_text()
    scales = [tensor for tensor in onnx.load(path / "model.onnx").graph.initializer if "scale" in tensor.name]
    assert [int(np.prod(scale.dims)) for scale in scales if "word_embeddings" in scale.name] == [1]


@pytest.mark.slow
def test_ranges_that_need_training_are_refused(fine_tuned: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ranges must be one of mean, percentile, got 'learned'"):
        quantize(fine_tuned(num_labels=2), tmp_path / "bundle", calibration_data=tmp_path / "rows", ranges="learned")
    with pytest.raises(ConfigError, match=r"range_percentile \(99.0\) is of ranges percentile, got mean"):
        quantize(fine_tuned(num_labels=2), tmp_path / "bundle", calibration_data=tmp_path / "r", range_percentile=99.0)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_with_labels_the_gate_says_what_evaluate_finds(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    folder, rows = fine_tuned(num_labels=1), write_rows(50)
    labelled = write_rows(70, label=lambda number: number % 7)
    texts = columns(labelled)[0]
    theirs = stats.pearsonr(their_logits(folder, texts)[:, 0], [number % 7 for number in range(70)]).statistic
    if theirs <= 0:  # a random model: let labels agree with it
        labelled = write_rows(70, label=lambda number: -(number % 7))
        theirs = -theirs
    bundle, report = quantize(
        folder, tmp_path / "bundle", calibration_data=rows, eval_data=labelled, check_parity=False
    )
    assert report.comparison.float_metrics["pearson"] == pytest.approx(theirs, abs=1e-4)
    dev = tmp_path / "data"
    dev.mkdir()
    shutil.copy(labelled, dev / "dev.jsonl")
    assert report.comparison.metrics == pytest.approx(evaluate(bundle.path, dev).metrics, abs=1e-6)
    loss = (theirs - report.comparison.metrics["pearson"]) / theirs
    assert report.comparison.relative_loss == pytest.approx(loss, abs=1e-3)
    assert report.passed == (loss <= 0.01)
    _, strict = quantize(
        folder, tmp_path / "bundle", calibration_data=rows, eval_data=labelled, check_parity=False,
        max_relative_loss=-1.0, max_logit_error=report.comparison.relative_error / 2,
    )  # fmt: skip
    assert not strict.passed
    assert strict.suggestion is not None
    assert [failure.split()[1] for failure in strict.failures] == ["loss", "error"]
    # what is suggested is what helps
    _, kept = quantize(
        folder, tmp_path / "bundle", calibration_data=rows, eval_data=labelled,
        keep_float=strict.suggestion.keep_float,
    )  # fmt: skip
    assert kept.comparison.relative_error < report.comparison.relative_error
    assert kept.parity is not None
    assert kept.parity.resolved.max_abs_diff < 1e-4
    assert kept.model_size_bytes - report.model_size_bytes == pytest.approx(strict.suggestion.extra_bytes, rel=0.3)
    assert "Layers left in float32 on request" in (bundle.path / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_a_run_and_its_checkpoint_as_a_model_give_the_same_graph(small: Any, tmp_path: Path, task: str) -> None:
    run = small.run(task, "float32")
    of_run, report = quantize(run, tmp_path / "of-run")
    of_model, _ = quantize(
        best_checkpoint(run).path, tmp_path / "of-model", task=glue_task(task), data_dir=small.data(task), max_length=32
    )
    assert of_run.model_path.read_bytes() == of_model.model_path.read_bytes()
    assert report.comparison.split == "dev"
    assert report.comparison.relative_loss is not None
    assert abs(report.comparison.relative_loss) < 0.02
    # the float model of the comparison is the float bundle
    floats = evaluate(small.bundle(task, "float32"), small.data(task)).metrics
    assert report.comparison.float_metrics == pytest.approx(floats, abs=1e-4)
    assert of_run.manifest.task == of_model.manifest.task


def test_rows_that_cannot_be_used_are_refused(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    folder = fine_tuned(num_labels=2)
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(write_rows(12).read_text() + '{"text": 3}\n')
    (tmp_path / "other.csv").write_text("review,stars\ngood,3\n")
    for given, message in (
        ({"calibration_data": tmp_path / "none.jsonl"}, r"none\.jsonl is empty"),
        ({"calibration_data": tmp_path / "absent.jsonl"}, r"absent\.jsonl does not exist"),
        ({"calibration_data": tmp_path / "broken.jsonl"}, r"line 13, column text: expected a text, got 3"),
        ({"calibration_data": tmp_path / "other.csv"}, r"lacks column text; it has review, stars.*need a --task-file"),
        ({"calibration_data": write_rows(9)}, r"has 9 different rows; at least 10 are needed"),
        ({"calibration_data": write_rows(12), "eval_data": write_rows(13)}, r"column label: the label is missing"),
    ):
        with pytest.raises(InputError, match=message):
            quantize(folder, tmp_path / "bundle", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "bundle").exists()


def test_a_limit_on_a_loss_that_nothing_can_measure_is_refused(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"a relative loss of at most 0\.01 is wanted, but no labelled rows are given"
    ):
        quantize(fine_tuned(num_labels=2), tmp_path / "bundle", calibration_data=write_rows(20), max_relative_loss=0.01)
    assert not (tmp_path / "bundle").exists()


def test_a_model_beside_a_run_json_of_another_program_is_a_model(
    fine_tuned: Callable[..., Path], tmp_path: Path
) -> None:
    folder = fine_tuned(num_labels=2)
    (folder / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no run, which would know its rows"):
        quantize(folder, tmp_path / "bundle")


def test_what_does_not_go_together_is_refused(small: Any, fine_tuned: Callable[..., Path], tmp_path: Path) -> None:
    folder, run = fine_tuned(num_labels=2), small.run("SST-2", "float32")
    for model, given, message in (
        (folder, {}, r"is no run, which would know its rows: .*--calibration-data, or .*--data-dir and --task"),
        (folder, {"data_dir": small.data("SST-2")}, r"--data-dir needs --task or --task-file"),
        (run, {"task": glue_task("SST-2"), "revision": "main"}, r"--task and --task-file: .* is a run.*\n--revision"),
        (small.run("SST-2", "int8"), {}, r"is a run with quantization awareness, which has its ranges already"),
        (small.run("STS-B", "float32"), {"min_agreement": 0.9}, r"min_agreement is for labels, and this model gives a"),
        (folder, {"granularity": "per_row", "seed": -1}, r"granularity must be one of .*\nseed must be 0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            quantize(model, tmp_path / "bundle", **given)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        quantize(run, tmp_path / "letters")


def test_rows_longer_than_the_positions_of_a_runs_model_are_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--max-length 65 is beyond the 64 positions"):
        quantize(small.run("SST-2", "float32"), tmp_path / "bundle", max_length=65)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"headless": True}, None, r"is not fine-tuned for this: its head classifier is new"),
        ({"num_labels": 3}, "SST-2", r"SST-2 has the labels negative, positive; its head .* own has 3 outputs"),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, None, r"problem_type is multi_label"),
        ({"num_labels": 2, "position_embedding_type": "relative_key"}, None, r"only 'absolute' is supported"),
    ],
    ids=["without a head", "of other labels", "multi-label", "unsupported layers"],
)
def test_a_model_that_would_be_another_is_refused(
    fine_tuned: Callable[..., Path], write_rows: Callable[..., Path], tmp_path: Path, options: dict[str, Any],
    task: str | None, message: str,
) -> None:  # fmt: skip
    folder, rows = fine_tuned(**options), write_rows(20)
    chosen = None if task is None else glue_task(task)
    if chosen is not None:
        rows = tmp_path / "rows.tsv"
        rows.write_text("sentence\n" + "".join(f"word{number}\n" for number in range(20)))
    with pytest.raises(ModelError, match=message):
        quantize(folder, tmp_path / "bundle", calibration_data=rows, task=chosen)


def test_a_float_run_is_not_exported_as_post_training_by_export(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be one of none, dynamic, static, qat, got 'ptq'"):
        export(small.run("SST-2", "float32"), tmp_path / "bundle", quantization="ptq")


def test_a_file_to_score_on_has_no_other_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split \(test\) is of --data-dir, and --eval-data is a file"):
        quantize(tmp_path / "model", tmp_path / "bundle", calibration_data="rows", eval_data="rows", split="test")
