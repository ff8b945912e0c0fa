"""torch's own backward pass as a graph: right gradients, right names, and refusals instead of wrong graphs."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn import functional

from q8bert.spec.errors import ExportError
from q8bert.training.programs.joint_graph import JointGraph, trace_joint_graph
from q8bert.training.programs.translations import UNDECOMPOSED
from q8bert.training.quantization.weights import prepare_weights

TOKENS, WIDTH = 7, 3


class Tiny(nn.Module):
    """Looks ids up, computes something, adds it up over each text, and compares the result with a target."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        y = self.compute(self.table(ids), ids).sum(dim=1)
        return functional.mse_loss(y[:, 0], target), y

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x)


def traced(module: nn.Module) -> JointGraph:
    return trace_joint_graph(
        module,
        {"ids": torch.ones(2, 4, dtype=torch.int64), "target": torch.ones(2)},
        dynamic_axes={"ids": {0: "batch", 1: "seq"}, "target": {0: "batch"}},
        output_names=["loss", "y"],
        undecomposed=UNDECOMPOSED,
    )


def run(joint: JointGraph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run the operators of a traced graph one by one."""
    names = iter(joint.input_names)
    arguments = [
        joint.program.state_dict[spec.target] if spec.kind is InputKind.BUFFER else inputs[next(names)]
        for spec in joint.program.graph_signature.input_specs
    ]
    with torch.no_grad():
        outputs = fx.Interpreter(joint.program.graph_module).run(*arguments)
    return dict(zip(joint.output_names, outputs, strict=True))


def assert_gradients_are_torchs(module: nn.Module) -> dict[str, Tensor]:
    """Compare a module's graph with autograd, on a batch of other sizes than those traced."""
    arguments = {"ids": torch.tensor([[1, 2, 2, 5, 0], [6, 2, 1, 1, 1], [3, 3, 3, 3, 3]]), "target": torch.randn(3)}
    found = run(traced(module), {**dict(module.named_parameters()), **arguments})
    loss, y = module(**arguments)
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found["y"], y.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in module.named_parameters():
        ours = dense_gradient(found, name, parameter)
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name + text)
    return found


def dense_gradient(found: Mapping[str, Tensor], name: str, parameter: Tensor) -> Tensor:
    if f"{name}_grad" in found:
        return found[f"{name}_grad"]
    dense = torch.zeros_like(parameter)
    for number, row in zip(found[f"{name}_ids"].flatten(), found[f"{name}_rows_grad"].flatten(0, -2), strict=True):
        dense[number] += row
    return dense


def test_gradients_are_torchs_at_other_sizes_and_are_put_out_under_the_modules_names() -> None:
    found = assert_gradients_are_torchs(Tiny())
    assert set(found) == {
        "loss", "y", "table.weight_rows_grad", "table.weight_ids", "dense.weight_grad", "dense.bias_grad",
    }  # fmt: skip
    # one row for each of three texts of five tokens, not one for each of the table's
    assert found["table.weight_rows_grad"].shape == (3, 5, WIDTH)


def test_gradients_that_parameters_have_already_make_no_difference() -> None:
    module, fresh = Tiny(), Tiny()
    prepare_weights(module, {}, ())
    assert module.dense.weight.grad is not None
    assert str(traced(module).program.graph) == str(traced(fresh).program.graph)


# ---- what models do besides ----------------------------------------------------------------------


