"""The exported graph: exact operators, zero points, layout; fused to integers by ONNX Runtime; equal to the simulation."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_ir.passes.common import IdentityEliminationPass

from q8bert.export.graph import build as graph_module
from q8bert.export.graph.build import build_graph
from q8bert.export.graph.inference_model import InferenceModel
from q8bert.export.graph.passes.keep_first_token import FIRST_TOKEN
from q8bert.export.proofs.fusion import examine_fusion
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.saturation import prove_saturation_free
from q8bert.spec import quant
from q8bert.spec.errors import ExportError
from q8bert.training.engines.torch_engine import TorchEngine
from q8bert.training.objectives.objective import Classification
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.fake_quantize import quantize_weight
from q8bert.training.quantization.weights import prepare_weights

FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "mpnet", "distilbert")


def test_only_standard_operators_readable_by_every_supported_release(bert: Any) -> None:
    assert [(entry.domain, entry.version) for entry in bert.graph.opset_import] == [("", 20)]
    assert bert.graph.ir_version <= 10
    assert not bert.graph.functions


def test_inputs_and_output_have_dynamic_axes(bert: Any) -> None:
    for value in bert.graph.graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "seq"]
    (logits,) = bert.graph.graph.output
    shape = logits.type.tensor_type.shape.dim
    assert logits.name == "logits"
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 3)


def test_every_site_and_every_weight_is_quantized_once(bert: Any) -> None:
    counts = Counter(node.op_type for node in bert.graph.graph.node)
    # query, key and value are one product, so one a site; but the last query, which is of the first token alone
    n_linear_products = len(bert.sites) + 1
    n_tables = 3
    assert counts["QuantizeLinear"] == n_linear_products
    assert counts["DequantizeLinear"] == n_linear_products + n_linear_products + n_tables
    assert counts["MatMul"] == n_linear_products + 2 * 2  # and two attention products a layer
    assert counts["Gelu"] == 2
    assert counts["Split"] == 2
    assert counts["Gemm"] == counts["Erf"] == 0


def site_of(name: str) -> str:
    """Return the site of a constant; the first token's row may be quantized apart."""
    return name.rpartition(".")[0].removesuffix(FIRST_TOKEN)


def test_all_but_weights_name_zero_points_and_no_two_pairs_share_constants(bert: Any) -> None:
    constants = bert.initializers()
    producers = {name: node.op_type for node in bert.graph.graph.node for name in node.output}
    zero_points = {site.name: site.zero_point for site in bert.sites}
    assert len(set(zero_points.values())) == 3
    used: list[str] = []
    for node in bert.graph.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            is_of_activation = "QuantizeLinear" in {node.op_type, producers.get(node.input[0])}
            assert (len(node.input) == 2) == node.input[0].endswith(
                "weight_codes"
            )  # without one it is 0, for int8 codes
            if is_of_activation:
                assert constants[node.input[2]].dtype == np.int8
                assert constants[node.input[2]] == zero_points[site_of(node.input[2])]
            assert (constants[node.input[1]] > 0).all()
            used += node.input[1:]
    assert len(used) == len(set(used))


def test_tables_have_a_scale_a_column_and_rows_are_dequantized_after_they_were_gathered(bert: Any) -> None:
    constants, nodes = bert.initializers(), {name: node for node in bert.graph.graph.node for name in node.output}
    tables = {}
    for node in bert.graph.graph.node:
        gather = nodes.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if gather is not None and gather.op_type == "Gather":
            assert [(item.name, item.i) for item in node.attribute] == [("axis", 2)]
            tables[gather.input[0]] = constants[gather.input[0]], constants[node.input[1]]
    assert len(tables) == 3
    for name, (codes, scale) in tables.items():
        table = bert.model.get_parameter(name.replace("table_codes", "weight")).detach().numpy()
        expected = quant.scale_from_amax(np.abs(table).max(axis=0))
        np.testing.assert_array_equal(scale, expected)
        np.testing.assert_array_equal(codes, quant.quantize(table, expected, qmin=-127, qmax=127))


