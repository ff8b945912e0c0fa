"""The bundle: the folder that export writes and the runtime reads.

===========================  =========================================================
``model.onnx``               the graph; weights in files of their own if it says so, which the manifest then names
``tokenizer.json``           text → ids, in the format of the ``tokenizers`` library, and where long texts are cut
``manifest.json``            this module's :class:`Manifest`, with a SHA-256 of every other file but the model card
``README.md``                the model card, for people, who may edit it
``parity.json``              simulation against exported model, when the export had data to compare on
``config.json``              Hugging Face's configuration of the model, for other libraries, as are
``tokenizer_config.json``    what is to be known of the tokenizer besides, and
``special_tokens_map.json``  what its special tokens are for
``model.TARGET.onnx``        the same model in another form, for the runtimes that the manifest's ``targets`` say
===========================  =========================================================

The reader owns the format: what is checked here is what the writer has to give. Version 1 had not the last three, and
the scale of every weight in the manifest, which the graph has too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from q8bert.spec.bundle.files import FileRecord, read_files
from q8bert.spec.bundle.targets import MAIN, TargetGraph, target_faults
from q8bert.spec.checked import checked
from q8bert.spec.decode import decode
from q8bert.spec.errors import BundleError, ConfigError
from q8bert.spec.files import read_json
from q8bert.spec.onnx_file import external_files

__all__ = [
    "CONFIG_FILE", "FORMAT_VERSION", "MANIFEST_FILE", "MODEL_CARD_FILE", "MODEL_FILE", "PARITY_FILE",
    "SPECIAL_TOKENS_FILE", "TOKENIZER_CONFIG_FILE", "TOKENIZER_FILE", "Bundle", "FileRecord", "Manifest",
    "load_bundle", "open_bundle", "read_manifest",
]  # fmt: skip

FORMAT_VERSION = 2
_READABLE = (1, FORMAT_VERSION)
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
MODEL_CARD_FILE = "README.md"
PARITY_FILE = "parity.json"
CONFIG_FILE = "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"

_FOR_PEOPLE = frozenset({MODEL_CARD_FILE, PARITY_FILE})
_FOR_LIBRARIES = frozenset({CONFIG_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE})
_NO_MODEL = _FOR_PEOPLE | _FOR_LIBRARIES | {TOKENIZER_FILE}
# longer than any row that attention, whose cost grows with its square, is computed for
_LONGEST = 65_536

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PRECISIONS = ("int8", "float32")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        precision: ``int8`` (quantized, whatever the method) or ``float32``.
        task: The task as a JSON object; :func:`q8bert.tasks.task.task_from_json` reads it.
        max_length: Longest input in tokens, special tokens included; longer ones are truncated.
        pad_token_id: Id that fills up shorter rows.
        input_names: Inputs of the graph, a subset of ``input_ids``, ``attention_mask``, ``token_type_ids``.
        files: Every other file of the bundle but the model card, by name.
        quantization: Method, and which products ONNX Runtime ran in integers; for ``qat`` and ``ptq`` granularity,
            activation scales by site, and what it took to be free of saturation; for ``ptq`` number and
            fingerprint of the rows that it was calibrated with, and how far it is from the float model. Empty for
            ``float32``.
        metrics: Scores of the checkpoint on the dev split, measured in training, as fractions; empty for a model that
            was quantized after it.
        data: Rows of both splits, and what of them was lost in training; empty where that was not counted.
        versions: Versions of what made the bundle.
        model: Where the model came from: architecture, family, source; seed, step and teacher of training.
        obey_special_tokens: Whether special tokens that a text spells out are what they say; otherwise they are text.
            Bundles of earlier releases do not say it: their models were trained on texts that were obeyed, and still
            are.
        targets: Other forms of the model, by the name of what they are for: ``cuda`` or ``float16``.
    """

    precision: str
    task: Mapping[str, object]
    max_length: int
    pad_token_id: int
    input_names: tuple[str, ...]
    files: Mapping[str, FileRecord]
    quantization: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, object] = field(default_factory=dict)
    obey_special_tokens: bool = True
    targets: Mapping[str, TargetGraph] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all that the manifest says, checksums of files included; hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """Return the manifest as a JSON object."""
        content = {"format_version": FORMAT_VERSION, **asdict(self), "input_names": list(self.input_names)}
        return content if self.targets else {key: value for key, value in content.items() if key != "targets"}


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, its manifest read and its files checked.

    Attributes:
        path: The folder.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return self.path / TOKENIZER_FILE

    @property
    def model_size_bytes(self) -> int:
        """Bytes of the model: all but its other forms, the tokenizer, and files for people and for other libraries."""
        others = _NO_MODEL | {target.file for target in self.manifest.targets.values()}
        return sum(record.size_bytes for name, record in self.manifest.files.items() if name not in others)

    def size_of(self, graph: str) -> int:
        """Return the bytes of one form of the model: of ``main``, which is :attr:`model_size_bytes`, or of a target."""
        if graph == MAIN:
            return self.model_size_bytes
        return self.manifest.files[self.manifest.targets[graph].file].size_bytes

    @property
    def checked_files(self) -> Mapping[str, FileRecord]:
        """The files that have to be as the manifest says; all but the model card, which version 1 names too."""
        return {name: record for name, record in self.manifest.files.items() if name != MODEL_CARD_FILE}


