"""What a traced graph still needs before it can become ONNX: no aliases, nothing in place, no loose tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from q8bert.spec.errors import ExportError

__all__ = [
    "constants_to_inputs",
    "read_sizes_off_first_inputs",
    "remove_what_has_no_effect",
    "write_nothing_in_place",
]

_ATEN = torch.ops.aten
_WITHOUT_EFFECT = (
    _ATEN.alias.default, _ATEN.detach.default, _ATEN.lift_fresh_copy.default, _ATEN._assert_tensor_metadata.default,
)  # fmt: skip


def remove_what_has_no_effect(graph: fx.Graph) -> None:
    """Remove aliases, checks and what nobody reads, in place."""
    for node in list(graph.nodes):
        if node.target in _WITHOUT_EFFECT:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def constants_to_inputs(graph_module: fx.GraphModule, *, place: int) -> dict[str, Tensor]:
    """Make inputs of the tensors that the model makes of plain numbers, in place.

    Args:
        graph_module: The graph with the tensors.
        place: Number of the input before which they are put.

    Returns:
        Their values by the names of the new inputs, in order.
    """
    graph, constants = graph_module.graph, {}
    following = [node for node in graph.nodes if node.op == "placeholder"][place]
    for node in list(graph.nodes):
        if node.op == "get_attr":
            with graph.inserting_before(following):
                value = graph.placeholder(node.name)
            value.meta["val"] = node.meta["val"]
            constants[value.name] = getattr(graph_module, node.target)
            node.replace_all_uses_with(value)
            graph.erase_node(node)
    return constants


def write_nothing_in_place(graph: fx.Graph) -> None:
    """Replace ``x.add_(y)`` and its like by ``x.add(y)``, where nothing else sees that ``x`` has changed, in place.

    Raises:
        ExportError: If something else does.
    """
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not (isinstance(node.target, OpOverload) and node.target._schema.is_mutable):
            continue
        name, overload = node.target._schema.name.partition("::")[2], node.target._overloadname
        out_of_place = getattr(getattr(_ATEN, name.removesuffix("_"), None), overload, None)
        if out_of_place is None or _is_seen_elsewhere(node, place):
            raise ExportError(f"the model changes a tensor in place ({node.target}) that it reads elsewhere too")
        node.target = out_of_place


def _is_seen_elsewhere(node: fx.Node, place: Mapping[fx.Node, int]) -> bool:
    """Whether the memory that a node changes is read later, or through another view."""
    reader, value = node, node.args[0]
    while isinstance(value, fx.Node) and value.op == "call_function":
        others = set(value.users) - {reader}
        if any(place[other] > place[node] or _is_view(other) for other in others):
            return True
        if not _is_view(value):
            return False
        reader, value = value, value.args[0]
    return True  # an input of the program


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"  # takes one of several results
    return any(result.alias_info is not None for result in node.target._schema.returns)


def read_sizes_off_first_inputs(graph: fx.Graph, inputs: Sequence[fx.Node]) -> None:
    """Read each symbolic size off the first input that has it, so that the forward pass needs no target, in place."""
    for node in graph.nodes:
        if node.target is _ATEN.sym_size.int:
            places = ((input_, axis) for input_ in inputs for axis, size in enumerate(input_.meta["val"].shape)
                      if str(size) == str(node.meta["val"]))  # fmt: skip
            node.args = next(places, node.args)
