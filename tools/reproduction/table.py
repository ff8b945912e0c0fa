"""The table of results, in Markdown: scores, paired differences, sizes, and the paper's row beside them."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from reproduction.data import OFFICIAL_TRAINING_ROWS
from reproduction.modes import FLOAT
from reproduction.record import Result, decode_predictions
from reproduction.statistics import Comparison, compare, distance, draws, mean_over_tasks

__all__ = ["MixedResultsError", "of_one_code", "render"]

# BERT-base, means of five runs, as Intel's nlp-architect publishes them: FP32, INT8 after training
_PAPER = {
    "CoLA": (58.48, 58.48), "MRPC": (90.00, 89.56), "QNLI": (90.30, 90.62), "QQP": (87.84, 87.96),
    "RTE": (69.70, 68.78), "SST-2": (92.36, 92.24), "STS-B": (89.62, 89.04),
}  # fmt: skip


class MixedResultsError(Exception):
    """Raised if results of different code, models, rows or options would stand in one table."""


@dataclass(frozen=True)
class _Cell:
    """All seeds of one mode of one task."""

    results: Mapping[int, Result]

    @property
    def scores(self) -> list[float]:
        return [result.score for result in self.results.values()]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    def __str__(self) -> str:
        deviation = f" ± {np.std(self.scores, ddof=1):.2f}" if len(self.scores) > 1 else ""
        return f"{self.mean:.2f}{deviation}"


def of_one_code(results: Sequence[Result], source: str | None) -> list[Result]:
    """Return the results of one state of the package.

    Args:
        results: All there are.
        source: First digits of its hash; None where there is one alone.

    Returns:
        Those of it.

    Raises:
        MixedResultsError: If there are none, several and none was named, or the named one has no result.
    """
    found = sorted({result.identity["source"] for result in results})
    if not found:
        raise MixedResultsError("there are no results")
    if source is None and len(found) > 1:
        raise MixedResultsError(f"the results are of different code: {', '.join(found)}. Name one with --source")
    chosen = [result for result in results if source is None or result.identity["source"].startswith(source)]
    if not chosen:
        raise MixedResultsError(f"no result is of the code {source}; there are {', '.join(found)}")
    return chosen


def render(results: Sequence[Result]) -> str:
    """Return the tables of results of one code.

    Raises:
        MixedResultsError: If results of a task were made on different rows, from different models, or those of one mode
            with different options.
    """
    cells = _cells(results)
    tasks = [task for task in OFFICIAL_TRAINING_ROWS if task in cells]
    modes = list(dict.fromkeys(result.mode for result in results))
    modes.sort(key=lambda mode: (mode != FLOAT.name, mode))
    comparisons = {task: _comparisons(cells[task]) for task in tasks}
    return "\n\n".join([
        _scores(cells, tasks, modes), _differences(cells, comparisons, tasks, modes), _makers(results),
    ])  # fmt: skip


def _cells(results: Sequence[Result]) -> dict[str, dict[str, _Cell]]:
    by_task: dict[str, list[Result]] = {}
    for result in results:
        by_task.setdefault(result.task, []).append(result)
    cells: dict[str, dict[str, _Cell]] = {}
    for task, those in by_task.items():
        for what, values in (
            ("rows", {str(sorted(result.rows.items())) for result in those}),
            ("truth", {str(result.labels) for result in those}),
            ("models", {result.model for result in those}),
            *((f"options of {mode}", options) for mode, options in _options_of_modes(those).items()),
        ):
            if len(values) > 1:
                raise MixedResultsError(f"the results of {task} are of different {what}")
        cells[task] = {
            mode: _Cell({result.seed: result for result in those if result.mode == mode})
            for mode in {result.mode for result in those}
        }
    return cells


def _options_of_modes(results: Sequence[Result]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for result in results:
        found.setdefault(result.mode, set()).add(shlex.join(result.options))
    return found


def _comparisons(cells: Mapping[str, _Cell]) -> dict[str, Comparison]:
    if FLOAT.name not in cells:
        return {}
    twin = cells[FLOAT.name].results
    first = next(iter(twin.values()))
    labels = decode_predictions(first.labels)
    counts = draws(len(labels), seed=0)
    return {
        mode: compare(
            first.main_metric,
            labels,
            {seed: decode_predictions(result.predictions) for seed, result in cell.results.items()},
            {seed: decode_predictions(result.predictions) for seed, result in twin.items()},
            counts=counts,
        )
        for mode, cell in cells.items()
        if mode != FLOAT.name and set(cell.results) & set(twin)
    }


def _scores(cells: Mapping[str, Mapping[str, _Cell]], tasks: Sequence[str], modes: Sequence[str]) -> str:
    lines = [["task", "metric", "rows", "seeds", *modes, "paper: FP32, INT8 (BERT-base)"]]
    for task in tasks:
        first = next(iter(next(iter(cells[task].values())).results.values()))
        paper = _PAPER.get(task)
        seeds = sorted({seed for cell in cells[task].values() for seed in cell.results})
        lines.append([
            task, first.main_metric, _rows(first), str(len(seeds)),
            *(str(cells[task][mode]) if mode in cells[task] else "–" for mode in modes),
            f"{paper[0]:.2f}, {paper[1]:.2f}" if paper else "–",
        ])  # fmt: skip
    return _markdown(lines)


def _differences(
    cells: Mapping[str, Mapping[str, _Cell]],
    comparisons: Mapping[str, Mapping[str, Comparison]],
    tasks: Sequence[str],
    modes: Sequence[str],
) -> str:
    lines = [
        ["INT8 − FP32, points, 95 %", "mode", "difference", "each seed", "relative loss", "distance", "size ratio"]
    ]
    for task in tasks:
        for mode in modes:
            if mode not in comparisons[task]:
                continue
            comparison, twin = comparisons[task][mode], cells[task][FLOAT.name]
            ours = [cells[task][mode].results[seed] for seed in comparison.seeds]
            theirs = [twin.results[seed] for seed in comparison.seeds]
            lines.append([
                task, mode, str(comparison.interval), " ".join(f"{value:+.2f}" for value in comparison.each),
                f"{-comparison.interval.mean / np.mean([result.score for result in theirs]):.2%}",
                f"{np.mean([_distance(*pair) for pair in zip(ours, theirs, strict=True)]):.2%}",
                f"{theirs[0].bundle['bytes'] / ours[0].bundle['bytes']:.2f}",
            ])  # fmt: skip
    for mode in modes:
        those = [comparisons[task][mode] for task in tasks if mode in comparisons[task]]
        if those:
            lines.append([f"mean of {len(those)} tasks", mode, str(mean_over_tasks(those)), "", "", "", ""])
    return _markdown(lines)


def _distance(ours: Result, theirs: Result) -> float:
    return distance(decode_predictions(ours.predictions), decode_predictions(theirs.predictions))


def _makers(results: Sequence[Result]) -> str:
    identities = [result.identity for result in results]
    sources = sorted(
        {
            identity["source"] + ("" if identity["is_clean"] else " (changed since the commit)")
            for identity in identities
        }
    )
    commits = sorted({identity["commit"][:12] for identity in identities if identity["commit"]})
    machines = sorted({f"{identity['machine']['n_cpus']} × {identity['machine']['cpu']}" for identity in identities})
    versions = sorted(
        {", ".join(f"{name} {number}" for name, number in identity["versions"].items()) for identity in identities}
    )
    options = sorted({" ".join(result.options) or "the defaults" for result in results if result.mode == FLOAT.name})
    minutes = [result.training["cpu"] / 60 for result in results if result.training]
    return "\n".join([
        f"Code {', '.join(sources)} (commits {', '.join(commits) or 'none'}); models: "
        f"{', '.join(sorted({result.model for result in results}))}; the twin's options: {'; '.join(options)}.",
        f"Machines: {'; '.join(machines)}. {'; '.join(versions)}.",
        f"{len(minutes)} trainings, {sum(minutes):.0f} CPU minutes in all; of one that was interrupted, its last part.",
        "Intervals: paired bootstrap over seeds and rows, 95 %; with one seed over rows alone.",
        "Distance from the twin's predictions: share of rows with another label; of scores, squared error relative to "
        "their variance.",
    ])  # fmt: skip


def _rows(result: Result) -> str:
    rows = result.rows
    train = f"{rows['train']:,}"
    if rows["official"] is not None and rows["train"] != rows["official"]:
        train += f" of {rows['official']:,}"
    scored = f"{rows['scored']:,}" + (f" of {rows['dev']:,}" if "dev" in rows else "")
    return f"{train} train, {scored} {rows['scored_on']}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))
