"""What a bundle becomes: an ensemble and its steps, each with its configuration and its files; nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np

from q8bert.runtime.engines.providers.table import CUDA_PROVIDER, facts_of
from q8bert.runtime.predict.parts import extreme_rows, task_and_tokenizer
from q8bert.runtime.triton.configs import (
    CONFIG_FILE,
    LABELS_FILE,
    WARMUP_TOKENS,
    ensemble_config,
    ids_of,
    step_config,
    step_name,
    warmup_file,
)
from q8bert.runtime.triton.interface import Interface
from q8bert.runtime.triton.options import GPU, PYTHON_BACKEND, TritonOptions
from q8bert.runtime.triton.steps.choice import LABELS, MODEL, TOKENIZER
from q8bert.spec.bundle.bundle import MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE, Bundle, Manifest
from q8bert.spec.bundle.parts import whole_bundle
from q8bert.spec.errors import ConfigError
from q8bert.text.batching import model_inputs
from q8bert.text.encoded import Encoded, longest_row

__all__ = ["Model", "Plan", "plan_of"]

_MODEL_PY = "model.py"
# int64, as machines that Triton runs on have it
_INT64 = np.dtype("<i8")


@dataclass(frozen=True)
class Model:
    """One model of Triton's.

    Attributes:
        name: Its name, and that of its folder.
        shared: Files that all its versions share, by path within its folder.
        own: Files of this version, by path within the version's folder.
    """

    name: str
    shared: Mapping[str, bytes] = field(repr=False)
    own: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """What is written of a bundle.

    Attributes:
        name: The ensemble's name.
        version: The version.
        interface: What it takes and gives.
        manifest: The bundle's manifest.
        graph_file: The form of its model that Triton's own backend loads.
        steps: The steps, in order.
        ensemble: The ensemble; it is written last.
    """

    name: str
    version: int
    interface: Interface
    manifest: Manifest = field(repr=False)
    graph_file: str
    steps: tuple[Model, ...]
    ensemble: Model

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them, the ensemble last."""
        return (*self.steps, self.ensemble)


def plan_of(name: str, folder: Path, options: TritonOptions, *, version: int) -> Plan:
    """Read and check a bundle, and say what is written of it.

    Args:
        name: What it is to be called.
        folder: The bundle.
        options: How it is run.
        version: Its version.

    Returns:
        The plan; it holds the bundle's bytes that were checked.

    Raises:
        BundleError: If the bundle is incomplete, altered or unreadable.
        ConfigError: If a label cannot stand in Triton's file of labels.
    """
    bundle, contents = whole_bundle(folder)
    task, tokenizer = task_and_tokenizer(bundle, contents[TOKENIZER_FILE].decode("utf-8", "replace"), threads=1)
    interface = Interface.of(bundle.manifest, task)
    n_tokens = min(WARMUP_TOKENS, bundle.manifest.max_length)
    shortest = extreme_rows(bundle, task, tokenizer, longest=False)
    row = longest_row(shortest, n_tokens, fill=tokenizer.largest_id)
    graph_file = _graph_file(bundle.manifest, options)
    labels = _labels_file(interface, bundle)
    manifest = {MANIFEST_FILE: contents[MANIFEST_FILE]}
    model_py = {_MODEL_PY: files("q8bert.runtime.triton.steps").joinpath(_MODEL_PY).read_bytes()}
    warmups = _warmup_files(row, bundle.manifest, [tensor.name for tensor in ids_of(interface, options)])

    def config(step: str) -> dict[str, bytes]:
        text = step_config(name, step, interface, options, warmup_tokens=n_tokens, graph_file=graph_file)
        return {CONFIG_FILE: text.encode()}

    return Plan(
        name=name,
        version=version,
        interface=interface,
        manifest=bundle.manifest,
        graph_file=graph_file,
        steps=(
            Model(
                step_name(name, TOKENIZER),
                config(TOKENIZER),
                {TOKENIZER_FILE: contents[TOKENIZER_FILE]} | manifest | model_py,
            ),
            Model(
                step_name(name, MODEL),
                config(MODEL) | warmups,
                {**contents, **(model_py if options.backend == PYTHON_BACKEND else {})},
            ),
            Model(step_name(name, LABELS), config(LABELS) | labels, manifest | model_py),
        ),
        ensemble=Model(
            name,
            {CONFIG_FILE: ensemble_config(name, interface, options, version=version).encode()} | labels,
            # stores of objects know no empty folder, and people see by it what the version is
            manifest,
        ),
    )


def _graph_file(manifest: Manifest, options: TritonOptions) -> str:
    # as the runtime chooses it; in the Python backend that does it itself
    suited = facts_of(CUDA_PROVIDER).targets if options.device == GPU else ()
    return next((manifest.targets[target].file for target in suited if target in manifest.targets), MODEL_FILE)


def _labels_file(interface: Interface, bundle: Bundle) -> dict[str, bytes]:
    if broken := [
        label for label in interface.labels if not label or len(label.splitlines()) > 1 or label != label.strip()
    ]:
        raise ConfigError([
            f"{bundle.path}: the label {label!r} cannot stand on a line of its own, as Triton's file of labels needs. "
            "Rename it in the task file, and train again"
            for label in broken
        ])  # fmt: skip
    return {LABELS_FILE: "".join(f"{label}\n" for label in interface.labels).encode()} if interface.labels else {}


def _warmup_files(row: Encoded, manifest: Manifest, names: Sequence[str]) -> dict[str, bytes]:
    inputs = model_inputs(row, np.array([0]), names, pad_token_id=manifest.pad_token_id)
    return {f"warmup/{warmup_file(name)}": values.astype(_INT64).tobytes() for name, values in inputs.items()}
