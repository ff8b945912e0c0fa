"""A bundle's files → its model, loaded on the engine and providers that were asked for, in the form that suits them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from q8bert.runtime.engines.choice import watched_engine
from q8bert.runtime.engines.engine import Engine
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.defaults import with_defaults
from q8bert.runtime.engines.providers.names import Provider, named_providers
from q8bert.runtime.predict.graph_choice import chosen_graph
from q8bert.spec.bundle.bundle import MODEL_FILE, TOKENIZER_FILE, Bundle, Manifest, load_bundle
from q8bert.spec.bundle.targets import MAIN

__all__ = ["LoadedModel", "loaded_model"]


@dataclass(frozen=True)
class LoadedModel:
    """What was loaded.

    Attributes:
        bundle: The bundle.
        graph: Which form of its model: ``main`` or one of its targets.
        engine: The model, loaded.
        tokenizer: Content of its ``tokenizer.json``.
    """

    bundle: Bundle
    graph: str
    engine: Engine
    tokenizer: str


@contextmanager
def loaded_model(
    path: Path | str, *, engine: str, providers: Sequence[Provider], options: RuntimeOptions, graph: str
) -> Iterator[LoadedModel]:
    """Load the model of a bundle; what it runs within the block is what its products are counted in.

    Args:
        path: The bundle's folder.
        engine: ``onnxruntime`` or ``openvino``.
        providers: Execution providers of ONNX Runtime.
        options: How it is run.
        graph: ``auto``, ``main`` or a target.

    Yields:
        The model.

    Raises:
        BundleError: If the bundle is incomplete, altered or unreadable.
        ConfigError: If something that was asked for does not fit.
        ProviderError: If a provider that was asked for cannot be had.
    """
    named = named_providers(providers)

    def chosen(manifest: Manifest) -> str:
        return chosen_graph(manifest, engine=engine, providers=[name for name, _ in named], asked=graph)

    def file_of(manifest: Manifest) -> str:
        name = chosen(manifest)
        return MODEL_FILE if name == MAIN else manifest.targets[name].file

    bundle, contents = load_bundle(path, model_file=file_of)
    manifest = bundle.manifest
    name, file = chosen(manifest), file_of(manifest)
    given = with_defaults(
        named, is_quantized=manifest.precision == "int8" and name == MAIN, input_names=manifest.input_names,
        max_length=manifest.max_length,
    )  # fmt: skip
    weights = {other: contents[other] for other in contents.keys() - {file, TOKENIZER_FILE}}
    with watched_engine(
        engine, contents[file], weights=weights, name=str(bundle.path / file), providers=given, options=options
    ) as loaded:
        yield LoadedModel(bundle, name, loaded, contents[TOKENIZER_FILE].decode("utf-8", "replace"))
