"""Choose rates, epochs, batch size, dropout, smoothing and the rest on held-out training rows, not dev.

Holds out a part of a task's training rows, trains on the rest with every combination asked for, and prints the score
of the best epoch on the held-out rows, and at the end how far INT8 stands from its FP32 twins. Results are kept in a
JSON file after every run, so an interrupted search goes on.

    python tools/select_hyperparameters.py GLUE/STS-B --task STS-B --learning-rates 5e-5 1e-4
    python tools/select_hyperparameters.py GLUE/RTE --task RTE --share 0.2 --epochs 4 10 --learning-rates 1e-4 2e-4
"""

import argparse
import itertools
import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from reproduction.data import prepare_rows

from q8bert.spec.files import write_json
from q8bert.tasks.glue import GLUE_TASKS, glue_task
from q8bert.training import TrainConfig, train


@dataclass(frozen=True)
class Trial:
    """What one run is told."""

    precision: str
    learning_rate: float
    epochs: int
    batch_size: int
    dropout: float
    range_decay: float
    quantize_from: float
    smoothing: bool
    seed: int

    @property
    def twin(self) -> "Trial":
        """The float run of the same seed that chooses among as many epochs; other options of quantization are 0."""
        return replace(self, precision="float32", range_decay=0.0, smoothing=False)

    def options(self) -> dict[str, Any]:
        """Return what ``TrainConfig.from_options`` is given."""
        values = {name: value for name, value in asdict(self).items() if name != "precision"}
        return values | {"quantize": self.precision == "int8"}

    def __str__(self) -> str:
        texts = [f"{name}={value:g}" for name, value in asdict(self).items() if name != "precision"]
        return " ".join([self.precision, *texts])


def print_differences(scores: Mapping[Trial, float]) -> None:
    """Print, for each choice of options, how far INT8 stands from the FP32 twins of its seeds, in points."""
    choices: dict[Trial, list[float]] = {}
    for trial, score in scores.items():
        if trial.precision == "int8" and trial.twin in scores:
            choices.setdefault(replace(trial, seed=0), []).append(100 * (score - scores[trial.twin]))
    for choice, points in choices.items():
        text = str(choice).removesuffix(" seed=0")
        each = " ".join(f"{point:+.2f}" for point in points)
        print(f"{text}: INT8 - FP32 {each}, mean {np.mean(points):+.2f}, rms {np.sqrt(np.mean(np.square(points))):.2f}")


def main() -> None:
    """Run the search and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder of the task's files")
    parser.add_argument("--task", default="STS-B", choices=list(GLUE_TASKS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[5e-5, 1e-4])
    parser.add_argument("--range-decays", type=float, nargs="+", default=[0.99])
    parser.add_argument("--quantize-from", type=float, nargs="+", default=[0.5])
    parser.add_argument("--smoothing", type=int, nargs="+", default=[1], choices=[0, 1])
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"], choices=["float32", "int8"])
    parser.add_argument("--epochs", type=int, nargs="+", default=[4])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16])
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0])
    parser.add_argument("--share", type=float, default=0.1, help="share of the training rows to hold out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--work-dir", type=Path, default=Path("build/hyperparameters"))
    args = parser.parse_args()
    task = glue_task(args.task)
    data = args.work_dir / task.name / "data"
    prepare_rows(task, args.data_dir, data, n_train=0, held_out=args.share)
    results_file = args.work_dir / task.name / "results.json"
    results = json.loads(results_file.read_text())["runs"] if results_file.exists() else {}
    combinations = itertools.product(
        args.precisions, args.learning_rates, args.epochs, args.batch_sizes, args.dropouts, args.range_decays,
        args.quantize_from, map(bool, args.smoothing), args.seeds,
    )  # fmt: skip
    trials = [Trial(*values) for values in combinations]
    scores = {}
    for trial in dict.fromkeys(trial.twin if trial.precision == "float32" else trial for trial in trials):
        name = f"{args.engine} {args.share:g} {trial}"
        if name not in results:
            run = args.work_dir / task.name / "run"
            config = TrainConfig.from_options(
                task=task, data_dir=str(data), model="minilm-l6", output_dir=run, engine=args.engine,
                threads=args.threads, **trial.options(),
            )  # fmt: skip
            result = train(config, overwrite=True)
            results[name] = {"metrics": dict(result.metrics), "best_step": result.best_step}
            write_json(results_file, {"machine": platform.platform(), "runs": results})
            shutil.rmtree(run)
        metrics = results[name]["metrics"]
        scores[trial] = metrics[task.data.main_metric]
        print(f"{name}: " + "  ".join(f"{key} {100 * value:.2f}" for key, value in metrics.items()), flush=True)
    print_differences(scores)


if __name__ == "__main__":
    main()
