"""How a model is run: threads, spinning, graph optimization, memory arena, cache of the optimized model.

Two presets. A *service* answers small requests and shares its machine: one thread a call, and no thread that burns a
core while it waits. A *batch* job has the machine to itself: every core, and threads that spin between operators,
which saves the time of waking them.

ONNX Runtime's own choice of threads is not used: it counts the cores of the machine, whatever affinity mask and quota
say, and pins its threads to them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from q8bert.machine.cores import available_cores, cpu_quota
from q8bert.spec.checked import fit_fields
from q8bert.spec.errors import ConfigError
from q8bert.spec.kinds import at_least, one_of

__all__ = ["OPTIMIZATION_LEVELS", "RuntimeOptions"]

OPTIMIZATION_LEVELS = ("none", "basic", "extended", "all")


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of a model that is loaded; checked once, every fault reported.

    ``spinning``, ``optimization``, ``memory_arena`` and ``cache_dir`` are ONNX Runtime's: with OpenVINO threads wait as
    it thinks best, and the others are refused.

    Attributes:
        threads: CPU threads that share one operator; 0 for as many as there are cores that this process may use, by
            affinity mask and CPU quota.
        spinning: Whether threads wait for work actively before they sleep, for 20 µs where ONNX Runtime can be told so.
            Faster on an idle machine, slower on a busy one, and against a CPU quota the waiting counts as work.
        optimization: What ONNX Runtime may change in the graph: ``none``, ``basic``, ``extended`` or ``all``. INT8
            kernels need ``extended``.
        memory_arena: Whether memory of the largest batch so far is kept for the next ones. Off, some of it goes back to
            the system after each run, but the peak is higher and a run takes longer (``tools/arena_memory.py``).
        cache_dir: Folder that keeps models as ONNX Runtime optimized them, so that the next start need not; see
            :mod:`q8bert.runtime.engines.optimized_cache`. Made for its owner alone; one that others may write to is
            refused.
        bfloat16: Whether OpenVINO computes what is not in integers in bfloat16 instead of float32.

    Raises:
        ConfigError: If a value is of the wrong kind or out of range.

    Example:
        >>> RuntimeOptions.service(threads=2).spinning
        False
    """

    threads: Annotated[int, at_least(0)] = 0
    spinning: bool = False
    optimization: Annotated[str, one_of(OPTIMIZATION_LEVELS)] = "all"
    memory_arena: bool = True
    cache_dir: Path | str | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        """Check every value."""
        fit_fields(self)

    @property
    def n_threads(self) -> int:
        """CPU threads that share one operator, at least 1."""
        return self.threads or available_cores()

    @classmethod
    def of(cls, threads: int, options: "RuntimeOptions | None") -> "RuntimeOptions":
        """Return the options that were given, or those for a number of threads.

        Args:
            threads: As the attribute; 0 where options are given.
            options: Everything that can be chosen, or None.

        Returns:
            The options.

        Raises:
            ConfigError: If both are given.
        """
        if options is not None and threads:
            raise ConfigError([f"give threads or options, not both; say options=RuntimeOptions(threads={threads})"])
        return options or cls(threads=threads)

    @classmethod
    def service(
        cls, *, threads: int = 1, cache_dir: Path | str | None = None, bfloat16: bool = False
    ) -> "RuntimeOptions":
        """Return options for a service: few threads, none of which spins."""
        return cls(threads=threads, spinning=False, cache_dir=cache_dir, bfloat16=bfloat16)

    @classmethod
    def batch(
        cls, *, threads: int = 0, cache_dir: Path | str | None = None, bfloat16: bool = False
    ) -> "RuntimeOptions":
        """Return options for a batch job that has the machine to itself: all cores; spinning, but under a CPU quota."""
        return cls(threads=threads, spinning=cpu_quota() is None, cache_dir=cache_dir, bfloat16=bfloat16)
