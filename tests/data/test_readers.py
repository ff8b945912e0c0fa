"""Readers take GLUE's quirks as they are, and name file, line, column and value of what they cannot read."""

import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.data.examples import Example
from q8bert.data.hub import split_from_hub_rows
from q8bert.data.readers import read_file, read_split
from q8bert.spec.errors import ConfigError, InputError
from q8bert.tasks.data_set import DataSet
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.tasks.head import Head
from q8bert.tasks.task import Task

# rows of the files as their sources give them (train files of QQP, MNLI and QNLI are partial or on a split of their own)
ROWS = {
    "CoLA": {"train": 8551, "dev": 1043}, "SST-2": {"train": 67349, "dev": 872}, "MRPC": {"train": 3668, "dev": 408},
    "STS-B": {"train": 5749, "dev": 1500}, "QQP": {"dev": 40430}, "QNLI": {"dev": 5463},
    "MNLI": {"train": 20000, "dev": 9815, "dev_mismatched": 1000}, "RTE": {"train": 2490, "dev": 277},
    "WNLI": {"train": 635, "dev": 71},
}  # fmt: skip
TEST_ROWS = {"CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "STS-B": 1379, "QNLI": 5463, "RTE": 3000, "WNLI": 146}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quotes_are_ordinary_characters_and_line_separators_do_not_end_a_row(tmp_path: Path) -> None:
    text = 'a "lone quote and a\u2028separator\x0c'
    path = write(tmp_path / "dev.tsv", f"sentence\tlabel\n{text}\t1\n")
    assert read_file(glue_task("SST-2"), path, labelled=True).examples == (Example(text, None, 1),)


def test_byte_order_mark_and_carriage_returns_are_not_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dev.tsv", b"\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n0\t1\t2\ta b\tc\r\n"
    )
    assert read_file(glue_task("MRPC"), path, labelled=True).examples == (Example("a b", "c", 0),)


def test_cola_is_read_with_and_without_a_header(tmp_path: Path) -> None:
    task = glue_task("CoLA")
    labelled = write(tmp_path / "dev.tsv", "gj04\t0\t*\tThey drank the pub.\n")
    assert read_file(task, labelled, labelled=True).examples == (Example("They drank the pub.", None, 0),)
    test = write(tmp_path / "test.tsv", "index\tsentence\n0\tBill left.\n")
    assert read_file(task, test, labelled=False).examples == (Example("Bill left.", None, None),)


def test_labels_are_codes_names_or_ids_and_scores_are_numbers(tmp_path: Path) -> None:
    rte = write(
        tmp_path / "a.jsonl",
        '{"sentence1": "a", "sentence2": "b", "label": "not_entailment"}\n{"text": "a", "text_pair": "b", "label": 0}\n',
    )
    assert read_file(glue_task("RTE"), rte, labelled=True).labels() == [1, 0]
    wnli = write(tmp_path / "b.jsonl", '{"text": "a", "text_pair": "b", "label": "entailment"}\n')
    assert read_file(glue_task("WNLI"), wnli, labelled=True).labels() == [1]
    sts = write(tmp_path / "c.jsonl", '{"text": "a", "text_pair": "b", "label": 2}\n')
    assert read_file(glue_task("STS-B"), sts, labelled=True).labels() == [2.0]


def test_labels_are_ignored_for_prediction_and_needed_for_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"text": "a"}\n{"text": "b", "label": "what?"}\n{"text": "c", "label": "1"}\n')
    split = read_file(glue_task("SST-2"), path, labelled=False)
    assert [example.label for example in split.examples] == [None, None, None]
    with pytest.raises(InputError, match="rows without labels"):
        split.labels()
    with pytest.raises(InputError, match=r"x\.jsonl, line 1, column label: the label is missing"):
        read_file(glue_task("SST-2"), path, labelled=True)


HEADER = "index\tgenre\tsentence1\tsentence2\tscore\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dev.tsv", b"", r"dev\.tsv is empty"),
        ("dev.tsv", HEADER.encode(), r"dev\.tsv has no rows"),
        ("dev.tsv", b"a\tb\n1\t2\n", r"dev\.tsv, line 1: the header lacks column sentence1, sentence2, score; it has a, b"),
        ("dev.tsv", f"{HEADER}0\tg\ta\tb\n".encode(), r"line 2, column score: the row has 4 columns instead of 5"),
        ("dev.tsv", f"{HEADER}0\tg\ta\tb\t1\n1\tg\ta\tb\tc\t2\n".encode(), r"line 3, column 6: the row has 6 columns"),
        ("dev.tsv", f"{HEADER}0\tg\ta\tb\tfive\n".encode(), r"line 2, column score: expected a finite number.*'five'"),
        ("dev.tsv", f"{HEADER}0\tg\ta\tb\tnan\n".encode(), r"line 2, column score: expected a finite number.*'nan'"),
        ("dev.tsv", HEADER.encode() + b"0\tg\ta\xff\tb\t1\n", r"line 2, column sentence1: not UTF-8 at byte 1.*xff"),
        ("dev.jsonl", b'{"text": "a", "text_pair": "b", "label": true}\n', r"line 1, column score: expected a finite"),
        ("dev.jsonl", b'{"text": "a", "label": 1}\n', r"line 1, column sentence2: a text is missing"),
        ("dev.jsonl", b'{"text": 7, "text_pair": "b", "label": 1}\n', r"column sentence1: expected a text, got 7"),
        ("dev.jsonl", b'{"text": \n', r"line 1, column 10: not JSON"),
        ("dev.jsonl", b"[1]\n", r"line 1, column -: expected a JSON object"),
        ("dev.jsonl", b"\xff\n", r"line 1, column -: not UTF-8"),
        ("dev.json", b'[\n{"text": "a"},\n]\n', r"line 1, column 2: not JSON .*write the objects of an array one a line"),
    ],
)  # fmt: skip
def test_malformed_input_is_named_by_file_line_column_and_value(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_file(glue_task("STS-B"), write(tmp_path / name, content), labelled=True)


def test_labels_that_are_numbers_are_names_and_never_ids(tmp_path: Path) -> None:
    task = Task(
        Head.of_labels(("1", "2", "3")),
        DataSet(name="stars", text_column="text", label_column="stars", metrics=("accuracy",)),
    )
    rows = "".join(f'{{"text": "a", "stars": {stars}}}\n' for stars in (1, 3, '"2"'))
    assert read_file(task, write(tmp_path / "a.jsonl", rows), labelled=True).labels() == [0, 2, 1]
    with pytest.raises(InputError, match=r"line 1, column stars: unknown label \(allowed: 1, 2, 3\), got 0"):
        read_file(task, write(tmp_path / "b.jsonl", '{"text": "a", "stars": 0}\n'), labelled=True)


def test_unknown_label_names_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\na\t1\nb\t2\n")
    with pytest.raises(
        InputError, match=r"line 3, column label: unknown label \(allowed: 0, 1, negative, positive\), got '2'"
    ):
        read_file(glue_task("SST-2"), path, labelled=True)


def test_skipped_rows_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\na\t1\nb\t2\nc\nd\t0\n")
    split = read_file(glue_task("SST-2"), path, labelled=True, skip_malformed=True)
    assert [example.text for example in split.examples] == ["a", "d"]
    assert [(row.line, row.column) for row in split.skipped] == [(3, "label"), (4, "label")]


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data folder .*none does not exist; --data-dir is the task's own folder"):
        read_split(glue_task("RTE"), tmp_path / "none", "dev")
    write(tmp_path / "train.tsv", "x")
    with pytest.raises(InputError, match=r"has no dev_matched\.tsv for the dev split of MNLI; it holds train\.tsv"):
        read_split(glue_task("MNLI"), tmp_path, "dev")
    with pytest.raises(InputError, match="does not exist"):
        read_file(glue_task("RTE"), tmp_path / "none.tsv", labelled=False)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n\r"))


@given(st.lists(st.tuples(TEXT, TEXT, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=20))
def test_rows_written_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "dev.tsv"
    write(path, "sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{score!r}\n" for a, b, score in rows))
    expected = tuple(Example(a, b, score) for a, b, score in rows)
    assert read_file(glue_task("STS-B"), path, labelled=True, format="tsv").examples == expected
    lines = [json.dumps({"text": a, "text_pair": b, "label": score}) for a, b, score in rows]
    path = write(path.with_suffix(".jsonl"), "\n".join(lines))
    assert read_file(glue_task("STS-B"), path, labelled=True).examples == expected


def test_hub_rows_become_the_same_examples() -> None:
    mnli = split_from_hub_rows(
        glue_task("MNLI"), [{"premise": "p", "hypothesis": "h", "label": 2, "idx": 0}], source="hub"
    )
    assert mnli.examples == (Example("p", "h", 2),)
    test = split_from_hub_rows(glue_task("STS-B"), [{"sentence1": "a", "sentence2": "b", "label": -1.0}], source="hub")
    assert test.examples == (Example("a", "b", None),)
    with pytest.raises(InputError, match="hub, line 1, column label: unknown label"):
        split_from_hub_rows(glue_task("SST-2"), [{"sentence": "a", "label": 5}], source="hub")
    rows = [{"sentence": "a", "label": 5}, {"sentence": "b", "label": 1}]
    kept = split_from_hub_rows(glue_task("SST-2"), rows, source="hub", skip_malformed=True)
    assert kept.examples == (Example("b", None, 1),)
    assert [(row.line, row.column, row.value) for row in kept.skipped] == [(1, "label", "5")]


def test_a_needed_column_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\tsentence\na\t1\tb\n")
    with pytest.raises(InputError, match="line 1: column sentence stands there more than once"):
        read_file(glue_task("SST-2"), path, labelled=True)
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\tx\tx\na\t1\tb\tc\n")  # nobody needs those
    assert read_file(glue_task("SST-2"), path, labelled=True).examples == (Example("a", None, 1),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"sentence1": "own", "text": "other", "sentence2": "b", "score": 1}', "both text and sentence1 are given"),
        ('{"text": "a", "text_pair": "b", "score": 4.5, "label": 0}', "both label and score are given"),
        ('{"text": "a", "text_pair": "b", "score": ' + "9" * 5000 + "}", "not readable as JSON"),
        ('{"text": "a", "text_pair": "b", "score": ' + "9" * 400 + "}", "expected a finite number"),
        ("[" * 100_000, "not readable as JSON"),
    ],
    ids=["text twice", "label twice", "5000 digits", "400 digits", "deep"],
)
def test_rows_of_json_that_are_ambiguous_or_monstrous_are_malformed(tmp_path: Path, row: str, reason: str) -> None:
    good = '{"text": "a", "text_pair": "b", "label": 2.5}'
    path = write(tmp_path / "dev.jsonl", f"{row}\n{good}\n")
    with pytest.raises(InputError, match=f"line 1.*{reason}"):
        read_file(glue_task("STS-B"), path, labelled=True)
    split = read_file(glue_task("STS-B"), path, labelled=True, skip_malformed=True)
    assert (split.examples, len(split.skipped)) == ((Example("a", "b", 2.5),), 1)


