"""Run → bundle, whole or not at all."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from q8bert.export import assembly, export
from q8bert.export.proofs.fusion import FusionReport, examine_fusion
from q8bert.runtime import Classifier, evaluate
from q8bert.runtime.cli import build_app
from q8bert.spec.bundle.bundle import Bundle
from q8bert.spec.errors import CheckpointError, ConfigError, ExportError
from q8bert.tasks.glue import glue_task
from q8bert.training import TrainConfig, train
from q8bert.training.quantization import calibration
from q8bert.training.quantization.learned_ranges import LearnedRanges
from q8bert.training.quantization.seen_site import SeenSite
from q8bert.training.quantization.sites import Site
from q8bert.training.runs.run_folder import best_checkpoint


def test_arguments_of_another_type_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        export(None, 3, quantization=8, data_dir="", check_parity="no")  # type: ignore[arg-type]
    assert [fault.partition(" ")[0] for fault in caught.value.faults] == [
        "run", "output_dir", "quantization", "data_dir", "check_parity",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_bundle_says_what_it_is(small: Any, tmp_path: Path) -> None:
    bundle, report = export(small.run("SST-2", "int8"), tmp_path / "bundle")
    manifest = bundle.manifest
    checkpoint = best_checkpoint(small.run("SST-2", "int8"))
    assert (manifest.precision, manifest.max_length, manifest.task["name"]) == ("int8", 32, "SST-2")
    assert manifest.metrics == checkpoint.progress.metrics == report.metrics
    scales = manifest.quantization["activation_scales"]
    expected = checkpoint.ranges.amax().numpy() / 127
    assert list(scales) == [site.name for site in checkpoint.sites]  # type: ignore[call-overload]
    np.testing.assert_allclose(list(scales.values()), expected, rtol=1e-6)  # type: ignore[attr-defined]
    card = (bundle.path / "README.md").read_text()
    assert "SST-2 classifier, INT8" in card
    assert f"- Products with weights: {report.fusion.n_integer} in integers, 0 in float" in card
    assert report.saturation is not None
    assert f"none of {report.saturation.n_pairs:,} pairs of weights can overflow" in card
    assert "negative, positive" in card
    assert manifest.quantization["ranges"] == "ema"
    assert "activations with ranges averaged while it was trained;" in card
    assert report.parity is not None
    assert json.loads((bundle.path / "parity.json").read_text())["n_rows"] == report.parity.n_rows == 200


@pytest.mark.slow
def test_an_old_bundle_is_replaced_and_anything_else_is_not(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "float32")
    first, _ = export(run, tmp_path / "bundle", check_parity=False)
    assert not (first.path / "parity.json").exists()
    (first.path / "notes.txt").write_text("x")
    with pytest.raises(ExportError, match=r"is a bundle that also holds notes\.txt, which would be lost"):
        export(run, tmp_path / "bundle", check_parity=False)
    (first.path / "notes.txt").unlink()
    second, _ = export(run, tmp_path / "bundle", check_parity=False)
    assert second.manifest.files == first.manifest.files  # the same run gives the same bytes
    site = tmp_path / "site"  # of another program that has a manifest too
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "app", "icons": []}')
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        export(run, site, check_parity=False)
    backup = tmp_path / "bundle.old"
    backup.mkdir()
    (tmp_path / "link").symlink_to(first.path)
    export(run, tmp_path / "link", check_parity=False)
    assert (tmp_path / "link").is_symlink()
    assert backup.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot be made: .*file is a file"):
        export(run, tmp_path / "file" / "bundle", check_parity=False)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        export(run, tmp_path / "letters", check_parity=False)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.txt"]


@pytest.mark.slow
def test_missing_data_and_missing_checkpoints_are_named(small: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be read: data folder .*Give its folder with --data-dir"):
        export(small.run("SST-2", "int8"), tmp_path / "bundle", data_dir=str(tmp_path / "none"))
    assert not (tmp_path / "bundle").exists()
    run = tmp_path / "run"
    shutil.copytree(small.run("SST-2", "int8"), run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export(run, tmp_path / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "n_integer_ops"), [("dynamic", "MatMulInteger"), ("static", "QuantizeLinear")])
def test_baselines_are_bundles_of_the_same_form(small: Any, tmp_path: Path, method: str, n_integer_ops: str) -> None:
    bundle, report = export(small.run("SST-2", "float32"), tmp_path / "bundle", quantization=method)
    assert (report.quantization, report.precision, report.parity, report.saturation) == (method, "int8", None, None)
    assert report.fusion.n_integer == 14  # six Linear layers in each of two layers, pooler and classifier
    assert report.fusion.n_float == 0
    assert bundle.manifest.quantization["method"] == method
    assert bundle.manifest.metrics == {}  # the float model's are not its own
    card = (bundle.path / "README.md").read_text()
    assert "Not measured: the model was quantized after training" in card
    assert "- Products with weights: 14 in integers, 0 in float" in card
    assert "results may differ on CPUs without VNNI" in card
    operators = {node.op_type for node in onnx.load(bundle.model_path).graph.node}
    assert n_integer_ops in operators
    scores = (
        evaluate(bundle.path, small.data("SST-2")).metrics,
        evaluate(small.bundle("SST-2", "float32"), small.data("SST-2")).metrics,
    )
    assert scores[0]["accuracy"] == pytest.approx(scores[1]["accuracy"], abs=0.03)


@pytest.mark.parametrize(
    ("precision", "method", "message"),
    [
        ("int8", "dynamic", r"quantized run; it can be exported as qat"),
        ("float32", "qat", r"float \(--no-quantize\) run; it can be exported as none, dynamic or static"),
        ("float32", "int4", "quantization must be one of none, dynamic, static, qat, got 'int4'"),
    ],
)
def test_a_method_that_does_not_fit_the_run_is_refused(
    small: Any, tmp_path: Path, precision: str, method: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(small.run("SST-2", precision), tmp_path / "bundle", quantization=method)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("method", ["none", "static"])
def test_the_symmetric_form_of_what_has_no_grids_of_ours_is_refused(small: Any, tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError, match=rf"quantization {method} has none; `q8bert quantize --symmetric`"):
        export(small.run("SST-2", "float32"), tmp_path / "bundle", quantization=method, symmetric=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qat", "none", "static"])
def test_scores_leave_a_bundle_in_the_users_units(small: Any, tmp_path: Path, method: str) -> None:
    bundles, options = {}, {"engine": "torch", "max_steps": 40, "learning_rate": 3e-3, "max_length": 32, "threads": 1}
    for name, (factor, term) in {"plain": (1, 0), "thousands": (1000, 1000)}.items():
        data = tmp_path / f"{name}-data"
        data.mkdir()
        for split in ("train", "dev"):
            header, *rows = (small.data("STS-B") / f"{split}.tsv").read_text().splitlines()
            cells = [row.split("\t") for row in rows]
            rows = [f"{a}\t{b}\t{factor * float(number) + term!r}" for a, b, number in cells]
            (data / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n")
        train(
            TrainConfig.from_options(
                task=glue_task("STS-B"), data_dir=str(data), model=str(small.model), output_dir=tmp_path / name,
                quantize=method == "qat", **options,
            )
        )  # fmt: skip
        bundle, report = export(tmp_path / name, tmp_path / f"{name}-bundle", quantization=method)
        if report.parity is not None:
            assert report.parity.resolved.n_rows_differing == 0
            assert report.parity.exported["pearson"] == pytest.approx(report.metrics["pearson"], abs=0.01)
        bundles[name] = bundle
    pairs = [("a good film", "a great film"), ("good great fine warm", "bad"), ("a story", "the plot was clever")]
    plain, thousands = (
        np.array([answer.score for answer in Classifier.load(bundle.path)(pairs)]) for bundle in bundles.values()
    )
    np.testing.assert_allclose(thousands, 1000 * plain + 1000, rtol=1e-5)
    found = evaluate(bundles["thousands"].path, tmp_path / "thousands-data").metrics
    assert found["pearson"] > 0.2
    assert found == pytest.approx(evaluate(bundles["plain"].path, tmp_path / "plain-data").metrics, abs=1e-5)


@pytest.mark.slow
def test_layers_left_in_float_are_reported_with_what_they_cost(small: Any, tmp_path: Path) -> None:
    float_layers = ("bert.embeddings.token_type_embeddings", "bert.encoder.layer.0.output.dense", "classifier")
    options = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(small.data("SST-2")), model=str(small.model), output_dir=tmp_path / "run",
        engine="torch", max_steps=2, max_length=32, threads=1, keep_float=float_layers,
        quantize_from=0.0,
    )  # fmt: skip
    train(options)
    bundle, report = export(tmp_path / "run", tmp_path / "bundle")
    whole, _ = export(small.run("SST-2", "int8"), tmp_path / "whole", check_parity=False)
    assert report.float_layers == float_layers
    assert "Layers left in float32 on request: " + ", ".join(float_layers) in (bundle.path / "README.md").read_text()
    # the two Linear among them, and nothing else; the embedding has no product
    assert (report.fusion.n_float, report.fusion.n_integer) == (2, 9)
    # scales, zero points and two fewer pairs of nodes weigh little beside three bytes a weight
    grown = bundle.model_size_bytes - whole.model_size_bytes
    assert grown == pytest.approx(report.float_layers_bytes, abs=4096)
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0


@pytest.mark.slow
def test_ranges_of_a_percentile_are_told_in_the_bundle(small: Any, tmp_path: Path) -> None:
    options = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(small.data("SST-2")), model=str(small.model), output_dir=tmp_path / "run",
        engine="torch", max_steps=4, max_length=32, threads=1, ranges="percentile", range_percentile=99.5,
    )  # fmt: skip
    train(options)
    bundle, report = export(tmp_path / "run", tmp_path / "bundle")
    told = bundle.manifest.quantization
    assert (told["ranges"], told["range_percentile"]) == ("percentile", 99.5)
    assert (
        "activations with ranges of a percentile of the calibration's values;"
        in (bundle.path / "README.md").read_text()
    )
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0


@pytest.mark.slow
def test_learned_ranges_are_exported_as_they_are_and_the_bundle_says_so(small: Any, tmp_path: Path) -> None:
    options = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(small.data("SST-2")), model=str(small.model), output_dir=tmp_path / "run",
        engine="torch", max_steps=12, max_length=32, threads=1, quantize_from=0.25, ranges="learned",
    )  # fmt: skip
    train(options)
    bundle, report = export(tmp_path / "run", tmp_path / "bundle")
    ranges = best_checkpoint(tmp_path / "run").ranges
    assert isinstance(ranges, LearnedRanges)
    assert ranges.count == 9
    scales = bundle.manifest.quantization["activation_scales"]
    np.testing.assert_allclose(list(scales.values()), ranges.log_amax.exp() / 127, rtol=1e-6)  # type: ignore[attr-defined]
    assert bundle.manifest.quantization["ranges"] == "learned"
    assert "activations with ranges learned with the weights;" in (bundle.path / "README.md").read_text()
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0


@pytest.mark.slow
def test_a_run_with_grids_of_its_own_is_exported_with_them(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(site: Site, seen: SeenSite, readers: Any, **_: Any) -> Site:
        # the small model has no outliers
        return dataclasses.replace(
            site, smoothing=tuple(index % 4 for index in range(seen.rows.shape[1])), zero_point=-20
        )

    monkeypatch.setattr(calibration, "choose_grid", choose)
    options = TrainConfig.from_options(
        task=glue_task("SST-2"), data_dir=str(small.data("SST-2")), model=str(small.model), output_dir=tmp_path / "run",
        engine="torch", max_steps=2, max_length=32, threads=1, quantize_from=0.0,
    )  # fmt: skip
    train(options)
    bundle, report = export(tmp_path / "run", tmp_path / "bundle")
    sites = [site.name for site in best_checkpoint(tmp_path / "run").sites]
    assert bundle.manifest.quantization["smoothed_activations"] == sites
    assert bundle.manifest.quantization["activation_zero_points"] == dict.fromkeys(sites, -20)
    card = (bundle.path / "README.md").read_text()
    assert f"their weights up: {', '.join(sites)}" in card
    assert f"all others 0: {', '.join(f'{name} -20' for name in sites)}" in card
    # the last query reads the first token alone, by a pair of nodes of its own
    assert zero_points_of(bundle) == [-20] * (len(sites) + 1)
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0
    symmetric, report = export(tmp_path / "run", tmp_path / "symmetric", symmetric=True)
    assert zero_points_of(symmetric) == [0] * (len(sites) + 1)
    assert symmetric.manifest.quantization["symmetric"] is True
    assert "as additions, the graph's own are all 0" in (symmetric.path / "README.md").read_text()
    assert report.parity is not None
    assert report.parity.resolved.n_rows_differing == 0


def zero_points_of(bundle: Bundle) -> list[int]:
    graph = onnx.load(bundle.path / "model.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [int(constants[node.input[2]]) for node in graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.slow
def test_a_product_left_in_float_stops_the_export(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_one(graph: onnx.ModelProto) -> FusionReport:
        found = examine_fusion(graph)
        return dataclasses.replace(found, n_integer=found.n_integer - 1)

    monkeypatch.setattr(assembly, "examine_fusion", without_one)
    with pytest.raises(
        ExportError, match=r"would run 10 products in integers and 0 in float \(none\); it should be 11"
    ):
        export(small.run("SST-2", "int8"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_the_command_shows_people_what_scripts_read(small: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        build_app(), ["export", str(small.run("STS-B", "int8")), "--output-dir", str(tmp_path / "bundle")]
    )
    assert done.exit_code == 0
    words = " ".join(done.stdout.replace("│", " ").split())
    parity = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    assert "11 in integers, 0 in float" in words
    assert f"{parity['n_ties']:,} of {parity['n_codes']:,} codes" in words
    found, simulated = (100 * where["pearson"] for where in (parity["exported"], parity["free"]["metrics"]))
    rows = f"{parity['n_rows']} of {parity['n_rows_in_split']} rows"
    release = f"onnxruntime {parity['onnxruntime'].split()[-1]}"
    assert f"dev pearson, on {rows} {found:.2f} exported" in words
    assert f"{simulated:.2f} simulated" in words
    assert release in words


@pytest.mark.slow
def test_as_many_rows_are_compared_as_were_asked_for(small: Any, tmp_path: Path) -> None:
    run = small.run("SST-2", "float32")
    before = torch.get_num_threads()
    for asked, compared in ((7, 7), (0, 200), (500, 200)):
        threads: set[int] = set()
        _, report = export(
            run, tmp_path / "bundle", parity_rows=asked, threads=3,
            show_progress=lambda *_, seen=threads: seen.add(torch.get_num_threads()),
        )  # fmt: skip
        assert (threads, torch.get_num_threads()) == ({3}, before)
        assert report.parity is not None
        assert (report.parity.n_rows, report.parity.n_rows_in_split) == (compared, 200)
    with pytest.raises(ConfigError, match=r"parity_rows must be 0 or more, got -1"):
        export(run, tmp_path / "bundle", parity_rows=-1)
