"""evaluate, predict, verify, as functions and as commands."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from q8bert.glue.readers import read_split
from q8bert.glue.tasks import glue_task
from q8bert.runtime import Classifier, evaluate, verify
from q8bert.runtime.cli import build_app
from q8bert.runtime.predict import predict_file
from q8bert.spec.errors import ConfigError, InputError
from q8bert.spec.files import sha256_of


def command(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def shuffled(bundle: Path, target: Path) -> Path:
    """Copy a bundle with the codes of its feed-forward weights in another order."""
    shutil.copytree(bundle, target)
    content = bytearray((target / "model.onnx").read_bytes())
    # a tensor's bytes are protobuf field 9 with its length before them: 2,048 for the 32 × 64 feed-forward weights
    field = bytes([9 << 3 | 2, 2048 & 0x7F | 0x80, 2048 >> 7])
    rng = np.random.default_rng(0)
    at = content.find(field)
    assert at > 0
    while at > 0:
        start = at + len(field)
        codes = np.frombuffer(bytes(content[start : start + 2048]), dtype=np.uint8)
        content[start : start + 2048] = rng.permutation(codes).tobytes()
        at = content.find(field, start + 2048)
    (target / "model.onnx").write_bytes(bytes(content))
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"]["model.onnx"]["sha256"] = sha256_of(target / "model.onnx")
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_evaluation_equals_a_score_by_hand(small: Any) -> None:
    report = evaluate(small.bundle("SST-2", "int8"), small.data("SST-2"), threads=1)
    rows = read_split(glue_task("SST-2"), small.data("SST-2"), "dev")
    classifier = Classifier.load(small.bundle("SST-2", "int8"), threads=1)
    logits = classifier.logits([example.text for example in rows.examples])
    by_hand = float(np.mean(logits.argmax(axis=1) == np.array(rows.labels())))
    assert report.metrics == {"accuracy": pytest.approx(by_hand)}
    assert (report.n_rows, report.precision, report.split) == (200, "int8", "dev")


def test_evaluation_refuses_a_task_with_other_labels_and_rows_without(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task RTE has the labels .* the bundle has"):
        evaluate(small.bundle("SST-2", "int8"), small.data("SST-2"), task=glue_task("RTE"))
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\ta film\n")
    with pytest.raises(InputError, match="the header lacks column label"):
        evaluate(small.bundle("SST-2", "int8"), tmp_path, split="test")


def test_the_gate_passes_twins_and_says_by_how_much(small: Any) -> None:
    arguments = (small.bundle("SST-2", "int8"), small.bundle("SST-2", "float32"), small.data("SST-2"))
    report = verify(*arguments, min_size_ratio=1.5, max_relative_loss=0.05, threads=1)
    sizes = [(small.bundle("SST-2", name) / "model.onnx").stat().st_size for name in ("float32", "int8")]
    assert report.passed
    assert report.size_ratio == pytest.approx(sizes[0] / sizes[1])
    base, ours = report.reference_metrics["accuracy"], report.metrics["accuracy"]
    assert report.relative_loss == pytest.approx((base - ours) / base)


def test_the_gate_fails_a_float_model_and_shuffled_weights_with_exit_code_1(small: Any, tmp_path: Path) -> None:
    reference, data = small.bundle("SST-2", "float32"), small.data("SST-2")
    result = command("verify", reference, "--reference", reference, "--data-dir", data, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["passed"], report["size_ratio"], report["relative_loss"]) == (False, 1.0, 0.0)
    assert report["failures"] == ["size ratio 1.000 is below 3.9"]

    broken = shuffled(small.bundle("SST-2", "int8"), tmp_path / "broken")
    result = command("verify", broken, "--reference", reference, "--data-dir", data, "--min-size-ratio", "1", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["relative_loss"] > 0.01
    assert "relative loss" in report["failures"][0]


def test_the_gate_refuses_what_cannot_be_compared(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is of task SST-2, the reference .* of STS-B"):
        verify(small.bundle("SST-2", "int8"), small.bundle("STS-B", "float32"), small.data("SST-2"))
    data = tmp_path / "data"
    shutil.copytree(small.data("STS-B"), data)
    rows = (data / "dev.tsv").read_text().splitlines()
    turned = [f"{a}\t{b}\t{5 - float(score):.3f}" for a, b, score in (row.split("\t") for row in rows[1:])]
    (data / "dev.tsv").write_text("\n".join([rows[0], *turned]) + "\n")
    result = command(
        "verify", small.bundle("STS-B", "int8"), "--reference", small.bundle("STS-B", "float32"), "--data-dir", data
    )
    assert result.exit_code == 2
    assert "needs a reference above zero" in result.stderr


def test_predictions_are_json_lines_in_input_order(small: Any, tmp_path: Path) -> None:
    texts = ["a great film", "a dull , slow and very empty story", "good"]
    sources = {
        "labelled.tsv": "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in texts),
        "unlabelled.tsv": "index\tsentence\n" + "".join(f"{at}\t{text}\n" for at, text in enumerate(texts)),
        "rows.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
    }
    expected = Classifier.load(small.bundle("SST-2", "int8"))(texts)
    for name, content in sources.items():
        (tmp_path / name).write_text(content)
        output = tmp_path / "out.jsonl"
        result = command(
            "predict", small.bundle("SST-2", "int8"), "--input", tmp_path / name, "--output", output, "--json"
        )
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["n_rows"] == 3
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert [line["index"] for line in lines] == [0, 1, 2]
        assert [line["label"] for line in lines] == [prediction.label for prediction in expected]
        assert all(set(line) == {"index", "label", "probabilities"} for line in lines)


def test_scores_are_predicted_for_pairs(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a good film", "text_pair": "a great film"}\n')
    assert predict_file(small.bundle("STS-B", "int8"), source, output).n_rows == 1
    (line,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert set(line) == {"index", "score"}
    assert isinstance(line["score"], float)


def test_a_failed_prediction_leaves_the_old_output_and_nothing_else(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "fine"}\n{"txt": "a"}\n')
    output.write_text("old")
    result = command("predict", small.bundle("SST-2", "int8"), "--input", source, "--output", output)
    assert result.exit_code == 2
    assert "rows.jsonl, line 2, column sentence: a text is missing" in result.stderr
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]
    result = command(
        "predict", small.bundle("SST-2", "int8"), "--input", source, "--output", output, "--skip-malformed", "--json"
    )
    assert json.loads(result.stdout)["n_skipped"] == 1
    assert "1 malformed rows left out" in result.stderr
    result = command("predict", small.bundle("SST-2", "int8"), "--input", source, "--output", tmp_path / "no" / "out")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_wrong_use_exits_2(small: Any, tmp_path: Path) -> None:
    assert command("evaluate", tmp_path, "--data-dir", small.data("SST-2")).exit_code == 2
    assert command("evaluate").exit_code == 2
    assert command("no-such-command").exit_code == 2
    result = command(
        "evaluate", small.bundle("SST-2", "int8"), "--data-dir", small.data("SST-2"), "--provider", "NoProvider"
    )
    assert result.exit_code == 2
    assert "execution provider NoProvider was asked for" in result.stderr


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    assert all(
        f"  {name} " in command("--help").output for name in ("train", "export", "evaluate", "predict", "verify")
    )
    code = (
        "import sys; from q8bert.runtime.cli import build_app; build_app(); "
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_whose_extra_is_missing_say_which(tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("torch"):
        pytest.skip("the train extra is installed here")
    for arguments in (
        ["train", "--task", "RTE", "--data-dir", tmp_path, "--output-dir", tmp_path / "run"],
        ["export", tmp_path, "--output-dir", tmp_path / "bundle"],
    ):
        result = command(*arguments)
        assert result.exit_code == 2
        assert 'pip install "q8bert[train]"' in result.stderr
