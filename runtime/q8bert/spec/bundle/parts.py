"""Bundles taken apart and put elsewhere: some files of one, or all that it is made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from q8bert.spec.bundle.bundle import MANIFEST_FILE, MODEL_CARD_FILE, Bundle, load_bundle, read_manifest
from q8bert.spec.bundle.files import read_files
from q8bert.spec.checked import checked
from q8bert.spec.errors import BundleError

__all__ = ["open_parts", "whole_bundle"]


@checked
def open_parts(path: Path | str, names: Sequence[str]) -> tuple[Bundle, Mapping[str, bytes]]:
    """Read the manifest and some files of a bundle whose other files stand elsewhere; what is read is checked.

    Args:
        path: A folder with the manifest and these files.
        names: Names of the files.

    Returns:
        The bundle, and the content of the files by name.

    Raises:
        BundleError: If manifest or files are missing, malformed or altered, or the manifest does not name a file.
        ConfigError: If ``path`` is no path.
    """
    bundle = Bundle(Path(path), read_manifest(Path(path)))
    if unlisted := sorted(set(names) - bundle.manifest.files.keys()):
        raise BundleError(f"{bundle.path / MANIFEST_FILE} does not name {', '.join(unlisted)}. Export the bundle again")
    records = {name: bundle.manifest.files[name] for name in names}
    return bundle, read_files(bundle.path, records, kept=names)


@checked
def whole_bundle(path: Path | str) -> tuple[Bundle, Mapping[str, bytes]]:
    """Read and check a bundle, and return all that it is made of, so that it can be written elsewhere.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle, and by name the content of every file, the manifest and, where there is one, the model card
        included. All but these two were checked.

    Raises:
        BundleError: As :func:`load_bundle` does.
        ConfigError: If ``path`` is no path.
    """
    bundle, contents = load_bundle(path)
    others = {name: record for name, record in bundle.checked_files.items() if name not in contents}
    found = {**contents, **read_files(bundle.path, others, kept=others)}
    try:
        for name in (MANIFEST_FILE, MODEL_CARD_FILE):
            if (bundle.path / name).is_file():
                found[name] = (bundle.path / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{bundle.path / name} cannot be read ({error})") from error
    return bundle, found
