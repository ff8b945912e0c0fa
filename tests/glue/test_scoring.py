"""Metrics against formulas by hand; batching, tokenizing, tasks and the command line's manners."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from q8bert.glue.batching import model_inputs, shuffled_batches, sorted_batches
from q8bert.glue.command import Speaker, exit_codes
from q8bert.glue.metrics import score
from q8bert.glue.task_file import choose_task
from q8bert.glue.tasks import GLUE_TASKS, Task, glue_task, task_from_json
from q8bert.glue.tokenizer import Encoded, TextTokenizer
from q8bert.spec.errors import ConfigError, InputError


def one_hot(predictions: list[int]) -> np.ndarray:
    return np.eye(max(*predictions, 1) + 1, dtype=np.float32)[predictions]


def test_accuracy_f1_and_matthews_follow_their_formulas() -> None:
    predictions, labels = [1, 1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 1, 0, 1, 0, 0]
    tp, fp, fn, tn = 3, 2, 1, 2
    found = score(glue_task("MRPC"), one_hot(predictions), labels)
    assert found["accuracy"] == pytest.approx((tp + tn) / 8)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    matthews = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score(glue_task("CoLA"), one_hot(predictions), labels) == {"matthews": pytest.approx(matthews)}


def test_correlations_follow_their_formulas_with_ties() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 4.0, 9.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    ranks_x, ranks_y = np.array([1.0, 2.5, 2.5, 4.0, 5.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    found = score(glue_task("STS-B"), x[:, None].astype(np.float32), y.tolist())
    assert found == {"pearson": pytest.approx(pearson(x, y)), "spearman": pytest.approx(pearson(ranks_x, ranks_y))}


def test_nothing_told_apart_scores_zero_and_impossible_logits_are_refused() -> None:
    same = np.ones((3, 1), dtype=np.float32)
    assert score(glue_task("STS-B"), same, [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert score(glue_task("CoLA"), one_hot([1, 1, 1]), [0, 1, 1]) == {"matthews": 0.0}
    with pytest.raises(InputError, match="not finite"):
        score(glue_task("STS-B"), same * np.nan, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="3 predictions against 2 labels"):
        score(glue_task("STS-B"), same, [1.0, 2.0])


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 33), st.integers(0, 3))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], batch_size: int, epoch: int) -> None:
    array = np.array(lengths)
    for batches in (sorted_batches(array, batch_size), shuffled_batches(array, batch_size, seed=5, epoch=epoch)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert max(len(rows) for rows in batches) <= batch_size
        assert len(batches) == -(-len(lengths) // batch_size)


def test_order_follows_from_seed_and_epoch_and_rows_of_a_batch_are_alike() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    first, again, other = (shuffled_batches(lengths, 10, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    padded = sum(lengths[rows].max() * len(rows) for rows in first)
    assert padded < 1.1 * lengths.sum()  # against about 1.9 in random order


def test_short_rows_are_padded_to_the_longest_of_their_batch() -> None:
    encoded = Encoded((np.array([5, 6, 7]), np.array([8])), (np.array([0, 0, 1]), np.array([0])))
    inputs = model_inputs(encoded, np.array([1, 0]), ("input_ids", "attention_mask", "token_type_ids"), pad_token_id=9)
    assert inputs["input_ids"].tolist() == [[8, 9, 9], [5, 6, 7]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


@pytest.fixture
def word_tokenizer() -> Tokenizer:
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefgh"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=50)  # as some published tokenizers come; it must not survive
    return tokenizer


def test_the_longer_text_of_a_pair_is_cut_first(word_tokenizer: Tokenizer) -> None:
    encoded = TextTokenizer(word_tokenizer, max_length=8).encode(["a b c d e f"], ["g h"])
    # eight tokens: three special ones, two of the shorter text, so three of the longer one
    assert encoded.input_ids[0].tolist() == [1, 4, 5, 6, 2, 10, 11, 2]
    assert encoded.token_type_ids[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert encoded.lengths.tolist() == [8]


def test_any_text_can_be_encoded(word_tokenizer: Tokenizer) -> None:
    texts = ["", " ", "\x00", "\u202e\u0301", "日本語 🤖", "a" * 10000]
    encoded = TextTokenizer(word_tokenizer, max_length=6).encode(texts)
    assert len(encoded) == len(texts)
    assert encoded.input_ids[0].tolist() == [1, 2]
    assert encoded.lengths.max() <= 6


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json is not a readable tokenizer"):
        TextTokenizer.load(path, max_length=8)


def test_the_table_holds_the_ten_tasks_and_each_is_sound() -> None:
    assert list(GLUE_TASKS) == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "AX"]
    for name, task in GLUE_TASKS.items():
        assert task.faults() == []
        assert task_from_json(json.loads(json.dumps(task.to_json())), source="x") == task
        assert glue_task(name.lower().replace("-", "")) is task
    assert [name for name, task in GLUE_TASKS.items() if task.is_regression] == ["STS-B"]
    with pytest.raises(ConfigError, match="unknown task 'SNLI'; GLUE has CoLA"):
        glue_task("SNLI")


def test_a_task_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text(
        'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\n[files]\ntrain = "t.tsv"\n'
    )
    assert choose_task(None, path) == Task("t", "a", None, "l", ("x", "y"), ("accuracy",), files={"train": "t.tsv"})
    path.write_text('name = "t"\ntext_column = "a"\nlabel_column = "l"\n')
    assert choose_task(None, path).metrics == ("pearson", "spearman")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    assert choose_task(None, path).text_column == "a"
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        choose_task(None, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('name = "t"', "text_column must be a text"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "l"\ncolour = 1', "unknown key 'colour'"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x"]', "two or more different names"),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\nmetrics = ["pearson"]',
            "does not fit",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y", "z"]\nmetrics = ["f1"]',
            "exactly two",
        ),
        ("name = ", "not valid TOML"),
        ('name = "t"\ntext_column = "a"\nlabel_column = "a"', "label_column 'a' is a text column too"),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["0", "1"]\nlabel_codes = ["1", "0"]',
            "label_codes: '1' stands for '0', but is the name of another label",
        ),
        (
            'name = "t"\ntext_column = "a"\nlabel_column = "l"\nlabels = ["x", "y"]\nlabel_codes = ["1", "1"]',
            "label_codes must be different",
        ),
    ],
)
def test_faults_of_a_task_file_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        choose_task(None, path)
    assert "task.toml" in str(caught.value)


def test_a_command_needs_one_task() -> None:
    for name, path in ((None, None), ("RTE", Path("x.toml"))):
        with pytest.raises(ConfigError, match="give either --task"):
            choose_task(name, path)


def test_errors_become_exit_codes_with_the_message_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[Exception, int, str]] = [
        (ConfigError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (InputError("bad row"), 2, "error: bad row\n"),
        (ZeroDivisionError("x"), 3, "unexpected ZeroDivisionError"),
        (typer.Exit(1), 1, ""),
    ]
    for error, code, message in cases:
        with pytest.raises(typer.Exit) as caught, exit_codes():
            raise error
        assert caught.value.exit_code == code
        output = capsys.readouterr()
        assert message in output.err
        assert output.out == ""


@dataclasses.dataclass(frozen=True)
class Report:
    path: Path
    value: float


def test_json_goes_to_stdout_and_words_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def render(console: Any) -> None:
        console.print("a table")

    speaker = Speaker(as_json=True)
    speaker.say("working")
    speaker.result(Report(Path("x"), 0.5), render)
    output = capsys.readouterr()
    assert json.loads(output.out) == {"path": "x", "value": 0.5}
    assert "working" in output.err
    Speaker(as_json=False).result(Report(Path("x"), 0.5), render)
    assert capsys.readouterr().out == "a table\n"
