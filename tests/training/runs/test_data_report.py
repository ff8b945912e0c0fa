"""What a maximum length cuts off is counted, said, and kept with the run and its bundle."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from q8bert.data.examples import Example, MalformedRow, Split
from q8bert.export.bundle.model_card import model_card
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.errors import CheckpointError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.head import Head
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.runs.data_report import (
    DataReport,
    SplitReport,
    read_data_report,
    report_split,
    write_data_report,
)

MAX_LENGTH = 8


@pytest.fixture
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def report(tokenizer: Tokenizer, examples: list[Example], *, head: Head, skipped: int = 0) -> SplitReport:
    faults = tuple(MalformedRow("x", row, row + 2, "c", "v", "r") for row in range(skipped))
    split = Split(tuple(examples), "x", faults)
    cutting = TextTokenizer(Tokenizer.from_str(tokenizer.to_str()), max_length=MAX_LENGTH)
    return report_split(split, cutting.encode(*split.columns()), head=head, tokenizer=tokenizer, max_length=MAX_LENGTH)


def test_rows_that_lose_text_are_counted_with_the_length_that_would_keep_most(tokenizer: Tokenizer) -> None:
    # a text of n words has n + 2 tokens: lengths 3 to 202, of which 194 are above 8
    examples = [Example("a " * n, None, n % 2) for n in range(1, 201)]
    found = report(tokenizer, examples, head=Head.of_labels(("x", "y", "z")), skipped=3)
    assert found == SplitReport(
        n_rows=200, n_skipped=3, n_truncated=194, n_blank=0, max_length=8, length_of_most=200,
        rows_of_label={"x": 100, "y": 100, "z": 0},
    )  # fmt: skip
    assert list(DataReport(train=found, dev=found).sentences(longest=512)) == [
        f"{line}{name}{rest}"
        for name in ("training", "dev")
        for line, rest in (
            ("194 of 200 ", " rows (97.0 %) are longer than 8 tokens and lose text; --max-length 200 would keep 99 % whole"),
            ("no ", " row has the label 'z'"),
        )
    ]  # fmt: skip
    (first, *_) = DataReport(train=found, dev=found).sentences(longest=64)
    assert first.endswith("lose text; 99 % of the rows have up to 200, and the model takes at most 64")


def test_pairs_are_counted_as_one_row_and_blank_texts_are_named(tokenizer: Tokenizer) -> None:
    # 5 and 4 words with three special tokens are 12; the others have 5, 4 and 4
    examples = [Example("a " * 5, "a " * 4, 1.0), Example("a", "a", 2.0), Example("a", " ", 0.5), Example("", "a", 0.5)]
    found = report(tokenizer, examples, head=Head.of_labels(()))
    assert (found.n_truncated, found.length_of_most, found.n_blank, found.rows_of_label) == (1, 12, 2, {})
    whole = replace(found, n_truncated=0, n_blank=0)
    assert list(DataReport(train=whole, dev=found).sentences(longest=512)) == [
        "1 of 4 dev rows (25.0 %) are longer than 8 tokens and lose text; --max-length 12 would keep 99 % whole",
        "2 dev rows have a text without content",
    ]


def test_nothing_is_advised_where_most_rows_are_whole_already(tokenizer: Tokenizer) -> None:
    examples = [Example("a", None, 0)] * 199 + [Example("a " * 50, None, 1)]
    found = report(tokenizer, examples, head=glue_task("SST-2").head)
    (sentence,) = DataReport(train=found, dev=replace(found, n_truncated=0)).sentences(longest=512)
    assert sentence == "1 of 200 training rows (0.5 %) are longer than 8 tokens and lose text"


def test_the_counts_are_kept_with_the_run(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = report(tokenizer, [Example("a", None, 0)], head=glue_task("SST-2").head)
    assert read_data_report(tmp_path) is None
    write_data_report(tmp_path, DataReport(train=found, dev=found))
    assert read_data_report(tmp_path) == DataReport(train=found, dev=found)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"data\.json is damaged .* give the same `q8bert train` command again"):
        read_data_report(tmp_path)


def test_a_run_a_bundle_and_its_card_say_what_was_lost(small: Any) -> None:
    counted = read_data_report(small.run("SST-2", "int8"))
    assert counted is not None
    assert (counted.train.n_rows, counted.dev.n_rows) == (600, 200)
    manifest = open_bundle(small.bundle("SST-2", "int8")).manifest
    assert manifest.data == asdict(counted)
    assert "- Training rows: 600\n- Dev rows: 200\n" in (small.bundle("SST-2", "int8") / "README.md").read_text()
    lost = replace(counted, train=replace(counted.train, n_truncated=72, n_skipped=2))
    card = model_card(replace(manifest, data=asdict(lost)), None)
    assert "- Training rows: 600, 72 of them longer than 32 tokens and cut, 2 malformed ones left out\n" in card
    assert "rows" not in model_card(replace(manifest, data={}), None).partition("## Use")[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_counting_long_rows_takes_no_memory_for_all_of_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    # tokenized at once, these tokens take a quarter of a gigabyte
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    program = f"""
from pathlib import Path
from q8bert.data.examples import Example, Split
from q8bert.tasks.glue import glue_task
from q8bert.text.tokenizer import TextTokenizer, read_tokenizer
from q8bert.training.runs.data_report import report_split
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
path = Path({str(path)!r})
split = Split(tuple(Example("a " * 400, None, 0) for _ in range(4000)), "x")
encoded = TextTokenizer.load(path, max_length=8).encode(split.columns()[0])
before = peak()
head = glue_task("SST-2").head
counts = report_split(split, encoded, head=head, tokenizer=read_tokenizer(path), max_length=8)
assert (counts.n_truncated, counts.length_of_most) == (4000, 402)
print((peak() - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120, f"{done.stdout.strip()} MB"
