"""The kinds of inputs, and the real doors through which they come in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz_damage import copied, damage_folder
from fuzz_records import rows_as_parquet, rows_as_tf_records
from fuzz_requests import requests, rows
from fuzz_texts import rows_as_csv, rows_as_json_lines, rows_as_tsv, task_as_toml

from q8bert.data.readers import read_file, read_split
from q8bert.export.trained_run import load_trained_run
from q8bert.runtime import Classifier
from q8bert.spec.errors import Q8BertError
from q8bert.spec.files import sha256_of
from q8bert.tasks.glue import glue_task
from q8bert.tasks.head import Head
from q8bert.tasks.task import Task
from q8bert.tasks.task_file import read_task_file
from q8bert.training.models.source import load_source_model
from q8bert.training.runs.checkpoints.checkpoint import checkpoint_folders, load_checkpoint
from q8bert.training.runs.identity.run_record import read_run

__all__ = ["KINDS", "Kind", "kinds_that_are_read"]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        prepare: Called with what was trained before, an empty folder and a generator; makes an input there and returns
            what opens it.
        share: Of all cases, this part.
        has_files: Whether an error has to name the file that is at fault.
    """

    prepare: Callable[[Path, Path, Random], Callable[[], object]]
    share: float
    has_files: bool = True


def _task(rng: Random) -> Task:
    return glue_task(rng.choice(["SST-2", "STS-B", "CoLA", "MNLI", "MRPC"]))


def _rows(write: Callable[[Task, Random], bytes], suffix: str) -> Callable[[Path, Path, Random], Callable[[], object]]:
    def prepare(_trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
        task, skip_malformed = _task(rng), rng.random() < 0.3
        path = folder / f"train{suffix}"
        path.write_bytes(write(task, rng))
        if rng.random() < 0.3 and "train" not in task.data.files:
            return lambda: read_split(task, folder, "train", skip_malformed=skip_malformed)
        labelled = rng.random() < 0.8
        return lambda: read_file(task, path, labelled=labelled, skip_malformed=skip_malformed)

    return prepare


def _task_file(_trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    path = folder / "task.toml"
    path.write_bytes(task_as_toml(rng))
    return lambda: read_task_file(path)


def _run_options(trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_bytes((trained / "STS-B" / "int8-run" / "run.json").read_bytes())
    damage_folder(run, rng)
    return lambda: read_run(run)


def _checkpoint(trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    whole = checkpoint_folders(trained / "STS-B" / "int8-run")
    target = copied(whole[max(whole)], folder / "step-00000001")
    damage_folder(target, rng)
    return lambda: load_checkpoint(target)


def _trained_run(trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    run = copied(trained / "STS-B" / "int8-run", folder / "run")
    damage_folder(run / "checkpoints" if rng.random() < 0.8 else run, rng)
    return lambda: load_trained_run(run)


def _source(trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    model = copied(trained / "model", folder / "model")
    damage_folder(model, rng)
    head = Head.of_labels(rng.choice([(), ("no", "yes"), ("a", "b", "c")]))
    return lambda: load_source_model(
        str(model), n_outputs=head.n_outputs, labels=head.labels, max_length=32, dropout=rng.choice([None, 0.1])
    )


def _bundle(trained: Path, folder: Path, rng: Random) -> Callable[[], object]:
    bundle = copied(trained / "SST-2" / rng.choice(["int8", "float32"]), folder / "bundle")
    damage_folder(bundle, rng)
    if rng.random() < 0.7:  # what another program wrote, and listed rightly
        _sign(bundle)

    def use() -> object:
        return Classifier.load(bundle, threads=1)(["a good film", ""])

    return use


def _sign(bundle: Path) -> None:
    path = bundle / "manifest.json"
    try:
        manifest: Any = json.loads(path.read_bytes())
        for name, record in manifest["files"].items():
            file = bundle / name
            if file.is_file():
                record.update(size_bytes=file.stat().st_size, sha256=sha256_of(file))
        content = json.dumps(manifest)
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return  # the manifest is what was damaged
    path.unlink()
    path.write_text(content, encoding="utf-8")


KINDS: Mapping[str, Kind] = {
    "tsv": Kind(_rows(rows_as_tsv, ".tsv"), 0.22),
    "csv": Kind(_rows(rows_as_csv, ".csv"), 0.12),
    "jsonl": Kind(_rows(rows_as_json_lines, ".jsonl"), 0.22),
    "tfrecord": Kind(_rows(rows_as_tf_records, ".tfrecord"), 0.1),
    "parquet": Kind(_rows(rows_as_parquet, ".parquet"), 0.1),
    "task": Kind(_task_file, 0.14),
    "run": Kind(_run_options, 0.06),
    "checkpoint": Kind(_checkpoint, 0.07),
    "trained": Kind(_trained_run, 0.05),
    "source": Kind(_source, 0.06),
    "bundle": Kind(_bundle, 0.06),
    "rows": Kind(rows, 0.1, has_files=False),
    "requests": Kind(requests, 0.05, has_files=False),
}


def kinds_that_are_read(folder: Path) -> list[str]:
    """Return the kinds that this release reads; CSV is one of them where a whole file of it is read.

    Args:
        folder: An empty folder for the try.
    """
    path = folder / "try.csv"
    path.write_text('sentence,label\n"a good, warm film",1\n', encoding="utf-8")
    try:
        has_csv = read_file(glue_task("SST-2"), path, labelled=True).columns()[0][0] == "a good, warm film"
    except Q8BertError:
        has_csv = False
    return [name for name in KINDS if has_csv or name != "csv"]
