"""The versions of what takes part in training: they stand in runs, in bundles and in the names of cached graphs."""

import platform
from importlib.metadata import version

from q8bert.machine.builds import installed_ort_build

__all__ = ["library_versions"]


def library_versions() -> dict[str, str]:
    """Return the versions of what takes part in training, by distribution name."""
    build = installed_ort_build()
    names = ("q8bert", "torch", "transformers", "tokenizers", "onnx", "onnxscript", "onnx-ir", "numpy")
    return {"python": platform.python_version(), build.distribution: build.version} | {
        name: version(name) for name in names
    }
