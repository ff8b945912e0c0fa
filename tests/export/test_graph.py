"""The exported graph: exact operators, zero points, layout; fused to integers by ONNX Runtime; equal to the simulation."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from q8bert.export.graph import build_graph
from q8bert.export.inference_model import InferenceModel
from q8bert.training.engine import Batch
from q8bert.training.sites import find_sites
from q8bert.training.torch_engine import TorchEngine
from q8bert.training.weights import prepare_weights, quantized_parameters

BERT_LIKE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 64, "initializer_range": 0.2, "num_labels": 3,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**BERT_LIKE),
    "roberta": RobertaConfig(**BERT_LIKE, pad_token_id=1),
    "electra": ElectraConfig(**BERT_LIKE, embedding_size=16),
    "mpnet": MPNetConfig(**BERT_LIKE),
    "distilbert": DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=100, max_position_embeddings=64, num_labels=3
    ),
}


class Exported:
    """A random model with its INT8 graph and its float graph."""

    def __init__(self, family: str, *, per_channel: bool = True) -> None:
        torch.manual_seed(0)
        config = CONFIGS[family]
        self.model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        self.sites = find_sites(self.model)
        self.amax = torch.linspace(2.0, 4.0, len(self.sites))
        self.quantized = quantized_parameters(self.model, per_channel=per_channel)
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
        self.graph = build_graph(self.model, self.sites, self.amax, self.quantized, input_names=names)
        self.float_graph = build_graph(self.model, (), torch.zeros(0), {}, input_names=names)
        mask = torch.ones(4, 11, dtype=torch.int64)
        mask[1, 7:], mask[2, 4:] = 0, 0
        ids = torch.where(mask == 1, torch.randint(5, 100, mask.shape), config.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
        self.batch = Batch({name: inputs[name] for name in names}, torch.zeros(4, dtype=torch.int64))

    def initializers(self) -> dict[str, np.ndarray[Any, Any]]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.graph.initializer}


@pytest.fixture(scope="module")
def bert() -> Exported:
    return Exported("bert")


def run(graph: onnx.ModelProto, inputs: Any) -> Any:
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


def float_weight_products(graph: onnx.ModelProto, path: Path) -> list[str]:
    """Return the products with a weight that ONNX Runtime leaves in float, after its own optimization."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(path)
    constants = {tensor.name for tensor in optimized.graph.initializer}
    constants |= {
        node.output[0]
        for node in optimized.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    return [
        node.op_type
        for node in optimized.graph.node
        if node.op_type in {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"} and constants & set(node.input)
    ]


def test_only_standard_operators_readable_by_every_supported_release(bert: Exported) -> None:
    assert [(entry.domain, entry.version) for entry in bert.graph.opset_import] == [("", 20)]
    assert bert.graph.ir_version <= 10
    assert not bert.graph.functions


def test_inputs_and_output_have_dynamic_axes(bert: Exported) -> None:
    for value in bert.graph.graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "seq"]
    (logits,) = bert.graph.graph.output
    shape = logits.type.tensor_type.shape.dim
    assert logits.name == "logits"
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 3)


def test_every_site_and_every_weight_is_quantized_once(bert: Exported) -> None:
    counts = Counter(node.op_type for node in bert.graph.graph.node)
    n_linear_products = len(bert.sites)  # query, key and value are one product, so one a site
    n_tables = 3
    assert counts["QuantizeLinear"] == len(bert.sites)
    assert counts["DequantizeLinear"] == len(bert.sites) + n_linear_products + n_tables
    assert counts["MatMul"] == n_linear_products + 2 * 2  # and two attention products a layer
    assert counts["Gelu"] == 2
    assert counts["Split"] == 2
    assert counts["Gemm"] == counts["Erf"] == 0


def test_zero_points_are_explicit_and_zero_and_no_two_pairs_share_constants(bert: Exported) -> None:
    constants = bert.initializers()
    used: list[str] = []
    for node in bert.graph.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
            assert (constants[node.input[1]] > 0).all()
            used += node.input[1:3]
    assert len(used) == len(set(used))


def test_weights_are_int8_and_already_transposed(bert: Exported) -> None:
    constants = bert.initializers()
    dense = "bert.encoder.layer.0.intermediate.dense"
    codes, scale = constants[f"{dense}.weight_codes"], constants[f"{dense}.weight_scale"]
    weight = bert.model.get_parameter(f"{dense}.weight").detach().numpy()
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, (32, 64), (64,))
    # half a step is the largest rounding error
    assert (np.abs(codes * scale - weight.T) <= scale / 2 * 1.0001).all()
    float_names = {name for name, array in constants.items() if array.dtype == np.float32 and array.ndim > 1}
    assert not float_names


def test_nothing_of_the_exporter_is_left_in_the_file(bert: Exported) -> None:
    graph = bert.graph.graph
    assert not bert.graph.metadata_props
    assert not bert.graph.doc_string
    assert not any(node.metadata_props or node.doc_string or node.name for node in graph.node)
    assert not any(tensor.metadata_props or tensor.doc_string for tensor in graph.initializer)
    assert not graph.value_info


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.slow) for name in CONFIGS]
)
@pytest.mark.parametrize("per_channel", [True, False])
def test_exported_model_equals_the_simulation_and_multiplies_integers(
    family: str, per_channel: bool, tmp_path: Path
) -> None:
    exported = Exported(family, per_channel=per_channel)
    weights = prepare_weights(exported.model, exported.quantized)
    simulated = TorchEngine(exported.model, exported.sites, weights).logits(exported.batch.inputs, exported.amax)
    logits = run(exported.graph, exported.batch.inputs)
    floats = run(exported.float_graph, exported.batch.inputs)
    with torch.no_grad():
        reference = exported.model(**exported.batch.inputs).logits
    np.testing.assert_allclose(floats, reference.numpy(), rtol=0, atol=1e-4)
    # a rounding tie may fall either way; what quantization itself changes is several times larger
    flip = float(np.abs(logits - simulated.numpy()).max())
    assert flip <= 0.1 * float(np.abs(simulated.numpy() - floats).max()) or flip <= 1e-4
    assert float_weight_products(exported.float_graph, tmp_path / "float.onnx")
    assert float_weight_products(exported.graph, tmp_path / "int8.onnx") == []


def test_rows_do_not_depend_on_their_batch(bert: Exported) -> None:
    logits = run(bert.graph, bert.batch.inputs)
    for row, length in enumerate([11, 7, 4, 11]):
        alone = {name: tensor[row : row + 1, :length] for name, tensor in bert.batch.inputs.items()}
        np.testing.assert_allclose(run(bert.graph, alone)[0], logits[row], rtol=0, atol=2e-2)


def test_the_rebuilt_model_computes_the_simulation_in_torch(bert: Exported) -> None:
    weights = prepare_weights(bert.model, bert.quantized)
    simulated = TorchEngine(bert.model, bert.sites, weights).logits(bert.batch.inputs, bert.amax)
    rebuilt = InferenceModel(bert.model, bert.sites, bert.amax, bert.quantized).eval()
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(**bert.batch.inputs), simulated, rtol=0, atol=1e-4)
