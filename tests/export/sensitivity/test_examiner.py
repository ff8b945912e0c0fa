"""What is reported of every layer, and which layers are proposed to be kept in float."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from q8bert.export import examine_sensitivity, quantize
from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.proofs.float_comparison import relative_error
from q8bert.export.sensitivity.measurement import Change
from q8bert.export.sensitivity.simulation import PartlyQuantized, simulate
from q8bert.runtime.cli import build_app
from q8bert.spec.errors import ConfigError


def test_every_activation_and_layer_is_measured_alone_and_left_out(
    small: Any, quantized: tuple[ModelToExport, EncodedRows]
) -> None:
    model, rows = quantized
    shown: list[tuple[int, int]] = []
    threads, before = set(), torch.get_num_threads()

    def show(done: int, total: int) -> None:
        shown.append((done, total))
        threads.add(torch.get_num_threads())

    report = examine_sensitivity(
        small.run("SST-2", "float32"), calibration_rows=64, rows=48, threads=3, show_progress=show
    )
    assert (threads, torch.get_num_threads()) == ({3}, before)
    parts = {part.name: part for part in report.measured.parts}
    layers = {name.removesuffix(".weight") for name in model.weights.quantized}
    assert set(parts) == layers | {site.name for site in model.sites}
    assert shown[-1] == (2 * len(parts) + 5, 2 * len(parts) + 5)
    assert (report.n_calibration_rows, report.n_rows, report.main_metric) == (64, 48, "accuracy")
    floats = simulate(model, PartlyQuantized(frozenset(), frozenset()), rows, batch_size=8)
    labels = np.array(rows.labels)
    assert report.measured.float_score == np.mean(floats.argmax(1) == labels)
    name = "bert.encoder.layer.1.output.dense"
    alone = PartlyQuantized(frozenset({f"{name}.input"}), frozenset({name}))
    for found, chosen in (
        (parts[name].alone, alone),
        (parts[name].all_but, PartlyQuantized.whole(model, keep_float={name})),
        (parts[f"{name}.input"].alone, PartlyQuantized(frozenset({f"{name}.input"}), frozenset())),
        (report.measured.whole, PartlyQuantized.whole(model)),
    ):
        logits = simulate(model, chosen, rows, batch_size=8)
        assert found == Change(relative_error(logits, floats), float(np.mean(logits.argmax(1) == labels)))
    # the errors of parts alone add up to that of the whole, to their order of size
    total = sum(part.alone.relative_error for part in report.measured.parts if part.n_weights and part.alone)
    assert 0.2 * total < report.measured.whole.relative_error < 5 * total


@pytest.mark.slow
def test_what_is_proposed_reaches_what_is_wanted_and_nothing_of_it_is_idle(
    small: Any, quantized: tuple[ModelToExport, EncodedRows], tmp_path: Path
) -> None:
    model, rows = quantized
    run = small.run("SST-2", "float32")
    whole = examine_sensitivity(run, calibration_rows=64, rows=48).measured.whole.relative_error
    wanted = whole / 4
    report = examine_sensitivity(run, calibration_rows=64, rows=48, max_logit_error=wanted)
    assert report.proposal is not None
    keep = report.proposal.keep_float
    assert keep
    floats = simulate(model, PartlyQuantized(frozenset(), frozenset()), rows, batch_size=8)

    def error(kept: tuple[str, ...]) -> float:
        return relative_error(
            simulate(model, PartlyQuantized.whole(model, keep_float=kept), rows, batch_size=8), floats
        )

    assert error(keep) == report.proposal.change.relative_error <= wanted
    weights = [model.source.model.get_parameter(f"{name}.weight").numel() for name in keep]
    assert report.proposal.extra_bytes == 3 * sum(weights)
    largest = keep[int(np.argmax(weights))]
    assert error(tuple(name for name in keep if name != largest)) > wanted
    _, quantized_report = quantize(run, tmp_path / "bundle", keep_float=keep, calibration_rows=64, check_parity=False)
    assert quantized_report.float_layers_bytes == report.proposal.extra_bytes


def test_a_loss_of_score_needs_labels(small: Any, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    lines = (small.data("SST-2") / "train.tsv").read_text().splitlines()
    rows.write_text("\n".join(line.split("\t")[0] for line in lines) + "\n")
    with pytest.raises(ConfigError, match=r"a relative loss is wanted, but the rows of .* have no labels"):
        examine_sensitivity(small.run("SST-2", "float32"), data=rows, max_relative_loss=0.01)
    report = examine_sensitivity(small.run("SST-2", "float32"), data=rows, rows=16)
    assert (report.main_metric, report.measured.float_score) == (None, None)


def test_without_rows_the_commands_own_option_is_named(small: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no run, .* as it will meet them with --data, or the task's folder"):
        examine_sensitivity(small.model)


def test_the_command_exits_1_where_nothing_reaches_what_is_wanted(small: Any) -> None:
    run = str(small.run("SST-2", "float32"))
    arguments = ["sensitivity", run, "--calibration-rows", "32", "--rows", "16"]
    done = CliRunner().invoke(build_app(), [*arguments, "--max-logit-error", "1e9", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["proposal"]["keep_float"] == []
    done = CliRunner().invoke(build_app(), arguments)
    assert "bert.encoder.layer.1.attention.output.dense.input" in done.stdout  # whole, in 80 columns too
    done = CliRunner().invoke(build_app(), [*arguments, "--max-logit-error", "0"])
    assert done.exit_code == 1
    assert "train with quantization awareness" in done.stdout
