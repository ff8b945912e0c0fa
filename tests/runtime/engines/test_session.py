"""A session runs where it was asked to, or says why not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from q8bert.machine.builds import installed_ort_build
from q8bert.runtime.engines.session import Session
from q8bert.spec.errors import BundleError, ConfigError, ProviderError

INPUTS = {
    "input_ids": np.array([[2, 5, 3], [2, 13, 3]], dtype=np.int64),
    "attention_mask": np.ones((2, 3), dtype=np.int64),
    "token_type_ids": np.zeros((2, 3), dtype=np.int64),
}


def padded(n_columns: int) -> dict[str, Any]:
    return {name: np.pad(values, ((0, 0), (0, n_columns))) for name, values in INPUTS.items()}


@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize(("task", "n_outputs"), [("SST-2", 2), ("STS-B", 1)])
def test_logits_are_what_onnx_runtime_itself_computes(small: Any, task: str, precision: str, n_outputs: int) -> None:
    path = small.bundle(task, precision) / "model.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    (expected,) = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, INPUTS)
    logits = Session(path, threads=1).run(INPUTS)
    assert logits.shape == (2, n_outputs)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, expected)


def test_a_model_given_as_bytes_is_the_model_in_the_file(small: Any) -> None:
    path = small.bundle("SST-2", "int8") / "model.onnx"
    from_bytes, from_file = Session(path.read_bytes(), threads=1), Session(path, threads=1)
    assert set(from_bytes.input_names) == set(from_file.input_names) == set(INPUTS)
    np.testing.assert_array_equal(from_bytes.run(INPUTS), from_file.run(INPUTS))


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_padding_does_not_change_logits(small: Any, precision: str) -> None:
    session = Session(small.bundle("SST-2", precision) / "model.onnx", threads=1)
    # masked positions weigh exp(-large) = 0, so only the order of float sums may differ with the padded shape
    np.testing.assert_allclose(session.run(padded(20)), session.run(INPUTS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("threads", [0, 2])
def test_the_number_of_threads_does_not_change_logits(small: Any, threads: int) -> None:
    path = small.bundle("SST-2", "float32") / "model.onnx"
    # threads split the rows of a product, and a few sums; float32 sums of 64 terms near 1 agree to 1e-5
    np.testing.assert_allclose(
        Session(path, threads=threads).run(INPUTS), Session(path, threads=1).run(INPUTS), rtol=0, atol=1e-5
    )


def test_an_unknown_provider_is_an_error_that_names_those_there_are(small: Any) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    build = installed_ort_build()
    with pytest.raises(ProviderError, match="CUDAExecutionProvider was asked for, but") as caught:
        Session(
            small.bundle("SST-2", "int8") / "model.onnx", providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
    message = str(caught.value)
    assert f"{build.distribution} {build.version} has {', '.join(ort.get_available_providers())}" in message
    assert "q8bert[runtime-gpu]" in message


def test_no_provider_is_an_error(small: Any) -> None:
    with pytest.raises(ProviderError, match="execution provider none was asked for"):
        Session(small.bundle("SST-2", "int8") / "model.onnx", providers=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"providers": "CPUExecutionProvider"}, "must be a list of names, got the single text 'CPUExecutionProvider'"),
        ({"providers": ["CPUExecutionProvider"] * 2}, "must each be named once"),
        ({"threads": -1}, "threads must be 0 or more, got -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(small: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(small.bundle("SST-2", "int8") / "model.onnx", **options)


def test_more_tokens_than_the_model_has_positions_are_a_bundle_error(small: Any) -> None:
    session = Session(small.bundle("SST-2", "float32") / "model.onnx", threads=1)
    with pytest.raises(BundleError, match=r"could not run the model on \(2, 4003\)"):
        session.run(padded(4000))


def test_a_file_that_is_no_model_is_a_bundle_error_naming_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(BundleError, match=r"could not load .*model\.onnx: "):
        Session(path)
    with pytest.raises(BundleError, match="could not load the model: "):
        Session(b"not a model")
