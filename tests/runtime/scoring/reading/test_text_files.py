"""CSV, tables and JSON lines: what was there stays as it was written, and every row gets the classifier's answer."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from q8bert.runtime import Classifier, ScoreReport, score_files
from q8bert.runtime.scoring.reading import text_files
from q8bert.runtime.scoring.reading.inputs import Source
from q8bert.runtime.scoring.reading.records import Layout
from q8bert.runtime.scoring.reading.text_files import header_of, text_portions, text_units, whole_text
from q8bert.spec.errors import ConfigError, InputError

TEXTS = ["a great film", "a dull , slow and very empty story", "good", "Ünïcode 🤖", "", 'she said "no"\r\ntwice']
Job = Callable[..., ScoreReport]
Write = Callable[..., Path]


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), delimiter=delimiter))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_csv_file_keeps_every_byte_and_gets_columns(
    job: Job, sentiment: Classifier, tmp_path: Path, write_csv: Write, line_end: str, bom: str
) -> None:
    rows = [(f"{at:03}", text, '"') for at, text in enumerate(TEXTS)]
    source = write_csv(tmp_path / "rows.csv", ["id", "sentence", 'a "column"'], rows, lineterminator=line_end)
    source.write_bytes(bom.encode() + source.read_bytes())
    report = job(source)
    found = table(tmp_path / "out" / "rows.csv")
    answers = sentiment(TEXTS)
    assert [row["label"] for row in found] == [answer.label for answer in answers]
    for label in ("negative", "positive"):
        assert [float(row[f"probability_{label}"]) for row in found] == [one.probabilities[label] for one in answers]
    assert [(row["id"], row["sentence"], row['a "column"']) for row in found] == rows
    # taking the answers out again gives the input, byte for byte
    content = (tmp_path / "out" / "rows.csv").read_bytes().decode()
    for row in found:
        added = [row[name] for name in ("label", "probability_negative", "probability_positive", "truncated")]
        content = content.replace("," + ",".join(added) + line_end, line_end, 1)
    content = content.replace(",label,probability_negative,probability_positive,truncated", "", 1)
    assert content.encode() == source.read_bytes()
    assert (report.n_rows, report.n_files, report.n_scored, report.n_malformed) == (6, 1, 1, 0)


def test_json_objects_keep_how_their_values_were_spelled(job: Job, sentiment: Classifier, tmp_path: Path) -> None:
    objects = ['{"text": "good", "n": 1.00, "big": 123456789012345678901234567890}', '{ "text":"b\\u0061d","x":[ ] } ']
    (tmp_path / "rows.jsonl").write_text(objects[0] + "\r\n\r\n" + objects[1])
    job(tmp_path / "rows.jsonl")
    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert lines[0].startswith(objects[0][:-1] + ", ")
    assert lines[1].startswith('{ "text":"b\\u0061d","x":[ ], "label"')
    for line, answer in zip(lines, sentiment(["good", "bad"]), strict=True):
        row = json.loads(line)
        assert (row["label"], row["probabilities"], row["truncated"]) == (answer.label, answer.probabilities, False)


def test_tables_without_quotes_keep_theirs_and_quoted_ones_are_read_as_told(
    job: Job, sentiment: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "rows.tsv").write_text('sentence\tz\n"good" they said\t"\nbad\t\n')
    job(tmp_path / "rows.tsv")
    lines = (tmp_path / "out" / "rows.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines[1:]] == [['"good" they said', '"'], ["bad", ""]]
    assert float(lines[1].split("\t")[3]) == sentiment(['"good" they said'])[0].probabilities["negative"]
    (tmp_path / "quoted.tsv").write_text('sentence\tz\n"he said ""good"""\t1\n')
    with pytest.raises(InputError, match=r"quoted\.tsv looks quoted.*--format quoted-tsv"):
        job(tmp_path / "quoted.tsv", output_dir=tmp_path / "other")
    job(tmp_path / "quoted.tsv", output_dir=tmp_path / "third", format="quoted-tsv")
    found = table(tmp_path / "third" / "quoted.tsv", "\t")
    assert [(row["sentence"], row["z"]) for row in found] == [('he said "good"', "1")]


def test_pairs_and_scores(small: Any, similarity: Classifier, tmp_path: Path, write_lines: Write) -> None:
    pairs = [("a good film", "a great film"), ("bad", "good , good , great"), ("the plot", "")]
    source = write_lines(tmp_path / "rows.ndjson", [{"text": a, "text_pair": b} for a, b in pairs])
    score_files(small.bundle("STS-B", "float32"), source, tmp_path / "out", threads=1)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.ndjson").read_text().splitlines()]
    assert [row["score"] for row in rows] == [answer.score for answer in similarity(pairs)]
    assert rows[0].keys() == {"text", "text_pair", "score", "truncated"}
    source = write_lines(tmp_path / "other.jsonl", [{"q": a, "a": b} for a, b in pairs])
    score_files(small.bundle("STS-B", "float32"), [source], tmp_path / "out", threads=1, text="q", text_pair="a",
                overwrite=True)  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "out" / "other.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [answer.score for answer in similarity(pairs)]


