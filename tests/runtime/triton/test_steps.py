"""The steps as Triton calls them, without Triton: together they answer as the library does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from q8bert.runtime import Classifier
from q8bert.runtime.triton.options import TritonOptions
from q8bert.runtime.triton.repository import write_repository
from q8bert.runtime.triton.steps.backend import place_of
from q8bert.runtime.triton.steps.choice import load_step
from q8bert.runtime.triton.steps.step import Outcome, Place, Step
from q8bert.spec.errors import BundleError, ConfigError

REQUESTS = [["a good film", "dull"], ["the " * 50], ["", "ünï 日本 😀", "very clever"], ["bad"]]
TOLERANCE = 1e-5


def place(repository: Path, model: str, parameters: Mapping[str, str], gpu: int | None = None) -> Place:
    """What Triton tells the step of a model."""
    return place_of({
        "model_repository": str(repository / model),
        "model_version": "1",
        "model_config": json.dumps({"parameters": {key: {"string_value": one} for key, one in parameters.items()}}),
        "model_instance_kind": "CPU" if gpu is None else "GPU",
        "model_instance_device_id": str(gpu or 0),
    })  # fmt: skip


def tokenizer(repository: Path, backend: str, **others: str) -> Step:
    parameters = {"step": "tokenizer", "model": "it-model", "backend": backend, "on_long": "truncate"}
    return load_step(place(repository, "it-tokenizer", {**parameters, "max_characters": "1000", **others}))


def model(repository: Path) -> Step:
    return load_step(place(repository, "it-model", {"step": "model", "threads": "1", "max_batch_size": "4"}))


def labels(repository: Path) -> Step:
    return load_step(place(repository, "it-labels", {"step": "labels"}))


def column(texts: Sequence[str | bytes]) -> Any:
    return np.array([[text.encode() if isinstance(text, str) else text] for text in texts], dtype=np.object_)


def arrays(outcome: Outcome) -> Mapping[str, Any]:
    assert not isinstance(outcome, Exception), outcome
    return outcome


@pytest.fixture
def written(small: Any, tmp_path: Path) -> Any:
    def write(task: str, backend: str) -> tuple[Path, Path]:
        bundle = small.bundle(task, "int8")
        write_repository([f"it={bundle}"], tmp_path / "repository", options=TritonOptions(backend=backend))
        return bundle, tmp_path / "repository"

    return write


def logits_of_onnx_runtime(bundle: Path, ids: Mapping[str, Any]) -> Any:
    """What Triton's own backend does: the file, the inputs by name, nothing else."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {one.name: ids[one.name] for one in session.get_inputs()})[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_labels_and_probabilities_are_the_librarys(written: Any, backend: str) -> None:
    bundle, repository = written("SST-2", backend)
    tokenized = [arrays(one) for one in tokenizer(repository, backend).run([{"text": column(r)} for r in REQUESTS])]
    if backend == "python":
        logits = [arrays(one)["logits"] for one in model(repository).run(tokenized)]
    else:
        logits = [logits_of_onnx_runtime(bundle, ids) for ids in tokenized]
    answers = [arrays(one) for one in labels(repository).run([{"logits": one} for one in logits])]
    library = Classifier.load(bundle, threads=1)
    for rows, ids, answer in zip(REQUESTS, tokenized, answers, strict=True):
        expected = library(rows)
        assert answer["label"].tolist() == [[str(one.label).encode()] for one in expected]
        np.testing.assert_allclose(
            answer["probabilities"], [[*(one.probabilities or {}).values()] for one in expected], atol=TOLERANCE
        )
        assert answer["probabilities"].dtype == np.float32
        assert ids["truncated"].tolist() == [[one.truncated] for one in expected]


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_scores_of_pairs_are_the_librarys(written: Any, backend: str) -> None:
    bundle, repository = written("STS-B", backend)
    pairs = [("a good film", "a great film"), ("dull", "the clever plot"), ("x", "y " * 40)]
    first, second = zip(*pairs, strict=True)
    (ids,) = tokenizer(repository, backend).run([{"text": column(first), "text_pair": column(second)}])
    if backend == "python":
        (outcome,) = model(repository).run([arrays(ids)])
        logits = arrays(outcome)["logits"]
    else:
        logits = logits_of_onnx_runtime(bundle, arrays(ids))
    (answer,) = labels(repository).run([{"logits": logits}])
    expected = [[one.score] for one in Classifier.load(bundle, threads=1)(pairs)]
    np.testing.assert_allclose(arrays(answer)["score"], expected, atol=5 * TOLERANCE)


