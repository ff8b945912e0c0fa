"""What the runtime extra brings: little, and nothing of training."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

MAX_BYTES = 240e6


def closure(name: str, extra: str) -> set[str]:
    """Return the distributions that a distribution with an extra brings into this environment, itself included."""
    found: set[str] = set()
    open_requirements = [(name, extra)]
    while open_requirements:
        name, extra = open_requirements.pop()
        requirements = [Requirement(text) for text in distribution(name).requires or ()]
        wanted = [item for item in requirements if item.marker is None or item.marker.evaluate({"extra": extra})]
        for item in wanted:
            key = item.name.lower().replace("_", "-")
            if key not in found:
                found.add(key)
                open_requirements += [(key, more) for more in (item.extras or {""})]
    return found


def test_the_runtime_extra_is_small_and_free_of_training() -> None:
    try:
        distribution("onnxruntime")
    except PackageNotFoundError:
        pytest.skip("another build of ONNX Runtime is installed here than the runtime extra brings")
    names = closure("q8bert", "runtime") | {"q8bert"}
    assert {"onnxruntime", "numpy", "tokenizers", "typer"} <= names
    assert not names & {"torch", "transformers", "onnx", "scipy", "scikit-learn"}
    n_bytes = sum(
        path.locate().stat().st_size
        for name in names
        for path in distribution(name).files or ()
        if path.locate().is_file()
    )
    assert 20e6 < n_bytes < MAX_BYTES
