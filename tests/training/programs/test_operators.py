"""Each operator of a training program against eager torch, and its ONNX form against what torch defines."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from q8bert.spec import quant
from q8bert.training.programs import operators
from q8bert.training.programs.dropout import dropout_to_inputs
from q8bert.training.programs.onnx_program import program_to_onnx
from q8bert.training.programs.operators import ProgramOperators, dropout_to_mask, largest, linear_to_one_node
from q8bert.training.programs.translations import DROPOUT_MASK, OPSET, translations

ATEN, OWN = torch.ops.aten, torch.ops.q8bert


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- what each computes, in torch ----------------------------------------------------------------


@pytest.mark.parametrize("zero_point", [0, -124, 62])
@pytest.mark.parametrize("amax", [0.01, 1.0, 37.3])
def test_fake_quantization_equals_the_numpy_oracle_bit_for_bit(amax: float, zero_point: int) -> None:
    scale = quant.scale_from_amax(amax)
    halves = np.arange(-600, 601, dtype=np.float32) * scale / 2
    x = np.concatenate([halves, drawn(10_000).numpy() * np.float32(amax)])
    ours = operators.fake_quantize(torch.from_numpy(x), torch.tensor(scale), torch.tensor(float(zero_point)))
    expected = quant.fake_quantize(x, scale, qmin=-128, qmax=127, zero_point=zero_point)
    np.testing.assert_array_equal(ours.numpy(), expected)


SCALE = 0.125  # a power of two, so that torch's multiplication by 1 / scale rounds as a division does
# in codes: the borders, the numbers next to them, and the inside
CODES = [
    -1e4, np.nextafter(np.float32(-128.5), np.float32(-129)), -128.5, np.nextafter(np.float32(-128.5), np.float32(0)),
    -128.0, -3.5, 0.0, 0.4, 126.5, np.nextafter(np.float32(127.5), np.float32(0)), 127.5,
    np.nextafter(np.float32(127.5), np.float32(128)), 1e4,
]  # fmt: skip


@pytest.mark.parametrize("zero_point", [0, 2, -124])
def test_its_gradient_is_torchs_straight_through_to_the_borders_of_the_clamp(zero_point: int) -> None:
    x = borders(zero_point).requires_grad_()
    dy = torch.arange(1.0, len(CODES) + 1)
    (operators.fake_quantize(x, torch.tensor(SCALE), torch.tensor(float(zero_point))) * dy).sum().backward()
    ours, x.grad = x.grad, None
    (torch.fake_quantize_per_tensor_affine(x, SCALE, zero_point, -128, 127) * dy).sum().backward()
    torch.testing.assert_close(ours, x.grad, rtol=0, atol=0)
    assert ours is not None
    # half goes to even: -128.5 to -128, which is inside, and 127.5 to 128, which is not
    assert (ours != 0).tolist() == [False, False, *[True] * 8, False, False, False]


def borders(zero_point: int) -> Tensor:
    """The values that have these codes: neighbours of the border itself, where a zero point takes digits away."""
    codes = np.array(CODES, dtype=np.float32) - np.float32(zero_point)
    for index, (code, towards) in {1: (-128.5, -999), 3: (-128.5, 999), 9: (127.5, -999), 11: (127.5, 999)}.items():
        codes[index] = np.nextafter(np.float32(code - zero_point), np.float32(towards))
    return torch.tensor(codes * np.float32(SCALE))


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_linear_and_its_gradients_are_torchs(shape: tuple[int, ...], bias: bool) -> None:
    results = []
    for function in (linear_to_one_node, functional.linear):
        leaves = [drawn(*shape), drawn(6, 4, seed=1), *([drawn(6, seed=2)] if bias else [])]
        for leaf in leaves:
            leaf.requires_grad_()
        y = function(*leaves)
        (y * drawn(*shape[:-1], 6, seed=3)).sum().backward()
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_of_the_tokens_leaves_padding_out(sign: float) -> None:
    x = sign * drawn(3, 5, 4).abs()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    x[1, 2, 0], x[2, 4, 3] = 90.0, -99.0  # padding
    x[1, 1, 2] = sign * 7.0
    assert float(largest(x, mask, torch.tensor(0.0))) == 7.0
    assert float(largest(x[:, 0], mask, torch.tensor(0.0))) == float(x[:, 0].abs().max())  # a row a text: no padding


@pytest.mark.parametrize("zero_point", [-124, -62, 44])
def test_with_a_zero_point_the_range_is_what_the_grid_needs(zero_point: int) -> None:
    x, mask = drawn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    tokens = x[mask.bool()].numpy()
    expected = max(tokens.max() * 127 / (127 - zero_point), -tokens.min() * 127 / (127 + zero_point))
    x[1, 2, 0], x[2, 4, 3] = 90.0, -99.0  # padding
    assert float(largest(x, mask, torch.tensor(float(zero_point)))) == pytest.approx(expected, rel=1e-6)


def test_a_dropout_is_a_product_with_a_mask_only_where_something_is_dropped() -> None:
    x = drawn(2, 3)
    assert dropout_to_mask(x, 0.0) is x
    assert dropout_to_mask(x, 0.5, training=False) is x
    assert dropout_to_mask(x, 0.5) is not x


def test_functions_are_replaced_while_the_mode_is_active_and_not_after() -> None:
    seen: list[tuple[Any, ...]] = []

    def count(*args: Any, **more: Any) -> Tensor:
        seen.append((*args, *more.items()))
        return args[0]

    x, dropout = drawn(2, 3), nn.Dropout(0.25)
    with ProgramOperators({functional.dropout: count}):
        assert dropout(x) is x
        assert functional.dropout(x, p=0.5) is x
    assert [args[1] for args in seen] == [("p", 0.25), ("p", 0.5)]
    dropout(x)
    assert len(seen) == 2


MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def own_samples() -> Iterator[Any]:
    x, weight, bias, dy = drawn(2, 3, 4), drawn(6, 4, seed=1), drawn(6, seed=2), drawn(2, 3, 6, seed=3)
    grid = torch.tensor(0.3), torch.tensor(-20.0)
    yield pytest.param(OWN.fake_quantize.default, (x.clone().requires_grad_(), *grid), id="fake_quantize")
    yield pytest.param(OWN.fake_quantize_backward.default, (x, x * 50, *grid), id="fake_quantize_backward")
    learned = (x.clone().requires_grad_(), grid[0].clone().requires_grad_(), grid[1])
    yield pytest.param(OWN.fake_quantize.default, learned, id="fake_quantize-learned")
    yield pytest.param(
        OWN.fake_quantize_learned_backward.default, (x, x * 50, x * 49, *grid), id="fake_quantize_learned_backward"
    )
    leaves = tuple(leaf.clone().requires_grad_() for leaf in (x, weight, bias))
    yield pytest.param(OWN.linear.default, leaves, id="linear")
    yield pytest.param(OWN.linear.default, (*leaves[:2], None), id="linear-without-bias")
    yield pytest.param(OWN.linear_backward.default, (dy, x, weight), id="linear_backward")
    yield pytest.param(OWN.largest.default, (x, MASK, grid[1]), id="largest")
    yield pytest.param(OWN.dropout_mask.default, (x, 0.25), id="dropout_mask")


@pytest.mark.parametrize(("operator", "arguments"), list(own_samples()))
def test_shapes_types_and_gradients_are_registered_as_torch_wants_them(operator: Any, arguments: Any) -> None:
    torch.library.opcheck(operator, arguments)


# ---- what each becomes, in ONNX ------------------------------------------------------------------

Sample = tuple[Callable[..., Any], tuple[Any, ...]]
IDS = torch.tensor([[1, 1, 4], [0, 1, 6]])


def gelu_by_tanh(x: Tensor) -> Tensor:
    return ATEN.gelu.default(x, approximate="tanh")


def of_rounding() -> dict[str, Sample]:
    """What runs in float32 whatever the program's precision."""
    dy = torch.arange(1.0, len(CODES) + 1)
    samples: dict[str, Sample] = {}
    for zero_point in (0, -124, 62):
        code = torch.tensor(float(zero_point))
        at, grid = borders(zero_point), (torch.tensor(SCALE), code)
        samples |= {
            f"fake_quantize {zero_point}": (OWN.fake_quantize.default, (drawn(3, 4) * 100, torch.tensor(0.3), code)),
            f"fake_quantize at the borders {zero_point}": (OWN.fake_quantize.default, (at, *grid)),
            f"fake_quantize_backward {zero_point}": (OWN.fake_quantize_backward.default, (dy, at, *grid)),
            f"fake_quantize_learned_backward {zero_point}": (
                OWN.fake_quantize_learned_backward.default, (dy, at, operators.fake_quantize(at, *grid), *grid),
            ),
        }  # fmt: skip
    return samples


