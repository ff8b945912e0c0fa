"""The classifier: order kept, inputs checked, providers as asked."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from q8bert.glue.readers import read_split
from q8bert.glue.tasks import glue_task
from q8bert.runtime import Classifier
from q8bert.spec.environment import installed_ort_build
from q8bert.spec.errors import BundleError, InputError, ProviderError
from q8bert.spec.files import sha256_of


@pytest.fixture(scope="module")
def sentiment(small: Any) -> Classifier:
    return Classifier.load(small.bundle("SST-2", "int8"), threads=1)


@pytest.fixture(scope="module")
def similarity(small: Any) -> Classifier:
    return Classifier.load(small.bundle("STS-B", "int8"), threads=1)


@pytest.fixture(scope="module")
def texts(small: Any) -> list[str]:
    split = read_split(glue_task("SST-2"), small.data("SST-2"), "dev")
    return [example.text for example in split.examples]


def test_answers_are_in_order_whatever_the_batch_size(sentiment: Classifier, texts: list[str]) -> None:
    one_by_one = np.concatenate([sentiment.logits([text]) for text in texts])
    for batch_size in (3, 32, 1000):
        logits = sentiment.logits(texts, batch_size=batch_size)
        # ranges are frozen, so rows do not influence one another; float sums may order differently by shape, and a
        # rounding tie that falls the other way moves a logit by a few hundredths
        np.testing.assert_allclose(logits, one_by_one, rtol=0, atol=0.1)
        assert np.abs(logits - one_by_one).mean() < 1e-3


def test_it_learned_what_the_words_say(sentiment: Classifier) -> None:
    good, bad = sentiment(["a great , funny , moving film", "a dull , slow and empty story"])
    assert (good.label, bad.label) == ("positive", "negative")
    for prediction in (good, bad):
        assert prediction.probabilities is not None
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
        assert max(prediction.probabilities, key=lambda name: prediction.probabilities[name]) == prediction.label
        assert prediction.score is None


def test_probabilities_are_the_softmax_of_the_logits(sentiment: Classifier) -> None:
    logits = sentiment.logits(["a good film"])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    (prediction,) = sentiment(["a good film"])
    assert prediction.probabilities is not None
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)


def test_pairs_are_tuples_or_two_lists(similarity: Classifier) -> None:
    pairs = [("a good film", "a great plot"), ("bad", "a good , good , great , fine film")]
    as_tuples = similarity(pairs)
    as_lists = similarity([a for a, _ in pairs], [b for _, b in pairs])
    assert as_tuples == as_lists
    assert all(prediction.score is not None and prediction.label is None for prediction in as_tuples)


def test_empty_and_unusual_texts_are_answered(sentiment: Classifier) -> None:
    assert sentiment([]) == []
    assert len(sentiment(["", "\x00", "🤖 \u202e", "\n\t"])) == 4


def test_long_texts_are_cut_at_the_stored_length(sentiment: Classifier) -> None:
    words = ["good", "bad"] * 250
    n_kept = sentiment.bundle.manifest.max_length - 2  # [CLS] and [SEP]
    np.testing.assert_array_equal(sentiment.logits([" ".join(words)]), sentiment.logits([" ".join(words[:n_kept])]))


def test_wrong_input_is_refused(sentiment: Classifier, similarity: Classifier) -> None:
    with pytest.raises(InputError, match="a list of texts, not a single text"):
        sentiment("a film")
    with pytest.raises(InputError, match="task SST-2 takes single texts"):
        sentiment([("a", "b")])
    with pytest.raises(InputError, match="task STS-B takes pairs of texts"):
        similarity(["a"])
    with pytest.raises(InputError, match="2 texts and 1 second texts do not pair up"):
        similarity(["a", "b"], ["c"])
    with pytest.raises(InputError, match="row 1 must be a text or a pair of texts, got 5"):
        sentiment(["a", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="every text must be a str, got None"):
        similarity([("a", None)])  # type: ignore[list-item]
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        sentiment(["a"], batch_size=0)


def test_threads_do_not_mix_answers_up(sentiment: Classifier, texts: list[str]) -> None:
    alone = [sentiment([text])[0] for text in texts[:40]]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: sentiment([text])[0], texts[:40]))
    assert together == alone


def test_a_provider_that_cannot_be_had_is_an_error(small: Any) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has CUDA")
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider was asked for, but onnxruntime.* has .*CPUExecutionProvider"
    ):
        Classifier.load(small.bundle("SST-2", "int8"), providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="none was asked for"):
        Classifier.load(small.bundle("SST-2", "int8"), providers=[])


def test_a_model_that_onnx_runtime_cannot_load_is_a_bundle_error(small: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in small.bundle("SST-2", "int8").iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    (bundle / "model.onnx").write_bytes(b"not a model")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {"size_bytes": 11, "sha256": sha256_of(bundle / "model.onnx")}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="could not load"):
        Classifier.load(bundle)
    (bundle / "model.onnx").write_bytes((small.bundle("SST-2", "int8") / "model.onnx").read_bytes())
    manifest["files"]["model.onnx"] = {
        "size_bytes": (bundle / "model.onnx").stat().st_size,
        "sha256": sha256_of(bundle / "model.onnx"),
    }
    manifest["input_names"] = ["input_ids", "attention_mask"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="disagree on the inputs token_type_ids"):
        Classifier.load(bundle)


def test_inference_never_imports_torch_transformers_or_onnx(small: Any) -> None:
    if installed_ort_build().can_train:
        pytest.skip("the training build of ONNX Runtime imports torch by itself")
    code = (
        "import sys; from q8bert.runtime import Classifier; "
        f"Classifier.load({str(small.bundle('SST-2', 'int8'))!r}, threads=1)(['a film']); "
        "print(sorted({'torch', 'transformers', 'onnx', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