def test_lengths_are_rounded_up_only_where_tritons_batcher_needs_it(written: Any) -> None:
    _, repository = written("SST-2", "onnxruntime")
    lengths = {
        backend: [
            arrays(one)["input_ids"].shape[1]
            for one in tokenizer(repository, backend).run([{"text": column(rows)} for rows in (["a"], ["the " * 50])])
        ]
        for backend in ("onnxruntime", "python")
    }
    assert lengths["python"] == [3, 32], "two special tokens, and no more than the bundle's maximum"
    assert lengths["onnxruntime"] == [8, 32]


def test_a_request_that_does_not_fit_fails_alone(written: Any) -> None:
    _, repository = written("SST-2", "python")
    step = tokenizer(repository, "python", on_long="refuse", max_characters="150")
    outcomes = step.run([
        {"text": column(["good", b"\xff"])},
        {"text": column(["good"])},
        {"text": column(["the " * 35])},
        {"text": column(["x" * 151])},
    ])  # fmt: skip
    assert [type(one).__name__ for one in outcomes] == ["InputError", "dict", "InputError", "InputError"]
    assert "row 1 of text is not UTF-8, at its byte 0" in str(outcomes[0])
    assert "row 0 has more than the 32 tokens" in str(outcomes[2])
    assert "151 characters" in str(outcomes[3])


def test_a_row_that_the_model_cannot_run_fails_its_own_request(written: Any) -> None:
    _, repository = written("SST-2", "python")
    step = model(repository)
    good = {"input_ids": [[2, 5, 3]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}
    bad = {**good, "input_ids": [[2, 10**6, 3]]}
    outcomes = step.run([{name: np.array(values) for name, values in one.items()} for one in (good, bad, good)])
    assert isinstance(outcomes[1], BundleError)
    np.testing.assert_array_equal(arrays(outcomes[0])["logits"], arrays(outcomes[2])["logits"])


def test_logits_that_are_no_numbers_are_an_error(written: Any) -> None:
    _, repository = written("SST-2", "python")
    outcomes = labels(repository).run([{"logits": np.array([[np.nan, 1]])}, {"logits": np.array([[0.0, 1.0]])}])
    assert isinstance(outcomes[0], BundleError)
    assert arrays(outcomes[1])["label"].tolist() == [[b"positive"]]


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_the_tokenizer_is_not_ready_beside_a_damaged_model(written: Any, name: str) -> None:
    # Triton's own backend checks nothing
    _, repository = written("SST-2", "onnxruntime")
    path = repository / "it-model" / "1" / name
    path.write_bytes(path.read_bytes().replace(b"o", b"p", 1))
    with pytest.raises(BundleError, match=name):
        tokenizer(repository, "onnxruntime")


def test_the_tokenizer_is_not_ready_beside_another_model(written: Any, small: Any) -> None:
    _, repository = written("SST-2", "onnxruntime")
    shutil.rmtree(repository / "it-model" / "1")
    shutil.copytree(small.bundle("SST-2", "float32"), repository / "it-model" / "1")
    with pytest.raises(BundleError, match="another bundle"):
        tokenizer(repository, "onnxruntime")


def test_every_step_checks_its_own_files(written: Any) -> None:
    _, repository = written("SST-2", "python")
    for model_name, name in (
        ("it-tokenizer", "tokenizer.json"),
        ("it-labels", "manifest.json"),
        ("it-model", "model.onnx"),
    ):
        path = repository / model_name / "1" / name
        path.write_bytes(path.read_bytes()[:-20])
    for load in (lambda: tokenizer(repository, "python"), lambda: labels(repository), lambda: model(repository)):
        with pytest.raises(BundleError):
            load()


@pytest.mark.parametrize("step", ["tokenizer", "labels"])
def test_tokenizer_and_labels_need_no_engine(written: Any, step: str) -> None:
    _, repository = written("SST-2", "onnxruntime")
    parameters = {
        "step": step,
        "model": "it-model",
        "backend": "onnxruntime",
        "on_long": "truncate",
        "max_characters": "9",
    }
    code = f"""
import sys
sys.modules.update(onnxruntime=None, openvino=None, torch=None)
from pathlib import Path
from q8bert.runtime.triton.steps.choice import load_step
from q8bert.runtime.triton.steps.step import Place
print(type(load_step(Place(Path({str(repository / f"it-{step}" / "1")!r}), {parameters!r}))).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == {"tokenizer": "TokenizerStep", "labels": "LabelStep"}[step], done.stderr


def test_a_step_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step must be one of"):
        load_step(place(tmp_path, "it", {"step": "nothing"}))


def test_a_place_says_which_gpu() -> None:
    assert place(Path("r"), "m", {}, gpu=3).gpu == 3
    assert place(Path("r"), "m", {}).gpu is None
    assert place(Path("r"), "m", {"a": "b"}).parameters == {"a": "b"}
    assert place(Path("r"), "m", {}).folder == Path("r/m/1")