@pytest.mark.parametrize("name", list(ROWS))
def test_real_files_are_read_whole(glue_dir: Path, name: str) -> None:
    for split, n_rows in ROWS[name].items():
        rows = read_split(GLUE_TASKS[name], glue_dir / name, split)
        assert len(rows.labels()) == n_rows
        if not GLUE_TASKS[name].head.is_regression:
            assert set(rows.labels()) == set(range(len(GLUE_TASKS[name].head.labels)))
    if name in TEST_ROWS:
        assert (
            len(read_file(GLUE_TASKS[name], glue_dir / name / "test.tsv", labelled=False).examples) == TEST_ROWS[name]
        )


def test_the_real_diagnostic_set_is_read(glue_dir: Path) -> None:
    path = glue_dir / "diagnostic" / "diagnostic.tsv"
    assert len(read_file(glue_task("AX"), path, labelled=False).examples) == 1104


# ---- rows and their numbers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '\n{"text": "a", "label": 1}\n  \n{"text": "b", "label": 9}\n\n{"text": "c", "label": 0}\n\n'),
        ("a.tsv", "\nsentence\tlabel\na\t1\n\r\nb\t9\n\nc\t0\n\n"),
        ("a.csv", "\nsentence,label\na,1\n\r\nb,9\n\nc,0\n\n"),
    ],
)
def test_lines_without_content_are_no_rows(tmp_path: Path, name: str, content: str) -> None:
    split = read_file(glue_task("SST-2"), write(tmp_path / name, content), labelled=True, skip_malformed=True)
    assert split.examples == (Example("a", None, 1), Example("c", None, 0))
    assert [(fault.row, fault.value in {"9", "'9'"}) for fault in split.skipped] == [(1, True)]
    assert content.split("\n")[split.skipped[0].line - 1].count("9") == 1
    assert split.row_numbers() == [0, 2]