@checked
def open_bundle(path: Path | str) -> Bundle:
    """Read and check a bundle: schema, presence, size and SHA-256 of every file.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle.

    Raises:
        BundleError: If the folder or manifest is missing, malformed or of another format
            version, or if a file is missing or altered.
        ConfigError: If ``path`` is no path.
    """
    bundle = Bundle(Path(path), read_manifest(Path(path)))
    read_files(bundle.path, bundle.checked_files, kept=())
    return bundle


@checked
def load_bundle(
    path: Path | str, *, model_file: Callable[[Manifest], str] = lambda _: MODEL_FILE
) -> tuple[Bundle, Mapping[str, bytes]]:
    """Read and check a bundle, and return the bytes that were checked, so that nothing else can be loaded.

    Args:
        path: The bundle's folder.
        model_file: Says which file the model is loaded from: ``model.onnx`` or that of a target.

    Returns:
        The bundle, and by name the content of its model, of the files that hold the model's weights, and of its
        tokenizer.

    Raises:
        BundleError: As :func:`open_bundle` does, and if the model takes weights from a file that the manifest does not
            name.
        ConfigError: If ``path`` is no path.
    """
    bundle = Bundle(Path(path), read_manifest(Path(path)))
    files, chosen = bundle.manifest.files, model_file(bundle.manifest)
    graphs = {MODEL_FILE, *(target.file for target in bundle.manifest.targets.values())}
    unread = _FOR_PEOPLE | _FOR_LIBRARIES | (graphs - {chosen})
    contents = read_files(bundle.path, bundle.checked_files, kept=files.keys() - unread)
    try:
        others = external_files(contents[chosen])
    except ValueError as error:
        raise BundleError(f"{bundle.path / chosen} is no ONNX file: {error}. Export the bundle again") from error
    if unlisted := sorted(others - (files.keys() - graphs)):
        raise BundleError(
            f"{bundle.path}: {chosen} takes weights from {', '.join(map(repr, unlisted))}, which "
            f"{MANIFEST_FILE} does not name. Export the bundle again"
        )
    return bundle, {name: content for name, content in contents.items() if name in {chosen, TOKENIZER_FILE, *others}}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle and none of its other files; raise a BundleError where that cannot be."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}. Make one with `q8bert export`")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not readable as JSON: {error}") from error
    return _parse(content, source=path)


def _parse(content: Mapping[str, object], *, source: Path) -> Manifest:
    version = content.get("format_version")
    if version not in _READABLE or isinstance(version, bool):
        raise BundleError(
            f"{source}: format_version is {version!r}, this release reads {' and '.join(map(str, _READABLE))}. "
            "Export the run again with this release"
        )
    try:
        manifest = decode(Manifest, content, ignore_unknown=True)
    except ConfigError as error:
        raise BundleError(f"{source}: " + "; ".join(error.faults)) from error
    if faults := _value_faults(manifest):
        raise BundleError(f"{source}: " + "; ".join(faults))
    return manifest


def _value_faults(manifest: Manifest) -> list[str]:
    faults = []
    if manifest.precision not in _PRECISIONS:
        faults.append(f"precision is {manifest.precision!r}, allowed are {', '.join(_PRECISIONS)}")
    if not 3 <= manifest.max_length <= _LONGEST:
        faults.append(f"max_length is {manifest.max_length}, must be from 3 to {_LONGEST}")
    if manifest.pad_token_id < 0:
        faults.append(f"pad_token_id is {manifest.pad_token_id}, must be at least 0")
    names = manifest.input_names
    if "input_ids" not in names or len(set(names)) < len(names) or not set(names) <= set(_MODEL_INPUTS):
        faults.append(f"input_names is {list(names)!r}, allowed are {', '.join(_MODEL_INPUTS)}, each once")
    faults += [f"files: {name!r} is no plain file name" for name in manifest.files if not _is_plain(name)]
    faults += [f"files: {name!r}: size_bytes is below 0" for name, one in manifest.files.items() if one.size_bytes < 0]
    faults += target_faults(manifest.targets, manifest.files)
    faults += [f"files: {name} is not listed" for name in (MODEL_FILE, TOKENIZER_FILE) if name not in manifest.files]
    return faults


def _is_plain(name: str) -> bool:
    # on every system: a backslash and a colon are part of a name on one and lead elsewhere on another
    return name.isprintable() and name not in {"", ".", ".."} and not {"/", "\\", ":"} & set(name)
