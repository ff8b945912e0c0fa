"""No product of an exported graph saturates: shown on the graph, on the real kernel, and on the whole model."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from q8bert.export.graph.build import build_graph
from q8bert.export.proofs.saturation import prove_saturation_free, what_it_took
from q8bert.runtime.doctor import examine
from q8bert.spec.errors import ExportError
from q8bert.spec.saturation import count_unsafe_pairs, saturating_matmul
from q8bert.training.quantization.weights import prepare_weights

KERNEL = Path(__file__).with_name("run_integer_kernel.py")


def weights_of_products(graph: Any) -> list[np.ndarray]:
    return [
        numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if tensor.name.endswith(".weight_codes")
    ]


@pytest.mark.parametrize("per_channel", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_weight_of_the_graph_is_proven(per_channel: bool, export_random: Any) -> None:
    exported = export_random("bert", per_channel=per_channel)
    matrices = weights_of_products(exported.graph)
    assert len(matrices) == len(exported.sites) + 1  # the last query apart from its keys and values
    assert sum(codes.size for codes in matrices) == sum(
        module.weight.numel() for module in exported.model.modules() if isinstance(module, torch.nn.Linear)
    )
    assert [count_unsafe_pairs(codes) for codes in matrices] == [0] * len(matrices)
    prove_saturation_free(exported.graph)


def test_the_report_counts_what_the_plain_grid_would_have_left(bert: Any) -> None:
    report = what_it_took(prepare_weights(bert.model, bert.quantized, bert.sites))
    factors = {name: 2.0 ** np.array(site.smoothing or 0.0) for site in bert.sites for name in site.linears}
    weights = [
        module.weight.detach().numpy() * factors[name].astype(np.float32)
        for name, module in bert.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    n_before, growths = 0, []
    for weight in weights:
        largest = np.abs(weight).max(axis=1)
        n_before += count_unsafe_pairs(np.rint(weight / (largest[:, None] / np.float32(127))).astype(np.int8).T)
        sums = np.abs(weight[:, ::2] + weight[:, 1::2]).max(axis=1)
        growths.append(np.maximum(1, sums / largest))
    assert n_before > 0
    assert (report.n_matrices, report.n_unsafe, report.n_unsafe_before) == (len(weights), 0, n_before)
    assert report.n_pairs == sum(weight.size // 2 for weight in weights)
    assert report.mean_scale_growth == pytest.approx(np.concatenate(growths).mean(), rel=1e-5)
    assert report.max_scale_growth == pytest.approx(np.concatenate(growths).max(), rel=1e-5)


@pytest.mark.slow
def test_a_graph_on_the_plain_grid_is_refused(bert: Any) -> None:
    plain = {name: replace(grid, saturation_free=False) for name, grid in bert.quantized.items()}
    graph = build_graph(bert.model, bert.sites, bert.amax, plain, input_names=list(bert.batch.inputs))
    with pytest.raises(ExportError, match=r"\d+ pairs of bert\..*weight_codes add up to more than 128"):
        prove_saturation_free(graph)


def test_a_weight_of_another_operator_is_not_proven(bert: Any) -> None:
    graph = type(bert.graph)()
    graph.CopyFrom(bert.graph)
    product = next(node for node in graph.graph.node if node.op_type == "MatMul")
    product.op_type = "Gemm"
    with pytest.raises(ExportError, match="weight_codes feeds Gemm; only second factors of MatMul can be proven"):
        prove_saturation_free(graph)


def test_logits_are_bit_equal_for_any_number_of_threads(bert: Any, run_graph: Any) -> None:
    logits = [run_graph(bert.graph, bert.batch.inputs, threads=n) for n in (1, 2, 3, 4)]
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


# ---- the real kernel, without VNNI -------------------------------------------------------------


def without_vnni() -> list[str]:
    """Command that runs Python on a CPU with AVX2 and without VNNI: this one, or one that QEMU emulates."""
    features = set(examine().cpu_features)
    if "avx2" in features and not features & {"avx512_vnni", "avx_vnni"}:
        return [sys.executable]
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or not features & {"avx2"}:
        pytest.skip("needs a CPU with AVX2 and without VNNI, or qemu-x86_64 (qemu-user) to emulate one")
    return [qemu, "-cpu", "max", str(Path(sys.executable).resolve())]  # its AVX-512 and VNNI are not emulated


@pytest.mark.slow
def test_the_real_kernel_saturates_before_the_cure_and_is_exact_after(
    bert: Any, run_graph: Any, tmp_path: Path
) -> None:
    command = without_vnni()
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 64)).astype(np.float32)
    plain = np.rint(weight / (np.abs(weight).max(axis=1, keepdims=True) / 127)).astype(np.int8).T
    cured = weights_of_products(bert.graph)[0]
    n = max(len(plain), len(cured))
    extremes = [np.full(n, 255), np.arange(n) % 2 * 255, rng.integers(0, 2, n) * 255, rng.integers(0, 256, n)]
    activations = np.array(extremes, dtype=np.uint8)
    inputs = {name: tensor.numpy() for name, tensor in bert.batch.inputs.items()}
    np.savez(tmp_path / "in.npz", activations=activations, plain=plain, cured=cured, **inputs)
    (tmp_path / "model.onnx").write_bytes(bert.graph.SerializeToString())
    (tmp_path / "names.json").write_text(json.dumps(list(inputs)))
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    subprocess.run([*command, str(KERNEL), str(tmp_path)], check=True, env=environment, timeout=300)
    found = np.load(tmp_path / "out.npz")
    for name, codes in (("plain", plain), ("cured", cured)):
        a = activations[:, : len(codes)]
        exact = a.astype(np.int32) @ codes.astype(np.int32)
        np.testing.assert_array_equal(found[name], saturating_matmul(a, codes))  # the numpy model is the kernel
        assert np.array_equal(found[name], exact) == (name == "cured")
    # the whole model, here and there: floats of other kernels, so ties may fall otherwise, but nothing saturates
    effect = np.abs(run_graph(bert.graph, bert.batch.inputs) - run_graph(bert.float_graph, bert.batch.inputs)).max()
    assert np.abs(found["logits"] - run_graph(bert.graph, bert.batch.inputs)).max() < 0.1 * effect
