"""OpenVINO runs the same files, with the same results, checks and errors as ONNX Runtime."""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from typer.testing import Result

from q8bert.machine.cpu import computes_bfloat16
from q8bert.runtime import AsyncClassifier, Classifier, RuntimeOptions, evaluate, verify
from q8bert.runtime.engines.kernels import Products
from q8bert.spec.errors import BundleError, ConfigError, MissingExtraError, ProviderError

pytest.importorskip("q8bert.machine.openvino_runtime", reason="needs openvino")

from q8bert.runtime.engines.openvino_session import OpenVinoSession

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
INPUTS = {
    "input_ids": np.array([[2, 5, 3], [2, 13, 3]], dtype=np.int64),
    "attention_mask": np.ones((2, 3), dtype=np.int64),
    "token_type_ids": np.zeros((2, 3), dtype=np.int64),
}
GRAPHS = sorted(Path(os.environ.get("Q8BERT_TEST_GRAPHS", "")).glob("*.onnx"))


def model_of(small: Any, precision: str = "int8") -> bytes:
    return (small.bundle("SST-2", precision) / "model.onnx").read_bytes()


def session(model: bytes, **options: Any) -> OpenVinoSession:
    return OpenVinoSession(model, options=RuntimeOptions(**{"threads": 1} | options))


def changed(**values: Any) -> dict[str, Any]:
    return {name: values.get(name, array) for name, array in INPUTS.items()}


# ---- parity with ONNX Runtime -------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_logits_are_those_of_onnx_runtime(small: Any, precision: str, threads: int) -> None:
    model = model_of(small, precision)
    (expected,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["logits"], INPUTS)
    logits = session(model, threads=threads).run(INPUTS)
    assert (logits.shape, logits.dtype) == ((2, 2), np.float32)
    # float sums in another order; int8: the same, as no activation of these rows lies on a rounding tie
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "products"), [("int8", Products(11, 0)), ("float32", Products(0, 14))])
def test_a_classifier_answers_the_same_and_counts_its_products(
    small: Any, texts: list[str], precision: str, products: Products
) -> None:
    bundle = small.bundle("SST-2", precision)
    classifier = Classifier.load(bundle, engine="openvino", threads=1)
    expected = Classifier.load(bundle, threads=1).logits(texts)
    # int8: a rounding tie may tip, see test_classifier
    np.testing.assert_allclose(classifier.logits(texts), expected, rtol=0, atol=0.1 if precision == "int8" else 1e-4)
    assert (classifier.engine, classifier.products, classifier.precision) == ("openvino", products, precision)
    assert "(CPU, OpenVINO 20" in classifier.precision_note


