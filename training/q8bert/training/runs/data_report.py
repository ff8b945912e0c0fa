"""What a run learns from: how many rows, and what of them is lost."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from q8bert.data.encoding import count_blank
from q8bert.data.examples import Split, text_columns
from q8bert.spec.decode import decode
from q8bert.spec.errors import CheckpointError
from q8bert.spec.files import read_json, remove, write_json
from q8bert.tasks.head import Head
from q8bert.text.encoded import Encoded
from q8bert.text.tokenizer import TextTokenizer

__all__ = [
    "DATA_FILE",
    "DataReport",
    "SplitReport",
    "delete_data_report",
    "read_data_report",
    "report_split",
    "write_data_report",
]

DATA_FILE = "data.json"
# share of the rows that a longer maximum length should leave whole
_WHOLE = 0.99


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """Counts of one split.

    Attributes:
        n_rows: Rows that are used.
        n_skipped: Malformed rows that were left out.
        n_truncated: Rows that are longer than the maximum length and lose text.
        n_blank: Rows with a text that holds nothing, or nothing but white space.
        max_length: The maximum length, in tokens.
        length_of_most: Length in tokens that would keep 99 % of the rows whole.
        rows_of_label: Label → rows that have it; empty for regression.
    """

    n_rows: int
    n_skipped: int
    n_truncated: int
    n_blank: int
    max_length: int
    length_of_most: int
    rows_of_label: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Counts of both splits.

    Attributes:
        train: Rows that are learned from.
        dev: Rows that pick the best checkpoint.
    """

    train: SplitReport
    dev: SplitReport

    def sentences(self, *, longest: int) -> Iterator[str]:
        """Say what is lost.

        Args:
            longest: Longest row in tokens that the model can take.

        Yields:
            A sentence a finding.
        """
        for name, split in (("training", self.train), ("dev", self.dev)):
            if split.n_truncated:
                yield _truncation(name, split, longest)
            if split.n_blank:
                yield f"{split.n_blank} {name} rows have a text without content"
            for label in (label for label, n_rows in split.rows_of_label.items() if not n_rows):
                yield f"no {name} row has the label {label!r}"


def report_split(
    split: Split,
    encoded: Encoded,
    *,
    head: Head,
    tokenizer: Tokenizer,
    max_length: int,
    obey_special_tokens: bool = False,
) -> SplitReport:
    """Count what is lost of a split.

    Args:
        split: The rows, labelled.
        encoded: Their tokens, truncated.
        head: Names the labels.
        tokenizer: What tokenized them; it is not changed.
        max_length: Longest row in tokens.
        obey_special_tokens: Whether special tokens that a text spells out were obeyed.

    Returns:
        The counts.
    """
    lengths = encoded.lengths
    cut = sorted(encoded.truncated)
    lengths[cut] = _full_lengths(split, cut, tokenizer, obey_special_tokens=obey_special_tokens)
    labels = split.labels()
    copy = Tokenizer.from_str(tokenizer.to_str())
    whole = TextTokenizer(copy, max_length=max_length, obey_special_tokens=obey_special_tokens)
    return SplitReport(
        n_rows=len(split.examples),
        n_skipped=len(split.skipped),
        n_truncated=len(cut),
        n_blank=count_blank(split.examples, whole),
        max_length=max_length,
        length_of_most=int(np.quantile(lengths, _WHOLE, method="inverted_cdf")),
        rows_of_label={label: labels.count(number) for number, label in enumerate(head.labels)},
    )


def write_data_report(run: Path, report: DataReport) -> None:
    """Write the counts into a run's folder."""
    write_json(run / DATA_FILE, asdict(report))


def delete_data_report(run: Path) -> None:
    """Delete the counts of a run."""
    remove(run / DATA_FILE)


def read_data_report(run: Path) -> DataReport | None:
    """Read the counts of a run.

    Args:
        run: Folder of the run.

    Returns:
        The counts; None for a run of an earlier release, which has none.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not (run / DATA_FILE).is_file():
        return None
    try:
        return decode(DataReport, read_json(run / DATA_FILE))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run / DATA_FILE} is damaged ({error}); give the same `q8bert train` command again, which writes it anew"
        ) from error


def _truncation(name: str, split: SplitReport, longest: int) -> str:
    share = f"{100 * split.n_truncated / split.n_rows:.1f} %"
    lost = f"{split.n_truncated} of {split.n_rows} {name} rows ({share}) are longer than {split.max_length} tokens"
    if split.length_of_most <= split.max_length:
        return f"{lost} and lose text"
    if split.length_of_most <= longest:
        return f"{lost} and lose text; --max-length {split.length_of_most} would keep 99 % whole"
    most = f"99 % of the rows have up to {split.length_of_most}"
    return f"{lost} and lose text; {most}, and the model takes at most {longest}"


def _full_lengths(
    split: Split, rows: list[int], tokenizer: Tokenizer, *, obey_special_tokens: bool
) -> NDArray[np.int64]:
    if tokens := split.tokens():
        return np.array([len(tokens[row].input_ids) for row in rows], dtype=np.int64)
    # in portions: the library's encodings of all long rows at once would take gigabytes
    copy = Tokenizer.from_str(tokenizer.to_str())
    whole = TextTokenizer(copy, max_length=sys.maxsize, obey_special_tokens=obey_special_tokens)
    return whole.encode(*text_columns([split.examples[row] for row in rows])).lengths
