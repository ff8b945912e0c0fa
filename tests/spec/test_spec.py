"""The quantization formula, atomic files, the environment's ORT build."""

import importlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.spec import environment, quant
from q8bert.spec.environment import installed_ort_build, require
from q8bert.spec.errors import CalibrationError, MissingExtraError, OrtBuildError
from q8bert.spec.files import new_folder, read_json, write_json


def one_value_oracle(x: float, scale: float, qmin: int, qmax: int) -> int:
    """Python's own round() rounds half to even."""
    return min(max(round(x / scale), qmin), qmax)


def test_rounding_is_half_to_even_and_clamps() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 1e9, -127.5, -128.5, -1e9], dtype=np.float32)
    codes = quant.quantize(x, 1.0, qmin=-128, qmax=127)
    assert codes.tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128, -128]
    assert quant.quantize(x, 1.0, qmin=-127, qmax=127).min() == -127


@given(
    st.lists(st.floats(-512, 512, width=32, allow_subnormal=False), min_size=1),
    st.sampled_from([2.0**-4, 0.25, 1.0, 8.0]),
)
def test_codes_equal_python_arithmetic(values: list[float], scale: float) -> None:
    # a power of two as scale, so that dividing is exact in every precision
    codes = quant.quantize(np.array(values, dtype=np.float32), scale, qmin=-128, qmax=127)
    assert codes.tolist() == [one_value_oracle(value, scale, -128, 127) for value in values]


@given(st.lists(st.floats(-1000, 1000, width=32, allow_subnormal=False), min_size=1))
def test_error_inside_the_range_is_at_most_half_a_step(values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    scale = quant.scale_from_amax(float(np.abs(x).max()))
    error = np.abs(quant.fake_quantize(x, scale, qmin=-127, qmax=127) - x)
    assert error.max() <= float(scale) / 2 * (1 + 1e-5)


def test_scale_of_zeros_is_positive_and_zeros_stay_zero() -> None:
    scale = quant.scale_from_amax(np.zeros(3, dtype=np.float32))
    assert (scale > 0).all()
    assert not quant.fake_quantize(np.zeros(3, dtype=np.float32), scale, qmin=-127, qmax=127).any()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="scale must be finite and > 0"):
        quant.quantize(np.ones(1, dtype=np.float32), bad, qmin=-127, qmax=127)
    if bad != 0:
        with pytest.raises(CalibrationError, match="amax must be finite"):
            quant.scale_from_amax(bad)


def test_a_failed_folder_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError, match="crash"), new_folder(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError("crash")
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("a", "b"):
        with new_folder(target) as folder:
            (folder / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_touches_nothing_of_a_like_name_and_comes_back_when_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = tmp_path / "folder", tmp_path / "folder.partial"
    other.mkdir()
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    rename = Path.rename

    def fail(path: Path, new: Path) -> Path:
        if new == target and ".old." not in path.name:
            raise PermissionError("no")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError), new_folder(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.partial"]


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    with new_folder(target) as first:
        (first / "a").write_text("first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with new_folder(target) as second:
                (second / "a").write_text("second")
        assert (target / "a").read_text() == "second"
    assert (target / "a").read_text() == "first"


def test_json_with_nan_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == {"a": 1}
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_json(path)


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
    monkeypatch.setattr(environment, "_version_of", lambda name: "1.0" if name in installed else None)
    with pytest.raises(error, match=message):
        installed_ort_build()


def test_the_one_build_is_named_and_known_to_train_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, trains in (("onnxruntime", False), ("onnxruntime-gpu", False), ("onnxruntime-training", True)):
        monkeypatch.setattr(environment, "_version_of", lambda found, name=name: "1.0" if found == name else None)
        assert (installed_ort_build().distribution, installed_ort_build().can_train) == (name, trains)


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r'scoring needs no_such_module.*pip install "q8bert\[evaluate\]"'):
        require("json", "no_such_module", extra="evaluate", purpose="scoring")


def test_a_name_of_the_runtime_without_a_build_says_which_command_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_version_of", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'pip install "q8bert\[runtime\]"'):
        importlib.import_module("q8bert.runtime").Classifier  # noqa: B018 - the access itself is what is tested
