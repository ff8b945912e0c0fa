"""Built training graphs are kept, found again, and never mistaken for another model's."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from transformers import PreTrainedModel

from q8bert.spec.errors import ExportError
from q8bert.training.objectives.objective import Classification, Regression
from q8bert.training.programs import cache as programs_module
from q8bert.training.programs.cache import Programs, build_programs, cached_programs, entry_name
from q8bert.training.quantization.sites import Site, find_sites

INPUTS = ("input_ids", "attention_mask")
ROOT = Path(__file__).resolve().parents[3]


ModelOf = Callable[..., PreTrainedModel]


@pytest.fixture
def model_of(one_layer_bert: ModelOf) -> ModelOf:
    return one_layer_bert


def smoothed(site: Site, exponent: int) -> Site:
    return replace(site, smoothing=(exponent,) * 16, zero_point=2 * exponent)


def name_of(model: PreTrainedModel, *, sites: tuple[Site, ...] | None = None, **changes: Any) -> str:
    objective = changes.pop("objective", Classification())
    options: dict[str, Any] = {"input_names": INPUTS, "gradients": "torch", "precision": "float32"}
    return entry_name(model, find_sites(model) if sites is None else sites, objective, options | changes)


def cached(model: PreTrainedModel, folder: Path) -> tuple[Programs, list[str]]:
    said: list[str] = []
    programs = cached_programs(
        model, find_sites(model), Classification(), input_names=INPUTS, gradients="torch", precision="float32",
        cache_dir=folder, report=said.append,
    )  # fmt: skip
    return programs, said


def test_everything_that_decides_the_programs_decides_their_name(
    model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, frozen = model_of(), model_of()
    frozen.bert.embeddings.requires_grad_(requires_grad=False)
    first, *others = find_sites(model)
    changes: list[dict[str, Any]] = [
        {"num_hidden_layers": 2}, {"hidden_dropout_prob": 0.2}, {"attention_probs_dropout_prob": 0.2},
        {"vocab_size": 21}, {"num_attention_heads": 4}, {"layer_norm_eps": 1e-6}, {"num_labels": 3},
        {"hidden_act": "relu"},
    ]  # fmt: skip
    names = [
        name_of(model),
        name_of(model, sites=()),
        name_of(model, sites=tuple(others)),
        name_of(model, sites=(smoothed(first, 1), *others)),
        name_of(model, objective=Regression()),
        name_of(model, objective=Classification(outputs=("logits", "hidden_states"))),
        name_of(model, gradients="onnxruntime-training"),
        name_of(model, precision="float16"),
        name_of(model, learns_ranges=True),
        name_of(model, input_names=(*INPUTS, "token_type_ids")),
        name_of(frozen),
        *(name_of(model_of(**change)) for change in changes),
    ]
    monkeypatch.setattr(programs_module, "library_versions", lambda: {"torch": "another"})
    names.append(name_of(model))
    assert len(set(names)) == len(names)


def another_of_the_same_structure(model_of: ModelOf) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two models of other weights, labels, tasks and origins."""
    first, second = model_of(), model_of()
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    second.config._name_or_path = "elsewhere"
    second.config.id2label = {0: "negative", 1: "positive"}
    second.config.label2id = {"negative": 0, "positive": 1}
    second.config.problem_type = "single_label_classification"
    second.config.architectures = ["BertForSequenceClassification"]
    return first, second


def test_weights_labels_the_task_and_where_the_model_came_from_do_not_matter(model_of: ModelOf) -> None:
    first, second = another_of_the_same_structure(model_of)
    assert name_of(first) == name_of(second)


def test_how_much_an_activation_is_smoothed_and_shifted_does_not_matter(model_of: ModelOf) -> None:
    model = model_of()
    site, *others = find_sites(model)
    assert name_of(model, sites=(smoothed(site, 1), *others)) == name_of(model, sites=(smoothed(site, 3), *others))


@pytest.mark.slow
def test_programs_of_one_name_are_the_same_to_the_byte(model_of: ModelOf) -> None:
    built = []
    for model, exponent in zip(another_of_the_same_structure(model_of), (1, 3), strict=True):
        site, *others = find_sites(model)
        sites = (smoothed(site, exponent), *others)
        built.append(build_programs(model, sites, Classification(), input_names=INPUTS))
    assert built[0] == built[1]