@pytest.fixture(scope="module")
def symmetric(bert: Any) -> Any:
    """The same model in its symmetric form."""
    names = list(bert.batch.inputs)
    return build_graph(bert.model, bert.sites, bert.amax, bert.quantized, input_names=names, symmetric=True)


def constants_of(graph: Any) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_the_symmetric_form_is_the_same_model_in_integers_too(bert: Any, symmetric: Any) -> None:
    report = bert.parity(graph=symmetric)  # raises where a code differs and there is no tie
    assert report.resolved.max_abs_diff < 1e-4 < report.quantization_effect
    fusion = examine_fusion(symmetric)
    assert (fusion.n_integer, fusion.n_float) == (len(bert.sites) + 1, 0)
    assert prove_saturation_free(symmetric) == len(bert.sites) + 1
    shifted = [site for site in bert.sites if site.zero_point]
    added = Counter(node.op_type for node in symmetric.graph.node) - Counter(
        node.op_type for node in bert.graph.graph.node
    )
    assert added == {"Add": len(shifted), "Mul": 3}
    constants = constants_of(symmetric)
    for site in shifted:
        step = bert.initializers()[f"{site.name}.quantize_scale"]
        assert constants[f"{site.name}.shift"] == np.float32(site.zero_point * step)


def test_the_rules_of_tensorrt_are_kept_in_the_symmetric_form(symmetric: Any) -> None:
    constants = constants_of(symmetric)
    assert {array.dtype for array in constants.values()} <= {np.dtype(t) for t in (np.int8, np.float32, np.int64)}
    producers = {name: node.op_type for node in symmetric.graph.node for name in node.output}
    for node in symmetric.graph.node:
        if node.op_type == "QuantizeLinear":  # activations by tensor
            assert constants[node.input[1]].ndim == 0
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and len(node.input) == 3:
            assert not constants[node.input[2]].any()
        if node.op_type == "DequantizeLinear" and constants[node.input[1]].ndim:  # weights by output channel
            codes, scale = constants[node.input[0]], constants[node.input[1]]
            assert [(item.name, item.i) for item in node.attribute] == [("axis", 1)]
            assert scale.shape == (codes.shape[1],)
        if node.op_type == "MatMul" and producers.get(node.input[1]) == "DequantizeLinear":
            assert producers[node.input[0]] in {"DequantizeLinear", "Unsqueeze"}  # both factors or none


def test_weights_are_int8_and_already_transposed(bert: Any) -> None:
    constants = bert.initializers()
    dense = "bert.encoder.layer.0.intermediate.dense"
    codes, scale = constants[f"{dense}.weight_codes"], constants[f"{dense}.weight_scale"]
    (site,) = (site for site in bert.sites if site.linears == (dense,))
    assert any(site.smoothing)
    weight = bert.model.get_parameter(f"{dense}.weight").detach().numpy() * 2.0 ** np.array(site.smoothing)
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, (32, 64), (64,))
    # half a step is the largest rounding error
    assert (np.abs(codes * scale - weight.T) <= scale / 2 * 1.0001).all()
    float_names = {name for name, array in constants.items() if array.dtype == np.float32 and array.ndim > 1}
    assert not float_names


def is_of_attention(site: Any) -> bool:
    return "attention.output" in site.name


def test_smoothed_activations_are_multiplied_once_and_right_before_they_are_quantized(bert: Any) -> None:
    constants = bert.initializers()
    readers = {node.input[0]: node for node in reversed(bert.graph.graph.node) if node.op_type == "QuantizeLinear"}
    found = {}
    for node in bert.graph.graph.node:
        factors = next((name for name in node.input if name.endswith(".smoothing")), None)
        if factors is not None:
            assert node.op_type == "Mul"
            assert readers[node.output[0]].input[1] == factors.replace(".smoothing", ".quantize_scale")
            found[factors.removesuffix(".smoothing")] = constants[factors]
    multiplied = [site for site in bert.sites if site.smoothing and not is_of_attention(site)]
    assert list(found) == [site.name for site in multiplied]
    for site in bert.sites:
        if site in multiplied:
            np.testing.assert_array_equal(found[site.name], 0.5 ** np.array(site.smoothing))