def test_floats_are_float32_unless_bfloat16_is_asked_for(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, options = small.bundle("SST-2", "float32"), RuntimeOptions(threads=1, bfloat16=True)
    capabilities = ["FP32"]
    monkeypatch.setattr("openvino.Core.get_property", lambda self, device, name: capabilities)
    with pytest.raises(ProviderError, match="bfloat16 was asked for, but this CPU has no instructions for it"):
        Classifier.load(bundle, engine="openvino", options=options)
    monkeypatch.undo()
    if not computes_bfloat16():
        pytest.skip("this CPU computes no bfloat16")
    classifier = Classifier.load(bundle, engine="openvino", options=options)
    assert (classifier.precision, str(classifier.products)) == ("bfloat16", "bfloat16 (0 of 14 products)")
    expected = Classifier.load(bundle, threads=1).logits(["good", "bad"])
    # 8 bits of mantissa in each of some twenty operations
    difference = np.abs(classifier.logits(["good", "bad"]) - expected).max()
    assert 1e-4 < difference < 0.1


# ---- what OpenVINO does not check ---------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (changed(input_ids=np.array([[2, 5, 3], [2, 10_000, 3]])), r"input_ids has values from 2 to 10000, its table has"),
        (changed(input_ids=np.array([[2, 5, 3], [2, -1, 3]])), "input_ids has values from -1 to 5"),
        (changed(token_type_ids=np.full((2, 3), 2)), "token_type_ids has values from 2 to 2, its table has 2 rows"),
        (changed(attention_mask=np.ones((2, 2), dtype=np.int64)), r"its inputs have the different shapes \(2, 2\), \(2, 3\)"),
        ({"input_ids": INPUTS["input_ids"]}, "it has other inputs: attention_mask, token_type_ids"),
        ({name: np.pad(array, ((0, 0), (0, 4000))) for name, array in INPUTS.items()}, "4003 tokens are too many for it"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_run_is_an_error_and_harms_no_other_call(
    small: Any, threads: int, inputs: dict[str, Any], message: str
) -> None:
    loaded = session(model_of(small), threads=threads)
    before = loaded.run(INPUTS)
    with pytest.raises(BundleError, match=rf"OpenVINO 20.* could not run the model on \(.*\): {message}"):
        loaded.run(inputs)
    np.testing.assert_array_equal(loaded.run(INPUTS), before)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_that_nobody_foresaw_harms_no_other_call(
    small: Any, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = session(model_of(small), threads=threads)
    before = loaded.run(INPUTS)
    monkeypatch.setattr(loaded._limits, "fault", lambda *_: None)
    for inputs in ({name: np.pad(array, ((0, 0), (0, 400))) for name, array in INPUTS.items()},) * 2:
        with pytest.raises(BundleError, match="could not run the model on"):
            loaded.run(inputs)
        np.testing.assert_array_equal(loaded.run(INPUTS), before)


@pytest.mark.skipif(not GRAPHS, reason="needs exported graphs: Q8BERT_TEST_GRAPHS is not set")
@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_the_longest_row_of_every_family_is_known(path: Path) -> None:
    loaded = session(path.read_bytes())
    # RoBERTa and MPNet count positions from the one after the padding's, which is 1
    longest = 62 if path.stem.startswith(("roberta", "mpnet")) else 64
    row = {
        name: np.ones((1, longest), dtype=np.int64) * (5 if name == "input_ids" else 1) for name in loaded.input_names
    }
    if "token_type_ids" in row:
        row["token_type_ids"][:] = 0
    assert np.isfinite(loaded.run(row)).all()
    with pytest.raises(BundleError, match=f"{longest + 1} tokens are too many for it"):
        loaded.run({name: np.pad(array, ((0, 0), (0, 1)), mode="edge") for name, array in row.items()})


def test_a_bundle_that_allows_longer_rows_than_its_model_is_refused(small: Any, altered: Callable[..., Path]) -> None:
    bundle = altered(small.bundle("SST-2", "int8"), change=lambda manifest: manifest.update(max_length=65))
    with pytest.raises(BundleError, match="the model cannot run a row of 65 tokens"):
        Classifier.load(bundle, engine="openvino")


def test_what_is_no_model_is_an_error(small: Any) -> None:
    with pytest.raises(BundleError, match="could not load the model: "):
        OpenVinoSession(b"not a model")
    with pytest.raises(BundleError, match="could not load the model: "):
        OpenVinoSession(model_of(small).replace(b"logits", b"scores"))
    with pytest.raises(BundleError, match=r"takes weights from weights\.bin, which OpenVINO could only read by itself"):
        OpenVinoSession(model_of(small), weights={"weights.bin": b""})


# ---- what is asked for --------------------------------------------------------------------------


def test_what_belongs_to_onnx_runtime_is_refused_all_at_once(small: Any, tmp_path: Path) -> None:
    options = RuntimeOptions(optimization="basic", memory_arena=False, cache_dir=tmp_path)
    with pytest.raises(ConfigError) as caught:
        Classifier.load(
            small.bundle("SST-2", "int8"), engine="openvino", options=options, providers=["CUDAExecutionProvider"]
        )
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "providers", "optimization", "memory_arena", "cache_dir",
    ]  # fmt: skip


def test_engines_are_known_by_name_and_bfloat16_is_openvinos(small: Any) -> None:
    with pytest.raises(ConfigError, match="engine must be one of onnxruntime, openvino, got 'tensorrt'"):
        Classifier.load(small.bundle("SST-2", "int8"), engine="tensorrt")
    with pytest.raises(ConfigError, match="bfloat16 is an option of the engine openvino"):
        Classifier.load(small.bundle("SST-2", "int8"), options=RuntimeOptions(bfloat16=True))


def test_an_engine_that_is_not_installed_is_an_error_with_the_pip_command(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'openvino.*not installed.*pip install "q8bert\[runtime-openvino\]"'):
        Classifier.load(small.bundle("SST-2", "int8"), engine="openvino")


def test_who_has_openvino_alone_is_told_of_it(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("q8bert.machine.builds._version_of", lambda name: None)
    with pytest.raises(MissingExtraError, match="ask for it with engine='openvino', or --engine openvino"):
        Classifier.load(small.bundle("SST-2", "int8"))


def test_openvino_needs_no_onnx_runtime(small: Any) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from q8bert.runtime import Classifier
classifier = Classifier.load({str(small.bundle("SST-2", "int8"))!r}, engine="openvino", threads=1)
print(classifier(["good"])[0].label)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "positive\n", done.stderr


def test_the_gate_and_the_commands_take_the_engine(small: Any, tmp_path: Path, command: Callable[..., Result]) -> None:
    int8, float32, data = (small.bundle("SST-2", "int8"), small.bundle("SST-2", "float32"), small.data("SST-2"))
    report = verify(int8, float32, data, engine="openvino", min_size_ratio=1, max_relative_loss=1, threads=1)
    assert (report.passed, report.precision, report.kernels) == (True, "int8", "int8 (11 of 11 products)")
    assert report.metrics == evaluate(int8, data, threads=1).metrics
    done = command("evaluate", int8, "--data-dir", data, "--engine", "openvino", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "OpenVINO 20" in done.stderr
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n', encoding="utf-8")
    written = []
    for engine in ("openvino", "onnxruntime"):
        files = ("--input", tmp_path / "rows.jsonl", "--output", tmp_path / engine)
        assert command("predict", int8, *files, "--engine", engine, "--threads", 1).exit_code == 0
        written.append((tmp_path / engine).read_text(encoding="utf-8")[:40])
    assert written[0] == written[1]
    refused = command("evaluate", int8, "--data-dir", data, "--engine", "tensorrt")
    assert (refused.exit_code, "engine must be one of" in refused.stderr) == (2, True)


# ---- threads and processes ----------------------------------------------------------------------


def test_a_service_has_one_worker_for_an_engine_that_runs_one_batch_at_a_time(
    small: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("q8bert.runtime.service.async_classifier.available_cores", lambda: 8)
    classifier = Classifier.load(small.bundle("SST-2", "int8"), engine="openvino", threads=2)
    expected = [prediction.label for prediction in classifier(texts)]

    async def answers(**options: Any) -> tuple[int, list[Any]]:
        async with AsyncClassifier(classifier, **options) as service:
            return service._n_workers, await service.many(texts)

    for workers, options in ((1, {}), (3, {"workers": 3})):
        n_workers, found = asyncio.run(answers(**options))
        assert n_workers == workers
        assert [prediction.label for prediction in found] == expected


def test_a_pickle_keeps_the_engine(small: Any) -> None:
    options = RuntimeOptions.service()
    classifier = Classifier.load(small.bundle("SST-2", "int8"), engine="openvino", options=options)
    again = pickle.loads(pickle.dumps(classifier))
    assert (again.engine, again.threads) == ("openvino", 1)
    assert again(["good", "bad"]) == classifier(["good", "bad"])


FORK = """
import os, sys
from q8bert.runtime import Classifier
path, threads, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
classifier = Classifier.load(path, engine="openvino", threads=threads)
classifier(["good"])
child = os.fork()
if child == 0:
    if what != "end":
        try:
            if what == "load":
                classifier = Classifier.load(path, engine="openvino", threads=threads)
            print(classifier(["good"])[0].label)
        except Exception as error:
            print(type(error).__name__, "or start processes by spawn" in str(error))
    sys.exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@forks
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("what", "printed"), [("end", ""), ("run", "ForkedError True\n"), ("load", "ForkedError True\n")]
)
def test_a_forked_process_is_told_what_to_do_and_always_ends(small: Any, threads: int, what: str, printed: str) -> None:
    command = [sys.executable, "-c", FORK, str(small.bundle("SST-2", "int8")), str(threads), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (7, printed), done.stderr


def test_openvinos_telemetry_is_off_and_nothing_is_kept_in_the_users_folders(small: Any, tmp_path: Path) -> None:
    code = f"""
import sys
from q8bert.runtime import Classifier
Classifier.load({str(small.bundle("SST-2", "int8"))!r}, engine="openvino", threads=1)
print("openvino_telemetry" in sys.modules, "openvino" in sys.modules)
"""
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=os.environ | folders
    )
    assert done.stdout == "False True\n"
    assert list(tmp_path.iterdir()) == []