def test_a_second_run_finds_the_programs_and_a_damaged_entry_is_built_again(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_built = 0

    def build(*_: Any, **__: Any) -> Programs:
        nonlocal n_built
        n_built += 1
        return Programs(b"training" * 100, b"evaluation" * 100)

    monkeypatch.setattr(programs_module, "build_programs", build)
    model, folder = model_of(), tmp_path / "cache"
    built, said = cached(model, folder)
    assert said == ["building the training graph for ONNX Runtime (some ten seconds; kept for the next time)"]
    (entry,) = folder.iterdir()
    found, said = cached(model, folder)
    assert said == [f"training graph from the cache, {entry}"]
    assert found == built
    content = entry.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for n_damaged, damaged in enumerate((content[:middle], b"", flipped, content[:5] + content), start=1):
        entry.write_bytes(damaged)
        again, said = cached(model, folder)
        assert said[0].startswith(f"warning: the cached training graph {entry} is damaged")
        assert again == built
        assert cached(model, folder)[1] == [f"training graph from the cache, {entry}"]
        assert n_built == 1 + n_damaged


def test_a_cache_that_cannot_be_written_is_a_warning(
    model_of: ModelOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs_module, "build_programs", lambda *_, **__: Programs(b"training", b"evaluation"))
    (tmp_path / "cache").write_text("a file")
    programs, said = cached(model_of(), tmp_path / "cache")
    assert programs == Programs(b"training", b"evaluation")
    assert said[-1].startswith(f"warning: the training graph could not be kept in {tmp_path / 'cache'}")


def names_of(program: bytes) -> tuple[set[str], set[str]]:
    graph = onnx.load_model_from_string(program).graph
    return {value.name for value in graph.input}, {value.name for value in graph.output}


def test_inputs_and_outputs_bear_the_names_that_the_rest_knows(
    model_of: ModelOf, built: Callable[..., Programs]
) -> None:
    model = model_of()
    parameters = {name for name, _ in model.named_parameters()}
    tables = {name for name in parameters if name.endswith("_embeddings.weight")}
    assert len(tables) == 3
    masks = {f"dropout_mask_{n}" for n in range(5)}  # embeddings, attention, its output, the layer's, the pooled text
    gradients = {f"{name}_grad" for name in parameters - tables}
    gradients |= {f"{name}_{what}" for name in tables for what in ("rows_grad", "ids")}
    sites = find_sites(model)
    for chosen in (sites, ()):
        programs = built(model, chosen, Classification(), input_names=INPUTS)
        ranges, observed = ({"amax", "zero_points"}, {"observations"}) if chosen else (set(), set())
        inputs, outputs = names_of(programs.training)
        assert inputs == {*INPUTS, "labels", "loss_scale"} | parameters | masks | ranges
        assert outputs == {"loss", "logits"} | gradients | observed
        # a forward pass needs no target, no mask and no scale
        assert names_of(programs.evaluation) == ({*INPUTS} | parameters | ranges, {"logits"})


def test_a_program_of_learned_ranges_gives_their_gradient_besides_in_standard_onnx(
    model_of: ModelOf, built: Callable[..., Programs]
) -> None:
    model = model_of()
    sites = find_sites(model)
    plain, learned = (
        built(model, sites, Classification(), input_names=INPUTS, learns_ranges=learns) for learns in (False, True)
    )
    (inputs, outputs), (our_inputs, our_outputs) = names_of(plain.training), names_of(learned.training)
    assert (our_inputs, our_outputs) == (inputs, outputs | {"amax_grad"})
    assert names_of(learned.evaluation) == names_of(plain.evaluation)
    proto = onnx.load_model_from_string(learned.training)
    (gradient,) = [value for value in proto.graph.output if value.name == "amax_grad"]
    assert [axis.dim_value for axis in gradient.type.tensor_type.shape.dim] == [len(sites)]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    onnx.checker.check_model(proto, full_check=True)


def test_gradients_of_ranges_are_not_asked_of_onnxruntime_training(model_of: ModelOf) -> None:
    model = model_of()
    with pytest.raises(ExportError, match="gradients of ranges are written by torch, not by onnxruntime-training"):
        build_programs(
            model, find_sites(model), Classification(), input_names=INPUTS, gradients="onnxruntime-training",
            learns_ranges=True,
        )  # fmt: skip


def test_a_quantized_program_rounds_at_every_site_and_a_float_one_nowhere(
    model_of: ModelOf, built: Callable[..., Programs]
) -> None:
    model = model_of()
    for sites in (find_sites(model), ()):
        programs = built(model, sites, Classification(), input_names=INPUTS)
        for program in (programs.training, programs.evaluation):
            kinds = [node.op_type for node in onnx.load_model_from_string(program).graph.node]
            assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == len(sites)


def test_programs_are_standard_onnx_that_the_oldest_onnxruntime_reads(
    model_of: ModelOf, built: Callable[..., Programs]
) -> None:
    model = model_of()
    programs = built(model, find_sites(model), Classification(), input_names=INPUTS)
    for program in (programs.training, programs.evaluation):
        proto = onnx.load_model_from_string(program)
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
        assert not proto.functions
        assert proto.ir_version <= 10  # onnxruntime 1.19.2 reads no newer one
        onnx.checker.check_model(proto, full_check=True)


# ---- what the name covers ------------------------------------------------------------------------

# decide no node of a program: texts of errors, options, and what a task is
_NOT_OF_PROGRAMS = {
    "training/options.py",
    "training/versions.py",
    "spec/errors.py",
    "spec/files.py",
    "spec/private_folders.py",
}
_NOT_OF_PROGRAMS_ROOMS = ("tasks/", "machine/")


def imported(path: Path) -> Iterator[Path]:
    """Files of q8bert that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("q8bert."):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                for part in ("training", "runtime"):
                    found = ROOT / part / f"{name.replace('.', '/')}.py"
                    if found.is_file():
                        yield found


def test_the_name_depends_on_every_source_file_that_takes_part_in_a_program() -> None:
    reached, waiting = set(), [ROOT / "training/q8bert/training/programs/cache.py"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += imported(path)
    short = {path.relative_to(path.parents[len(path.parts) - len(ROOT.parts) - 3]).as_posix(): path for path in reached}
    decide = {
        path
        for name, path in short.items()
        if name not in _NOT_OF_PROGRAMS and not name.startswith(_NOT_OF_PROGRAMS_ROOMS)
    }
    assert {"training/programs/joint_graph.py", "training/objectives/objective.py", "spec/quant.py"} <= set(short)
    assert decide <= {path.resolve() for path in programs_module._sources()}
