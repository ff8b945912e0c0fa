"""Which engine runs a model: ONNX Runtime, or OpenVINO where it is asked for.

Each is imported when it is asked for, as an environment may have one alone.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from q8bert.machine.builds import installed_ort_build, require
from q8bert.runtime.engines.engine import OPENVINO, Engine
from q8bert.runtime.engines.kernels import KernelWatch
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import Provider
from q8bert.spec.errors import MissingExtraError

__all__ = ["require_engine", "watched_engine"]


def require_engine(name: str) -> None:
    """Check that an engine is installed, without importing it.

    Args:
        name: ``onnxruntime`` or ``openvino``.

    Raises:
        MissingExtraError: If it is not; the message names the pip command.
        OrtBuildError: If there are two builds of ONNX Runtime.
    """
    if name == OPENVINO:
        require("openvino", extra="runtime-openvino", purpose="the engine openvino")
        return
    try:
        installed_ort_build()
    except MissingExtraError as error:
        if importlib.util.find_spec("openvino") is None:
            raise
        raise MissingExtraError(
            f"{error}. OpenVINO is installed: ask for it with engine='openvino', or --engine openvino"
        ) from error


@contextmanager
def watched_engine(
    engine: str,
    model: bytes,
    *,
    weights: Mapping[str, bytes],
    name: str,
    providers: Sequence[Provider],
    options: RuntimeOptions,
) -> Iterator[Engine]:
    """Load a model; what it runs within the block is what its products are counted in.

    Args:
        engine: ``onnxruntime`` or ``openvino``.
        model: Content of the ONNX file.
        weights: Content of the files that it takes weights from, by the names that it has for them.
        name: What the model is called in messages.
        providers: Execution providers of ONNX Runtime.
        options: How it is run.

    Yields:
        The loaded model; its ``products`` are there after the block.

    Raises:
        BundleError: If the model cannot be loaded.
        ConfigError: If providers or options do not fit the engine.
        MissingExtraError: If the engine is not installed.
        OrtBuildError: If there are two builds of ONNX Runtime.
        ProviderError: If something that was asked for cannot be had here.
    """
    require_engine(engine)
    if engine == OPENVINO:
        from q8bert.runtime.engines.openvino_session import OpenVinoSession  # noqa: PLC0415 - see above

        loaded = OpenVinoSession(model, weights=weights, name=name, providers=providers, options=options)
        yield loaded
        loaded.count_products()
        return
    from q8bert.runtime.engines.session import Session  # noqa: PLC0415 - see above

    with KernelWatch() as watch:
        session = Session(model, weights=weights, name=name, providers=providers, options=options, watch=watch)
        yield session
        session.end_watch(watch)
