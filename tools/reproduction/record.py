"""What is kept of one model: a JSON file with its scores, its predictions, and all that it was made by."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.spec.files import write_json
from q8bert.tasks.task import Task

__all__ = ["Result", "decode_predictions", "encode_predictions", "read_result", "read_results"]


@dataclass(frozen=True)
class Result:
    """One model of one seed.

    Attributes:
        task: Name of the task.
        mode: Name of the mode.
        seed: Of the run, or of the FP32 run that it was made from.
        model: What training started from.
        options: Options of training common to all modes, and those of the mode.
        rows: ``train``, ``official`` (training rows of the official release), ``scored``, ``scored_on``, and
            ``dev`` (rows of the dev split) where a part of them was scored.
        metrics: Scores of the bundle, as fractions.
        main_metric: The one that is compared.
        predictions: See :func:`encode_predictions`.
        labels: The truth, written the same way.
        training: What training came to: scores of the best and the last evaluation, steps, wall and CPU seconds; empty
            for what was not trained.
        bundle: ``bytes`` of the model, and what else is known of it: ``precision``, of a peer its ``versions``.
        seconds: Wall and CPU seconds of making the bundle.
        identity: Code, libraries and machine.
    """

    task: str
    mode: str
    seed: int
    model: str
    options: Sequence[str]
    rows: dict[str, Any]
    metrics: dict[str, float]
    main_metric: str
    predictions: str
    labels: str
    training: dict[str, Any]
    bundle: dict[str, Any]
    seconds: dict[str, float]
    identity: dict[str, Any]

    @property
    def score(self) -> float:
        """The main metric in points."""
        return 100 * self.metrics[self.main_metric]

    def write(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))


def encode_predictions(task: Task, values: Iterable[float]) -> str:
    """Return labels as one text with a digit a row, scores as numbers of five decimals with spaces between them."""
    if task.head.is_regression:
        return " ".join(f"{float(value):.5f}" for value in values)
    return "".join(str(int(value)) for value in values)


def decode_predictions(kept: str) -> NDArray[Any]:
    """Return what :func:`encode_predictions` was given, ``(n_rows,)``."""
    return np.array([float(number) for number in kept.split()] if "." in kept else [int(digit) for digit in kept])


def read_results(folder: Path) -> list[Result]:
    """Read all results below a folder.

    Args:
        folder: Where they are, at any depth.

    Returns:
        The results, in the order of their paths.

    Raises:
        ValueError: If a file is no result; the message names it.
    """
    return [read_result(path) for path in sorted(folder.rglob("*.json"))]


def read_result(path: Path) -> Result:
    """Read one result.

    Args:
        path: Its file.

    Returns:
        The result.

    Raises:
        ValueError: If the file is none; the message names it.
    """
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this tool: {error}. Move it away") from error