def of_floats(dtype: torch.dtype) -> dict[str, Sample]:
    x2, x3, dy, dy6 = (drawn(*shape).to(dtype) for shape in ((5, 4), (2, 3, 4), (2, 3, 4), (2, 3, 6)))
    weight, bias = drawn(6, 4, seed=1).to(dtype), drawn(6, seed=2).to(dtype)
    normal, d_normal, gamma, beta = (drawn(*shape, seed=5).to(dtype) for shape in ((2, 3, 8), (2, 3, 8), (8,), (8,)))
    mean = normal.float().mean(-1, keepdim=True)
    inv_std = torch.rsqrt(normal.float().var(-1, unbiased=False, keepdim=True) + 1e-5)
    moments, wanted = (mean.to(dtype), inv_std.to(dtype)), [True, True, True]
    steep = x3 * torch.tensor([1.0, -50.0, 90.0], dtype=dtype)[:, None]
    none, most = torch.tensor(0.0), torch.tensor(-124.0)
    return {
        "linear of rows": (OWN.linear.default, (x2, weight, bias)),
        "linear": (OWN.linear.default, (x3, weight, bias)),
        "linear without bias": (OWN.linear.default, (x3, weight, None)),
        "linear_backward of rows": (OWN.linear_backward.default, (dy6[0], x3[0], weight)),
        "linear_backward": (OWN.linear_backward.default, (dy6, x3, weight)),
        "largest of rows": (OWN.largest.default, (x2, MASK, none)),
        "largest with padding": (OWN.largest.default, (steep, MASK, none)),
        "largest with a zero point": (OWN.largest.default, (steep, MASK, most)),
        "largest of what is below zero": (OWN.largest.default, (-steep.abs(), MASK, none)),
        "dropout": (dropout_to_mask, (x3, 0.25)),
        "gelu": (ATEN.gelu.default, (x3 * 3,)),
        "gelu by tanh": (gelu_by_tanh, (x3 * 3,)),
        "gelu_backward": (ATEN.gelu_backward.default, (dy, x3 * 3)),
        "softmax_backward": (ATEN._softmax_backward_data.default, (dy, x3.float().softmax(-1).to(dtype), -1, dtype)),
        "softmax_backward of an inner axis": (
            ATEN._softmax_backward_data.default, (dy, x3.float().softmax(1).to(dtype), 1, dtype),
        ),
        "layer_norm": (ATEN.native_layer_norm.default, (normal, [8], gamma, beta, 1e-5)),
        "layer_norm without weight": (ATEN.native_layer_norm.default, (normal, [8], None, None, 1e-5)),
        "layer_norm_backward": (
            ATEN.native_layer_norm_backward.default, (d_normal, normal, [8], *moments, gamma, beta, wanted),
        ),
        "layer_norm_backward of rows": (
            ATEN.native_layer_norm_backward.default,
            (d_normal[0], normal[0], [8], *(moment[0] for moment in moments), gamma, beta, wanted),
        ),
        "embedding_backward": (ATEN.embedding_dense_backward.default, (dy, IDS, 7, -1, False)),
        "squeeze": (ATEN.squeeze.dims, (x3[:, None, :, None], [1, 3])),
    }  # fmt: skip


