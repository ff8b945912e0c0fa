"""Part `training` of `gpu_check.py`: whole runs that learn, are stopped half-way, and go on to their end."""

import importlib.util
import itertools
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from gpu_checks.findings import CannotRunError, Findings
from gpu_checks.models import majority_share, write_data, write_model
from gpu_checks.setting import PRECISIONS, Setting, is_not_offered

__all__ = ["check_training"]

_ENGINES = ("ort", "torch")
# a run that learned gets nearly all rows right; this much above the majority is far from chance on 100 rows
_MARGIN = 0.2
_SECONDS = 15.0  # of one run


class _StoppedError(Exception):
    """Ends a run from outside."""


def check_training(setting: Setting, findings: Findings) -> None:
    """Train with each engine in each precision."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise CannotRunError("q8bert.training needs onnxruntime, whichever engine trains")
    if setting.without_ort:
        findings.note(f"the torch engine alone trains; ONNX Runtime cannot run here: {setting.without_ort}")
    folder = setting.folder / "training"
    write_model(folder / "model", "tiny")
    write_data(folder / "data", n_train=400, n_dev=100)
    for precision, engine in itertools.product(PRECISIONS, _ENGINES):
        if engine == "ort" and setting.without_ort:
            continue
        findings.attempt(
            "runs",
            {"engine": engine, "precision": precision},
            partial(_run, folder, engine, precision, setting, findings),
            is_unsupported=partial(is_not_offered, precision=precision),
            seconds=_SECONDS,
        )


def _run(folder: Path, engine: str, precision: str, setting: Setting, findings: Findings) -> dict[str, Any]:
    from q8bert.tasks.glue import glue_task
    from q8bert.training import TrainConfig, train

    n_steps = 60 if setting.quick else 120
    run = folder / f"{engine}-{precision}"
    config = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(folder / "data"), model=str(folder / "model"), output_dir=run,
        engine=engine, precision=precision, device=str(setting.device), cache_dir=setting.graphs, max_steps=n_steps,
        batch_size=32, learning_rate=2e-3, max_length=32, dropout=0.1, eval_every=n_steps // 4,
        save_every=n_steps // 4, log_every=1, quantize_from=0.25 if precision == "float32" else 0.0,
    )  # fmt: skip
    # a float phase is a program more to build; one precision shows that the second phase takes over from it
    started = time.perf_counter()
    stopped_at = _stopped_half_way(config, n_steps)
    reports: list[str] = []
    result = train(config, report=reports.append)
    losses = [line["loss"] for line in _log(run) if line["event"] == "train"]
    first, last = statistics.fmean(losses[:10]), statistics.fmean(losses[-10:])
    accuracy, majority = result.metrics["accuracy"], majority_share(folder / "data")
    name = f"{engine} in {precision}"
    findings.check(f"{name}: the loss went from {first:.3f} to {last:.3f}", holds=last < 0.7 * first)
    findings.check(
        f"{name}: dev accuracy is {accuracy:.3f}, that of the majority {majority:.3f}",
        holds=accuracy > majority + _MARGIN,
    )
    resumed = [text for text in reports if "going on from step" in text]
    findings.check(f"{name}: the run did not go on from a checkpoint but began again", holds=bool(resumed))
    findings.check(f"{name}: ended at step {result.n_steps} of {n_steps}", holds=result.n_steps == n_steps)
    return {
        "first_loss": first,
        "last_loss": last,
        "accuracy": accuracy,
        "majority": majority,
        "stopped_at": stopped_at,
        "resumed": resumed[0] if resumed else None,
        "ended_at": result.n_steps,
        "skipped_steps": result.n_skipped_steps,
        "seconds": time.perf_counter() - started,
    }


def _stopped_half_way(config: Any, n_steps: int) -> int:
    from q8bert.training import train

    half = n_steps // 2 + 1  # past a checkpoint, so that a step has to be done again

    def stop(step: int, _n_steps: int, _loss: float) -> None:
        if step == half:
            raise _StoppedError

    try:
        train(config, show_step=stop)
    except _StoppedError:
        return half
    raise RuntimeError(f"the run was to be stopped at step {half} and ended before")


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
