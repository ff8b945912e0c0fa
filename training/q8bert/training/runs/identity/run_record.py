"""``run.json``: what a run was started with, read, compared, written.

Options and fingerprints decide whether a run is the same. Where data and model stand, and the versions of libraries,
are kept beside them: the one so that they are found again, the other so that a difference can be said.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from q8bert.spec.decode import decode
from q8bert.spec.errors import CheckpointError, ConfigError
from q8bert.spec.files import read_json, write_json
from q8bert.training.objectives.config import TWIN
from q8bert.training.runs.config import TrainConfig
from q8bert.training.runs.identity.fingerprints import Fingerprint
from q8bert.training.versions import library_versions

__all__ = ["RUN_FILE", "RunRecord", "is_run", "read_record", "read_run"]

RUN_FILE = "run.json"
RUN_VERSION = 6
# version 4 had no fingerprints
_READABLE_VERSIONS = (4, 5, 6)
# what a quantized run of an earlier version did where there was no option yet
_BEFORE_VERSION_6: Mapping[str, object] = {"table_granularity": "per_tensor", "zero_points": False}
# options that say where something stands; the fingerprints say what it is
_PLACES = {"data_dir", "train_file", "dev_file", "schema", "model", "tokenizer", "teacher"}
_REMEDY = "Put back the file as it was, or start again in another --output-dir or with --overwrite"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run was started with.

    Attributes:
        run_version: Version of the file.
        options: Those that decide results, and where data and model stand.
        processes: Processes that train together; they decide how many rows a step has.
        inputs: Fingerprints of ``train``, ``dev``, ``weights``, ``configuration`` and ``tokenizer``, of the ``grids``
            if the model's are taken, and of the teacher if it came from elsewhere; none in a run of an earlier
            release.
        versions: Of the libraries, at the start.
    """

    run_version: int
    options: Mapping[str, object]
    processes: int = 1
    inputs: Mapping[str, Fingerprint] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: TrainConfig, inputs: Mapping[str, Fingerprint], *, n_processes: int) -> "RunRecord":
        """Return the record of a run that is started now."""
        return cls(
            run_version=RUN_VERSION,
            options=config.identity(),
            processes=n_processes,
            inputs=inputs,
            versions=library_versions(),
        )

    def config(self, output_dir: Path) -> TrainConfig:
        """Return the options, for the folder that they stand in."""
        return TrainConfig.from_identity(self.options, output_dir=output_dir)

    def at_places_of(self, other: "RunRecord") -> "RunRecord":
        """Return the same record with data and models where another has them."""
        return replace(self, options={**self.options, **{name: other.options[name] for name in _PLACES}})

    def number(self) -> int:
        """Return a number that two processes share if they have the same options and the same inputs."""
        content = {"options": _decisive(self.options), "inputs": _as_json(self.inputs)}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
        return int.from_bytes(digest[:7])

    def differences(self, asked: "RunRecord") -> list[str]:
        """Return in words what another record has otherwise, so that it is of another run.

        Args:
            asked: The record of the run that is asked for.

        Returns:
            What differs; nothing if it is the same run.
        """
        there = {"processes": self.processes, **_decisive(self.options)}
        here = {"processes": asked.processes, **_decisive(asked.options)}
        options = [
            f"{name} {there.get(name)!r} there, {here.get(name)!r} asked"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        found = [f"other options ({'; '.join(options)})"] if options else []
        for name, (what, unit) in _words(asked.options).items():
            if name in self.inputs and name in asked.inputs and self.inputs[name] != asked.inputs[name]:
                found.append(f"{what} ({_how(self.inputs[name].size, asked.inputs[name].size, unit)})")
        return found

    def other_versions(self, asked: "RunRecord") -> str:
        """Return in words which libraries had other versions at the start than they have now; empty if none had."""
        here = asked.versions
        return ", ".join(
            f"{name} {self.versions.get(name, 'none')} then, {here.get(name, 'none')} now"
            for name in sorted({*self.versions, *here})
            if self.versions.get(name) != here.get(name)
        )

    def write(self, run: Path) -> None:
        """Write the record into a run's folder."""
        write_json(run / RUN_FILE, {**asdict(self), "inputs": _as_json(self.inputs)})


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, and not of a model in Hugging Face's layout.

    Args:
        folder: The folder; there need be none.

    Returns:
        Whether it is. Other programs have a ``run.json`` too; a model's folder has its configuration beside it.
    """
    return (folder / RUN_FILE).is_file() and not (folder / "config.json").exists()


def read_record(path: Path) -> RunRecord:
    """Read the record of a run from its folder.

    Args:
        path: Folder of the run.

    Returns:
        The record; options that are new since then have their defaults, or stand for what the earlier release did.

    Raises:
        CheckpointError: If it is no run, a damaged one, or one of another release.
    """
    file = path / RUN_FILE
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is not the folder of a training run: it has no {RUN_FILE}. Make one with `q8bert train`"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}). {_REMEDY}") from error
    if content.get("run_version") not in _READABLE_VERSIONS:
        raise CheckpointError(
            f"{path} is a run of version {content.get('run_version')!r}; this release reads "
            f"{', '.join(map(str, _READABLE_VERSIONS))}. Go on with the release that made it, or give another folder"
        )
    try:
        record = decode(RunRecord, content, ignore_unknown=True)
        # earlier releases obeyed them, and the run's rows were tokenized so
        record = replace(record, options={"obey_special_tokens": True, **record.options})
        if record.run_version < RUN_VERSION and record.options.get("quantize", True):
            record = replace(record, options={**_BEFORE_VERSION_6, **record.options})
        return replace(record, options=record.config(path).identity())
    except ConfigError as error:
        raise CheckpointError(
            f"{file} is damaged or of another release ({'; '.join(error.faults)}). {_REMEDY}"
        ) from error


def read_run(path: Path) -> TrainConfig:
    """Read the options of a run from its folder.

    Args:
        path: Folder of the run.

    Returns:
        Its options.

    Raises:
        CheckpointError: As :func:`read_record` does.
    """
    return read_record(path).config(path)


def _decisive(options: Mapping[str, object]) -> dict[str, object]:
    teacher = options["teacher"]
    kind = teacher if teacher in {None, TWIN} else "another model"
    return {name: value for name, value in options.items() if name not in _PLACES} | {"teacher": kind}


def _as_json(inputs: Mapping[str, Fingerprint]) -> dict[str, Any]:
    return {name: asdict(found) for name, found in inputs.items()}


def _words(options: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    model, teacher = options["model"], options["teacher"]
    train, dev = (options[f"{split}_file"] or options["data_dir"] for split in ("train", "dev"))
    return {
        "train": (f"other training rows than {train} has", "rows"),
        "dev": (f"other dev rows than {dev} has", "rows"),
        "weights": (f"other weights than {model} has", "numbers"),
        "configuration": (f"another configuration than {model} has", "keys"),
        "tokenizer": (f"another tokenizer than {options['tokenizer'] or model} has", "tokens"),
        "grids": (f"other ranges or smoothing than {model} has", "activations"),
        "teacher_weights": (f"another teacher than {teacher} (its weights differ)", "numbers"),
        "teacher_configuration": (f"another teacher than {teacher} (its configuration differs)", "keys"),
        "teacher_tokenizer": (f"another teacher than {teacher} (its tokenizer differs)", "tokens"),
        "teacher_quantization": (f"another teacher than {teacher} (its quantization differs)", "activations"),
    }


def _how(there: int, now: int, unit: str) -> str:
    return f"{there} {unit} in both, which differ" if there == now else f"{there} {unit} there, {now} now"
