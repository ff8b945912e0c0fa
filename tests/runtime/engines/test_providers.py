"""Providers by name with options: checked, started, verified, and honest about the precision."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from typer.testing import Result

from q8bert.machine.cuda import CudaDriver, cuda_driver
from q8bert.runtime import Classifier, RuntimeOptions, evaluate
from q8bert.runtime.engines.providers.defaults import cache_options, with_defaults
from q8bert.runtime.engines.providers.names import bound_device, named_providers, parse_provider
from q8bert.runtime.engines.session import Session, _session_options, run_bound
from q8bert.spec.errors import ConfigError, ProviderError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
INPUTS = {
    "input_ids": np.array([[2, 5, 3], [2, 13, 3]], dtype=np.int64),
    "attention_mask": np.ones((2, 3), dtype=np.int64),
    "token_type_ids": np.zeros((2, 3), dtype=np.int64),
}


# ---- names and options --------------------------------------------------------------------------


def test_names_and_pairs_become_pairs_with_options_as_texts() -> None:
    assert named_providers([(CUDA, {"device_id": 1, "use_tf32": False}), CPU]) == (
        (CUDA, {"device_id": "1", "use_tf32": "False"}),
        (CPU, {}),
    )


@pytest.mark.parametrize(
    ("providers", "message"),
    [
        (CPU, "must be a list of names, got the single text"),
        ([CPU, (CPU, {})], "must each be named once"),
        ([(CUDA, "device_id=1")], "a name or a pair of a name and its options, got"),
        ([5], "a name or a pair of a name and its options, got 5"),
        ([(CPU, {"use_arena": 1})], "CPUExecutionProvider takes no options, got use_arena"),
        ([(CUDA, {"enable_cuda_graph": True})], "enable_cuda_graph cannot be used"),
        ([(TENSORRT, {"trt_cuda_graph_enable": "1"})], "trt_cuda_graph_enable cannot be used"),
    ],
)
def test_what_is_no_list_of_providers_is_refused(small: Any, providers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Session(small.bundle("SST-2", "int8") / "model.onnx", providers=providers)


def test_several_faults_are_reported_together() -> None:
    wrong: list[Any] = [5, (CPU, {"a": 1}), CPU]
    with pytest.raises(ConfigError) as caught:
        named_providers(wrong)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("text", "provider"),
    [
        (CPU, CPU),
        (f"{CUDA}:device_id=1", (CUDA, {"device_id": "1"})),
        (f"{TENSORRT}:a=1,b=x=y", (TENSORRT, {"a": "1", "b": "x=y"})),
    ],
)
def test_a_provider_can_be_written_as_one_text(text: str, provider: object) -> None:
    assert parse_provider(text) == provider


@pytest.mark.parametrize("text", [f"{CUDA}:", f"{CUDA}:device_id", f"{CUDA}:=1", f"{CUDA}:a=1,", f"{CUDA}:a="])
def test_an_option_without_name_or_value_is_refused_in_words(
    small: Any, command: Callable[..., Result], text: str
) -> None:
    arguments = (small.bundle("SST-2", "int8"), "--data-dir", small.data("SST-2"))
    result = command("evaluate", *arguments, "--provider", text)
    assert result.exit_code == 2
    assert "a provider is NAME or NAME:option=value,option=value" in result.stderr


# ---- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["none", "basic", "extended", "all"])
def test_the_precision_on_the_cpu_is_that_of_the_kernels_in_the_graph(small: Any, tmp_path: Path, level: str) -> None:
    options = RuntimeOptions(threads=1, optimization=level, cache_dir=tmp_path)
    classifier = Classifier.load(small.bundle("SST-2", "int8"), options=options)
    (graph,) = tmp_path.glob("*.onnx")
    # the operator that multiplies int8 by int8; without it, DequantizeLinear feeds a MatMul of floats
    has_integer_kernels = b"MatMulIntegerToFloat" in graph.read_bytes()
    assert classifier.precision == ("int8" if has_integer_kernels else "float32")
    assert has_integer_kernels == (level in {"extended", "all"})


def test_a_classifier_and_a_report_say_what_really_ran(small: Any) -> None:
    assert Classifier.load(small.bundle("SST-2", "int8"), threads=1).precision == "int8"
    floats = Classifier.load(small.bundle("SST-2", "float32"), threads=1)
    assert floats.precision == "float32"
    report = evaluate(small.bundle("SST-2", "int8"), small.data("SST-2"), threads=1)
    # query, key and value in one, but the last query; attention output and two of the feed-forward in each of two layers;
    # pooler and head
    assert (report.precision, report.kernels) == ("int8", "int8 (11 of 11 products)")
    assert (
        f"11 of 11 products with weights run in integers (CPUExecutionProvider, ONNX Runtime {ort.__version__})"
        in report.precision_note
    )


MANIFEST = {"input_names": ("input_ids", "attention_mask"), "max_length": 128}
PROFILES = {
    "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
    "trt_profile_opt_shapes": "input_ids:8x64,attention_mask:8x64",
    "trt_profile_max_shapes": "input_ids:32x128,attention_mask:32x128",
}


def test_providers_get_what_the_model_wants_of_them() -> None:
    found = with_defaults([TENSORRT, (CUDA, {"device_id": 1}), CPU], is_quantized=True, **MANIFEST)
    assert found == (
        (TENSORRT, {"trt_int8_enable": "True", **PROFILES}),
        (CUDA, {"use_tf32": "0", "device_id": "1"}),
        (CPU, {}),
    )
    ((_, options),) = with_defaults([TENSORRT], is_quantized=False, **MANIFEST)
    assert options == PROFILES


def test_what_the_caller_says_of_a_provider_stands() -> None:
    assert with_defaults([(CUDA, {"use_tf32": 1})], is_quantized=True, **MANIFEST) == ((CUDA, {"use_tf32": "1"}),)
    own = {"trt_int8_enable": "0", "trt_profile_max_shapes": "input_ids:1x8,attention_mask:1x8"}
    assert with_defaults([(TENSORRT, own)], is_quantized=True, **MANIFEST) == ((TENSORRT, own),)
    # what was added once is what the caller says when a classifier is loaded again
    once = with_defaults([TENSORRT, CUDA, CPU], is_quantized=True, **MANIFEST)
    assert with_defaults(once, is_quantized=True, **MANIFEST) == once


def test_compiled_engines_are_kept_in_a_folder_of_the_users_alone(tmp_path: Path) -> None:
    given = named_providers([(TENSORRT, {"trt_timing_cache_enable": 0}), CPU])
    (_, options), cpu = cache_options(given, tmp_path / "cache")
    folder = tmp_path / "cache" / "engines"
    assert options == {
        "trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "0", "trt_timing_cache_path": str(folder),
    }  # fmt: skip
    assert cpu == (CPU, {})
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o777)
        with pytest.raises(ConfigError, match="can be written by others"):
            cache_options(given, tmp_path / "cache")


# ---- never another provider than asked for ------------------------------------------------------


def test_a_provider_that_onnx_runtime_quietly_drops_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    # no machine without a GPU can have the real part of this: a build with CUDA whose provider fails to start
    opened = SimpleNamespace(
        get_providers=lambda: ["CPUExecutionProvider"], get_inputs=list, disable_fallback=lambda: None
    )
    stand_in = SimpleNamespace(
        __version__="0",
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
        GraphOptimizationLevel=ort.GraphOptimizationLevel,
        InferenceSession=lambda *_, **__: opened,
        get_available_providers=lambda: [CUDA, CPU],
    )
    monkeypatch.setattr("q8bert.runtime.engines.session.ort", stand_in)
    monkeypatch.setattr("q8bert.runtime.engines.session_options.ort", stand_in)
    monkeypatch.setattr("q8bert.runtime.engines.providers.availability.ort", stand_in)
    with pytest.raises(ProviderError, match="CUDAExecutionProvider was asked for, but there is no NVIDIA driver here"):
        monkeypatch.setattr("q8bert.runtime.engines.providers.availability.cuda_driver", lambda: None)
        Session(b"", providers=[CUDA, CPU])
    with pytest.raises(ProviderError, match="but there is no GPU here"):
        monkeypatch.setattr("q8bert.runtime.engines.providers.availability.cuda_driver", lambda: CudaDriver("12.4", ()))
        Session(b"", providers=[CUDA, CPU])
    monkeypatch.setattr(
        "q8bert.runtime.engines.providers.availability.cuda_driver", lambda: CudaDriver("12.4", ("a GPU",))
    )
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider was asked for and could not be started \(got CPUExecutionProvider"
    ):
        Session(b"", providers=[(CUDA, {"device_id": 0}), CPU])
    assert Session(b"", providers=[CPU]).input_names == ()


def test_nodes_go_to_the_cpu_only_if_it_was_named(small: Any) -> None:
    azure = "AzureExecutionProvider"  # in newer CPU builds; it runs none of BERT's operators
    if azure not in ort.get_available_providers():
        pytest.skip(f"onnxruntime {ort.__version__} has no {azure}, the one provider that needs no device")
    path = small.bundle("SST-2", "int8") / "model.onnx"
    with pytest.raises(ProviderError, match=r"cannot run every node .* Name CPUExecutionProvider last"):
        Session(path, providers=[azure], threads=1)
    with_cpu = Session(path, providers=[azure, CPU], threads=1)
    np.testing.assert_array_equal(with_cpu.run(INPUTS), Session(path, threads=1).run(INPUTS))


def test_a_bundle_whose_nodes_ran_on_a_cpu_that_was_not_named_is_refused_by_their_names(small: Any) -> None:
    azure = "AzureExecutionProvider"
    if azure not in ort.get_available_providers():
        pytest.skip(f"onnxruntime {ort.__version__} has no {azure}, the one provider that needs no device")
    bundle = small.bundle("SST-2", "int8")
    with pytest.raises(
        ProviderError, match=r"CPUExecutionProvider was not named, but ran Gather .* and \d+ more"
    ) as caught:
        Classifier.load(bundle, providers=[azure], threads=1)
    assert "Shape" not in str(caught.value)
    assert Classifier.load(bundle, providers=[azure, CPU], threads=1).precision == "int8"


def test_on_cuda_weights_are_folded_once_instead_of_in_every_run() -> None:
    for providers, folded in (([CUDA], "1"), ([TENSORRT, CUDA], None), ([CPU], None)):
        options = _session_options(named_providers(providers), RuntimeOptions(), is_watched=True)
        try:
            found = options.get_session_config_entry("session.disable_quant_qdq")
        except RuntimeError:  # it has none
            found = None
        assert found == folded


# ---- memory of the device -----------------------------------------------------------------------


def test_inputs_are_bound_to_the_first_providers_device() -> None:
    assert bound_device(named_providers([CPU])) is None
    assert bound_device(named_providers([CUDA, CPU])) == ("cuda", 0)
    assert bound_device(named_providers([(TENSORRT, {"device_id": 2}), CUDA])) == ("cuda", 2)
    assert bound_device(named_providers(["SomeExecutionProvider"])) is None


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_bound_inputs_give_the_logits_of_unbound_ones(small: Any, precision: str) -> None:
    # main memory is a device too: the same calls as on a GPU, up to its name
    session: Any = Session(small.bundle("SST-2", precision) / "model.onnx", threads=1)
    for columns in (slice(None), slice(2)):  # another shape, and a view that is not contiguous
        inputs = {name: values[:, columns] for name, values in INPUTS.items()}
        logits = run_bound(session._session, inputs, ("cpu", 0))
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, session.run(inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_cuda_gives_the_logits_of_the_cpu(small: Any, precision: str) -> None:
    driver = cuda_driver()
    if CUDA not in ort.get_available_providers() or driver is None or not driver.devices:
        pytest.skip("needs a build of ONNX Runtime with CUDA, an NVIDIA driver and a GPU")
    bundle = small.bundle("SST-2", precision)
    texts = ["a great film", "dull", "a clever and very funny story"]
    on_cuda = Classifier.load(bundle, providers=[CUDA])
    assert on_cuda.precision == "float32"
    # int8: a rounding tie may tip, see test_classifier
    atol = 0.1 if precision == "int8" else 1e-4
    expected = Classifier.load(bundle, threads=1).logits(texts)
    np.testing.assert_allclose(on_cuda.logits(texts), expected, rtol=0, atol=atol)
