"""Portions scored on Ray: a pool of actors, each with an engine of its own, fed by Ray Data.

The driver cuts the files, the actors read and score units of them, and the driver writes what comes back, in order.
Ray Data restarts an actor that ended and gives its units out again; a unit is scored by the same code wherever that is,
so nothing of it shows in the outputs. Files and bundle stand at the same path on every machine, on shared storage.
"""

import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from q8bert.machine.builds import require
from q8bert.machine.cores import available_cores
from q8bert.runtime.engines.providers.names import named_providers
from q8bert.runtime.engines.providers.table import facts_of
from q8bert.runtime.scoring.options import ScoringOptions
from q8bert.runtime.scoring.portion_scorer import PortionScorer
from q8bert.runtime.scoring.reading.records import PlannedFile, Unit
from q8bert.runtime.scoring.streams import ScoredStream, Stream, units_of
from q8bert.spec.errors import BundleError, ConfigError, Q8BertError

__all__ = ["RayActors", "ray_stream"]

_HERE = "local"
# what is on its way is portions of some MiB each
_OBJECT_STORE_BYTES = 512 << 20
_BLOCK_BYTES = 8 << 20
# each block is an object that the driver makes before it begins
_MOST_BLOCKS = 1000
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class RayActors:
    """The pool.

    Attributes:
        address: ``local`` for this machine, ``auto`` for the cluster that it belongs to, or a cluster's address.
        n_actors: How many engines; 0 for as many as fit.
        bundle: The bundle's folder.
        digest: Which bundle it has to be, on every machine.
    """

    address: str
    n_actors: int
    bundle: Path
    digest: str


@contextmanager
def ray_stream(actors: RayActors, options: ScoringOptions) -> Iterator[Stream]:
    """Connect to Ray, or start it, and end what was started when the block ends.

    Args:
        actors: The pool.
        options: How rows are read, answered and written.

    Yields:
        A stream of portions.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConfigError: If there is no cluster at the address.
    """
    require("ray", "pyarrow", extra="ray", purpose="--ray")
    # as everywhere here, nothing is told to anybody unless the user says so
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # noqa: PLC0415 - optional, slow to import

    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, actors.address)
    try:
        with _contextual():
            yield lambda files: _scored(ray, actors, options, files)
    finally:
        if is_ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    if address == _HERE:
        ray.init(
            address=_HERE, num_cpus=available_cores(), object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False, **quiet,
        )  # fmt: skip
        return
    try:
        _refuse_silence(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError([f"no Ray cluster could be joined at {address!r}: {error}"]) from error


def _refuse_silence(address: str) -> None:
    # Ray tries for minutes where nobody listens
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


@contextmanager
def _contextual() -> Iterator[None]:
    """Settings of Ray Data for the datasets that are made inside; those of the process come back."""
    from ray.data import DataContext  # noqa: PLC0415 - optional

    context = DataContext.get_current()
    ours: Mapping[str, object] = {
        "enable_progress_bars": False, "print_on_execution_start": False, "target_max_block_size": _BLOCK_BYTES,
    }  # fmt: skip
    theirs = {name: getattr(context, name) for name in ours}
    kept_order = context.execution_options.preserve_order
    try:
        context.execution_options.preserve_order = True
        for name, value in ours.items():
            setattr(context, name, value)
        yield
    finally:
        context.execution_options.preserve_order = kept_order
        for name, value in theirs.items():
            setattr(context, name, value)


def _scored(ray: Any, actors: RayActors, options: ScoringOptions, files: Sequence[PlannedFile]) -> ScoredStream:
    units = [units_of(file) for file in files]
    found = _found(ray, actors, options, [{"unit": pickle.dumps(unit)} for some in units for unit in some])
    for some in units:
        n_left = len(some)
        while n_left:
            item = next(found)
            if item is None:
                n_left -= 1
            else:
                yield item
        yield None


def _found(ray: Any, actors: RayActors, options: ScoringOptions, items: list[dict[str, bytes]]) -> ScoredStream:
    """Yield the portions of all units in order, and None after the last one of each unit."""
    from ray.data import ActorPoolStrategy, from_items  # noqa: PLC0415 - optional

    n_threads = options.threads or 1
    needs_gpu = any(facts_of(name).needs_cuda for name, _ in named_providers(options.providers))
    resource, each = ("GPU", 1) if needs_gpu else ("CPU", n_threads)
    fitting = int(ray.cluster_resources().get(resource, 0)) // each
    if not fitting:
        raise ConfigError([f"the Ray cluster has not the {each} {resource} that an engine needs"])
    scored = from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS)).map_batches(
        ScoringActor,
        fn_constructor_kwargs={"bundle": actors.bundle.resolve(), "digest": actors.digest, "options": options},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(actors.n_actors or fitting, fitting, len(items))),
        num_cpus=n_threads,
        num_gpus=1 if needs_gpu else 0,
    )
    for block in scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for content in block.column("scored").to_pylist():
            found = pickle.loads(content)  # noqa: S301 - of our own actors
            if isinstance(found, Q8BertError):
                raise found
            yield found


class ScoringActor:
    """An engine on some machine of the cluster.

    Args:
        bundle: The bundle's folder.
        digest: Which bundle it has to be.
        options: How rows are read, answered and written.
    """

    def __init__(self, *, bundle: Path, digest: str, options: ScoringOptions) -> None:
        self._scorer: PortionScorer | Q8BertError
        try:
            self._scorer = PortionScorer.load(bundle, replace(options, threads=options.threads or 1))
            if self._scorer.classifier.bundle.manifest.digest != digest:
                self._scorer = BundleError(f"{bundle} on another machine is not the bundle that the job began with")
        except Q8BertError as error:
            self._scorer = error  # told with the first unit: Ray would try to make the actor again and again

    def __call__(self, units: Any) -> Iterator[Any]:
        """Score units.

        Args:
            units: A table of Arrow with what :func:`~q8bert.runtime.scoring.streams.units_of` gave, pickled.

        Yields:
            A table of one row for each portion, for an error, and for the end of each unit, pickled.
        """
        import pyarrow as pa  # noqa: PLC0415 - optional

        for item in units.column("unit").to_pylist():
            for found in self._found(*pickle.loads(item)):  # noqa: S301 - of our own driver
                yield pa.table({"scored": pa.array([pickle.dumps(found)], pa.large_binary())})

    def _found(self, file: PlannedFile, unit: Unit) -> Iterator[object]:
        if isinstance(self._scorer, Q8BertError):
            yield self._scorer
            return
        try:
            yield from self._scorer.scored(file, unit)
        except Q8BertError as error:
            yield error
        else:
            yield None