class ChangesInPlace(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.dense(x) * 2
        earlier = y + 1
        y += x
        y.mul_(0.5)
        return y + earlier


class MakesTensorsOfNumbers(Tiny):
    """As relative positions do."""

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * torch.tensor([1.0, 2.0, 3.0]) / torch.sqrt(torch.tensor(x.shape[-1] * 2.0))


class HasABuffer(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor([1.0, 2.0, 3.0]))

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * self.factor


class LooksUpTwice(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) + self.table(ids.flip(1)) * torch.arange(1, ids.shape[1] + 1)[:, None]


class TiesTheTable(Tiny):
    """Multiplies by the table too, as heads of language models do."""

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return functional.linear(self.dense(x), self.table.weight[1 : 1 + WIDTH])


class CountsHowOftenARowIsRead(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH, scale_grad_by_freq=True)


class SharesAWeight(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.dense.weight

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.other(self.dense(x).tanh())


@pytest.mark.parametrize(
    "kind", [ChangesInPlace, MakesTensorsOfNumbers, HasABuffer, CountsHowOftenARowIsRead, SharesAWeight]
)
def test_gradients_are_torchs_of_a_model_that(kind: type[Tiny]) -> None:
    assert_gradients_are_torchs(kind())


@pytest.mark.parametrize("kind", [LooksUpTwice, TiesTheTable])
def test_a_table_that_is_read_in_two_places_has_the_gradient_of_both(kind: type[Tiny]) -> None:
    found = assert_gradients_are_torchs(kind())
    assert found["table.weight_grad"].shape == (TOKENS, WIDTH)
    assert "table.weight_ids" not in found


def test_a_parameter_that_is_frozen_is_an_input_without_a_gradient() -> None:
    module = Tiny()
    module.dense.bias.requires_grad_(requires_grad=False)
    joint = traced(module)
    assert joint.input_names == ("table.weight", "dense.weight", "dense.bias", "ids", "target")
    assert joint.output_names == ("loss", "y", "table.weight_rows_grad", "table.weight_ids", "dense.weight_grad")


# ---- refusals ------------------------------------------------------------------------------------


class Idle(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)


def test_a_parameter_that_the_loss_does_not_depend_on_is_named() -> None:
    with pytest.raises(ExportError, match=r"the loss does not depend on idle\.weight, idle\.bias: .* never be trained"):
        traced(Idle())


class ChangesWhatAViewSees(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.dense(x) * 2
        view = y[:, :, :2]
        y.add_(x)
        return y + view.sum()


class ChangesAPart(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        y = self.dense(x) * 2
        y[:, 0] += 1.0
        return y


class Counts(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(()))

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        self.n += 1
        return self.dense(x) * self.n


@pytest.mark.parametrize("kind", [ChangesWhatAViewSees, ChangesAPart, Counts])
def test_a_change_in_place_that_is_seen_elsewhere_is_refused(kind: type[Tiny]) -> None:
    with pytest.raises(ExportError, match=r"changes a tensor in place \(aten\.add_\.Tensor\) that it reads elsewhere"):
        traced(kind())


class AsksForALength(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * 2 if ids.shape[1] == 4 else self.dense(x)


class AsksForAShortLength(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * 2 if ids.shape[1] < 5 else self.dense(x)


class AsksForALargeBatch(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) if ids.shape[0] > 100 else self.dense(x) * 2


class ComparesSizes(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * 2 if ids.shape[1] > ids.shape[0] else self.dense(x)


class TakesASizeForANumber(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * int(ids.shape[1])


@pytest.mark.parametrize(
    "kind", [AsksForALength, AsksForAShortLength, AsksForALargeBatch, ComparesSizes, TakesASizeForANumber]
)
def test_a_model_that_does_something_else_for_other_sizes_is_refused(kind: type[Tiny]) -> None:
    with pytest.raises(ExportError, match="the model does something else for"):
        traced(kind())


class HasPositions(Tiny):
    """Takes the first positions of a table, so that texts are no longer than that."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(50, WIDTH)
        self.register_buffer("numbers", torch.arange(50))

    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) + self.positions(self.numbers[: ids.shape[1]])


def test_a_table_of_positions_is_no_reason_to_refuse() -> None:
    assert "positions.weight_rows_grad" in traced(HasPositions()).output_names


class AsksForAValue(Tiny):
    def compute(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.dense(x) * 2 if ids.sum() > 0 else self.dense(x)


def test_a_model_that_does_something_else_for_other_values_is_refused() -> None:
    with pytest.raises(ExportError, match="could not trace the backward pass of AsksForAValue"):
        traced(AsksForAValue())