def test_texts_may_be_empty_or_blank(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tlabel\n\t1\n  \t0\n")
    assert [example.text for example in read_file(glue_task("SST-2"), path, labelled=True).examples] == ["", "  "]


@pytest.mark.parametrize(("given", "meant"), [("Positive", "positive"), (" negative ", "negative"), ("1 ", "1")])
def test_a_label_of_another_case_or_with_spaces_is_named_with_the_one_that_was_meant(
    tmp_path: Path, given: str, meant: str
) -> None:
    path = write(tmp_path / "a.tsv", f"sentence\tlabel\na\t{given}\n")
    with pytest.raises(
        InputError, match=rf"line 2, column label: unknown label \(allowed: .*; it is not quite {meant}\)"
    ):
        read_file(glue_task("SST-2"), path, labelled=True)


def test_a_key_given_twice_is_malformed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1, "text": "b"}\n')
    with pytest.raises(InputError, match="line 1, column text: text is given twice"):
        read_file(glue_task("SST-2"), path, labelled=True)


# ---- CSV --------------------------------------------------------------------------------------

TRICKY = ["plain", 'He said "no"', "a, b\tc", "two\nlines\r\nthree", '"', "", "ü\u2028🤖"]


@pytest.mark.parametrize(("name", "delimiter", "file_format"), [("a.csv", ",", None), ("a.tsv", "\t", "quoted-tsv")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path: Path, name: str, delimiter: str, file_format: str | None, quoting: Any
) -> None:
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerows([["label", "sentence"], *([at % 2, text] for at, text in enumerate(TRICKY))])
    split = read_file(glue_task("SST-2"), tmp_path / name, labelled=True, format=file_format)
    assert split.examples == tuple(Example(text, None, at % 2) for at, text in enumerate(TRICKY))


def test_lines_are_counted_where_a_cell_holds_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'sentence,label\n"one\ntwo",1\n"three\nfour",9\nfive,0\n')
    split = read_file(glue_task("SST-2"), path, labelled=True, skip_malformed=True)
    assert [(fault.row, fault.line) for fault in split.skipped] == [(1, 4)]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('sentence,label\na,1\n"b" c,1\nd,0\n', 3),
        ('sentence,label\na,1\nb,0\n"c,1\nd,0\n', 4),
        ('sentence,label\na,1\n"b' + "x" * 200_000 + '",1\n', 3),
    ],
    ids=["after a quote", "never closed", "too long"],
)
def test_a_quote_that_is_not_as_csv_has_it_stops_the_file_even_where_rows_may_be_skipped(
    tmp_path: Path, content: str, line: int
) -> None:
    with pytest.raises(InputError, match=rf"a\.csv, line {line}: not readable as csv"):
        read_file(glue_task("SST-2"), write(tmp_path / "a.csv", content), labelled=True, skip_malformed=True)


def test_the_task_says_how_a_file_is_written_whose_ending_does_not(tmp_path: Path) -> None:
    task = Task(
        Head.of_labels(("x", "y")),
        DataSet(
            name="t", text_column="a", label_column="l", metrics=("accuracy",), format="csv", files={"dev": "dev.txt"}
        ),
    )
    write(tmp_path / "dev.txt", 'a,l\n"1, 2",x\n')
    assert read_split(task, tmp_path, "dev").examples == (Example("1, 2", None, 0),)
    other = write(tmp_path / "dev.jsonl", '{"a": "1", "l": "y"}\n')
    assert read_file(task, other, labelled=True).examples == (Example("1", None, 1),)
    with pytest.raises(
        ConfigError, match="format must be one of tsv, quoted-tsv, csv, jsonl, parquet, tfrecord, mindrecord, got 'xml'"
    ):
        read_file(task, other, labelled=True, format="xml")


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "dev.tsv", "sentence\tlabel\na\t1\n")
    write(tmp_path / "dev.csv", "sentence,label\nb,0\n")
    with pytest.raises(InputError, match=r"has dev\.tsv and dev\.csv for the dev split of SST-2; leave one of them"):
        read_split(glue_task("SST-2"), tmp_path, "dev")


# ---- files of another kind --------------------------------------------------------------------

