"""The engine that was asked for, with the program that it runs."""

from collections.abc import Callable, Sequence

from platformdirs import user_cache_path
from transformers import PreTrainedModel

from q8bert.training.engines.config import ExecutionConfig
from q8bert.training.engines.engine import Engine
from q8bert.training.engines.ort_engine import OrtEngine
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.loop.processes import Processes
from q8bert.training.objectives.objective import Objective
from q8bert.training.programs.cache import Programs, cached_programs
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["choose_engine"]


def choose_engine(
    model: PreTrainedModel,
    sites: Sequence[Site],
    weights: TrainableWeights,
    objective: Objective,
    *,
    input_names: Sequence[str],
    execution: ExecutionConfig,
    threads: int,
    processes: Processes,
    report: Callable[[str], None],
    learns_ranges: bool = False,
) -> Engine:
    """Make the engine of one phase of a run.

    Args:
        model: The float model.
        sites: Where activations are quantized; empty for float training.
        weights: Tensors to read and gradients to write.
        objective: Which outputs are read, and the loss.
        input_names: Inputs that the model takes.
        execution: Which engine, in which precision.
        threads: CPU threads; 0 leaves the choice to the library.
        processes: Those that train together.
        report: Called with a sentence where a program is built.
        learns_ranges: Whether steps give the gradient of the ranges too.

    Returns:
        The engine.
    """
    if execution.engine == "torch":
        return TorchEngine(model, sites, weights, objective, precision=execution.precision, learns_ranges=learns_ranges)

    def programs() -> Programs:
        return cached_programs(
            model,
            sites,
            objective,
            input_names=input_names,
            gradients=execution.gradients,
            precision=execution.precision,
            learns_ranges=learns_ranges,
            cache_dir=execution.cache_dir or user_cache_path("q8bert") / "graphs",
            report=report,
        )

    built = programs() if processes.is_first else None
    processes.wait()  # one process builds, the others then find it in the cache
    return OrtEngine(
        programs() if built is None else built,
        sites,
        weights,
        objective,
        precision=execution.precision,
        threads=threads,
    )
