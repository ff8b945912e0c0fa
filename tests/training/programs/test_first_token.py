"""What no head reads is left out of a graph, and nothing else is."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from q8bert.training.programs.first_token import keep_first_token
from q8bert.training.programs.joint_graph import trace_joint_graph
from q8bert.training.programs.operators import ProgramOperators, linear_to_one_node
from q8bert.training.programs.translations import UNDECOMPOSED

WIDTH = 4


class ReadsTheFirst(nn.Module):
    """Two Linears row by row, then the first row alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with ProgramOperators({functional.linear: linear_to_one_node}):
            y = self.read(functional.gelu(self.first(x)), self.second)
        return y.square().sum(), y.detach()

    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        return second(x)[:, 0]


class ReadsTheSecond(ReadsTheFirst):
    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        return second(x)[:, 1]


class ReadsTheMeanToo(ReadsTheFirst):
    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        y = second(x)
        return y[:, 0] + y.mean(dim=1)


class ReadsAnEarlierOneWhole(ReadsTheFirst):
    """The second Linear is needed for one row, the first for all."""

    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        return second(x)[:, 0] + x.sum(dim=1)


class MixesRows(ReadsTheFirst):
    """As attention does: the first row of a product needs the first row of one factor and all of the other."""

    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        weights = functional.softmax(torch.bmm(second(x), x.transpose(1, 2)), dim=-1)
        return torch.bmm(weights, x)[:, 0]


class SquaresAProduct(ReadsTheFirst):
    """Both factors are one tensor: the first row of a square needs all of it."""

    def read(self, x: Tensor, second: nn.Linear) -> Tensor:
        weights = functional.softmax(torch.bmm(second(x), x.transpose(1, 2)), dim=-1)
        return torch.bmm(torch.bmm(weights, weights), x)[:, 0]


def narrowed(module: nn.Module) -> tuple[int, dict[str, Tensor], dict[str, Tensor]]:
    """Trace a module; return how many Linears got narrower, its gradients on other sizes, and torch's."""
    counts: list[int] = []

    def rewrite(graph: fx.Graph) -> None:
        counts.append(keep_first_token(graph))

    joint = trace_joint_graph(
        module, {"x": torch.ones(2, 3, WIDTH)}, dynamic_axes={"x": {0: "batch", 1: "seq"}}, output_names=["loss", "y"],
        undecomposed=UNDECOMPOSED, rewrite=rewrite,
    )  # fmt: skip
    x = torch.randn(3, 5, WIDTH)
    with torch.no_grad():
        outputs = fx.Interpreter(joint.program.graph_module).run(*module.parameters(), x)
    module(x)[0].backward()
    expected = {f"{name}_grad": parameter.grad for name, parameter in module.named_parameters()}
    expected["y"] = module(x)[1]
    return counts[0], dict(zip(joint.output_names, outputs, strict=True)), expected  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (ReadsTheFirst, 2),
        (ReadsTheSecond, 0),
        (ReadsTheMeanToo, 0),
        (ReadsAnEarlierOneWhole, 1),
        (MixesRows, 1),
        (SquaresAProduct, 0),
    ],
)
def test_what_is_read_at_the_first_token_alone_is_computed_there_alone(kind: type[nn.Module], count: int) -> None:
    found, ours, expected = narrowed(kind())
    assert found == count
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "count"),
    # query, attention output and both feed-forward products of the last of two layers
    [(BertForSequenceClassification, 4), (BertForTokenClassification, 0)],
)
def test_of_the_last_layer_a_classifier_needs_keys_and_values_whole(factory: Any, count: int) -> None:
    config = BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    model = factory(config)
    counts = []

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
            with ProgramOperators({functional.linear: linear_to_one_node}):
                mask = (1.0 - attention_mask.float())[:, None, None] * -1e4
                return (self.model(input_ids=input_ids, attention_mask=mask).logits.square().sum(),)

    ids = torch.ones(2, 3, dtype=torch.int64)
    trace_joint_graph(
        Loss(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic_axes={name: {0: "batch", 1: "seq"} for name in ("input_ids", "attention_mask")}, output_names=["loss"],
        undecomposed=UNDECOMPOSED, rewrite=lambda graph: counts.append(keep_first_token(graph)),
    )  # fmt: skip
    assert counts == [count]
