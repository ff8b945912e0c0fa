"""Evaluation equals scores worked out here with numpy alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from q8bert.runtime import Classifier, evaluate, verify
from q8bert.spec.errors import BundleError, ConfigError, InputError
from q8bert.tasks.data_set import DataSet
from q8bert.tasks.glue import glue_task
from q8bert.tasks.head import Head
from q8bert.tasks.task import Task


def read_tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def average_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return average


def matthews(predicted: NDArray[Any], actual: NDArray[Any]) -> float:
    # for two classes it is the correlation of the two 0/1 columns
    return float(np.corrcoef(predicted, actual)[0, 1])


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_accuracy_is_the_share_of_right_labels(small: Any, precision: str) -> None:
    bundle, data = small.bundle("SST-2", precision), small.data("SST-2")
    rows = read_tsv(data / "dev.tsv")
    predictions = Classifier.load(bundle, threads=1)([text for text, _ in rows])
    right = [
        prediction.label == ("negative", "positive")[int(code)]
        for prediction, (_, code) in zip(predictions, rows, strict=True)
    ]
    report = evaluate(bundle, data, threads=1)
    assert report.metrics == {"accuracy": pytest.approx(sum(right) / 200)}
    assert 0 < sum(right) < 200, "all right or all wrong would prove little"
    assert (report.task, report.split, report.precision) == ("SST-2", "dev", precision)
    assert (report.main_metric, report.n_rows, report.n_skipped, report.skipped) == ("accuracy", 200, 0, ())
    assert report.seconds > 0


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_correlations_are_those_of_the_scores(small: Any, precision: str) -> None:
    bundle, data = small.bundle("STS-B", precision), small.data("STS-B")
    rows = read_tsv(data / "dev.tsv")
    predictions = Classifier.load(bundle, threads=1)([(a, b) for a, b, _ in rows])
    scores = np.array([prediction.score for prediction in predictions])
    actual = np.array([float(score) for _, _, score in rows])
    report = evaluate(bundle, data, threads=1)
    assert report.main_metric == "pearson"
    assert report.metrics == {
        # centring float32 scores that lie close together costs digits
        "pearson": pytest.approx(np.corrcoef(scores, actual)[0, 1], abs=1e-4),
        "spearman": pytest.approx(np.corrcoef(average_ranks(scores), average_ranks(actual))[0, 1], abs=1e-6),
    }


def test_the_batch_size_does_not_change_the_score(small: Any) -> None:
    bundle, data = small.bundle("SST-2", "float32"), small.data("SST-2")
    # float32 logits agree to 1e-4 whatever the batch, see test_classifier
    assert evaluate(bundle, data, batch_size=1, threads=1).metrics == evaluate(bundle, data, threads=1).metrics


def test_another_task_with_the_same_labels_brings_its_own_files_columns_and_metrics(small: Any, tmp_path: Path) -> None:
    diagnostic = Task(
        Head.of_labels(("negative", "positive")),
        DataSet(
            name="diagnostic", text_column="phrase", label_column="truth", metrics=("matthews", "f1"),
            files={"dev": "probe.tsv"},
        ),
    )  # fmt: skip
    rows = read_tsv(small.data("SST-2") / "dev.tsv")
    names = {"0": "negative", "1": "positive"}
    lines = ["truth\tphrase", *(f"{names[code]}\t{text}" for text, code in rows)]
    (tmp_path / "probe.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = small.bundle("SST-2", "int8")
    predictions = Classifier.load(bundle, threads=1)([text for text, _ in rows])
    predicted = np.array([prediction.label == "positive" for prediction in predictions])
    actual = np.array([code == "1" for _, code in rows])
    report = evaluate(bundle, tmp_path, task=diagnostic, threads=1)
    both = int((predicted & actual).sum())
    assert (report.task, report.main_metric) == ("diagnostic", "matthews")
    assert report.metrics == {
        "matthews": pytest.approx(matthews(predicted, actual)),
        "f1": pytest.approx(2 * both / (int(predicted.sum()) + int(actual.sum()))),
    }


@pytest.mark.parametrize("name", ["CoLA", "AX", "STS-B"])
def test_another_task_with_other_labels_is_refused(small: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"task {name} has the labels .*, the bundle has \['negative', 'positive'\]"):
        evaluate(small.bundle("SST-2", "int8"), small.data("SST-2"), task=glue_task(name), threads=1)


def test_a_task_of_pairs_is_refused_by_a_bundle_of_single_texts(small: Any, tmp_path: Path) -> None:
    pairs = Task(
        Head.of_labels(("negative", "positive")),
        DataSet(name="pairs", text_column="a", text_pair_column="b", label_column="label", metrics=("accuracy",)),
    )
    (tmp_path / "dev.tsv").write_text("a\tb\tlabel\ngood\tbad\tpositive\n")
    with pytest.raises(InputError, match="task SST-2 takes single texts"):
        evaluate(small.bundle("SST-2", "int8"), tmp_path, task=pairs, threads=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.tsv", "index\tsentence\n0\ta film\n", r"test\.tsv, line 1: the header lacks column label"),
        ("test.jsonl", '{"text": "a film"}\n', r"test\.jsonl, line 1, column label: the label is missing"),
        ("test.tsv", "sentence\tlabel\na film\t\n", r"test\.tsv, line 2, column label: unknown label"),
    ],
)
def test_a_split_without_labels_is_refused(small: Any, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        evaluate(small.bundle("SST-2", "int8"), tmp_path, split="test", threads=1)


def test_a_split_that_is_not_there_is_refused_naming_what_is(small: Any) -> None:
    with pytest.raises(InputError, match=r"for the dev_mismatched split of SST-2; it holds dev\.tsv, train\.tsv"):
        evaluate(small.bundle("SST-2", "int8"), small.data("SST-2"), split="dev_mismatched", threads=1)


def test_malformed_rows_stop_it_or_are_listed_and_left_out(small: Any, tmp_path: Path) -> None:
    data, bundle = tmp_path / "data", small.bundle("SST-2", "int8")
    shutil.copytree(small.data("SST-2"), data)
    with (data / "dev.tsv").open("a") as file:
        file.write("a film\t7\nno label\n")
    with pytest.raises(InputError, match=r"dev\.tsv, line 202, column label: unknown label"):
        evaluate(bundle, data, threads=1)
    report = evaluate(bundle, data, threads=1, skip_malformed=True)
    assert (report.n_rows, report.n_skipped, len(report.skipped)) == (200, 2, 2)
    assert "line 202" in report.skipped[0]
    assert "line 203" in report.skipped[1]
    assert report.metrics == evaluate(bundle, small.data("SST-2"), threads=1).metrics


def test_truncated_rows_are_counted(small: Any, tmp_path: Path) -> None:
    rows = ["good " * 30, "good " * 31, "bad", "bad " * 400]  # 30 words, [CLS] and [SEP] are 32 tokens
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in rows))
    bundle = small.bundle("SST-2", "int8")
    assert evaluate(bundle, tmp_path, threads=1).n_truncated == 2
    gate = verify(bundle, small.bundle("SST-2", "float32"), tmp_path, threads=1)
    assert (gate.n_truncated, gate.precision) == (2, "int8")


def test_a_folder_that_is_no_bundle_is_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        evaluate(tmp_path, small.data("SST-2"))


def test_a_file_has_no_other_split(small: Any) -> None:
    rows = small.data("SST-2") / "dev.tsv"
    with pytest.raises(ConfigError, match=r"split \(test\) is of --data-dir, and --data-file is a file"):
        evaluate(small.bundle("SST-2", "int8"), data_file=rows, split="test")
