"""One task and one seed: some models are trained or made of the float twin, and every bundle is scored."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.data import Rows
from reproduction.identity import Identity
from reproduction.modes import FLOAT, Mode
from reproduction.record import Result, encode_predictions

from q8bert.data.readers import read_split
from q8bert.runtime import Classifier
from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task

__all__ = ["CommandError", "Work"]

_Q8BERT = "from q8bert.runtime.cli import main; main()"  # the command, of this very environment


class CommandError(Exception):
    """Raised if a command of the campaign fails; says which, and where its words are."""


@dataclass(frozen=True)
class Work:
    """What is to be done for one task and one seed.

    Attributes:
        task: The task.
        rows: Its rows.
        seed: Seed of the runs.
        model: What training starts from.
        modes: Those that are wanted; the float twin first, where others are made of it.
        common: Options of `q8bert train` that all modes share.
        identity: Code, libraries and machine.
        results: Folder of the results of this task.
        folder: Folder for runs and bundles; deleted when all is done.
        threads: CPU threads; 0 for the engine's choice.
        report: Called with a sentence at every stage.
    """

    task: Task
    rows: Rows
    seed: int
    model: str
    modes: Sequence[Mode]
    common: Sequence[str]
    identity: Identity
    results: Path
    folder: Path
    threads: int
    report: Callable[[str], None]

    def path_of(self, mode: Mode) -> Path:
        """Return the file of a mode's result."""
        return self.results / f"{mode.name}-seed{self.seed}.json"

    def missing(self) -> list[Mode]:
        """Return the modes without a result."""
        return [mode for mode in self.modes if not self.path_of(mode).exists()]

    def run(self) -> None:
        """Do what is missing; what an earlier, interrupted call has done is kept.

        Raises:
            CommandError: If a command fails.
        """
        missing = self.missing()
        if any(mode.train is None for mode in missing) and FLOAT not in missing:
            self._train(FLOAT)  # its folder may be gone; where it is there, the run is whole and nothing is done
        for mode in missing:
            self._make(mode)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self, mode: Mode) -> None:
        training: dict[str, Any] = {}
        run = self.folder / f"{FLOAT.name}-run"
        if mode.train is not None:
            run, training = self._train(mode)
        bundle = self.folder / mode.name
        _, seconds = self._call(mode, "bundle", self._export_command(mode, run, bundle))
        self._score(mode, bundle, training, seconds)

    def _train(self, mode: Mode) -> tuple[Path, dict[str, Any]]:
        run = self.folder / f"{mode.name}-run"
        options = [*self.common, *(mode.train or ())]
        command = [
            "train", "--task", self.task.name, "--data-dir", str(self.rows.folder), "--model", self.model,
            "--output-dir", str(run), "--seed", str(self.seed), "--threads", str(self.threads), "--skip-malformed",
            *options, "--json",
        ]  # fmt: skip
        said, seconds = self._call(mode, "train", command)
        kept = {key: said[key] for key in ("metrics", "last_metrics", "best_step", "n_steps") if key in said}
        return run, kept | seconds

    def _export_command(self, mode: Mode, run: Path, bundle: Path) -> list[str]:
        command, *options = mode.export
        if command == "quantize":
            name = self.task.data.files.get("train", "train.tsv")
            options += ["--calibration-data", str(self.rows.folder / name)]
        else:
            options += ["--no-parity"]  # compared by the tests and by users; here the scores of the bundle count
        return [command, str(run), "--output-dir", str(bundle), *options, "--json"]

    def _call(self, mode: Mode, what: str, command: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
        """Run a command in a process of its own; returns its JSON object, and its wall and CPU seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log, answer = (self.folder / f"{mode.name}-{what}.{ending}" for ending in ("log", "json"))
        started = time.monotonic()
        with log.open("wb") as stderr, answer.open("wb") as stdout:
            process = subprocess.Popen([sys.executable, "-c", _Q8BERT, *command], stdout=stdout, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)  # for its own CPU seconds; POSIX alone has this
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code not in {0, 1}:  # 1: a gate or a threshold was missed, which the table will show
            raise CommandError(f"q8bert {' '.join(command)} exited with {code}; see {log}")
        seconds = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
        self.report(f"{self.task.name} seed {self.seed} {mode.name}: {what} took {seconds['wall']:.0f} s")
        return json.loads(answer.read_bytes()), {name: round(value, 1) for name, value in seconds.items()}

    def _score(self, mode: Mode, bundle: Path, training: dict[str, Any], seconds: dict[str, float]) -> None:
        task = self.task
        rows = read_split(task, str(self.rows.folder), "dev", skip_malformed=True)
        classifier = Classifier.load(bundle, threads=self.threads)
        logits = classifier.run(classifier.encode(*rows.columns()), batch_size=32)
        metrics = score(task, logits, rows.labels())
        result = Result(
            task=task.name,
            mode=mode.name,
            seed=self.seed,
            model=self.model,
            options=[*self.common, *(mode.train or mode.export)],
            rows={
                "train": self.rows.n_train, "official": self.rows.n_official, "scored": len(rows.examples),
                "scored_on": self.rows.scored_on,
            },
            metrics=metrics,
            main_metric=task.data.main_metric,
            predictions=encode_predictions(task, task.head.decide(logits)),
            labels=encode_predictions(task, rows.labels()),
            training=training,
            bundle={
                "bytes": (bundle / "model.onnx").stat().st_size, "precision": classifier.precision,
            },
            seconds=seconds,
            identity=self.identity.values(),
        )  # fmt: skip
        result.write(self.path_of(mode))
        main = 100 * metrics[task.data.main_metric]
        self.report(f"{task.name} seed {self.seed} {mode.name}: {task.data.main_metric} {main:.2f}")