def test_the_smoothing_of_what_attention_puts_together_is_in_the_scales_of_its_values(bert: Any) -> None:
    constants = bert.initializers()
    for layer in (0, 1):
        attention = f"bert.encoder.layer.{layer}.attention"
        (site,) = (site for site in bert.sites if site.name == f"{attention}.output.dense.input")
        factors = np.float32(0.5) ** np.array(site.smoothing, dtype=np.float32)
        assert (factors != 1).any()
        value = f"{attention}.self.value"
        weight = bert.model.get_parameter(f"{value}.weight").detach()
        (query,) = (site for site in bert.sites if value in site.linears)
        codes, scale = quantize_weight(weight * query.factors(), bert.quantized[f"{value}.weight"])
        (name,) = (name for name in constants if name.startswith(attention) and name.endswith("value.weight_scale"))
        np.testing.assert_array_equal(constants[name][-32:], scale.flatten().numpy() * factors)
        np.testing.assert_array_equal(constants[name.replace("scale", "codes")][:, -32:], codes.t().numpy())
        bias = bert.model.get_parameter(f"{value}.bias").detach().numpy()
        np.testing.assert_array_equal(constants[name.replace("weight_scale", "bias")][-32:], bias * factors)


def test_only_the_first_tokens_row_of_the_last_layer_is_computed(bert: Any) -> None:
    known = onnx.shape_inference.infer_shapes(bert.graph, data_prop=True)
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in known.graph.value_info
    }
    rows = {
        node.input[1]: sizes[node.output[0]][1]
        for node in bert.graph.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights_of(bert)
    }
    of_weights = {weights_of(bert)[name]: size for name, size in rows.items()}
    last = "bert.encoder.layer.1"
    one_row = {"attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense"}
    for name, size in of_weights.items():
        is_in_last = name.startswith(last) and name.removeprefix(f"{last}.") in one_row
        assert (size == 1) == (is_in_last or not name.startswith("bert.encoder")), name
    assert f"{last}.attention.self.key+value" in of_weights


def weights_of(exported: Any) -> dict[str, str]:
    return {
        node.output[0]: node.input[0].removesuffix(".weight_codes")
        for node in exported.graph.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0].endswith(".weight_codes")
    }


def test_shapes_are_constants_but_for_the_positions(bert: Any) -> None:
    constants = bert.initializers()
    counts = Counter(node.op_type for node in bert.graph.graph.node)
    assert (counts["Concat"], counts["Shape"]) == (0, 1)
    for node in bert.graph.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants and constants[node.input[1]].size > 1:
            assert constants[node.input[1]][:2].tolist() == [0, 0]


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.slow) for name in FAMILIES]
)
def test_narrowed_or_whole_folded_or_multiplied_the_codes_are_the_same(
    family: str, export_random: Any, run_graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export_random(family, per_channel=True)
    names = list(exported.batch.inputs)
    for name in ("ConstantShapesPass", "FoldSmoothingPass", "KeepFirstTokenPass"):
        monkeypatch.setattr(graph_module, name, IdentityEliminationPass)
    whole = build_graph(exported.model, exported.sites, exported.amax, exported.quantized, input_names=names)
    inputs = {name: tensor.numpy() for name, tensor in exported.batch.inputs.items()}
    (logits, codes), (expected, all_codes) = (
        CodeObserver(graph, exported.sites).run(inputs) for graph in (exported.graph, whole)
    )
    # of one row alone, attention may sum in another order
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)
    n_narrowed = 0
    for found, of_all in zip(codes, all_codes, strict=True):
        n_narrowed += found.shape != of_all.shape
        np.testing.assert_array_equal(found, of_all[:, : found.shape[1]])
    assert n_narrowed == 3  # attention output and both feed-forward products


