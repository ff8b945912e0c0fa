"""What the extras of serving bring: little, and nothing of training."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement

MAX_BYTES = {"runtime": 240e6, "serve": 300e6}
BROUGHT = {"runtime": {"onnxruntime", "numpy", "tokenizers", "typer"}}
BROUGHT["serve"] = BROUGHT["runtime"] | {"fastapi", "uvicorn", "prometheus-client"}


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


@pytest.mark.parametrize("extra", ["runtime", "serve"])
def test_an_extra_of_serving_is_small_and_free_of_training(extra: str) -> None:
    for needed in BROUGHT[extra]:
        try:
            distribution(needed)
        except PackageNotFoundError:
            pytest.skip(f"{needed} is not installed here, which the extra {extra} brings")
    names = closure("q8bert", extra) | {"q8bert"}
    assert BROUGHT[extra] <= names
    assert not names & {"torch", "transformers", "onnx", "scipy", "scikit-learn"}
    n_bytes = sum(
        path.locate().stat().st_size
        for name in names
        for path in distribution(name).files or ()
        if path.locate().is_file()
    )
    assert 20e6 < n_bytes < MAX_BYTES[extra]