@pytest.mark.usefixtures("small_portions")
def test_files_of_many_portions_keep_their_order(
    job: Job, tmp_path: Path, write_csv: Write, sentiment: Classifier
) -> None:
    texts = [f"{'good' if at % 3 else 'bad'}\n{at}" for at in range(20)]
    source = write_csv(tmp_path / "rows.csv", ["sentence"], [[text] for text in texts])
    seen = []
    report = job(source, show_progress=seen.append)
    found = table(tmp_path / "out" / "rows.csv")
    assert [row["sentence"] for row in found] == texts
    assert [row["label"] for row in found] == [answer.label for answer in sentiment(texts)]
    assert (report.n_rows, len(seen)) == (20, 7)
    assert [now.n_rows for now in seen] == [3, 6, 9, 12, 15, 18, 20]
    assert seen[-1].bytes_done == seen[-1].bytes_total - len("sentence\r\n")


CELLS = st.text(st.sampled_from(list('ab ,"\n\r\tü')), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=12), end=st.sampled_from(["\n", "\r\n"]))
def test_units_of_a_table_hold_what_the_csv_module_reads(
    tmp_path: Path, small_portions: None, rows: list[list[str]], end: str
) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    source = Source(path, Path("rows.csv"), "csv", "csv")
    header, _, start, line = header_of(source)
    layout = Layout(text="a", text_pair=None, start=start, first_line=line, size=path.stat().st_size)
    whole = list(text_portions(source, whole_text(layout)))
    assert [list(record.cells) for portion in whole for record in portion.records] == rows
    apart = [portion for unit in text_units(source, layout) for portion in text_portions(source, unit)]
    assert apart == whole
    stood = header + b"".join((record.raw + end).encode() for portion in whole for record in portion.records)
    assert stood == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("rows.csv", "sentence,n\ngood,1\nbad\nfine,1,2\n", "line 3: the row has 1 columns instead of 2"),
        ("rows.jsonl", '{"text": "good"}\n{"txt": 1}\n{"text": 5}\n', "line 2: column text: a text is missing"),
        ("rows.jsonl", '{"text": "good"}\nnot json\n[1]\n', r"line 2: not JSON \(Expecting value at character 1\)"),
        ("rows.jsonl", '{"text": "good"}\n{"text": "a", "text": "b"}\n', "line 2: .*text is given twice"),
        ("rows.csv", b"sentence\ngood\nb\xffd\n", "line 3: column sentence: not UTF-8 at byte 1"),
        ("rows.tsv", "sentence\tn\ngood\t1\nnul\0\t1\n", "line 3: column sentence: a NUL character"),
    ],
)
def test_a_malformed_row_stops_the_job_or_has_no_answer_and_is_kept(
    job: Job, tmp_path: Path, name: str, content: str | bytes, where: str
) -> None:
    content = content.encode() if isinstance(content, str) else content
    source = tmp_path / name
    source.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}, {where}.*--skip-malformed"):
        job(source)
    assert not (tmp_path / "out" / name).exists()
    report = job(source, output_dir=tmp_path / "skipping", skip_malformed=True)
    written = (tmp_path / "skipping" / name).read_text(encoding="utf-8")
    n_rows = len(content.splitlines()) - (name != "rows.jsonl")
    if name == "rows.jsonl":
        rows = [json.loads(line) for line in written.splitlines()]
    else:
        rows = table(tmp_path / "skipping" / name, "," if name.endswith("csv") else "\t")
    assert len(rows) == report.n_rows == n_rows
    assert rows[0]["label"] == "positive"
    assert [row["label"] or None for row in rows[1:]] == [None] * (n_rows - 1)
    assert [bool(row["error"]) for row in rows] == [False, *[True] * (n_rows - 1)]
    assert report.n_malformed == n_rows - 1 == len(report.malformed)
    for line in content.splitlines()[1 if name == "rows.jsonl" else 2 :]:
        # what cannot stand under the columns stands in the error, bytes that are no UTF-8 written out
        shown = line.decode("utf-8", "backslashreplace")
        assert shown in written or shown.removesuffix("}") in written or json.dumps(shown)[1:-1] in written


