"""Every ``config.pbtxt``, read by protobuf, and held to the ONNX file that it describes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from q8bert.runtime.triton.options import TritonOptions
from q8bert.runtime.triton.plan import plan_of

pytest.importorskip("grpc")  # or the next line raises something else
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")

ONNX_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
EVERY = [(backend, device) for backend in ("onnxruntime", "python") for device in ("cpu", "gpu")]


def configs(bundle: Path, **options: Any) -> dict[str, Any]:
    plan = plan_of("it", bundle, TritonOptions(**options), version=3)
    found = {}
    for model in plan.models:
        config = text_format.Parse(model.shared["config.pbtxt"].decode(), model_config.ModelConfig())
        assert config.name == model.name
        found[model.name] = config
    return found


def described(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {one.name: (model_config.DataType.Name(one.data_type), list(one.dims)) for one in tensors}


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_the_models_tensors_are_those_of_the_onnx_file(small: Any, task: str) -> None:
    bundle = small.bundle(task, "int8")
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    config = configs(bundle)["it-model"]
    assert config.backend == "onnxruntime"
    for given, in_file in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        # the first axis is that of the rows, which Triton leaves out; one that has a name has any length
        assert described(given) == {
            one.name: (ONNX_TYPES[one.type], [size if isinstance(size, int) else -1 for size in one.shape[1:]])
            for one in in_file
        }


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
@pytest.mark.parametrize(("backend", "device"), EVERY)
def test_the_ensembles_tensors_lead_from_step_to_step(small: Any, task: str, backend: str, device: str) -> None:
    found = configs(small.bundle(task, "int8"), backend=backend, device=device)
    ensemble = found["it"]
    known = described(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        model = found[step.model_name]
        assert step.model_version == 3
        assert model.max_batch_size == ensemble.max_batch_size
        assert dict(step.input_map) == {name: name for name in described(model.input)}
        assert dict(step.output_map) == {name: name for name in described(model.output)}
        for name, kind in described(model.input).items():
            assert known[name] == kind, name
        known |= described(model.output)
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["it-tokenizer", "it-model", "it-labels"]
    assert described(ensemble.output).items() <= known.items()
    assert list(ensemble.version_policy.specific.versions) == [3]


def test_a_gpu_gets_the_form_of_the_model_that_was_made_for_it(small: Any, altered: Any) -> None:
    bundle = small.bundle("SST-2", "int8")
    target = {"file": "model.cuda.onnx", "max_abs_diff": 0.0, "n_rows": 1}
    both = altered(
        bundle,
        files={"model.cuda.onnx": (bundle / "model.onnx").read_bytes()},
        change=lambda manifest: manifest.update(targets={"cuda": target}),
    )
    names = {
        (path == both, device, backend): configs(path, device=device, backend=backend)[
            "it-model"
        ].default_model_filename
        for path in (bundle, both)
        for backend, device in EVERY
    }
    assert {key: name for key, name in names.items() if name == "model.cuda.onnx"} == {
        (True, "gpu", "onnxruntime"): "model.cuda.onnx"
    }
    assert {name for (_, _, backend), name in names.items() if backend == "python"} == {""}, (
        "the runtime chooses itself"
    )


def test_callers_see_texts_and_answers(small: Any) -> None:
    labels = configs(small.bundle("SST-2", "int8"))["it"]
    assert described(labels.input) == {"text": ("TYPE_STRING", [1])}
    assert described(labels.output) == {
        "label": ("TYPE_STRING", [1]), "probabilities": ("TYPE_FP32", [2]), "truncated": ("TYPE_BOOL", [1]),
    }  # fmt: skip
    score = configs(small.bundle("STS-B", "int8"))["it"]
    assert described(score.input) == {"text": ("TYPE_STRING", [1]), "text_pair": ("TYPE_STRING", [1])}
    assert described(score.output) == {"score": ("TYPE_FP32", [1]), "truncated": ("TYPE_BOOL", [1])}


@pytest.mark.parametrize(("backend", "device"), EVERY)
def test_what_was_asked_for_stands_in_the_configuration(small: Any, backend: str, device: str) -> None:
    found = configs(
        small.bundle("SST-2", "int8"), backend=backend, device=device, instances=3, tokenizers=2, threads=5,
        max_batch_size=16, max_delay_us=700, max_queue=9, timeout_ms=250, on_long="refuse", max_characters=77, keep=4,
    )  # fmt: skip
    tokenizer, model, labels = (found[f"it-{step}"] for step in ("tokenizer", "model", "labels"))
    assert {one.max_batch_size for one in found.values()} == {16}
    kinds = model_config.ModelInstanceGroup.Kind
    assert [(kinds.Name(one.instance_group[0].kind), one.instance_group[0].count) for one in (tokenizer, labels)] == [
        ("KIND_CPU", 2), ("KIND_CPU", 1),
    ]  # fmt: skip
    assert (kinds.Name(model.instance_group[0].kind), model.instance_group[0].count) == (f"KIND_{device.upper()}", 3)
    assert model.dynamic_batching.max_queue_delay_microseconds == 700
    for one in (tokenizer, model):
        policy = one.dynamic_batching.default_queue_policy
        assert policy.timeout_action == model_config.ModelQueuePolicy.REJECT
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 250_000)
        assert policy.allow_timeout_override
        assert one.version_policy.latest.num_versions == 4
    threads = "threads" if backend == "python" else "intra_op_thread_count"
    assert model.parameters[threads].string_value == "5"
    assert (model.backend, tokenizer.backend, labels.backend) == (backend, "python", "python")
    assert [one.allow_ragged_batch for one in model.input] == [backend == "python"] * len(model.input)
    assert {key: value.string_value for key, value in tokenizer.parameters.items()} == {
        "step": "tokenizer", "model": "it-model", "backend": backend, "on_long": "refuse", "max_characters": "77",
    }  # fmt: skip


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_the_model_is_warmed_up_with_rows_that_it_can_run(small: Any, backend: str) -> None:
    bundle = small.bundle("SST-2", "int8")
    plan = plan_of("it", bundle, TritonOptions(backend=backend, max_batch_size=8), version=1)
    config = text_format.Parse(plan.steps[1].shared["config.pbtxt"].decode(), model_config.ModelConfig())
    assert [one.batch_size for one in config.model_warmup] == [1, 8]
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    for warmup in config.model_warmup:
        assert set(warmup.inputs) == {one.name for one in config.input}
        inputs = {
            name: np.frombuffer(plan.steps[1].shared[f"warmup/{one.input_data_file}"], dtype="<i8").reshape(
                1, *one.dims
            )
            for name, one in warmup.inputs.items()
        }
        (logits,) = session.run(["logits"], {one.name: inputs[one.name] for one in session.get_inputs()})
        assert np.isfinite(logits).all()
        assert inputs["input_ids"].shape == (1, 32)
        assert inputs["attention_mask"].all()


def test_the_labels_stand_in_a_file_in_the_order_of_their_ids(small: Any) -> None:
    plan = plan_of("it", small.bundle("SST-2", "int8"), TritonOptions(), version=1)
    config = text_format.Parse(plan.steps[2].shared["config.pbtxt"].decode(), model_config.ModelConfig())
    files = {one.name: one.label_filename for one in config.output}
    assert files == {"label": "", "probabilities": "labels.txt"}
    assert plan.steps[2].shared["labels.txt"] == b"negative\npositive\n"
    assert "labels.txt" not in plan_of("it", small.bundle("STS-B", "int8"), TritonOptions(), version=1).steps[2].shared
