"""Which ONNX Runtime build is installed, and clear words where it is none or two.

Several distributions own the same ``onnxruntime`` folder. Installed together they overwrite one
another's files, and what runs is a mixture; so exactly one may be there.
"""

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from q8bert.spec.errors import MissingExtraError, OrtBuildError

__all__ = ["OrtBuild", "installed_ort_build", "require"]

_EXTRA_OF_BUILD = {
    "onnxruntime": "runtime",
    "onnxruntime-gpu": "runtime-gpu",
    "onnxruntime-training-cpu": "train-ort-training",
    "onnxruntime-training": "train-ort-training-gpu",
}


@dataclass(frozen=True)
class OrtBuild:
    """An installed ONNX Runtime.

    Attributes:
        distribution: Name on the package index, for example ``onnxruntime-training-cpu``.
        version: Its version.
    """

    distribution: str
    version: str

    @property
    def extra(self) -> str:
        """The extra of q8bert that brings this build."""
        return _EXTRA_OF_BUILD[self.distribution]

    @property
    def builds_gradients(self) -> bool:
        """Whether this build appends a backward pass to a graph itself; torch's runs on every build."""
        return self.distribution.startswith("onnxruntime-training")


def installed_ort_build() -> OrtBuild:
    """Return the one ONNX Runtime build of this environment.

    Returns:
        Its distribution name and version.

    Raises:
        OrtBuildError: If there are two or more.
        MissingExtraError: If there is none.
    """
    builds = [OrtBuild(name, number) for name in _EXTRA_OF_BUILD if (number := _version_of(name)) is not None]
    if not builds:
        raise MissingExtraError(
            'no ONNX Runtime is installed. Run: pip install "q8bert[runtime]" to run models, '
            'or pip install "q8bert[train]" to train them'
        )
    if len(builds) > 1:
        names = [build.distribution for build in builds]
        keep = names[0]
        raise OrtBuildError(
            f"{len(builds)} builds of ONNX Runtime are installed together ({', '.join(names)}); they overwrite "
            f"each other's files. Run: pip uninstall -y {' '.join(names)} && "
            f'pip install "q8bert[{_EXTRA_OF_BUILD[keep]}]" (or the extra of the build you want; one to an '
            "environment)"
        )
    return builds[0]


def require(*modules: str, extra: str, purpose: str) -> None:
    """Check that modules can be imported, without importing them.

    Args:
        modules: Top-level module names.
        extra: The extra of q8bert that brings them.
        purpose: What needs them, for the message: "training needs …".

    Raises:
        MissingExtraError: If one or more are missing; the message names the pip command.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'{purpose} needs {", ".join(missing)}, not installed here. Run: pip install "q8bert[{extra}]"'
        )


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
