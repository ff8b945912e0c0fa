"""Tasks as JSON: what earlier releases wrote is read, and what is no task is refused with every reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from q8bert.spec.errors import ConfigError
from q8bert.tasks.glue import glue_task
from q8bert.tasks.task import task_from_json

# as version 0.1.0 wrote them into bundles and runs before a task had a head and a data set
SST_2 = """
{
  "name": "SST-2", "text_column": "sentence", "text_pair_column": null, "label_column": "label",
  "labels": ["negative", "positive"], "metrics": ["accuracy"], "label_codes": ["0", "1"], "files": {},
  "headerless_columns": [], "hub_name": "sst2", "has_training_data": true
}
"""
STS_B = """
{
  "name": "STS-B", "text_column": "sentence1", "text_pair_column": "sentence2", "label_column": "score", "labels": [],
  "metrics": ["pearson", "spearman"], "label_codes": [], "files": {}, "headerless_columns": [], "hub_name": "stsb",
  "has_training_data": true
}
"""


@pytest.mark.parametrize(("name", "written"), [("SST-2", SST_2), ("STS-B", STS_B)])
def test_tasks_of_earlier_days_are_read_and_written_alike(name: str, written: str) -> None:
    content = json.loads(written)
    assert task_from_json(content, source="x") == glue_task(name)
    assert glue_task(name).to_json() == content


def test_a_label_is_known_by_its_code_and_by_its_name() -> None:
    task = glue_task("SST-2")
    assert [task.label_id(cell) for cell in ("1", "negative", "neutral")] == [1, 0, None]


def test_every_fault_is_named_with_its_source() -> None:
    content = json.loads(SST_2) | {"hub_name": 3, "has_training_data": "yes", "labels": "ab", "colour": 1}
    with pytest.raises(ConfigError) as caught:
        task_from_json(content, source="manifest.json")
    text = str(caught.value)
    for fault in ("hub_name must be a text", "has_training_data must be", "labels must be a list", "unknown key"):
        assert f"manifest.json: {fault}" in text
    assert len(caught.value.faults) == 4


WORDS = st.sampled_from(["", "a", "f1", "0", "negative"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(SST_2))), JSON_VALUES))
def test_any_json_is_a_task_or_refused(changes: dict[str, Any]) -> None:
    try:
        task = task_from_json(json.loads(SST_2) | changes, source="x")
    except ConfigError:
        return
    assert task_from_json(json.loads(json.dumps(task.to_json())), source="x") == task
