"""One task and one seed: some models are trained or made of the float twin, and every bundle is scored."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reproduction.commands import CommandError, Commands
from reproduction.data import Rows
from reproduction.identity import Identity
from reproduction.modes import FLOAT, Mode
from reproduction.record import Result, encode_predictions, read_result

from q8bert.data.examples import Split
from q8bert.data.readers import read_split
from q8bert.runtime import Classifier
from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.training.runs.identity.run_record import read_run

__all__ = ["Work"]

_TOOLS = Path(__file__).resolve().parents[1]
_ALL = "1000"


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
        folder: Folder for runs and bundles.
        keep_runs: Whether that folder stays when all is done.
        threads: CPU threads of each command; 0 for its own choice.
        commands: Runs what is to be run.
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
    keep_runs: bool
    threads: int
    commands: Commands
    report: Callable[[str], None]

    def path_of(self, mode: Mode) -> Path:
        """Return the file of a mode's result."""
        return self.results / f"{mode.name}-seed{self.seed}.json"

    def options_of(self, mode: Mode) -> list[str]:
        """Return what decides a mode's result: options of training, or those with which the twin is exported."""
        return [*self.common, *(mode.train or ((mode.peer,) if mode.peer else mode.export))]

    def missing(self) -> list[Mode]:
        """Return the modes without a result.

        Raises:
            CommandError: If a result that is there was made with other options, or from another model.
        """
        missing = [mode for mode in self.modes if not self.path_of(mode).exists()]
        for mode in self.modes:
            if mode not in missing:
                self._refuse_other(mode)
        return missing

    def _refuse_other(self, mode: Mode) -> None:
        path = self.path_of(mode)
        found = read_result(path)
        there, asked = (
            f"{model} {shlex.join(options)}".strip()
            for model, options in ((found.model, found.options), (self.model, self.options_of(mode)))
        )
        if there != asked:
            raise CommandError(
                f"{path} was made from {there!r}, and {asked!r} is asked. Give another --results, name the variant "
                "otherwise, or move the file away"
            )

    def run(self) -> None:
        """Do what is missing; what an earlier, interrupted call has done is kept.

        Raises:
            CommandError: If a command fails, or a result is there that was made otherwise.
        """
        missing = self.missing()
        if missing and FLOAT not in missing and not all(mode.has_own_float_steps for mode in missing):
            self._train(FLOAT)  # its folder may be gone; where it is there, the run is whole and nothing is done
        for mode in missing:
            self._make(mode)
        if not self.keep_runs:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self, mode: Mode) -> None:
        training: dict[str, Any] = {}
        run = self.folder / f"{FLOAT.name}-run"
        if mode.train is not None:
            run, training = self._train(mode)
        bundle = self.folder / mode.name
        if mode.peer:
            self._ask_peer(mode, run)
            return
        _, seconds = self._call(mode, "bundle", self._export_command(mode, run, bundle))
        classifier = Classifier.load(bundle, threads=self.threads)
        rows = self._scored_rows()
        logits = classifier.run(classifier.encode(*rows.columns()), batch_size=32)
        size = (bundle / "model.onnx").stat().st_size
        about = {"bytes": size, "precision": classifier.precision}
        self._keep(mode, rows, logits, training=training, bundle=about, seconds=seconds)

    def _ask_peer(self, mode: Mode, run: Path) -> None:
        """Have another project quantize the float bundle and answer."""
        bundle, answers = self.folder / FLOAT.name, self.folder / f"{mode.name}.npy"
        if not bundle.is_dir():
            self._call(FLOAT, "bundle", self._export_command(FLOAT, run, bundle))
        command = [
            str(bundle), "--task", self.task.name, "--data-dir", str(self.rows.folder), "--seed", str(self.seed),
            "--threads", str(self.threads), "--answers", str(answers), "--json",
        ]  # fmt: skip
        about, seconds = self._call(mode, "bundle", command, script=_TOOLS / mode.peer)
        self._keep(mode, self._scored_rows(), np.load(answers), training={}, bundle=about, seconds=seconds)

    def _scored_rows(self) -> Split:
        return read_split(self.task, str(self.rows.folder), "dev", skip_malformed=True)

    def _train(self, mode: Mode) -> tuple[Path, dict[str, Any]]:
        run = self.folder / f"{mode.name}-run"
        options = [*self.common, *(mode.train or ())]
        if mode == FLOAT:
            options += ["--keep-checkpoints", _ALL]  # that between float and quantized steps among them
        elif (
            not mode.has_own_float_steps
            and read_run(twin := self.folder / f"{FLOAT.name}-run").quantization.quantize_from
        ):
            options += ["--float-steps-from", str(twin)]
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
        options += ["--no-parity"]  # compared by the tests and by users; here the scores of the bundle count
        if command == "quantize":
            name = self.task.data.files.get("train", "train.tsv")
            options += ["--calibration-data", str(self.rows.folder / name)]
        return [command, str(run), "--output-dir", str(bundle), "--threads", str(self.threads), *options, "--json"]

    def _call(
        self, mode: Mode, what: str, command: Sequence[str], *, script: Path | None = None
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Run a command in a process of its own; returns its JSON object, and its wall and CPU seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log, answer = (self.folder / f"{mode.name}-{what}.{ending}" for ending in ("log", "json"))
        said, seconds = self.commands.run(command, log=log, answer=answer, script=script)
        self.report(f"{self.task.name} seed {self.seed} {mode.name}: {what} took {seconds['wall']:.0f} s")
        return said, seconds

    def _keep(
        self,
        mode: Mode,
        rows: Split,
        logits: NDArray[np.float32],
        *,
        training: dict[str, Any],
        bundle: dict[str, Any],
        seconds: dict[str, float],
    ) -> None:
        task = self.task
        metrics = score(task, logits, rows.labels())
        result = Result(
            task=task.name,
            mode=mode.name,
            seed=self.seed,
            model=self.model,
            options=self.options_of(mode),
            rows={
                "train": self.rows.n_train, "official": self.rows.n_official, "scored": len(rows.examples),
                "scored_on": self.rows.scored_on, **({"dev": self.rows.n_dev} if self.rows.n_dev else {}),
            },
            metrics=metrics,
            main_metric=task.data.main_metric,
            predictions=encode_predictions(task, task.head.decide(logits)),
            labels=encode_predictions(task, rows.labels()),
            training=training,
            bundle=bundle,
            seconds=seconds,
            identity=self.identity.values(),
        )  # fmt: skip
        result.write(self.path_of(mode))
        main = 100 * metrics[task.data.main_metric]
        self.report(f"{task.name} seed {self.seed} {mode.name}: {task.data.main_metric} {main:.2f}")
