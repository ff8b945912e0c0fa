"""Bundles with other forms of their model: named, checked, and chosen by the provider."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from q8bert.export import export
from q8bert.export import target_graphs as module
from q8bert.runtime import Classifier, score_files, verify
from q8bert.runtime.cli import build_app
from q8bert.runtime.predict.graph_choice import chosen_graph
from q8bert.runtime.server.models.models import Model
from q8bert.runtime.server.options import ModelOptions
from q8bert.spec.bundle.bundle import Bundle, load_bundle, open_bundle
from q8bert.spec.errors import BundleError, ConfigError, ExportError, InputError

TEXTS = ["a great film", "dull", "a clever and very funny story"]
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def bundle(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("targets") / "int8"
    made, _ = export(small.run("SST-2", "int8"), target, targets=("cuda", "float16"), check_parity=False)
    return made


def test_the_bundle_has_both_forms_and_counts_its_model_alone(small: Any, bundle: Bundle) -> None:
    targets = bundle.manifest.targets
    assert {name: target.file for name, target in targets.items()} == {
        "cuda": "model.cuda.onnx", "float16": "model.float16.onnx",
    }  # fmt: skip
    assert (targets["cuda"].max_abs_diff, targets["cuda"].n_rows) == (0.0, 16)
    assert 0 < targets["float16"].max_abs_diff < 1
    assert bundle.model_size_bytes == (bundle.path / "model.onnx").stat().st_size
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "- Also for cuda: `model.cuda.onnx`" in card
    alone = open_bundle(small.bundle("SST-2", "int8"))
    assert alone.manifest.targets == {}
    for path, has_some in ((bundle.path, True), (alone.path, False)):
        assert ("targets" in json.loads((path / "manifest.json").read_text(encoding="utf-8"))) is has_some


@pytest.mark.parametrize(
    ("graph", "precision", "n_integer"), [("main", "int8", 11), ("cuda", "int8", 11), ("float16", "float", 0)]
)
def test_each_form_gives_answers_and_says_what_it_is(
    bundle: Bundle, graph: str, precision: str, n_integer: int
) -> None:
    classifier = Classifier.load(bundle.path, threads=1, graph=graph)
    expected = Classifier.load(bundle.path, threads=1).logits(TEXTS)
    atol = 1e-5 if graph != "float16" else 5 * bundle.manifest.targets["float16"].max_abs_diff
    np.testing.assert_allclose(classifier.logits(TEXTS), expected, rtol=0, atol=atol)
    assert classifier.graph == graph
    assert classifier.products is not None
    assert classifier.products.n_integer == n_integer
    assert classifier.precision.startswith(precision)
    assert (f"graph for {graph}" in classifier.precision_note) is (graph != "main")
    again = Classifier.load(*classifier.__reduce__()[1][:1], threads=1, graph=classifier.graph)
    assert again.graph == graph


@pytest.mark.parametrize(
    ("engine", "providers", "asked", "chosen"),
    [
        ("onnxruntime", [CPU], "auto", "main"), ("onnxruntime", [CUDA], "auto", "cuda"),
        ("onnxruntime", [CUDA, CPU], "auto", "cuda"), ("onnxruntime", [CUDA], "float16", "float16"),
        ("onnxruntime", [CUDA], "main", "main"), ("onnxruntime", [TENSORRT, CUDA], "auto", "main"),
        ("openvino", [CPU], "auto", "main"),
    ],
)  # fmt: skip
def test_the_first_provider_chooses_unless_told(
    bundle: Bundle, engine: str, providers: list[str], asked: str, chosen: str
) -> None:
    assert chosen_graph(bundle.manifest, engine=engine, providers=providers, asked=asked) == chosen


def test_a_form_that_the_bundle_has_not_is_refused(small: Any) -> None:
    with pytest.raises(ConfigError, match="graph 'cuda' was asked for, but the bundle has main"):
        Classifier.load(small.bundle("SST-2", "int8"), graph="cuda")
    with pytest.raises(ConfigError, match="graph must be one of auto, main, cuda, float16"):
        Classifier.load(small.bundle("SST-2", "int8"), graph="metal")


def test_only_the_form_that_is_wanted_is_returned_and_all_are_checked(bundle: Bundle, tmp_path: Path) -> None:
    _, contents = load_bundle(bundle.path, model_file=lambda manifest: manifest.targets["cuda"].file)
    assert set(contents) == {"model.cuda.onnx", "tokenizer.json"}
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in bundle.path.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    (copied / "model.cuda.onnx").write_bytes(b"\0" * (bundle.path / "model.cuda.onnx").stat().st_size)
    with pytest.raises(BundleError, match=r"model\.cuda\.onnx has SHA-256"):
        Classifier.load(copied)


@pytest.mark.parametrize(
    "targets",
    [
        {"metal": {"file": "model.onnx", "max_abs_diff": 0.0, "n_rows": 1}},
        {"cuda": {"file": "tokenizer.json", "max_abs_diff": 0.0, "n_rows": 1}},
        {"cuda": {"file": "model.cuda.onnx", "max_abs_diff": 0.0, "n_rows": 1}},
    ],
)
def test_a_manifest_that_names_other_files_as_forms_is_refused(small: Any, tmp_path: Path, targets: Any) -> None:
    source = small.bundle("SST-2", "int8")
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"targets": targets}), encoding="utf-8")
    with pytest.raises(BundleError, match="is none of cuda, float16, each with its own file"):
        open_bundle(tmp_path)


def test_targets_that_do_not_go_with_the_model_are_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target cuda multiplies in INT8, and the model is a float one"):
        export(small.run("SST-2", "float32"), tmp_path / "a", targets=("cuda",))
    with pytest.raises(ConfigError, match="quantization dynamic makes none"):
        export(small.run("SST-2", "float32"), tmp_path / "b", quantization="dynamic", targets=("float16",))
    with pytest.raises(ConfigError, match="targets"):
        export(small.run("SST-2", "int8"), tmp_path / "c", targets=("metal",))
    assert not list(tmp_path.iterdir())


def test_a_form_that_computes_something_else_is_refused(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def wrong(target: str, graph: Any) -> Any:
        made = importlib.import_module("q8bert.export.graph.targets").graph_for(target, graph)
        (bias,) = (tensor for tensor in made.graph.initializer if tensor.name == "classifier.bias")
        bias.raw_data = np.full(2, 0.01, dtype=np.float32).tobytes()
        return made

    monkeypatch.setattr(module, "graph_for", wrong)
    with pytest.raises(ExportError, match="target cuda does not compute what the model does"):
        export(small.run("SST-2", "int8"), tmp_path / "int8", targets=("cuda",), check_parity=False)


# ---- the form by name, in every command -----------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(build_app(), [*map(str, arguments), "--threads", "1", "--json"])
    assert done.exit_code in {0, 1}, done.output
    return json.loads(done.stdout), done.exit_code


def test_predict_and_score_run_the_form_that_is_named(bundle: Bundle, rows: Path, tmp_path: Path) -> None:
    expected = {
        graph: [one.probabilities for one in Classifier.load(bundle.path, threads=1, graph=graph)(TEXTS)]
        for graph in ("main", "float16")
    }
    assert expected["main"] != expected["float16"]
    for graph, answers in expected.items():
        run("predict", bundle.path, "--input", rows, "--output", tmp_path / graph, "--graph", graph)
        lines = (tmp_path / graph).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["probabilities"] for line in lines] == [
            pytest.approx(one, abs=1e-7) for one in answers
        ]
    run("score", bundle.path, rows, "--output-dir", tmp_path / "scored", "--graph", "float16")
    written = tmp_path / "scored" / "rows.jsonl"
    found = [json.loads(line)["probabilities"] for line in written.read_text(encoding="utf-8").splitlines()]
    assert found == [pytest.approx(one, abs=1e-7) for one in expected["float16"]]


def test_a_job_of_one_form_is_not_mixed_with_another(bundle: Bundle, rows: Path, tmp_path: Path) -> None:
    score_files(bundle.path, rows, tmp_path / "out", threads=1)
    told = json.loads((tmp_path / "out" / "_q8bert" / "job.json").read_text(encoding="utf-8"))
    assert "graph" not in told["options"], "jobs of earlier releases are those of auto"
    with pytest.raises(InputError, match="graph was not given, now it is 'float16'"):
        score_files(bundle.path, rows, tmp_path / "out", threads=1, graph="float16")


def test_a_server_loads_the_form_that_is_named(bundle: Bundle) -> None:
    model = Model.load(("sst2", 1), bundle.path, options=ModelOptions(graph="float16"), max_queue=8)
    assert model.classifier.graph == "float16"


def test_the_gate_takes_floats_for_what_they_are_where_they_are_asked_for(small: Any, bundle: Bundle) -> None:
    sizes = {graph: (bundle.path / bundle.manifest.targets[graph].file).stat().st_size for graph in ("cuda", "float16")}
    reference = small.bundle("SST-2", "float32")
    whole = (reference / "model.onnx").stat().st_size
    common = ("verify", bundle.path, "--reference", reference, "--data-dir", small.data("SST-2"), "--min-size-ratio", 1,
              "--max-relative-loss", 0.1)  # fmt: skip
    for graph in ("cuda", "float16"):
        report, code = run(*common, "--graph", graph)
        assert (code, report["passed"], report["graph"]) == (0, True, graph)
        assert report["size_ratio"] == pytest.approx(whole / sizes[graph])
    report, _ = run("evaluate", bundle.path, "--data-dir", small.data("SST-2"), "--graph", "float16")
    assert (report["graph"], report["precision"][:5]) == ("float16", "float")


def test_a_form_in_floats_that_nobody_named_fails_the_gate(
    small: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = importlib.import_module("q8bert.runtime.predict.loading")
    monkeypatch.setattr(  # as a CUDA provider would choose where a bundle has that form alone
        loading, "chosen_graph", lambda *_, asked, **__: "float16" if asked == "auto" else asked
    )
    report = verify(bundle.path, small.bundle("SST-2", "float32"), small.data("SST-2"), min_size_ratio=1, threads=1)
    assert not report.passed
    assert any("ask for graph float16 by name" in failure for failure in report.failures)


def test_every_command_that_takes_a_provider_takes_a_form() -> None:
    group: Any = get_command(build_app())
    options = {name: {word for one in found.params for word in one.opts} for name, found in group.commands.items()}
    take_providers = {name for name, words in options.items() if "--provider" in words}
    assert {"evaluate", "predict", "score", "submit", "verify", "serve"} <= take_providers
    assert take_providers == {name for name, words in options.items() if "--graph" in words}


def test_a_form_that_there_is_not_stops_a_command(small: Any, rows: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        build_app(),
        ["predict", str(small.bundle("SST-2", "int8")), "--input", str(rows), "--output", str(tmp_path / "out"),
         "--graph", "float16"],
    )  # fmt: skip
    assert done.exit_code == 2
    assert "Export it with --target float16" in done.output