TABLE = "sentence\tlabel\na good film\t1\na bad film\t0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TABLE.encode()), "is compressed with gzip; unpack it first"),
        (bz2.compress(TABLE.encode()), "is compressed with bzip2"),
        (lzma.compress(TABLE.encode()), "is compressed with xz"),
        (TABLE.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (TABLE.encode("utf-16-le"), "is no text, or is UTF-16; save it as UTF-8"),
        (TABLE.encode("utf-32"), "is UTF-32; save it as UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0\x08\0", "is a zip archive or an Excel workbook; unpack it first, or write its rows as"),
        (b"\n<!DOCTYPE html>\n<html><head>", "is a web page; download the file that it shows"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a Git LFS pointer, not the file itself; run `git lfs pull`",
        ),
        (TABLE.encode() + "schön\t1\n".encode("latin-1"), r"line 4, column sentence: not UTF-8 at byte 3 of the cell"),
        (TABLE.encode() + b"a\0b\t1\n", "line 4, column sentence: a NUL character, which no text has"),
        (b"\xef\xbb\xbf", r"dev\.tsv has no rows"),
        (b"sent\xe4nce\tlabel\na\t1\n", "line 1: the header lacks column sentence; it has sent\ufffdnce, label"),
        (TABLE.replace("\t", ",").encode(), "line 1: the header lacks column sentence, label; .* --format csv reads it"),
        (TABLE.replace("\t", ";").encode(), "seem to be separated by ';'"),
        (TABLE.replace("\n", "\r").encode(), "lines end in carriage returns alone"),
        (b'"sentence"\t"label"\n"a"\t"1"\n', "Its cells are quoted: --format quoted-tsv reads a quoted file"),
        (b'{"sentence": "a", "label": 1}\n', "JSON lines are read with --format jsonl"),
        (b'sentence\tlabel\n"two\nlines"\t1\n', "line 2, .*: the row has 1 columns instead of 2, and a quote opens that"),
    ],
    ids=[
        "gzip", "bzip2", "xz", "utf-16", "utf-16 without a mark", "utf-32", "xlsx", "html", "git lfs", "latin-1", "nul",
        "mark alone", "latin-1 header", "commas", "semicolons", "carriage returns", "quoted", "json", "quoted line end",
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_recognized_and_the_remedy_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path / "dev.tsv", content)
    with pytest.raises(InputError, match=message) as caught:
        read_file(glue_task("SST-2"), path, labelled=True)
    assert str(caught.value).startswith(str(path))


def test_a_csv_file_with_tabs_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="It has tabs: --format tsv reads it, or quoted-tsv"):
        read_file(glue_task("SST-2"), write(tmp_path / "dev.csv", TABLE), labelled=True)
    assert len(read_file(glue_task("SST-2"), tmp_path / "dev.csv", labelled=True, format="tsv").examples) == 2


def test_a_quoted_file_read_without_quoting_is_refused_unless_that_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.tsv", 'sentence\tlabel\nplain\t1\n"He said ""no"" twice"\t0\n"a ""b"""\t1\n')
    with pytest.raises(InputError, match=r"dev\.tsv looks quoted.*--format quoted-tsv.*--format tsv"):
        read_file(glue_task("SST-2"), path, labelled=True)
    as_text = read_file(glue_task("SST-2"), path, labelled=True, format="tsv")
    assert as_text.examples[1].text == '"He said ""no"" twice"'
    unquoted = read_file(glue_task("SST-2"), path, labelled=True, format="quoted-tsv")
    assert [example.text for example in unquoted.examples] == ["plain", 'He said "no" twice', 'a "b"']


def test_a_table_with_quotes_in_its_texts_is_not_taken_for_a_quoted_one(tmp_path: Path) -> None:
    rows = ['"no" , he said', '"all of it"', "it is 5'11\"", '" ""', "plain"]
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in rows))
    assert [example.text for example in read_file(glue_task("SST-2"), path, labelled=True).examples] == rows


def test_a_file_that_may_not_be_read_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "dev.tsv", TABLE)

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # a test may run as a user who may read everything
    with pytest.raises(InputError, match=r"dev\.tsv cannot be read: Permission denied"):
        read_file(glue_task("SST-2"), path, labelled=True)


def test_arguments_of_another_type_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_file("SST-2", 3, labelled="yes")  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == ["task", "path", "labelled"]
    path = write(tmp_path / "dev.tsv", TABLE)
    assert read_file(glue_task("SST-2"), str(path), labelled=True) == read_file(glue_task("SST-2"), path, labelled=True)


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    """Reading takes little more memory than the rows themselves: neither the bytes nor their lines are held beside them."""
    n_rows, text = 20_000, "word " * 40
    path = write(tmp_path / "dev.tsv", "sentence\tlabel\n" + f"{text}\t1\n" * n_rows)
    tracemalloc.start()
    try:
        split = read_file(glue_task("SST-2"), path, labelled=True)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(split.examples) == n_rows
    assert held > path.stat().st_size
    assert peak - held < path.stat().st_size / 4
