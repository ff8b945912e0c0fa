"""One contender of `bench_inference.py`, in a process and a Python environment of its own.

Started by the parent with one JSON object as its argument; answers each line of JSON on stdin with one on stdout.
A *tensor* contender runs batches of random tokens, a *text* contender a whole dev split from texts to labels.
Times are of the call alone; CPU seconds are of all threads of this process.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from bench_openvino import OpenVinoModel
from bench_torchao import TorchaoModel
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.int64]]
TensorModel = Callable[[Arrays], NDArray[np.float32]]
Answers = list[str | float]
TextModel = Callable[[Sequence[str], Sequence[str] | None], Answers]

_PACKAGES = (
    "q8bert", "onnxruntime", "onnxruntime-training-cpu", "onnx", "openvino", "tokenizers", "torch", "transformers",
    "numpy", "ctranslate2", "nncf", "torchao",
)  # fmt: skip
_N_WARM_UP_ROWS = 64
_N_TOGETHER, _SHORTEST, _LONGEST = 32, 8, 64


@dataclass(frozen=True)
class Order:
    """What this process is to be: a kind, with a model file, a bundle or a Hugging Face folder; then for texts only."""

    kind: str
    path: str
    threads: int
    options: dict[str, str] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)  # as the bundle's manifest has it
    bundle: str = ""  # whose tokenizer is used where the model has none
    max_length: int = 128
    batch_size: int = 32


def q8bert_session(order: Order) -> TensorModel:
    """Run a file as q8bert's runtime does."""
    from q8bert.runtime import RuntimeOptions
    from q8bert.runtime.engines.session import Session

    session = Session(Path(order.path), options=RuntimeOptions.batch(threads=order.threads))
    return lambda arrays: session.run({name: arrays[name] for name in session.input_names})


def q8bert_openvino(order: Order) -> TensorModel:
    """Run a file as q8bert's engine openvino does."""
    from q8bert.runtime import RuntimeOptions
    from q8bert.runtime.engines.openvino_session import OpenVinoSession

    session = OpenVinoSession(Path(order.path).read_bytes(), options=RuntimeOptions.batch(threads=order.threads))
    return lambda arrays: session.run({name: arrays[name] for name in session.input_names})


