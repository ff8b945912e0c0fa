"""Random models with their exported graphs, and how ONNX Runtime runs them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
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
    XLMRobertaConfig,
)

from q8bert.export.encoded_rows import EncodedRows
from q8bert.export.graph.build import build_graph
from q8bert.export.proofs.observed_codes import CodeObserver
from q8bert.export.proofs.parity import Simulation, compare
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.runtime.engines.session import Session
from q8bert.tasks.glue import glue_task
from q8bert.text.encoded import Encoded, Rows
from q8bert.training.engines.engine import Batch
from q8bert.training.objectives.target_scale import UNSCALED, TargetScale
from q8bert.training.quantization.sites import Site, find_sites
from q8bert.training.quantization.weights import prepare_weights, quantized_parameters

BERT_LIKE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100,
    "max_position_embeddings": 64, "initializer_range": 0.2, "num_labels": 3,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**BERT_LIKE),
    "roberta": RobertaConfig(**BERT_LIKE, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**BERT_LIKE, pad_token_id=1),
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
        found = find_sites(self.model)
        # three of four sites are smoothed, one with several readers and what attention puts together among them, and two
        # of three are shifted
        self.sites = tuple(
            replace(
                site,
                smoothing=self._exponents(site) if index % 4 != 3 else (),
                zero_point=(-20, 0, 44)[index % 3],
            )
            for index, site in enumerate(found)
        )
        self.amax = torch.linspace(2.0, 4.0, len(self.sites))
        self.quantized = quantized_parameters(self.model, per_channel=per_channel)
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if getattr(config, "type_vocab_size", 0) > 1 else []
        self.graph = build_graph(self.model, self.sites, self.amax, self.quantized, input_names=names)
        mask = torch.ones(4, 11, dtype=torch.int64)
        mask[1, 7:], mask[2, 4:] = 0, 0
        ids = torch.where(mask == 1, torch.randint(5, 100, mask.shape), config.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
        self.batch = Batch({name: inputs[name] for name in names}, {"labels": torch.zeros(4, dtype=torch.int64)})

    def _exponents(self, site: Site) -> tuple[int, ...]:
        width = self.model.get_parameter(f"{site.linears[0]}.weight").shape[1]
        return tuple(torch.randint(0, 4, (width,)).tolist())

    @cached_property
    def float_graph(self) -> onnx.ModelProto:
        return build_graph(self.model, (), torch.zeros(0), {}, input_names=list(self.batch.inputs))

    def parity(
        self,
        *,
        graph: onnx.ModelProto | None = None,
        is_float: bool = False,
        session: Any = None,
        observer: Any = None,
        max_rows: int | None = None,
        target_scale: TargetScale = UNSCALED,
    ) -> ParityReport:
        """Compare the simulation with a graph, by default its own, or with stand-ins, on the batch's rows."""
        graph = graph or (self.float_graph if is_float else self.graph)
        floats = prepare_weights(self.model, {}, ())
        simulation = (
            Simulation(self.model, (), floats, None)
            if is_float
            else Simulation(
                self.model, tuple(self.sites), prepare_weights(self.model, self.quantized, self.sites), self.amax
            )
        )
        lengths = self.batch.inputs["attention_mask"].sum(dim=1).tolist()
        ids = Rows.of([row[:n].tolist() for row, n in zip(self.batch.inputs["input_ids"], lengths, strict=True)])
        encoded = Encoded(ids, Rows(np.zeros_like(ids.flat), ids.starts))
        pad = int(self.model.config.pad_token_id)
        return compare(
            simulation,
            floats,
            session or Session(graph.SerializeToString()),
            None if is_float else observer or CodeObserver(graph, self.sites),
            split=EncodedRows(
                encoded, tuple(self.batch.targets["labels"].tolist()), tuple(self.batch.inputs), pad, target_scale
            ),
            task=glue_task("MNLI"),
            batch_size=2,
            max_rows=max_rows,
        )

    def initializers(self) -> dict[str, np.ndarray[Any, Any]]:
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.graph.initializer}


@pytest.fixture(scope="session")
def export_random() -> Callable[..., Exported]:
    """Export a random model of a family; the same one for all tests, for an export takes seconds."""

    @cache
    def export(family: str, *, per_channel: bool = True) -> Exported:
        return Exported(family, per_channel=per_channel)

    return export


@pytest.fixture(scope="session")
def bert(export_random: Callable[..., Exported]) -> Exported:
    return export_random("bert", per_channel=True)


@pytest.fixture(scope="session")
def run_graph() -> Callable[..., Any]:
    """Run an exported graph on the CPU and return its logits."""

    def run(graph: Any, inputs: Any, *, threads: int = 0) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]

    return run
