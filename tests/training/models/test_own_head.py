"""What the outputs of a fine-tuned model mean, by its config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.errors import ModelError
from q8bert.tasks.head import Head
from q8bert.training.models.own_head import read_own_head


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"id2label": {"0": "safe", "1": "toxic"}, "label2id": {"safe": 0, "toxic": 1}}, ("safe", "toxic")),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"label2id": {"b": 1, "a": 0}}, ("a", "b")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({}, ("LABEL_0", "LABEL_1")),  # what transformers takes
        ({"id2label": {"0": "LABEL_0"}}, ()),
        ({"id2label": {"0": "relevance"}}, ()),
        ({"num_labels": 1, "problem_type": "regression"}, ()),
    ],
)
def test_the_head(tmp_path: Path, content: dict[str, Any], labels: tuple[str, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_own_head(tmp_path) == Head.of_labels(labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"},
            "problem_type is multi_label",
        ),
        ({"num_labels": 2, "problem_type": "regression"}, "problem_type is regression with 2 outputs"),
        ({"id2label": {"0": "a", "1": "a"}}, "two or more different names"),
        ({"id2label": {"0": "a", "2": "b"}}, "do not name the outputs 0, 1"),
        ({"num_labels": "many"}, "does not say how many outputs"),
    ],
)
def test_a_head_of_another_kind_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        read_own_head(tmp_path)