def onnxruntime_session(order: Order) -> TensorModel:
    """Run a file on ONNX Runtime with its defaults."""
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = order.threads
    options.log_severity_level = 3
    session = ort.InferenceSession(order.path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda arrays: np.asarray(session.run(None, {name: arrays[name] for name in names})[0])


def torch_model(order: Order) -> TensorModel:
    """Run a Hugging Face folder in eager torch; option ``dynamic`` quantizes its Linear layers."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(order.threads)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(order.path).eval()
    if order.options.get("dynamic"):
        quantization: Any = importlib.import_module("torch.ao.quantization")
        model = quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def run(arrays: Arrays) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
        return np.asarray(logits.numpy())

    return run


def ctranslate2_encoder(order: Order) -> TensorModel:
    """Run an encoder and its pooler on CTranslate2 in INT8, and the head in numpy."""
    ctranslate2: Any = importlib.import_module("ctranslate2")
    encoder = ctranslate2.Encoder(
        order.path, device="cpu", compute_type="int8", inter_threads=1, intra_threads=order.threads
    )
    with np.load(Path(order.path) / "head.npz") as head:
        weight, bias = head["weight"], head["bias"]

    def run(arrays: Arrays) -> NDArray[np.float32]:
        lengths = arrays["attention_mask"].sum(axis=1).tolist()
        rows = [row[:length].tolist() for row, length in zip(arrays["input_ids"], lengths, strict=True)]
        kinds = arrays.get("token_type_ids", np.zeros_like(arrays["input_ids"]))
        types = [row[:length].tolist() for row, length in zip(kinds, lengths, strict=True)]
        pooled = np.array(encoder.forward_batch(rows, token_type_ids=types).pooler_output)
        return np.asarray(pooled @ weight.T + bias, dtype=np.float32)

    return run


def openvino_model(order: Order) -> TensorModel:
    """Run a file on OpenVINO as its users do."""
    return OpenVinoModel(order.path, threads=order.threads, options=order.options)


def torchao_model(order: Order) -> TensorModel:
    """Run a program that torchao quantized, compiled."""
    return TorchaoModel(order.path, threads=order.threads)


def classifier(order: Order) -> TextModel:
    """Run a bundle as a service does."""
    from q8bert.runtime import Classifier, RuntimeOptions

    engine = order.options.get("engine", "onnxruntime")
    model = Classifier.load(order.path, engine=engine, options=RuntimeOptions.batch(threads=order.threads))

    def run(texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        found = model(texts, pairs, batch_size=order.batch_size)
        return [answer.score if answer.label is None else answer.label for answer in found]  # type: ignore[misc]

    return run


def batches_of_tensors(order: Order) -> TextModel:
    """Run the tensor contender of option ``tensors`` on texts, in batches by length or ``padded`` to the maximum."""
    from q8bert.spec.bundle.bundle import open_bundle
    from q8bert.text.batching import model_inputs, sorted_batches
    from q8bert.text.tokenizer import TextTokenizer

    bundle = open_bundle(order.bundle)
    names, pad = bundle.manifest.input_names, bundle.manifest.pad_token_id
    tokenizer = TextTokenizer.load(bundle.tokenizer_path, max_length=order.max_length)
    model = TENSOR_KINDS[order.options["tensors"]](order)
    is_padded = "padded" in order.options

    def padded(arrays: Arrays) -> Arrays:
        missing = order.max_length - arrays["input_ids"].shape[1]
        fill = {"input_ids": pad}
        return {
            name: np.pad(array, ((0, 0), (0, missing)), constant_values=fill.get(name, 0))
            for name, array in arrays.items()
        }

    def run(texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        encoded = tokenizer.encode(texts, pairs)
        lengths = encoded.lengths
        logits = np.zeros((len(texts), len(order.task["labels"] or [""])), dtype=np.float32)
        batches = sorted_batches(lengths * (not is_padded), order.batch_size)  # of equal lengths the order stays
        for rows in batches:
            arrays = model_inputs(encoded, rows, names, pad_token_id=pad)
            logits[rows] = model(padded(arrays) if is_padded else arrays)
        if labels := order.task["labels"]:
            return [labels[i] for i in logits.argmax(axis=1)]
        return [float(value) for value in logits[:, 0]]

    return run


def huggingface_pipeline(order: Order) -> TextModel:
    """Run `transformers.pipeline` in float32."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    torch.set_num_threads(order.threads)
    pipeline = transformers.pipeline(
        "text-classification", model=order.path, device="cpu", batch_size=order.batch_size, dtype=torch.float32
    )
    key = "label" if order.task["labels"] else "score"

    def run(texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        rows: list[Any] = list(texts)
        if pairs is not None:
            rows = [{"text": text, "text_pair": pair} for text, pair in zip(texts, pairs, strict=True)]
        return [found[key] for found in pipeline(rows, truncation=True, max_length=order.max_length)]

    return run


TENSOR_KINDS: dict[str, Callable[[Order], TensorModel]] = {
    "q8bert": q8bert_session, "onnxruntime": onnxruntime_session, "torch": torch_model, "openvino": openvino_model,
    "ctranslate2": ctranslate2_encoder, "q8bert_openvino": q8bert_openvino, "torchao": torchao_model,
}  # fmt: skip
TEXT_KINDS: dict[str, Callable[[Order], TextModel]] = {
    "classifier": classifier, "batches": batches_of_tensors, "pipeline": huggingface_pipeline,
}  # fmt: skip


def time_calls(model: TensorModel, *, shape: tuple[int, int], seed: int, n_calls: int) -> dict[str, Any]:
    """Run the same random rows some times; returns seconds of each call and the logits."""
    draw = np.random.default_rng(seed)
    arrays = {
        "input_ids": draw.integers(1000, 30000, shape), "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }  # fmt: skip
    times = [_timed(lambda: model(arrays)) for _ in range(n_calls)]
    return {
        "wall": [wall for wall, _, _ in times],
        "cpu": [cpu for _, cpu, _ in times],
        "result": times[-1][2].tolist(),
    }


def compare_batches(model: TensorModel, *, seed: int) -> dict[str, Any]:
    """Run rows of several lengths one by one and as one padded batch; returns the largest difference of a logit."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(_SHORTEST, _LONGEST + 1, _N_TOGETHER)
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    batch = {
        "input_ids": draw.integers(1000, 30000, mask.shape) * mask, "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }  # fmt: skip
    together = model(batch)
    alone = [
        model({name: np.ascontiguousarray(array[row : row + 1, :length]) for name, array in batch.items()})
        for row, length in enumerate(lengths)
    ]
    return {"largest_difference": float(np.abs(np.concatenate(alone) - together).max())}


def time_split(model: TextModel, order: Order, *, data_dir: str, warm_up: bool) -> dict[str, Any]:
    """Run a dev split from texts to answers; reading the file is not timed."""
    from q8bert.data.examples import text_columns
    from q8bert.data.readers import read_split
    from q8bert.tasks.task import task_from_json

    task = task_from_json(order.task, source="the bundle")
    examples = read_split(task, data_dir, "dev").examples[: _N_WARM_UP_ROWS if warm_up else None]
    texts, pairs = text_columns(examples)
    wall, cpu, answers = _timed(lambda: model(texts, pairs))
    return {"wall": [wall], "cpu": [cpu], "n_rows": len(texts), "result": answers}


def _timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def versions() -> dict[str, str]:
    """Return the versions of what is installed here."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def serve(order: Order, answers: TextIO) -> None:
    """Answer requests until stdin ends; a contender that cannot be made says why and ends."""

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        text = TEXT_KINDS[order.kind](order) if order.kind in TEXT_KINDS else None
        tensor = TENSOR_KINDS[order.kind](order) if text is None else None
        answer({"versions": versions()})
        for line in sys.stdin:
            request = json.loads(line)
            if text is not None:
                result = time_split(text, order, **request)
            elif tensor is not None and request.pop("compare_batches", False):
                result = compare_batches(tensor, **request)
            elif tensor is not None:
                result = time_calls(tensor, **{**request, "shape": tuple(request["shape"])})
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            answer(result | {"peak_memory_mb": peak})
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is the reason why it is left out
        answer({"skipped": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})


def main() -> None:
    """Serve on what stdout was; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Order(**json.loads(sys.argv[1])), answers)


if __name__ == "__main__":
    main()
