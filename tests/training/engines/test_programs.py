"""Built training graphs are kept, found again, and never mistaken for another model's."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

from q8bert.spec import quant
from q8bert.training.engines import programs as programs_module
from q8bert.training.engines.programs import Programs, build_programs, cached_programs, entry_name
from q8bert.training.quantization.sites import find_sites

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}


def model_of(**changes: Any) -> PreTrainedModel:
    config = BertConfig(**(SIZES | changes))
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def name_of(model: PreTrainedModel, **changes: Any) -> str:
    sites = changes.pop("sites", None) or find_sites(model)
    options: dict[str, Any] = {
        "quantize": True, "input_names": ("input_ids", "attention_mask"), "regression": False, "precision": "float32",
        "device_type": "cpu",
    }  # fmt: skip
    return entry_name(model, sites, options | changes)


def cached(model: PreTrainedModel, folder: Path) -> tuple[Programs, list[str]]:
    said: list[str] = []
    programs = cached_programs(
        model, find_sites(model), quantize=True, input_names=("input_ids", "attention_mask"), regression=False,
        precision="float32", device_type="cpu", cache_dir=folder, report=said.append,
    )  # fmt: skip
    return programs, said


def test_everything_that_decides_the_programs_decides_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    changes: list[dict[str, Any]] = [
        {"num_hidden_layers": 2}, {"hidden_dropout_prob": 0.2}, {"attention_probs_dropout_prob": 0.2},
        {"vocab_size": 21}, {"num_attention_heads": 4}, {"layer_norm_eps": 1e-6}, {"num_labels": 3},
    ]  # fmt: skip
    names = [
        name_of(model),
        name_of(model, quantize=False),
        name_of(model, regression=True),
        name_of(model, precision="float16"),
        name_of(model, device_type="cuda"),
        name_of(model, input_names=("input_ids", "attention_mask", "token_type_ids")),
        name_of(model, sites=find_sites(model)[1:]),
        *(name_of(model_of(**change)) for change in changes),
    ]
    monkeypatch.setattr(programs_module, "library_versions", lambda: {"torch": "another"})
    names.append(name_of(model))
    assert len(set(names)) == len(names)


def test_weights_and_where_the_model_came_from_do_not_matter() -> None:
    first, second = model_of(), model_of()
    second.config._name_or_path = "elsewhere"
    assert name_of(first) == name_of(second)


@pytest.mark.slow
def test_a_second_run_finds_the_programs_and_a_damaged_entry_is_built_again(tmp_path: Path) -> None:
    model, folder = model_of(), tmp_path / "cache"
    built, said = cached(model, folder)
    assert said == ["building the training graph for ONNX Runtime (some ten seconds; kept for the next time)"]
    (entry,) = folder.iterdir()
    found, said = cached(model, folder)
    assert said == [f"training graph from the cache, {entry}"]
    assert found == built
    names = [output.name for output in onnx.load_model_from_string(found.training).graph.output]
    assert {"loss", "logits", "observations", "classifier.weight_grad"} <= set(names)
    content = entry.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (content[:middle], b"", flipped, content[:5] + content):
        entry.write_bytes(damaged)
        again, said = cached(model, folder)
        assert said[0].startswith(f"warning: the cached training graph {entry} is damaged")
        assert again.training
        assert cached(model, folder)[1] == [f"training graph from the cache, {entry}"]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    programs, said = cached(model_of(), tmp_path / "cache")
    assert programs.evaluation
    assert said[-1].startswith(f"warning: the training graph could not be kept in {tmp_path / 'cache'}")


def test_without_quantization_activations_are_only_observed() -> None:
    model = model_of()
    options: dict[str, Any] = {"input_names": ("input_ids", "attention_mask"), "regression": False}
    kinds = {}
    for quantize in (True, False):
        programs = build_programs(model, find_sites(model), quantize=quantize, **options)
        graph = onnx.load_model_from_string(programs.training).graph
        kinds[quantize] = {node.op_type for node in graph.node}
        assert "observations" in {output.name for output in graph.output}
        assert ("amax" in {value.name for value in graph.input}) is quantize
    assert "FakeQuant" in kinds[True]
    assert "FakeQuant" not in kinds[False]


def test_the_name_depends_on_every_source_file_of_training_and_on_the_formula() -> None:
    root = Path(programs_module.__file__).parents[1]
    sources = set(programs_module._sources())
    for name in ("quantization/quantized_model.py", "engines/gradient_graph.py", "loop/trainer.py", "run.py"):
        assert root / name in sources
    assert Path(quant.__file__) in sources
