"""Training rows, a part of which is held out to choose by: dev is for the figures that are published."""

from pathlib import Path

import numpy as np

from q8bert.tasks.task import Task

__all__ = ["hold_out"]


def hold_out(task: Task, data_dir: Path, target: Path, *, share: float, seed: int) -> None:
    """Write ``train.tsv`` and ``dev.tsv``, both from the training file, into ``target``."""
    lines = (data_dir / "train.tsv").read_bytes().split(b"\n")
    header = [] if task.data.headerless_columns else [lines.pop(0)]
    rows = [line for line in lines if line]
    order = np.random.default_rng(seed).permutation(len(rows))
    n_held_out = int(share * len(rows))
    target.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("dev", order[:n_held_out]), ("train", order[n_held_out:])):
        content = b"\n".join([*header, *(rows[index] for index in chosen)]) + b"\n"
        (target / task.data.files.get(name, f"{name}.tsv")).write_bytes(content)
