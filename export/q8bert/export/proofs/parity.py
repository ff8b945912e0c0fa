"""Simulation against exported model, on real rows, and why they differ where they do.

The simulation is what training scored: torch, with weights and activations rounded to their grids. The exported model
multiplies integers. Both round half to even at the same places; but floats are summed in another order, and an
activation that lies almost exactly between two codes (a rounding tie) then falls on one or the other side. One code
more or less is harmless by itself, yet it moves later activations across ties of their own, so single logits differ
visibly, as they do between any two float implementations.

So rows are compared twice. *Free*: both run by themselves; the differences are reported. *Resolved*: the simulation
takes the exported model's side at every tie, and only there; a code that differs where there is no tie is a defect.
Resolved, the two must give the same predictions, and that is the gate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.parity_report import Difference, DifferingRow, ParityReport
from q8bert.export.proofs.rounding_ties import RowTies, TieResolver
from q8bert.machine.builds import installed_ort_build
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import ParityError
from q8bert.tasks.metrics import score
from q8bert.tasks.task import Task
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import objective_of
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["Simulation", "compare"]

# In codes, how far from the border between two codes an activation may lie and still count as a tie. Sums of some
# thousand float32 products differ by 1e-6 of their size or so, which at code 127 is 1e-4, and in the symmetric form by
# more, for the bias takes back a multiple of the weights' sum (MiniLM on STS-B: 1e-4 codes, and 5e-4). The rest is
# margin, as it is in the share of codes that may be ties (there one code in 300,000). A defect lies up to 0.5 away.
MAX_TIE_DISTANCE = 5e-3
MAX_SHARE_OF_TIES = 1e-4
# float32 sums in another order, through some ten layers; scores are counted in standard deviations here and below
MAX_FLOAT_DIFFERENCE = 1e-3
# the gate: scores, share of rows whose prediction differs, points of the metrics
MAX_SCORE_DIFFERENCE = 0.01
MAX_SHARE_OF_ROWS = 1e-3
MAX_METRIC_POINTS = 0.02


@dataclass(frozen=True)
class Simulation:
    """A model with its grids, as torch computes it.

    Attributes:
        model: Float classifier.
        sites: Where activations are quantized; empty for a float model.
        weights: On the exported grids.
        amax: Ranges, float32 ``(n_sites,)``; None for a float model.
    """

    model: nn.Module
    sites: tuple[Site, ...]
    weights: TrainableWeights
    amax: Tensor | None


def compare(
    simulation: Simulation,
    float_weights: TrainableWeights,
    session: Session,
    observer: CodeObserver | None,
    *,
    split: EncodedRows,
    split_name: str = "dev",
    task: Task,
    batch_size: int,
    max_rows: int | None = None,
    show_progress: Callable[[int, int], None] = lambda *_: None,
) -> ParityReport:
    """Run simulation, float model and exported model on the same batches.

    Args:
        simulation: What was exported.
        float_weights: The same weights, nothing quantized.
        session: The exported model.
        observer: The exported model with its codes; None for a float model.
        split: Rows, labelled or not, and the units of their scores.
        split_name: What the rows are, in a word.
        task: Names the metrics.
        batch_size: Rows a batch.
        max_rows: Rows to compare, evenly over the split; None for all.
        show_progress: Called after each batch with rows done and rows in all.

    Returns:
        The differences.

    Raises:
        ParityError: If the exported model does not compute what the simulation does.
    """
    numbers = split.spread(max_rows)
    n_rows_in_split, split = len(split), split.select(numbers)
    resolver = TieResolver()
    amax, model, sites = simulation.amax, simulation.model, simulation.sites
    objective = objective_of(task.head)
    engine = TorchEngine(model, sites, simulation.weights, objective)
    float_engine = TorchEngine(model, (), float_weights, objective)
    resolving = TorchEngine(model, sites, simulation.weights, objective, quantize=resolver)
    exported = np.zeros((len(split), task.head.n_outputs), dtype=np.float32)
    free, floats, resolved = np.zeros_like(exported), np.zeros_like(exported), np.zeros_like(exported)
    ties: dict[int, RowTies] = {}
    n_done = 0
    for rows, batch in split.batches(batch_size):
        inputs = {name: tensor.numpy() for name, tensor in batch.items()}
        exported[rows] = session.run(inputs)
        free[rows] = _logits(engine, batch, amax, split.target_scale)
        n_done += len(rows)
        show_progress(n_done, len(split))
        if observer is None:
            continue
        floats[rows] = _logits(float_engine, batch, None, split.target_scale)
        observed, codes = observer.run(inputs)
        _check_observed(observed, exported[rows])
        resolver.start_batch([torch.from_numpy(array) for array in codes], batch["attention_mask"])
        resolved[rows] = _logits(resolving, batch, amax, split.target_scale)
        ties.update(zip(rows.tolist(), resolver.rows, strict=True))
    if observer is None:
        resolved = free
    runs = (free, exported, resolved)
    alone = _difference(free, exported, task, split)
    build = installed_ort_build()
    report = ParityReport(
        onnxruntime=f"{build.distribution} {build.version}",
        split=split_name,
        n_rows=len(split),
        n_rows_in_split=n_rows_in_split,
        main_metric=task.data.main_metric,
        exported=_metrics(exported, task, split),
        free=alone,
        resolved=_difference(resolved, exported, task, split),
        n_codes=resolver.n_codes,
        n_ties=resolver.n_ties,
        max_tie_distance=resolver.max_tie_distance,
        quantization_effect=0.0 if observer is None else float(np.abs(free - floats).mean()),
        differing_rows=tuple(
            _differing_row(int(numbers[row]), tuple(logits[row] for logits in runs), ties.get(row, RowTies()), sites)
            for row in np.nonzero(_differs(free, exported, task, split.target_scale))[0].tolist()
        ),
    )
    _refuse_defects(report, split.target_scale)
    return report


def _logits(
    engine: TorchEngine, inputs: Mapping[str, Tensor], amax: Tensor | None, scale: TargetScale
) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = scale.restore(engine.outputs(inputs, amax)["logits"]).numpy()
    return logits


def _metrics(logits: NDArray[np.float32], task: Task, split: EncodedRows) -> dict[str, float]:
    return {} if split.labels is None else score(task, logits, split.labels)


def _check_observed(observed: NDArray[np.float32], exported: NDArray[np.float32]) -> None:
    difference = float(np.abs(observed - exported).max(initial=0.0))
    if difference:
        raise ParityError(
            f"the observed model is not the exported one: logits differ by {difference:.3g}",
            max_abs_diff=difference,
            atol=0.0,
        )


def _difference(
    simulated: NDArray[np.float32], exported: NDArray[np.float32], task: Task, split: EncodedRows
) -> Difference:
    difference = np.abs(simulated - exported)
    return Difference(
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        n_rows_differing=int(np.count_nonzero(_differs(simulated, exported, task, split.target_scale))),
        metrics=_metrics(simulated, task, split),
    )


def _differing_row(
    row: int, runs: Sequence[NDArray[np.float32]], ties: RowTies, sites: tuple[Site, ...]
) -> DifferingRow:
    simulated, exported, resolved = (tuple(logits.tolist()) for logits in runs)
    return DifferingRow(
        row=row,
        simulated=simulated,
        exported=exported,
        resolved=resolved,
        n_ties=ties.count,
        first_tie=None if ties.first_site is None else sites[ties.first_site].name,
        first_tie_distance=ties.first_distance,
    )


def _refuse_defects(report: ParityReport, scale: TargetScale) -> None:
    found, atol = report.resolved, _in_units(MAX_FLOAT_DIFFERENCE, scale)
    points = max((100 * abs(found.metrics[name] - value) for name, value in report.exported.items()), default=0.0)
    limits = {
        # every site's codes follow from the codes before it, so what is left is what comes after the last site
        "largest difference of a logit": (found.max_abs_diff, atol),
        "rows with another prediction": (found.n_rows_differing, max(1.0, MAX_SHARE_OF_ROWS * report.n_rows)),
        "codes from the border of a tie": (report.max_tie_distance, MAX_TIE_DISTANCE),
        "share of codes on a tie": (report.n_ties / max(1, report.n_codes), MAX_SHARE_OF_TIES),
        # on a small split the one row that may differ is worth more
        "points of the metrics": (points, max(MAX_METRIC_POINTS, 100 / report.n_rows * found.n_rows_differing)),
    }
    # not `value > limit`, which NaN would pass
    beyond = [
        f"{what}: {value:.4g}, allowed {limit:.4g}" for what, (value, limit) in limits.items() if not value <= limit
    ]
    if beyond:
        raise ParityError(
            f"the exported model does not compute what its simulation does, on {report.n_rows} rows and "
            f"{report.onnxruntime}: {'; '.join(beyond)}",
            max_abs_diff=found.max_abs_diff,
            atol=atol,
        )


def _differs(a: NDArray[np.float32], b: NDArray[np.float32], task: Task, scale: TargetScale) -> NDArray[np.bool_]:
    if task.head.is_regression:
        return np.asarray(np.abs(a[:, 0] - b[:, 0]) > _in_units(MAX_SCORE_DIFFERENCE, scale))
    return np.asarray(a.argmax(axis=1) != b.argmax(axis=1))


def _in_units(difference: float, scale: TargetScale) -> float:
    # two scores, each rounded twice on its way into the user's units
    return difference * scale.std + 4 * scale.rounding
