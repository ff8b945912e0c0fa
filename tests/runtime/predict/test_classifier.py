"""The classifier: answers in order, inputs checked, bundles believed only as far as they agree with themselves."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from q8bert.data.readers import read_split
from q8bert.machine.builds import installed_ort_build
from q8bert.runtime import Classifier, RuntimeOptions
from q8bert.runtime.engines.session import Session
from q8bert.runtime.predict.loading import LoadedModel
from q8bert.spec.bundle.bundle import open_bundle
from q8bert.spec.errors import BundleError, ConfigError, InputError
from q8bert.tasks.glue import glue_task


def with_logits(bundle: Path, compute: Callable[[Mapping[str, Any]], NDArray[np.float32]]) -> Classifier:
    """Return a classifier whose model is a function."""
    opened = open_bundle(bundle)
    session: Any = SimpleNamespace(
        input_names=opened.manifest.input_names, run=compute, options=RuntimeOptions(threads=1)
    )
    return Classifier(LoadedModel(opened, "main", session, opened.tokenizer_path.read_text(encoding="utf-8")))


def ids_of(bundle: Path, tokens: str) -> list[int]:
    """Look tokens up in the vocabulary, without the tokenizer."""
    vocabulary = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return [vocabulary[token] for token in tokens.split()]


def received(bundle: Path, row: Any) -> dict[str, list[int]]:
    """Return the inputs that the model is given for one row."""
    given: list[Mapping[str, Any]] = []

    def note(inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        given.append(inputs)
        return np.zeros((1, 2 if isinstance(row, str) else 1), dtype=np.float32)

    with_logits(bundle, note).logits([row])
    (inputs,) = given
    return {name: values[0].tolist() for name, values in inputs.items()}


# ---- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("batch_size", [3, 32, 1000])
def test_logits_do_not_depend_on_the_batch_size(small: Any, texts: list[str], precision: str, batch_size: int) -> None:
    classifier = Classifier.load(small.bundle("SST-2", precision), threads=1)
    one_by_one = classifier.logits(texts, batch_size=1)
    logits = classifier.logits(texts, batch_size=batch_size)
    # Activation ranges are frozen, so rows do not influence one another; what may differ with the batch's shape is the
    # order of float sums. In float32 that is 1e-5. In INT8 it can tip a rounding tie, which moves one activation by
    # one step of 1/127 of its range and a logit (of size 2.5) by a few hundredths, in few rows.
    np.testing.assert_allclose(logits, one_by_one, rtol=0, atol=0.1 if precision == "int8" else 1e-4)
    assert np.abs(logits - one_by_one).mean() < 1e-3
    assert one_by_one.std() > 0.5, "rows must differ, or their order is not seen"


def test_labels_are_in_the_order_of_the_texts(sentiment: Classifier) -> None:
    # lengths fall and rise, so that sorting by length inside has to be undone
    words = ["good", "bad", "great", "dull", "good", "poor", "clever", "cold"]
    lengths = [9, 1, 7, 12, 2, 5, 1, 8]
    predictions = sentiment([" ".join([word] * n) for word, n in zip(words, lengths, strict=True)], batch_size=3)
    assert [prediction.label for prediction in predictions] == ["positive", "negative"] * 4


@given(n_words=st.lists(st.integers(0, 40), max_size=50), batch_size=st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_every_row_gets_its_own_answer(small: Any, n_words: list[int], batch_size: int) -> None:
    def lengths(inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        assert len(inputs["input_ids"]) <= batch_size
        n_tokens = inputs["attention_mask"].sum(axis=1).astype(np.float32)
        return np.stack([n_tokens, -n_tokens], axis=1)

    classifier = with_logits(small.bundle("SST-2", "int8"), lengths)
    logits = classifier.logits([" ".join(["good"] * n) for n in n_words], batch_size=batch_size)
    assert logits.shape == (len(n_words), 2)
    # [CLS], the words, [SEP], and never more than the bundle's 32
    assert logits[:, 0].tolist() == [min(n + 2, 32) for n in n_words]


def test_a_neighbour_does_not_change_an_answer(sentiment: Classifier) -> None:
    text = "the film was funny"
    alone = sentiment.logits([text])
    beside = sentiment.logits(["bad " * 30, text, "", "great " * 30])
    # INT8: padding to the neighbour's length may tip a rounding tie, see above
    np.testing.assert_allclose(beside[1:2], alone, rtol=0, atol=0.1)


def test_eight_threads_do_not_mix_answers_up(sentiment: Classifier, texts: list[str]) -> None:
    portions = [texts[start::8] for start in range(8)]
    alone = [sentiment(portion, batch_size=4) for portion in portions]
    barrier = Barrier(8)

    def work(portion: list[str]) -> list[Any]:
        barrier.wait(timeout=60)
        return [sentiment(portion, batch_size=4) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, portions))
    # the same batches give the same bits
    assert together == [[answers] * 5 for answers in alone]


def test_thirty_two_threads_of_single_rows_get_their_own_answers(similarity: Classifier) -> None:
    rng = random.Random(3)
    words = ["good", "bad", "the", "clever", "film", "plot", "dull", "great"]
    rows = [tuple(" ".join(rng.choices(words, k=rng.randint(0, 60))) for _ in range(2)) for _ in range(640)]
    alone = [similarity([row]) for row in rows]
    assert len({answer[0].score for answer in alone}) > 400, "equal answers would not show a mix-up"
    barrier = Barrier(32)

    def work(start: int) -> list[Any]:
        barrier.wait(timeout=60)
        return [similarity([row]) for row in rows[start::32]]

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(work, range(32)))
    assert together == [alone[start::32] for start in range(32)]


# ---- what goes in -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_text_becomes_the_ids_of_its_words_between_cls_and_sep(small: Any, precision: str) -> None:
    bundle = small.bundle("SST-2", precision)
    ids = ids_of(bundle, "[CLS] good film . [SEP]")
    inputs = {"input_ids": ids, "attention_mask": [1] * 5, "token_type_ids": [0] * 5}
    assert received(bundle, "Good film.") == inputs
    by_hand = Session(bundle / "model.onnx", threads=1).run(
        {name: np.array([values], dtype=np.int64) for name, values in inputs.items()}
    )
    np.testing.assert_array_equal(Classifier.load(bundle, threads=1).logits(["Good film."]), by_hand)


def test_special_tokens_in_a_text_are_text(small: Any, altered: Callable[..., Path]) -> None:
    bundle = small.bundle("SST-2", "int8")
    text = "good [SEP] bad [PAD]"
    as_text = ids_of(bundle, "[CLS] good [UNK] [UNK] [UNK] bad [UNK] [UNK] [UNK] [SEP]")
    assert received(bundle, text)["input_ids"] == as_text
    assert received(small.bundle("STS-B", "int8"), (text, "[CLS]"))["input_ids"] == [
        *as_text, *ids_of(bundle, "[UNK] [UNK] [UNK] [SEP]")
    ]  # fmt: skip
    obeyed = ids_of(bundle, "[CLS] good [SEP] bad [PAD] [SEP]")
    for change in (
        lambda manifest: manifest.update(obey_special_tokens=True),
        lambda manifest: manifest.pop("obey_special_tokens"),
    ):
        assert received(altered(bundle, change=change), text)["input_ids"] == obeyed


def test_a_pair_becomes_two_segments(small: Any) -> None:
    bundle = small.bundle("STS-B", "int8")
    assert received(bundle, ("good film", "dull")) == {
        "input_ids": ids_of(bundle, "[CLS] good film [SEP] dull [SEP]"),
        "attention_mask": [1, 1, 1, 1, 1, 1],
        "token_type_ids": [0, 0, 0, 0, 1, 1],
    }


def test_pairs_are_tuples_or_two_lists(similarity: Classifier) -> None:
    first, second = ["a good film", "bad", "the plot"], ["a great plot", "good , good , great", ""]
    as_lists = similarity(first, second)
    assert similarity(list(zip(first, second, strict=True))) == as_lists
    assert as_lists != similarity(second, first), "the two columns must not be interchangeable"


def test_pairs_are_lists_too_as_json_has_them_and_rows_may_come_from_an_iterator(
    sentiment: Classifier, similarity: Classifier
) -> None:
    pairs = [("a good film", "a great plot"), ("bad", "")]
    expected = similarity(pairs)
    assert similarity(json.loads(json.dumps(pairs))) == similarity(iter(pairs)) == expected
    assert similarity((first for first, _ in pairs), (second for _, second in pairs)) == expected
    texts = ["a good film", "bad"]
    assert sentiment(iter(texts)) == sentiment(np.array(texts)) == sentiment(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("texts", [{"a": "b"}, {"a"}, frozenset({"a"}), {"a": 1}.keys(), b"a", 5, None, np.array("a")])
def test_texts_without_an_order_are_refused(sentiment: Classifier, similarity: Classifier, texts: Any) -> None:
    with pytest.raises(InputError, match="give "):
        sentiment(texts)
    if texts is not None:
        with pytest.raises(InputError, match="give "):
            similarity(["a"], texts)


def test_no_texts_give_no_predictions(sentiment: Classifier, similarity: Classifier) -> None:
    assert sentiment([]) == []
    assert similarity([]) == similarity([], []) == []
    assert sentiment.logits([]).shape == (0, 2)
    assert similarity.logits([]).shape == (0, 1)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2028"])
def test_an_empty_text_is_cls_and_sep_alone(small: Any, sentiment: Classifier, text: str) -> None:
    bundle = small.bundle("SST-2", "int8")
    assert received(bundle, text)["input_ids"] == ids_of(bundle, "[CLS] [SEP]")
    assert sentiment([text])[0].label in {"negative", "positive"}


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("GÓÓD film", "good film"),  # case and accents are stripped, as BERT's normalizer does
        ("go\u0301od film", "good film"),  # also where the accent is a character of its own
        ("🤖 good", "[UNK] good"),
        ("фильм good", "[UNK] good"),
        ("电影 good", "[UNK] [UNK] good"),  # each Chinese character is a word
        ("good\u3000film", "good film"),  # ideographic space
        ("good\x00 film", "good film"),  # control characters vanish
    ],
)
def test_unicode_is_read_as_bert_reads_it(small: Any, text: str, same_as: str) -> None:
    bundle = small.bundle("SST-2", "int8")
    assert received(bundle, text)["input_ids"] == ids_of(bundle, f"[CLS] {same_as} [SEP]")


def test_a_text_that_is_not_valid_unicode_is_an_input_error(sentiment: Classifier) -> None:
    with pytest.raises(InputError, match=r"(?i)surrogate|unicode|utf-8"):
        sentiment(["fine", "half of a pair: \ud83e"])


def test_long_texts_are_cut_at_the_stored_length(small: Any, sentiment: Classifier) -> None:
    bundle, words = small.bundle("SST-2", "int8"), ["good", "bad", "the", "clever"] * 125
    prefix = " ".join(words[: 32 - 2])  # the small bundles' max_length less [CLS] and [SEP]
    assert sentiment.bundle.manifest.max_length == 32
    assert received(bundle, " ".join(words))["input_ids"] == ids_of(bundle, f"[CLS] {prefix} [SEP]")
    np.testing.assert_array_equal(sentiment.logits([" ".join(words)]), sentiment.logits([prefix]))


def test_of_a_long_pair_the_longer_text_is_cut(small: Any) -> None:
    bundle, words = small.bundle("STS-B", "int8"), ["good", "bad", "the", "clever"] * 125
    kept = " ".join(words[: 32 - 3 - 2])  # less [CLS], [SEP], [SEP] and the two words of the other text
    cut_first = ids_of(bundle, f"[CLS] {kept} [SEP] dull film [SEP]")
    cut_second = ids_of(bundle, f"[CLS] dull film [SEP] {kept} [SEP]")
    assert received(bundle, (" ".join(words), "dull film"))["input_ids"] == cut_first
    assert received(bundle, ("dull film", " ".join(words)))["input_ids"] == cut_second


@pytest.mark.parametrize(("n_words", "is_cut"), [(0, False), (29, False), (30, False), (31, True), (500, True)])
def test_a_prediction_says_whether_its_text_was_cut(sentiment: Classifier, n_words: int, is_cut: bool) -> None:
    # 30 words, [CLS] and [SEP] are the small bundles' 32 tokens
    predictions = sentiment(["bad", "good " * n_words, ""])
    assert [prediction.truncated for prediction in predictions] == [False, is_cut, False]


@pytest.mark.parametrize(
    ("first", "second", "is_cut"), [(14, 15, False), (15, 15, True), (29, 0, False), (0, 29, False), (0, 30, True)]
)
def test_a_prediction_says_whether_its_pair_was_cut(
    similarity: Classifier, first: int, second: int, is_cut: bool
) -> None:
    # 29 words, [CLS], [SEP] and [SEP] are 32 tokens
    (prediction,) = similarity([("good " * first, "bad " * second)])
    assert prediction.truncated is is_cut


def test_long_texts_are_refused_where_that_was_asked_for(small: Any, sentiment: Classifier) -> None:
    classifier = Classifier.load(small.bundle("SST-2", "int8"), threads=1, on_long="refuse")
    fitting = ["good " * 30, "", "bad"]
    assert classifier(fitting) == sentiment(fitting)
    long = ["good", "bad " * 31, "dull", "bad " * 500]
    for ask in (classifier, classifier.logits, classifier.encode):
        with pytest.raises(InputError, match=r"row 1 \(and 1 more\) has more than the 32 tokens .*on_long='truncate'"):
            ask(long)
    answers = classifier.answers(long)
    assert [isinstance(answer, InputError) for answer in answers] == [False, True, False, True]
    assert answers[::2] == sentiment(long[::2])
    assert [type(answer) for answer in classifier.answers(long[1::2])] == [InputError] * 2
    assert sentiment.answers(long) == sentiment(long)


def test_what_to_do_with_long_texts_is_one_of_two_words(small: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Classifier.load(None, providers="CPUExecutionProvider", threads=True, options={}, on_long=1)  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "bundle", "providers", "threads", "options", "on_long",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="on_long must be one of truncate, refuse, got 'cut'"):
        Classifier.load(small.bundle("SST-2", "int8"), on_long="cut")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a film"], "give a list of texts, not a single text"),
        ([[("a", "b")]], "task SST-2 takes single texts"),
        ([["a"], ["b"]], "task SST-2 takes single texts"),
        ([["a"], "b"], "give a list of texts, not a single text"),
        ([["a", 5]], "row 1 must be a text or a pair of texts, got 5"),
        ([["a", None]], "row 1 must be a text or a pair of texts, got None"),
        ([[b"a"]], "row 0 must be a text or a pair of texts, got b'a'"),
    ],
)
def test_wrong_input_to_a_task_of_single_texts_is_refused(
    sentiment: Classifier, arguments: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sentiment(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a film"], "give a list of texts, not a single text"),
        ([["a"]], "task STS-B takes pairs of texts"),
        ([["a", "b"], ["c"]], "2 texts and 1 second texts do not pair up"),
        ([[], ["c"]], "0 texts and 1 second texts do not pair up"),
        ([["a", ("b", "c")]], "2 texts and 1 second texts do not pair up"),
        ([[("a", "b", "c")]], r"row 0 must be a text or a pair of texts, got \('a', 'b', 'c'\)"),
        ([[("a", None)]], "every text must be a str, got None"),
        ([[(5, "b")]], "every text must be a str, got 5"),
        ([["a"], [None]], "every text must be a str, got None"),
        ([[("a", "b")], ["c"]], "row 0 must be a text or a pair of texts"),
    ],
)
def test_wrong_input_to_a_task_of_pairs_is_refused(similarity: Classifier, arguments: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        similarity(*arguments)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True, None])
def test_a_batch_is_a_number_of_rows(sentiment: Classifier, batch_size: Any) -> None:
    with pytest.raises(ConfigError, match=f"batch_size must be .*at least 1, got {batch_size!r}"):
        sentiment(["a"], batch_size=batch_size)


# ---- what comes out ---------------------------------------------------------------------------


def test_probabilities_are_the_softmax_of_the_logits_by_label(sentiment: Classifier, texts: list[str]) -> None:
    logits = sentiment.logits(texts).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for prediction, row in zip(sentiment(texts), expected, strict=True):
        assert prediction.probabilities is not None
        assert prediction.score is None
        assert list(prediction.probabilities) == ["negative", "positive"]
        # float32 softmax: a few units in the last place
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0, abs=1e-6)
        assert prediction.label == ["negative", "positive"][int(row.argmax())]


def test_large_logits_do_not_overflow(small: Any) -> None:
    logits = np.array([[1000, -1000], [-1000, 1000], [88, 90]], dtype=np.float32)
    classifier = with_logits(small.bundle("SST-2", "int8"), lambda inputs: logits)
    predictions = classifier(["a", "b", "c"])
    assert [prediction.label for prediction in predictions] == ["negative", "positive", "positive"]
    positive = [(prediction.probabilities or {})["positive"] for prediction in predictions]
    assert positive == pytest.approx([0.0, 1.0, 1 / (1 + np.exp(-2))], abs=1e-6)


def test_regression_gives_the_first_output_as_score(small: Any, similarity: Classifier) -> None:
    pairs = [("a good film", "a great plot"), ("bad", "good , good , great , fine")]
    logits = similarity.logits(pairs)
    predictions = similarity(pairs)
    assert [prediction.score for prediction in predictions] == logits[:, 0].tolist()
    assert [(prediction.label, prediction.probabilities) for prediction in predictions] == [(None, None)] * 2


def test_it_learned_what_the_words_say(small: Any, sentiment: Classifier) -> None:
    rows = read_split(glue_task("SST-2"), small.data("SST-2"), "dev").examples
    right = [
        prediction.label == ("negative", "positive")[int(example.label or 0)]
        for prediction, example in zip(sentiment([row.text for row in rows]), rows, strict=True)
    ]
    # the answers follow from the words; guessing the more frequent label would be right in about half of the rows
    assert np.mean(right) > 0.9


# ---- bundles that contradict themselves ---------------------------------------------------------


def test_a_corrupt_model_with_fitting_checksums_is_a_bundle_error(small: Any, altered: Callable[..., Path]) -> None:
    source = small.bundle("SST-2", "int8")
    half = (source / "model.onnx").read_bytes()[:20_000]
    for content in (b"not a model", half):
        with pytest.raises(BundleError, match=r"model\.onnx is no ONNX file"):
            Classifier.load(altered(source, files={"model.onnx": content}))
    with pytest.raises(BundleError, match=r"could not load .*model\.onnx"):  # a message without a graph
        Classifier.load(altered(source, files={"model.onnx": b"\x08\x0a"}))


def test_a_model_with_other_inputs_than_the_manifest_says_is_a_bundle_error(
    small: Any, altered: Callable[..., Path]
) -> None:
    def drop(manifest: dict[str, Any]) -> None:
        manifest["input_names"] = ["input_ids", "attention_mask"]

    with pytest.raises(BundleError, match="manifest and model disagree on the inputs token_type_ids"):
        Classifier.load(altered(small.bundle("SST-2", "int8"), change=drop))


@pytest.mark.parametrize(
    ("task", "labels", "metric"),
    [
        ("STS-B", ["no", "yes"], "accuracy"),  # one output would be broadcast to two labels
        ("SST-2", ["no", "yes", "maybe"], "accuracy"),
        ("SST-2", [], "pearson"),
    ],
)
def test_a_model_with_other_outputs_than_the_task_has_labels_is_a_bundle_error(
    small: Any, altered: Callable[..., Path], task: str, labels: list[str], metric: str
) -> None:
    def relabel(manifest: dict[str, Any]) -> None:
        manifest["task"] |= {"labels": labels, "label_codes": [], "metrics": [metric]}

    with pytest.raises(BundleError, match="output"):
        Classifier.load(altered(small.bundle(task, "int8"), change=relabel), threads=1)


def test_a_maximum_length_beyond_the_models_positions_is_seen_when_it_is_loaded(
    small: Any, altered: Callable[..., Path]
) -> None:
    source = small.bundle("SST-2", "int8")
    # the small model has 64 positions
    Classifier.load(altered(source, change=lambda manifest: manifest.update(max_length=64)), threads=1)
    with pytest.raises(BundleError, match=r"cannot run a row of 65 tokens (.|\n)*Export the bundle again"):
        Classifier.load(altered(source, change=lambda manifest: manifest.update(max_length=65)), threads=1)


@pytest.mark.parametrize("task", ["SST-2", "STS-B"])
def test_a_token_beyond_the_models_table_is_seen_when_it_is_loaded(
    small: Any, altered: Callable[..., Path], task: str
) -> None:
    source = small.bundle(task, "int8")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    beyond = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["beyond"])
    with pytest.raises(BundleError, match=f"cannot run a row of 32 tokens with ids up to {beyond}"):
        Classifier.load(altered(source, files={"tokenizer.json": tokenizer.to_str().encode()}), threads=1)


def test_a_model_whose_output_has_another_name_is_seen_when_it_is_loaded(
    small: Any, altered: Callable[..., Path]
) -> None:
    source = small.bundle("SST-2", "int8")
    model = (source / "model.onnx").read_bytes()
    assert model.count(b"logits") >= 2
    with pytest.raises(BundleError, match="logits"):
        Classifier.load(altered(source, files={"model.onnx": model.replace(b"logits", b"scores")}), threads=1)


def test_loading_runs_one_shortest_and_one_longest_row(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    whole = Session.run

    def noted(self: Session, inputs: Any) -> Any:
        shapes.append(inputs["input_ids"].shape)
        return whole(self, inputs)

    monkeypatch.setattr(Session, "run", noted)
    Classifier.load(small.bundle("SST-2", "int8"), threads=1)
    Classifier.load(small.bundle("STS-B", "int8"), threads=1)
    assert shapes == [(1, 32), (1, 2), (1, 32), (1, 3)]


def test_an_unreadable_tokenizer_with_fitting_checksums_is_a_bundle_error(
    small: Any, altered: Callable[..., Path]
) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Classifier.load(altered(small.bundle("SST-2", "int8"), files={"tokenizer.json": b"{}"}))


def test_a_padding_token_that_the_tokenizer_does_not_have_is_a_bundle_error(
    small: Any, altered: Callable[..., Path]
) -> None:
    change: Callable[[dict[str, Any]], None] = lambda manifest: manifest.update(pad_token_id=10**6)  # noqa: E731
    with pytest.raises(BundleError, match="pad_token_id is 1000000, but the tokenizer has"):
        Classifier.load(altered(small.bundle("SST-2", "int8"), change=change))


def test_an_impossible_task_in_the_manifest_is_a_bundle_error(small: Any, altered: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="name must be a text"):
        Classifier.load(altered(small.bundle("SST-2", "int8"), change=lambda manifest: manifest["task"].pop("name")))


def test_what_was_hashed_is_what_is_loaded(
    small: Any, altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are exchanged between the check and whatever comes after it."""
    bundle = altered(small.bundle("SST-2", "int8"))
    expected = Classifier.load(bundle, threads=1).logits(["a good film"])
    whole = Session.__init__

    def exchange(self: Session, *arguments: Any, **options: Any) -> None:
        (bundle / "model.onnx").write_bytes((small.bundle("SST-2", "float32") / "model.onnx").read_bytes())
        (bundle / "tokenizer.json").write_text("{}")
        whole(self, *arguments, **options)

    monkeypatch.setattr(Session, "__init__", exchange)
    np.testing.assert_array_equal(Classifier.load(bundle, threads=1).logits(["a good film"]), expected)


# ---- what is imported ---------------------------------------------------------------------------


def test_inference_never_imports_torch_transformers_or_onnx(small: Any) -> None:
    if installed_ort_build().builds_gradients:
        pytest.skip("the training build of ONNX Runtime imports torch by itself")
    code = (
        "import sys; from q8bert.runtime import Classifier; "
        f"Classifier.load({str(small.bundle('SST-2', 'int8'))!r}, threads=1)(['a film']); "
        "print(sorted({'torch', 'transformers', 'onnx', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_loads_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import q8bert.runtime; "
        "print(sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['q8bert']"


def test_public_functions_stay_functions_whatever_is_imported_first() -> None:
    code = """
import itertools, sys
names = ["AsyncClassifier", "Classifier", "EvaluationReport", "Prediction", "VerificationReport", "evaluate", "verify"]
for order in itertools.permutations(names, 2):
    for module in [name for name in sys.modules if name.startswith("q8bert.runtime")]:
        del sys.modules[module]
    import q8bert.runtime
    values = [getattr(q8bert.runtime, name) for name in order]
    if not all(map(callable, values)):
        print(*order)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == []
