"""A million rows scored by `q8bert score` within a limit of memory: rows a second, and the most that was resident.

Rows are texts of 4 to 40 words, one file of them as CSV, JSON lines or Parquet; the kernel holds the scoring process to
the limit (RLIMIT_DATA: heap, arenas and anonymous mappings), and the peak of its resident memory is printed beside it.
The outputs are counted, and rows drawn from them are compared with a classifier of their own.

    python tools/make_bench_model.py build/bench/minilm-l6-SST-2 --size minilm-l6 --task SST-2 --seed 0
    python tools/score_million.py build/bench/minilm-l6-SST-2/int8 build/score-million --rows 1000000 --format csv
"""

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from q8bert.machine.cores import available_cores

WORDS = """
    a an the film plot story actor scene music ending good bad great dull slow fine very rather quite never always
    and or but which that two hours of my life with without jokes songs dog land soar steal every
"""
SAMPLE = 200


def texts(n_rows: int, seed: int) -> Iterator[str]:
    """Yield texts of 4 to 40 words."""
    rng = random.Random(seed)
    for _ in range(n_rows):
        yield " ".join(rng.choices(WORDS.split(), k=rng.randint(4, 40)))


def write_input(path: Path, n_rows: int, seed: int) -> None:
    """Write the rows, with a number each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        # one group of rows, as pandas writes it
        table = pa.table({"id": range(n_rows), "text": list(texts(n_rows, seed))})
        parquet.write_table(table, path, row_group_size=n_rows)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([("id", "text"), *enumerate(texts(n_rows, seed))])
        else:
            file.writelines(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(texts(n_rows, seed)))


def read_output(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, text and label of every row."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["id", "text", "label"]):
                yield from ((row["id"], row["text"], row["label"]) for row in batch.to_pylist())
        return
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        yield from ((int(row["id"]), row["text"], row["label"]) for row in rows)


def check_output(bundle: Path, path: Path, n_rows: int, seed: int) -> int:
    """See that every row is there in order, and that some have the label that a classifier gives them alone.

    Args:
        bundle: The bundle's folder.
        path: The output.
        n_rows: Rows of the input.
        seed: Seed of the input.

    Returns:
        How many labels were compared.

    Raises:
        SystemExit: If a row is not as it should be.
    """
    from q8bert.runtime import Classifier

    drawn = set(random.Random(seed + 1).sample(range(n_rows), min(SAMPLE, n_rows)))
    compared: list[tuple[str, str]] = []
    rows = zip(read_output(path), texts(n_rows, seed), strict=True)
    for n_found, ((number, text, label), wanted) in enumerate(rows):
        if (number, text) != (n_found, wanted):
            raise SystemExit(f"row {n_found} of {path} is another: {number}, {text!r}")
        if n_found in drawn:
            compared.append((text, label))
    answers = Classifier.load(bundle)([text for text, _ in compared])
    if wrong := [text for (text, label), answer in zip(compared, answers, strict=True) if answer.label != label]:
        raise SystemExit(f"{len(wrong)} of {len(compared)} labels differ, first: {wrong[0]!r}")
    return len(compared)


def main() -> None:
    """Make the rows, score them in a process of its own, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="takes input and output, some 300 bytes a row")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=["csv", "jsonl", "parquet"], default="csv")
    parser.add_argument("--memory-mb", type=int, default=1024, help="the limit")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source: Path = args.folder / "input" / f"rows.{args.format}"
    write_input(source, args.rows, args.seed)
    limit = args.memory_mb << 20
    command = [
        sys.executable, "-c", "from q8bert.runtime.cli import main; main()", "score", args.bundle, source,
        "--output-dir", args.folder / "output", "--threads", args.threads, "--overwrite", "--json",
    ]  # fmt: skip
    started = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # noqa: PLW1509 - no threads here
    ) as process:
        printed = process.stdout.read() if process.stdout is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"q8bert score ended with {process.returncode}")
    report, seconds = json.loads(printed), time.perf_counter() - started
    n_compared = check_output(args.bundle, args.folder / "output" / source.name, args.rows, args.seed)
    print(
        f"{report['n_rows_scored']:,} rows as {args.format} ({source.stat().st_size / 1e6:.0f} MB), "
        f"{args.threads or available_cores()} threads: {report['rows_per_second']:,.0f} rows/s while scoring, "
        f"{seconds:.0f} s in all, {usage.ru_utime + usage.ru_stime:.0f} s of CPU; peak resident "
        f"{usage.ru_maxrss // 1024} MB, limit {args.memory_mb} MB; {n_compared} labels compared, all rows in order"
    )


if __name__ == "__main__":
    main()
