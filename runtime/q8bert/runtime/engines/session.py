"""A loaded ONNX model on the execution providers that were asked for, and no others."""

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.engine import ONNX_RUNTIME
from q8bert.runtime.engines.kernels import KernelWatch, Products, count_products, nodes_on_the_cpu
from q8bert.runtime.engines.optimized_cache import discard_entry, entry_key, find_entry, new_entry
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.availability import check_active, prepare_providers
from q8bert.runtime.engines.providers.defaults import cache_options
from q8bert.runtime.engines.providers.names import NamedProviders, Provider, bound_device, named_providers
from q8bert.runtime.engines.providers.table import CPU_PROVIDER, facts_of
from q8bert.runtime.engines.session_options import session_options
from q8bert.spec.errors import BundleError, ConfigError, ForkedError, ProviderError

__all__ = ["Session", "run_bound"]

# What ONNX Runtime's errors hold when it was a provider that failed, and not the model
_N_NAMED = 5
_PROVIDER_MARKS = ("ExecutionProvider", "provider option", "provider_options")


class Session:
    """Runs a model; ``providers`` says where, in order of preference. Several threads may use one session.

    Args:
        model: Path of the ONNX file, or the model's bytes.
        weights: Content of the files that bytes take weights from, by the names that the model has for them.
        name: What the model is called in messages; its path if it has one.
        providers: Full names, or pairs of a name and its options, for example
            ``[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]``. Nodes that the others cannot run
            go to the CPU provider only if it is named.
        threads: CPU threads; 0 for the cores that this process may use. The simple way where nothing else is to be
            chosen.
        options: Everything that can be chosen, instead of ``threads``.
        watch: Counts the kernels of the first run, which :meth:`end_watch` returns.

    Raises:
        ConfigError: If providers, threads or options do not fit.
        ProviderError: If a provider is not in this build of ONNX Runtime, could not be started, or lacks an operator.
        BundleError: If ONNX Runtime cannot load the model.
    """

    engine = ONNX_RUNTIME
    runs_together = True

    def __init__(
        self,
        model: Path | bytes,
        *,
        weights: Mapping[str, bytes] | None = None,
        name: str = "the model",
        providers: Sequence[Provider] = (CPU_PROVIDER,),
        threads: int = 0,
        options: RuntimeOptions | None = None,
        watch: KernelWatch | None = None,
    ) -> None:
        self.options = RuntimeOptions.of(threads, options)
        self.providers = named_providers(providers)
        prepare_providers(self.providers)
        source = _Source(model, weights or {}, str(model) if isinstance(model, Path) else name, watch)
        self._session = _open(source, self.providers, self.options)
        self._device = bound_device(self.providers)
        self.place = f"{' and '.join(name for name, _ in self.providers)}, ONNX Runtime {ort.__version__}"
        self.float_note = facts_of(self.providers[0][0]).float_note
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.products: Products | None = None
        self._process = os.getpid()
        # without threads of its own, and on the CPU alone, a session is only memory, which a fork copies
        self._survives_fork = self.options.n_threads == 1 and [name for name, _ in self.providers] == [CPU_PROVIDER]
        if not self._survives_fork and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_never_end, weakref.ref(self)))

    def end_watch(self, watch: KernelWatch) -> None:
        """Count in :attr:`products` what ran since the session was made; None where that cannot be known.

        Args:
            watch: As it was given to the session.

        Raises:
            ProviderError: If nodes ran on the CPU that was not named, and are none of shapes.
        """
        events = watch.events(self._session)
        self.products = None if events is None else count_products(events)
        left = () if events is None or CPU_PROVIDER in dict(self.providers) else nodes_on_the_cpu(events)
        if left:
            more = f" and {len(left) - _N_NAMED} more" if len(left) > _N_NAMED else ""
            raise ProviderError(
                f"{self.providers[0][0]} cannot run every node of the model here, and {CPU_PROVIDER} was not named, "
                f"but ran {', '.join(left[:_N_NAMED])}{more}. Name {CPU_PROVIDER} last to give it the rest"
            )

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            inputs: Int64 ``(batch, seq)`` by name.

        Returns:
            Float32 ``(batch, n_outputs)``.

        Raises:
            BundleError: If ONNX Runtime cannot run the model on these inputs, for example on more tokens than it has
                positions for.
            ForkedError: If this process was forked after the session was made, and the session has threads.
        """
        if os.getpid() != self._process and not self._survives_fork:
            raise ForkedError(
                "the model was loaded before this process was forked, and its threads stayed behind. Load it after the "
                "fork, or with one thread: RuntimeOptions.service(threads=1)"
            )
        try:
            if self._device is not None:
                return run_bound(self._session, inputs, self._device)
            (logits,) = self._session.run(["logits"], dict(inputs))
        except Exception as error:
            shape = next(iter(inputs.values())).shape
            raise BundleError(f"ONNX Runtime {ort.__version__} could not run the model on {shape}: {error}") from error
        return np.asarray(logits, dtype=np.float32)


def run_bound(session: Any, inputs: Mapping[str, NDArray[np.int64]], device: tuple[str, int]) -> NDArray[np.float32]:
    """Compute logits with inputs and output in a device's memory: one copy there, one back.

    Args:
        session: An ``onnxruntime.InferenceSession``.
        inputs: Int64 ``(batch, seq)`` by name.
        device: Kind and number, for example ``("cuda", 0)``.

    Returns:
        Float32 ``(batch, n_outputs)``, in main memory.
    """
    binding = session.io_binding()  # one a call, so that threads do not share it
    placed = {  # the binding does not keep these alive, so they stay here until the run is over
        name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values), *device) for name, values in inputs.items()
    }
    for name, value in placed.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("logits", *device)
    session.run_with_iobinding(binding)
    (logits,) = binding.copy_outputs_to_cpu()
    return np.asarray(logits, dtype=np.float32)


def _never_end(reference: "weakref.ref[Session]") -> None:
    # a forked process that ends would wait for the session's threads, which it does not have: let it keep the session
    session = reference()
    if session is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))


@dataclass(frozen=True)
class _Source:
    model: Path | bytes
    weights: Mapping[str, bytes]
    name: str
    watch: KernelWatch | None


def _open(source: _Source, providers: NamedProviders, options: RuntimeOptions) -> Any:
    # where the first runs are watched, what ran on the CPU is asked of them, for shapes may
    chosen = _session_options(providers, options, is_watched=source.watch is not None and source.watch.sees)
    model = source.model
    if options.cache_dir is not None and any(facts_of(name).has_profiles for name, _ in providers):
        return _create(source, chosen, cache_options(providers, Path(options.cache_dir)))  # a cache of its own
    if options.cache_dir is None or (isinstance(model, Path) and not model.is_file()):
        return _create(source, chosen, providers)
    if source.weights:
        # ONNX Runtime writes a graph that looks for the data beside itself
        raise ConfigError(["cache_dir cannot be used with a model whose weights are in other files. Leave it out"])
    folder = Path(options.cache_dir)
    key = entry_key(model, providers=providers, options=options)
    entry = find_entry(folder, key)
    if entry is not None:
        path, content = entry
        try:
            unoptimized = replace(options, optimization="none")
            unchanged = _session_options(providers, unoptimized, is_watched=source.watch is not None)
            return _create(_Source(content, {}, str(path), source.watch), unchanged, providers)
        except BundleError as error:
            discard_entry(path, reason=str(error))
    with new_entry(folder, key) as path:
        chosen.optimized_model_filepath = str(path)
        return _create(source, chosen, providers)


def _session_options(providers: NamedProviders, options: RuntimeOptions, *, is_watched: bool) -> ort.SessionOptions:
    chosen = session_options(options)
    if facts_of(providers[0][0]).folds_no_weights:
        chosen.add_session_config_entry("session.disable_quant_qdq", "1")
    if CPU_PROVIDER not in dict(providers) and not is_watched:
        chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return chosen


def _create(source: _Source, chosen: Any, providers: NamedProviders) -> Any:
    if source.weights:
        _give_weights(chosen, source.weights)
    if source.watch is not None:
        source.watch.arm(chosen)
    try:
        session = ort.InferenceSession(
            source.model if isinstance(source.model, bytes) else str(source.model),
            chosen,
            providers=[(name, dict(given)) for name, given in providers],
            enable_fallback=0,  # else a provider that fails is replaced by the CPU's
        )
    except Exception as error:
        if "assigned to the default CPU EP" in str(error):
            raise ProviderError(
                f"{providers[0][0]} cannot run every node of the model here, and {CPU_PROVIDER} was not named: its "
                f"libraries or its device are missing, or it lacks an operator. Name {CPU_PROVIDER} last to give it "
                "the rest"
            ) from error
        others = [name for name, _ in providers if name != CPU_PROVIDER]
        if others and any(mark in str(error) for mark in _PROVIDER_MARKS):
            raise ProviderError(
                f"execution provider {', '.join(others)} was asked for and could not be started: {error}. "
                "Check the options given to it"
            ) from error
        raise BundleError(f"ONNX Runtime {ort.__version__} could not load {source.name}: {error}") from error
    check_active(providers, session.get_providers())
    session.disable_fallback()  # nor may a run that fails go on elsewhere
    return session


def _give_weights(chosen: Any, weights: Mapping[str, bytes]) -> None:
    give = getattr(chosen, "add_external_initializers_from_files_in_memory", None)
    if give is None:
        raise BundleError(
            f"the model takes weights from {', '.join(weights)}, which ONNX Runtime {ort.__version__} could only read "
            "by itself, unchecked. Install a newer one"
        )
    give(list(weights), list(weights.values()), [len(content) for content in weights.values()])