def test_nothing_of_the_exporter_is_left_in_the_file(bert: Any) -> None:
    graph = bert.graph.graph
    assert not bert.graph.metadata_props
    assert not bert.graph.doc_string
    assert not any(node.metadata_props or node.doc_string or node.name for node in graph.node)
    assert not any(tensor.metadata_props or tensor.doc_string for tensor in graph.initializer)
    assert not graph.value_info


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.parametrize("per_channel", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_exported_model_equals_the_simulation_and_multiplies_integers(
    family: str, per_channel: bool, export_random: Any, run_graph: Any
) -> None:
    exported = export_random(family, per_channel=per_channel)
    floats = run_graph(exported.float_graph, exported.batch.inputs)
    with torch.no_grad():
        reference = exported.model(**exported.batch.inputs).logits
    np.testing.assert_allclose(floats, reference.numpy(), rtol=0, atol=1e-4)
    report = exported.parity()  # raises where a code differs and there is no tie
    assert report.resolved.max_abs_diff < 1e-4 < report.quantization_effect
    # query, key and value are one product; all of them in integers
    fusion = examine_fusion(exported.graph)
    in_attention = [site for site in exported.sites if len(site.linears) > 1]
    n_linears = sum(isinstance(module, torch.nn.Linear) for module in exported.model.modules())
    n_fused = 2 * len(in_attention) - 1  # in the last layer, the query is of the first token alone
    assert (fusion.n_integer, fusion.n_float) == (n_linears - n_fused, 0)
    assert examine_fusion(exported.float_graph).n_float == n_linears


def test_rows_do_not_depend_on_their_batch(bert: Any, run_graph: Any) -> None:
    logits = run_graph(bert.graph, bert.batch.inputs)
    for row, length in enumerate([11, 7, 4, 11]):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in bert.batch.inputs.items()}
        np.testing.assert_allclose(run_graph(bert.graph, alone)[0], logits[row], rtol=0, atol=2e-2)


@pytest.mark.parametrize("form", ["zero points", "symmetric"])
def test_the_rebuilt_model_computes_the_simulation_in_torch(bert: Any, form: str) -> None:
    weights = prepare_weights(bert.model, bert.quantized, bert.sites)
    engine = TorchEngine(bert.model, bert.sites, weights, Classification())
    simulated = engine.outputs(bert.batch.inputs, bert.amax)["logits"]
    is_symmetric = form == "symmetric"
    rebuilt = InferenceModel(bert.model, bert.sites, bert.amax, bert.quantized, symmetric=is_symmetric).eval()
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(**bert.batch.inputs), simulated, rtol=0, atol=1e-4)


def test_scores_leave_the_graph_in_the_users_units(bert: Any, run_graph: Any) -> None:
    graph = build_graph(
        bert.model,
        (),
        torch.zeros(0),
        {},
        input_names=list(bert.batch.inputs),
        target_scale=TargetScale(3500.0, 1500.0),
    )
    expected = run_graph(bert.float_graph, bert.batch.inputs) * np.float32(1500) + np.float32(3500)
    np.testing.assert_array_equal(run_graph(graph, bert.batch.inputs), expected)
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert (kept["target_mean"], kept["target_std"]) == (3500, 1500)
    assert [node.op_type for node in graph.graph.node][-2:] == ["Mul", "Add"]
    assert len(graph.graph.node) == len(bert.float_graph.graph.node) + 2


@pytest.mark.slow
def test_a_graph_beyond_what_one_file_holds_is_refused(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "_MAX_BYTES", 10_000)
    with pytest.raises(ExportError, match="one ONNX file holds 2 GiB at most"):
        build_graph(bert.model, (), torch.zeros(0), {}, input_names=list(bert.batch.inputs))