class Calls(nn.Module):
    """Calls every sample's operator, so that one export translates all."""

    def __init__(self, samples: dict[str, Sample]) -> None:
        super().__init__()
        self._samples = samples
        self.tensors = [x for _, arguments in samples.values() for x in arguments if isinstance(x, Tensor)]

    def forward(self, tensors: list[Tensor]) -> dict[str, list[Tensor]]:
        waiting = iter(tensors)
        results = {}
        for name, (operator, arguments) in self._samples.items():
            found = operator(*[next(waiting) if isinstance(x, Tensor) else x for x in arguments])
            results[name] = [*found] if isinstance(found, tuple) else [found]
            if operator is ATEN.native_layer_norm.default:
                del results[name][1:]  # its gradient takes the moments that torch computes
        return results


def translated(samples: dict[str, Sample]) -> tuple[dict[str, list[np.ndarray]], set[Any]]:
    """What ONNX Runtime computes of the samples, and which translations were asked for."""
    asked: set[Any] = set()

    def noted(operator: Any, translate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(translate)  # the exporter reads its signature
        def call(*arguments: Any, **more: Any) -> Any:
            asked.add(operator)
            return translate(*arguments, **more)

        return call

    calls = Calls(samples)
    program = torch.export.export(calls, (calls.tensors,))
    table = {operator: noted(operator, translate) for operator, translate in translations().items()}
    graph = program_to_onnx(program, opset=OPSET, translations=table)
    dropout_to_inputs(graph, DROPOUT_MASK)
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    *names, mask = [value.name for value in session.get_inputs()]
    inputs = {name: x.numpy() for name, x in zip(names, calls.tensors, strict=True)}
    outputs = iter(session.run(None, inputs | {mask: DROPPED.to(calls.tensors[-1].dtype).numpy()}))
    return {name: [next(outputs) for _ in found] for name, found in calls(calls.tensors).items()}, asked


def in_float32(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.float() if argument.is_floating_point() else argument
    return torch.float32 if isinstance(argument, torch.dtype) else argument


def by_torch(sample: Sample) -> list[Tensor]:
    """What torch computes in float32."""
    operator, arguments = sample
    if operator is dropout_to_mask:
        return [arguments[0].float() * DROPPED]
    found = operator(*map(in_float32, arguments))
    return [*found] if isinstance(found, tuple) else [found]


DROPPED = (drawn(2, 3, 4, seed=9) > 0) * 4 / 3
SAMPLES = of_rounding() | of_floats(torch.float32)


@pytest.fixture(scope="module")
def onnx_of_float32() -> tuple[dict[str, list[np.ndarray]], set[Any]]:
    return translated(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_onnx_form_computes_what_torch_does(name: str, onnx_of_float32: Any) -> None:
    for ours, expected in zip(onnx_of_float32[0][name], by_torch(SAMPLES[name]), strict=False):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_rounding_is_the_same_to_the_bit(onnx_of_float32: Any) -> None:
    for name in of_rounding():
        np.testing.assert_array_equal(onnx_of_float32[0][name][0], by_torch(SAMPLES[name])[0])


def test_every_operator_with_an_onnx_form_of_its_own_is_among_these(onnx_of_float32: Any) -> None:
    # a number of elements is a constant where sizes are, as here; the mean over a batch of any size needs it
    assert onnx_of_float32[1] == set(translations()) - {ATEN.sym_numel.default}


@pytest.mark.slow
def test_in_half_precision_backward_formulas_are_computed_in_float32() -> None:
    samples = of_floats(torch.float16)
    found, _ = translated(samples)
    for name, sample in samples.items():
        for ours, expected in zip(found[name], by_torch(sample), strict=False):
            # ranges are float32 whatever they are of
            assert ours.dtype == (np.float32 if name.startswith("largest") else np.float16), name
            # what goes in and what comes out is rounded to 2**-11 of its size
            largest_there = float(expected.abs().max())
            np.testing.assert_allclose(ours, expected, rtol=2**-10, atol=2**-10 * largest_there, err_msg=name)


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (ATEN.gelu_backward.default, (None, None, "tanh")),
        (ATEN.native_layer_norm_backward.default, (None, None, [4, 8], None, None)),
        (ATEN.embedding_dense_backward.default, (None, None, 7, -1, True)),
    ],
)
def test_what_has_no_onnx_form_is_refused(operator: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError, match=r"is written for|has no ONNX form"):
        translations()[operator](*arguments)
