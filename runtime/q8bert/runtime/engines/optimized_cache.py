"""Models as ONNX Runtime optimized them, kept in a folder for the next start.

An entry fits one model, one build of ONNX Runtime, one choice of providers and options, and one kind of CPU, since
optimized graphs hold layouts and kernels of the hardware. Its file name is a hash of all these and the SHA-256 of the
file itself, ``KEY-CONTENT.onnx``: one rename puts an entry and its checksum there together, and an entry that was
altered no longer fits its name. Whoever may write into the folder could still forge one, so the folder has to be the
user's alone. Entries that were not used for a month are deleted.

What it saves is the optimization alone. The model's and the entry's bytes are hashed at every start, so for a small
model the gain is little.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from q8bert.machine.builds import installed_ort_build
from q8bert.machine.cpu import cpu_description
from q8bert.machine.onnx_runtime import ort
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.runtime.engines.providers.names import NamedProviders
from q8bert.runtime.engines.providers.table import facts_of
from q8bert.spec.errors import ConfigError
from q8bert.spec.files import PARTIAL, sha256_of
from q8bert.spec.private_folders import make_private, prune, refuse_shared

__all__ = ["discard_entry", "entry_key", "find_entry", "new_entry"]

_DAYS_KEPT = 30


def entry_key(model: Path | bytes, *, providers: NamedProviders, options: RuntimeOptions) -> str:
    """Return the name of everything that an optimized graph depends on.

    Args:
        model: The ONNX file or its bytes.
        providers: Providers of the session.
        options: Options of the session.

    Returns:
        32 hexadecimal digits.

    Raises:
        ConfigError: If such a model cannot be cached.
    """
    faults = [
        f"cache_dir cannot be used with {name}, which compiles the graph itself; use the cache in its own options"
        for name, _ in providers
        if not facts_of(name).is_savable
    ]
    if faults:
        raise ConfigError([f"{fault}. Leave cache_dir out" for fault in faults])
    build = installed_ort_build()
    content = {
        "model": hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else sha256_of(model),
        "build": [build.distribution, build.version, ort.__version__],
        "providers": [[name, sorted(given.items())] for name, given in providers],
        "optimization": options.optimization,
        "cpu": cpu_description(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def find_entry(folder: Path, key: str) -> tuple[Path, bytes] | None:
    """Return the entry of a key and its bytes, which were checked; altered ones are deleted with a warning.

    Args:
        folder: The cache.
        key: As :func:`entry_key` gives it.

    Returns:
        Path and content; None where there is no such entry.

    Raises:
        ConfigError: If the folder is not the user's alone.
    """
    refuse_shared(folder, option="cache_dir")
    for path in sorted(folder.glob(f"{key}-*.onnx")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process discarded it meanwhile
            continue
        if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
            with suppress(OSError):  # the cache may be read only
                os.utime(path)
            return path, content
        discard_entry(path, reason="its bytes are not those that its name says")
    return None


def discard_entry(path: Path, *, reason: str) -> None:
    """Delete an entry that cannot be used, and say so."""
    with suppress(OSError):  # gone already, or in a folder that cannot be written
        path.unlink()
    warnings.warn(
        f"the optimized model {path} was discarded and is built again: {reason}", RuntimeWarning, stacklevel=2
    )


@contextmanager
def new_entry(folder: Path, key: str) -> Iterator[Path]:
    """Give a path to write an optimized model to; it becomes the entry when the block ends well.

    Args:
        folder: The cache; made if it is not there.
        key: As :func:`entry_key` gives it.

    Yields:
        A path beside the entries, on the same file system.

    Raises:
        ConfigError: If the folder cannot be made or written, or is not the user's alone.
    """
    make_private(folder, option="cache_dir")
    prune([*folder.glob("*-*.onnx"), *folder.glob(f"*{PARTIAL}")], days=_DAYS_KEPT)
    try:
        beside = tempfile.TemporaryDirectory(
            dir=folder, prefix=f"{key}.", suffix=PARTIAL
        )  # made exclusively, mode 0700
    except OSError as error:
        raise ConfigError([
            f"cache_dir {folder} cannot be written: {error}. Give another folder, or leave it out"
        ]) from error  # fmt: skip
    with beside:
        path = Path(beside.name) / "model.onnx"
        yield path
        with path.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        path.replace(folder / f"{key}-{sha256_of(path)}.onnx")
