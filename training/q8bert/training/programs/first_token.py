"""Leave out what no head reads: in the last layer, all rows but that of the first token.

A classifier's head reads the first token alone. So query, attention output and both feed-forward products of the last
layer are needed for that one row; keys and values are needed for all. :func:`keep_first_token` finds this in a traced
forward pass, by no name of any model: a tensor of which every reader takes index 0 of an axis is computed for that
index alone, and so are the tensors that it is computed from row by row. What it does not know how to narrow it cuts:
the result is the same, only less is saved. The backward pass, traced afterwards, follows by itself.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from q8bert.training.programs import operators  # noqa: F401 - defines what stands in torch.ops.q8bert

__all__ = ["keep_first_token"]

_ATEN, _OWN = torch.ops.aten, torch.ops.q8bert
_ELEMENTWISE = {
    _ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.div.Tensor, _ATEN.mul.Scalar, _ATEN.div.Scalar,
    _ATEN.gelu.default, _ATEN.clone.default, _ATEN._to_copy.default, _ATEN.alias.default, _ATEN.detach.default,
    _OWN.fake_quantize.default, _OWN.dropout_mask.default,
}  # fmt: skip
_END = 2**63 - 1  # of a slice without an end
_VIEWS = {_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default}


def keep_first_token(graph: fx.Graph) -> int:
    """Narrow what is read at index 0 alone, in place.

    Args:
        graph: A forward pass in operators of ATen and of :mod:`~q8bert.training.programs.operators`; each node's
            ``meta["val"]`` tells its shape.

    Returns:
        Number of products with a weight that got narrower.
    """
    _remove_whole_slices(graph)
    graph.eliminate_dead_code()
    narrowed: dict[fx.Node, int] = {}  # node → the axis of which index 0 alone is computed
    for node in reversed(graph.nodes):
        axes = {_axis_read(user, node, narrowed) for user in node.users}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is not None and _can_narrow(node, axis):
            narrowed[node] = axis
    for node in list(graph.nodes):
        if node in narrowed:
            _narrow(graph, node, narrowed)
    return sum(node.target is _OWN.linear.default for node in narrowed)


def _remove_whole_slices(graph: fx.Graph) -> None:
    # what `x[:, 0]` leaves of its first axis
    for node in graph.nodes:
        if node.target is _ATEN.slice.Tensor and node.args[2:] == (0, _END):
            node.replace_all_uses_with(node.args[0])


def _axis_read(user: fx.Node, node: fx.Node, narrowed: Mapping[fx.Node, int]) -> int | None:
    """Return the axis of which a reader takes index 0 alone; None where it reads all."""
    if user.target is _ATEN.select.int and user.args[0] is node and user.args[2] == 0:
        return _positive(user.args[1], _shape(node))
    if user.target is _ATEN.slice.Tensor and user.args[0] is node and user.args[2:4] == (0, 1):
        return _positive(user.args[1], _shape(node))
    return _input_axes(user, narrowed[user]).get(node) if user in narrowed else None


def _can_narrow(node: fx.Node, axis: int) -> bool:
    if node.op != "call_function" or isinstance(_shape(node)[axis], int):
        return False  # an input, or an axis of a fixed size, which is no axis of tokens
    return bool(_input_axes(node, axis))


def _input_axes(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    """Return of which inputs a node needs index 0 of an axis alone, to compute index 0 of its own; empty: not known."""
    rule = _RULES.get(node.target)
    if node.target in _ELEMENTWISE:
        return _aligned(node, axis)
    return {} if rule is None else rule(node, axis)


def _aligned(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    """Shapes are aligned at their ends; an axis of size 1 serves all indices as it is."""
    rank, axes = len(_shape(node)), {}
    for value in node.args:
        if isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor):
            own = axis - rank + len(_shape(value))
            if own >= 0 and not (isinstance(_shape(value)[own], int) and _shape(value)[own] == 1):
                axes[value] = own
    return axes


def _first(node: fx.Node, axis: int, *, not_last: bool = False) -> dict[fx.Node, int]:
    x = node.args[0]
    return {} if not isinstance(x, fx.Node) or (not_last and axis == len(_shape(node)) - 1) else {x: axis}


def _linear(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _first(node, axis, not_last=True)


def _result(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    # one of several results: of LayerNormalization the first, which has the shape of its input
    of = node.args[0]
    is_known = isinstance(of, fx.Node) and of.target is _ATEN.native_layer_norm.default and node.args[1] == 0
    return {of: axis} if is_known and isinstance(of, fx.Node) else {}


def _layer_norm(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _first(node, axis) if axis < len(_shape(node)) - len(_list(node.args[1])) else {}


def _softmax(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _first(node, axis) if _positive(node.args[1], _shape(node)) != axis else {}


def _permute(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _first(node, _positive(_list(node.args[1])[axis], _shape(node)))


def _transpose(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    pair = [_positive(value, _shape(node)) for value in node.args[1:3]]
    return _first(node, pair[1 - pair.index(axis)] if axis in pair else axis)


def _bmm(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _first(node, 1) if axis == 1 and node.args[0] is not node.args[1] else {}


def _expand(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    return _aligned(node, axis)


def _view(node: fx.Node, axis: int) -> dict[fx.Node, int]:
    """The axis stays one of its own: as many elements stand before it, and it has the same size."""
    before, after = _shape(node.args[0]), _shape(node)
    for own, size in enumerate(before):
        if str(size) == str(after[axis]) and str(_product(before[:own])) == str(_product(after[:axis])):
            return _first(node, own)
    return {}


_RULES: Mapping[Any, Callable[[fx.Node, int], dict[fx.Node, int]]] = {
    _OWN.linear.default: _linear,
    operator.getitem: _result,
    _ATEN.native_layer_norm.default: _layer_norm,
    _ATEN._softmax.default: _softmax,
    _ATEN.permute.default: _permute,
    _ATEN.transpose.int: _transpose,
    _ATEN.bmm.default: _bmm,
    _ATEN.expand.default: _expand,
    **dict.fromkeys(_VIEWS, _view),
}


def _narrow(graph: fx.Graph, node: fx.Node, narrowed: Mapping[fx.Node, int]) -> None:
    axis = narrowed[node]
    for value, own in _input_axes(node, axis).items():
        if value not in narrowed:  # others need all of it
            with graph.inserting_before(node):
                cut = graph.call_function(_ATEN.slice.Tensor, (value, own, 0, 1))
            cut.meta["val"] = value.meta["val"]  # its shape before; rules are asked for shapes as they were traced
            node.replace_input_with(value, cut)
    if node.target in _VIEWS or node.target is _ATEN.expand.default:
        sizes = list(_list(node.args[1]))
        sizes[axis] = 1
        node.args = (node.args[0], sizes, *node.args[2:])


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple((value[0] if isinstance(value, tuple | list) else value).shape)


def _list(value: Any) -> list[Any]:
    return list(value)


def _positive(axis: Any, shape: tuple[Any, ...]) -> int:
    return int(axis) % len(shape)


def _product(sizes: tuple[Any, ...]) -> Any:
    product: Any = 1
    for size in sizes:
        product = product * size
    return product
