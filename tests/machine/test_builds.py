"""None, one or two builds of ONNX Runtime, and missing extras."""

from typing import Any

import pytest

from q8bert.machine import builds
from q8bert.machine.builds import installed_ort_build, require
from q8bert.runtime import Classifier
from q8bert.spec.errors import MissingExtraError, OrtBuildError


@pytest.mark.parametrize(
    ("installed", "error", "message"),
    [
        ([], MissingExtraError, r'pip install "q8bert\[runtime\]"'),
        (
            ["onnxruntime", "onnxruntime-training-cpu"],
            OrtBuildError,
            "pip uninstall -y onnxruntime onnxruntime-training-cpu &&",
        ),
        (["onnxruntime", "onnxruntime-gpu"], OrtBuildError, "overwrite each other's files"),
    ],
)
def test_none_or_two_builds_of_onnx_runtime_are_an_error(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(builds, "_version_of", lambda name: "1.0" if name in installed else None)
    with pytest.raises(error, match=message):
        installed_ort_build()


def test_the_one_build_is_named_and_known_to_train_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, trains in (("onnxruntime", False), ("onnxruntime-gpu", False), ("onnxruntime-training", True)):
        monkeypatch.setattr(builds, "_version_of", lambda found, name=name: "1.0" if found == name else None)
        assert (installed_ort_build().distribution, installed_ort_build().builds_gradients) == (name, trains)


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r'scoring needs no_such_module.*pip install "q8bert\[evaluate\]"'):
        require("json", "no_such_module", extra="evaluate", purpose="scoring")


def test_loading_without_a_build_says_which_command_mends_it(monkeypatch: pytest.MonkeyPatch, small: Any) -> None:
    monkeypatch.setattr(builds, "_version_of", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'pip install "q8bert\[runtime\]"'):
        Classifier.load(small.bundle("SST-2", "int8"))