def test_long_rows_are_truncated_and_counted_or_refused(job: Job, tmp_path: Path, write_lines: Write) -> None:
    source = write_lines(tmp_path / "rows.jsonl", [{"text": "good"}, {"text": "bad " * 31}])
    report = job(source)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert ([row["truncated"] for row in rows], report.n_truncated) == ([False, True], 1)
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: the text has more than the 32 tokens"):
        job(source, output_dir=tmp_path / "strict", on_long="refuse")
    report = job(source, output_dir=tmp_path / "both", on_long="refuse", skip_malformed=True)
    assert (report.n_rows, report.n_malformed, report.n_truncated) == (2, 1, 0)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_columns_of_the_input_are_never_written_over(job: Job, tmp_path: Path, name: str) -> None:
    row = '{"text": "good", "label": 1}\n'
    (tmp_path / name).write_text(row if name == "rows.jsonl" else "text,label\ngood,1\n")
    with pytest.raises(InputError, match=rf"{name} has label already.*--prefix predicted_"):
        job(tmp_path / name)
    job(tmp_path / name, prefix="predicted_")
    first = (tmp_path / "out" / name).read_text().splitlines()[-1]
    assert "positive" in first


def test_a_key_that_the_answers_need_is_refused_in_any_row(job: Job, tmp_path: Path, write_lines: Write) -> None:
    rows = [{"text": "good"}] * 5000 + [{"text": "bad", "truncated": 1}]
    with pytest.raises(InputError, match="has truncated already"):
        job(write_lines(tmp_path / "rows.jsonl", rows))
    assert not (tmp_path / "out" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("header", "options", "error", "message"),
    [
        ("a,b", {}, InputError, r"line 1: the header lacks sentence or text; it has a, b\. .*--text"),
        ("sentence,text", {}, InputError, "has both sentence and text; say by --text which"),
        ("a,b", {"text": "c"}, InputError, "lacks c; it has a, b"),
        ("a,a", {"text": "a"}, InputError, "column a stands there more than once"),
        ("a,b", {"text": "a", "text_pair": "b"}, ConfigError, "takes single texts"),
        ("a,b", {"text": "a", "format": "xml"}, ConfigError, "format must be one of csv, tsv"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    job: Job, tmp_path: Path, header: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\ngood,bad\n")
    with pytest.raises(error, match=message):
        job(tmp_path / "rows.csv", **options)


def test_cells_longer_than_the_csv_modules_own_limit(job: Job, tmp_path: Path, write_csv: Write) -> None:
    source = write_csv(tmp_path / "rows.csv", ["sentence"], [["good " * 40_000], ["bad"]])
    job(source)
    assert [row["label"] for row in table_of(tmp_path / "out" / "rows.csv")] == ["positive", "negative"]


def table_of(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 20)
    return table(path)


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST_RECORD", 10_000)
    (tmp_path / "rows.csv").write_text('sentence\ngood\n"bad\n' + "fine\n" * 10_000)
    with pytest.raises(InputError, match=r"rows\.csv, line 3: the row that begins here is longer than"):
        job(tmp_path / "rows.csv", skip_malformed=True)
    assert not (tmp_path / "out" / "rows.csv").exists()
    (tmp_path / "rows.csv").write_text('sentence\ngood\n"bad" x,1\n')
    with pytest.raises(InputError, match=r"rows\.csv, line 3: not readable as csv"):
        job(tmp_path / "rows.csv", skip_malformed=True)


@pytest.mark.parametrize(("name", "content"), [("rows.csv", "sentence,n\n"), ("rows.jsonl", "\n"), ("b.csv", "text")])
def test_files_without_rows_are_files_without_rows(job: Job, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert job(tmp_path / name).n_rows == 0
    added = ",label,probability_negative,probability_positive,truncated\n"
    expected = "" if name == "rows.jsonl" else content.removesuffix("\n") + added
    assert (tmp_path / "out" / name).read_text() == expected


def test_half_a_surrogate_pair_stays_spelled_or_is_refused(job: Job, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "good", "x": "\\ud83e"}\n')
    job(tmp_path / "rows.jsonl")
    assert '"x": "\\ud83e"' in (tmp_path / "out" / "rows.jsonl").read_text()
    with pytest.raises(InputError, match="holds half a surrogate pair"):
        job(tmp_path / "rows.jsonl", output_format="csv", output_dir=tmp_path / "table")


def test_other_formats_on_the_way_out(job: Job, sentiment: Classifier, tmp_path: Path, write_csv: Write) -> None:
    source = write_csv(tmp_path / "rows.csv", ["sentence", "n"], [['a "good", film', "01"], ["bad\nfilm", ""]])
    job(source, output_format="jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    answers = sentiment(['a "good", film', "bad\nfilm"])
    assert [(row["sentence"], row["n"], row["label"], row["probabilities"]) for row in rows] == [
        ('a "good", film', "01", answers[0].label, answers[0].probabilities),
        ("bad\nfilm", "", answers[1].label, answers[1].probabilities),
    ]
    (tmp_path / "in.jsonl").write_text('{"text": "good, very", "x": null}\n{"y": {"z": [1.5, true]}, "text": "bad"}\n')
    job(tmp_path / "in.jsonl", output_format="csv", output_dir=tmp_path / "table")
    found = table(tmp_path / "table" / "in.csv")
    assert [(row["text"], row["x"], row["y"]) for row in found] == [
        ("good, very", "", ""),
        ("bad", "", '{"z": [1.5, true]}'),
    ]
