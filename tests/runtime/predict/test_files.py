"""Predictions of a file: every row answered, in order, or nothing written."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from q8bert.runtime import Classifier
from q8bert.runtime.predict.files import predict_file
from q8bert.spec.errors import BundleError, ConfigError, InputError, OutputError, Q8BertError

TEXTS = ["a great film", "a dull , slow and very empty story", "good", "Ünïcode 🤖", ""]
PAIRS = [("a good film", "a great film"), ("bad", "good , good , great"), ("the plot", "")]


def read_lines(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def json_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelled.tsv", "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in TEXTS)),
        ("unlabelled.tsv", "index\tsentence\n" + "".join(f"{at}\t{text}\n" for at, text in enumerate(TEXTS))),
        ("rows.jsonl", json_lines([{"text": text} for text in TEXTS])),
        ("own-names.jsonl", json_lines([{"sentence": text, "label": None} for text in TEXTS])),
    ],
)
def test_labels_and_probabilities_are_the_classifiers_in_input_order(
    small: Any, sentiment: Classifier, tmp_path: Path, name: str, content: str
) -> None:
    source, output = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(content, encoding="utf-8")
    report = predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert read_lines(output) == [
        {"index": at, "label": prediction.label, "probabilities": prediction.probabilities}
        for at, prediction in enumerate(sentiment(TEXTS))
    ]
    assert (report.n_rows, report.n_skipped, report.skipped, report.output) == (5, 0, (), str(output))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.jsonl"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labelled.tsv", "sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t1.5\n" for a, b in PAIRS)),
        ("unlabelled.tsv", "sentence2\tsentence1\n" + "".join(f"{b}\t{a}\n" for a, b in PAIRS)),
        ("rows.jsonl", json_lines([{"text": a, "text_pair": b} for a, b in PAIRS])),
    ],
)
def test_scores_are_the_classifiers_in_input_order(
    small: Any, similarity: Classifier, tmp_path: Path, name: str, content: str
) -> None:
    source, output = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(content, encoding="utf-8")
    predict_file(small.bundle("STS-B", "float32"), source, output, threads=1)
    expected = [prediction.score for prediction in similarity(PAIRS)]
    assert read_lines(output) == [{"index": at, "score": score} for at, score in enumerate(expected)]
    assert len(set(expected)) == 3, "equal scores would not show a wrong order"


def test_a_file_longer_than_one_portion_keeps_index_and_order(small: Any, tmp_path: Path) -> None:
    words = ["good" if at % 3 else "bad" for at in range(4100)]
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json_lines([{"text": word} for word in words]))
    seen: list[tuple[int, int]] = []
    predict_file(
        small.bundle("SST-2", "int8"),
        source,
        output,
        threads=1,
        batch_size=256,
        show_progress=lambda done, total: seen.append((done, total)),
    )
    lines = read_lines(output)
    assert [line["index"] for line in lines] == list(range(4100))
    assert [line["label"] for line in lines] == [{"good": "positive", "bad": "negative"}[word] for word in words]
    assert seen[-1] == (4100, 4100)
    assert len(seen) > 1
    assert seen == sorted(seen)


def test_malformed_rows_stop_it_or_are_left_out_and_an_index_counts_them_too(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "great"}\n{"txt": "a"}\nnot json\n{"text": "dull"}\n')
    bundle = small.bundle("SST-2", "int8")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2, column sentence: a text is missing"):
        predict_file(bundle, source, output, threads=1)
    assert not output.exists()
    report = predict_file(bundle, source, output, threads=1, skip_malformed=True)
    assert [(line["index"], line["label"]) for line in read_lines(output)] == [(0, "positive"), (3, "negative")]
    assert (report.n_rows, report.n_skipped) == (2, 2)
    assert ["line 2" in report.skipped[0], "line 3" in report.skipped[1]] == [True, True]


def test_a_schema_beside_a_file_that_has_none_is_refused_not_passed_over(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json_lines([{"text": "great"}]))
    with pytest.raises(InputError, match=r"the schema .*schema\.json is of TFRecord files, and .*rows\.jsonl is none"):
        predict_file(small.bundle("SST-2", "int8"), source, output, threads=1, schema=tmp_path / "schema.json")
    assert not output.exists()


@pytest.mark.parametrize("label", ["-1", "null", '""', '"refund"', "1"])
def test_rows_are_predicted_whatever_their_label(small: Any, tmp_path: Path, label: str) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"text": "great", "label": {label}}}\n')
    predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert [line["label"] for line in read_lines(output)] == ["positive"]


def test_long_rows_are_counted_or_stop_it_by_number(small: Any, tmp_path: Path, command: Callable[..., Result]) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    bundle = small.bundle("SST-2", "int8")
    # the small bundles take 32 tokens, [CLS] and [SEP] among them; the long rows are beyond the first portion
    source.write_text(json_lines([{"text": "good"}] * 4098 + [{"text": "bad " * 31}, {"text": "bad " * 30}]))
    report = predict_file(bundle, source, output, threads=1, batch_size=256)
    assert (report.n_rows, report.n_truncated) == (4100, 1)
    output.unlink()
    with pytest.raises(InputError, match=r"rows\.jsonl, index 4098: the text has more than the 32 tokens"):
        predict_file(bundle, source, output, threads=1, batch_size=256, on_long="refuse")
    assert not output.exists()
    source.write_text(json_lines([{"text": "good"}, {"text": "bad " * 31}]))
    arguments = ("predict", bundle, "--input", source, "--output", output, "--threads", 1)
    refused = command(*arguments, "--refuse-long")
    assert (refused.exit_code, output.exists()) == (2, False)
    assert "index 1" in refused.stderr
    accepted = command(*arguments, "--json")
    assert accepted.exit_code == 0
    assert "truncated rows, longer than the bundle's maximum length: 1" in accepted.stderr
    assert json.loads(accepted.stdout)["n_truncated"] == 1


@pytest.mark.parametrize("failure", [RuntimeError("no memory left"), KeyboardInterrupt()])
def test_a_failure_halfway_leaves_the_old_output_and_nothing_else(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json_lines([{"text": "good"}] * 4100))
    output.write_text("old")
    answer, n_calls = Classifier.answers, 0

    def fail_on_the_second_portion(self: Classifier, *arguments: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise failure
        return answer(self, *arguments, **options)

    monkeypatch.setattr(Classifier, "answers", fail_on_the_second_portion)
    with pytest.raises(type(failure)):
        predict_file(small.bundle("SST-2", "int8"), source, output, threads=1, batch_size=256)
    assert n_calls == 2
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_a_new_output_replaces_the_old_one(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n')
    output.write_text("old\n" * 100)
    predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert len(read_lines(output)) == 1


def test_a_source_that_cannot_be_read_leaves_nothing(small: Any, tmp_path: Path) -> None:
    bundle, output = small.bundle("SST-2", "int8"), tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="does not exist or is not a file"):
        predict_file(bundle, tmp_path / "none.tsv", output, threads=1)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(InputError, match=r"empty\.tsv is empty"):
        predict_file(bundle, tmp_path / "empty.tsv", output, threads=1)
    with pytest.raises(BundleError, match="is not a bundle"):
        predict_file(tmp_path, tmp_path / "empty.tsv", output)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tsv"]


def test_an_output_in_no_folder_is_an_input_error(small: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n')
    with pytest.raises(InputError, match=r"cannot write .*out\.jsonl: the folder .*nowhere does not exist"):
        predict_file(
            small.bundle("SST-2", "int8"), tmp_path / "rows.jsonl", tmp_path / "nowhere" / "out.jsonl", threads=1
        )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_output_that_is_the_input_is_refused_and_a_link_is_followed(small: Any, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json_lines([{"text": "a great and funny film"}]))
    before = source.read_bytes()
    (tmp_path / "same").symlink_to(source)
    for output in (source, tmp_path / "same"):
        with pytest.raises(InputError, match="it is the input; give another --output"):
            predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert source.read_bytes() == before
    target = tmp_path / "elsewhere.jsonl"
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    predict_file(small.bundle("SST-2", "int8"), source, tmp_path / "link", threads=1)
    assert (tmp_path / "link").is_symlink()
    assert len(read_lines(target)) == 1


def test_an_output_that_standard_output_goes_to_is_refused(small: Any, tmp_path: Path) -> None:
    source, stdout = tmp_path / "rows.jsonl", tmp_path / "all.txt"
    source.write_text('{"text": "good"}\n')
    bundle = small.bundle("SST-2", "int8")
    for output in ("/dev/stdout", str(stdout)):
        stdout.write_text("before\n")
        with stdout.open("a") as file:
            arguments = ("predict", str(bundle), "--input", str(source), "--output", output)
            done = subprocess.run(
                [Path(sys.executable).with_name("q8bert"), *arguments],
                stdout=file, stderr=subprocess.PIPE, encoding="utf-8", check=False,
            )  # fmt: skip
        assert (done.returncode, stdout.read_text()) == (2, "before\n"), output
        assert "stdout or stderr of this process goes there" in done.stderr


def test_an_output_that_is_a_folder_is_an_input_error(small: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text('{"text": "good"}\n')
    output.mkdir()
    with pytest.raises(InputError, match=r"cannot write .*out"):
        predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


def test_a_text_that_is_not_valid_unicode_is_bad_input(
    small: Any, tmp_path: Path, command: Callable[..., Result]
) -> None:
    # JSON can spell half of a surrogate pair; no UTF-8 text can hold it
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n{"text": "\\ud83e"}\n')
    arguments = ("predict", small.bundle("SST-2", "int8"), "--input", source, "--output", output, "--threads", 1)
    result = command(*arguments)
    assert result.exit_code == 2, result.stderr
    assert "line 2" in result.stderr
    assert command(*arguments, "--skip-malformed").exit_code == 0
    assert [line["label"] for line in read_lines(output)] == ["positive"]


def test_logits_that_are_not_finite_are_an_error_and_not_a_label(
    small: Any, tmp_path: Path, altered: Callable[..., Path], edit_weights: Callable[..., bytes]
) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n')
    good = small.bundle("SST-2", "float32")
    # the 32 × 64 feed-forward weights, four bytes each, become NaN
    model = edit_weights(
        (good / "model.onnx").read_bytes(), 32 * 64 * 4, lambda values: b"\xff\xff\xff\x7f" * (len(values) // 4)
    )
    with pytest.raises(Q8BertError, match="not finite"):
        predict_file(altered(good, files={"model.onnx": model}), source, output, threads=1)
    assert not output.exists()


def test_a_csv_file_is_predicted_like_its_texts(
    small: Any, sentiment: Classifier, tmp_path: Path, command: Callable[..., Result]
) -> None:
    texts = ["a great film, really", 'he said "bad"', "two\nlines"]
    source, output = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["sentence"], *([text] for text in texts)])
    predict_file(str(small.bundle("SST-2", "int8")), str(source), str(output), threads=1)
    expected = [(at, answer.label) for at, answer in enumerate(sentiment(texts))]
    assert [(line["index"], line["label"]) for line in read_lines(output)] == expected
    source.rename(source.with_suffix(".txt"))
    arguments = ("predict", small.bundle("SST-2", "int8"), "--input", source.with_suffix(".txt"), "--output", output)
    assert command(*arguments, "--threads", 1, "--format", "csv").exit_code == 0
    assert [(line["index"], line["label"]) for line in read_lines(output)] == expected


def test_arguments_of_another_type_are_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        predict_file(
            tmp_path / "none", "rows.jsonl", 3, threads=-1, batch_size="8", skip_malformed="no", on_long="cut",  # type: ignore[arg-type]
            format="xml",
        )  # fmt: skip
    assert sorted(fault.partition(" ")[0] for fault in caught.value.faults) == [
        "batch_size", "format", "on_long", "output", "skip_malformed", "threads",
    ]  # fmt: skip


# ---- where the output is written ----------------------------------------------------------------


def test_a_mounted_output_is_written_over(small: Any, tmp_path: Path, mount: Callable[..., None]) -> None:
    source, output, outside = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "outside.jsonl"
    source.write_text(json_lines([{"text": "good"}, {"text": "bad"}]))
    output.touch()
    outside.write_text("old\n" * 1000)
    mount(output, "--bind", outside)
    predict_file(small.bundle("SST-2", "int8"), source, output, threads=1)
    assert [line["label"] for line in read_lines(outside)] == ["positive", "negative"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "outside.jsonl", "rows.jsonl"]


def test_an_output_that_cannot_be_written_is_refused_before_any_row(
    small: Any, tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n')
    (tmp_path / "disk").mkdir()
    mount(tmp_path / "disk", "-t", "tmpfs", "-o", "ro", "tmpfs")
    monkeypatch.setattr(Classifier, "answers", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(OutputError, match=r"out\.jsonl cannot be written \(Read-only file system"):
        predict_file(small.bundle("SST-2", "int8"), tmp_path / "rows.jsonl", tmp_path / "disk" / "out.jsonl", threads=1)


def test_a_full_disk_is_exit_code_2_and_leaves_the_old_output(
    small: Any, tmp_path: Path, mount: Callable[..., None], command: Callable[..., Result]
) -> None:
    source, disk = tmp_path / "rows.jsonl", tmp_path / "disk"
    source.write_text(json_lines([{"text": "good"}] * 2000))
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=16k", "tmpfs")
    (disk / "out.jsonl").write_text("old")
    done = command(
        "predict", small.bundle("SST-2", "int8"), "--input", source, "--output", disk / "out.jsonl", "--threads", 1
    )
    assert done.exit_code == 2
    assert "out.jsonl cannot be written (No space left on device). Make room" in done.stderr
    assert (disk / "out.jsonl").read_text() == "old"
    assert [path.name for path in disk.iterdir()] == ["out.jsonl"]
