"""torch's own forward *and* backward pass of a module as one graph.

The one place that calls what torch marks as unstable. It was tried with torch 2.11, 2.13 and 2.14, and relies on this:

- ``torch.fx.experimental.proxy_tensor.make_fx`` writes down every operator that runs while a function is called, those
  of ``torch.autograd.grad`` too. It is what torch's compilers trace joint graphs with;
- under ``enable_python_dispatcher``, operators that torch takes apart itself, ``matmul`` among them, are taken apart in
  Python, where sizes stay symbols. torch 2.11 does it in C++ otherwise, and asks for the example's sizes as numbers;
- tensors of a ``FakeTensorMode`` have shapes and no data, and sizes of theirs may be symbols. Dimensions marked
  ``DUCK`` share a symbol where their example sizes are equal;
- an ``ExportedProgram`` can be put together from such a graph, and ``torch.onnx`` translates it. First it asks for
  ``run_decompositions``, which here has nothing left to do.

``torch.export`` and AOTAutograd, the road that torch documents, come to the same graph in four passes instead of one,
which takes four times as long.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from q8bert.spec.errors import ExportError
from q8bert.training.programs.forward_and_loss import argument_names
from q8bert.training.programs.traced_graph import (
    constants_to_inputs,
    read_sizes_off_first_inputs,
    remove_what_has_no_effect,
    write_nothing_in_place,
)

__all__ = ["JointGraph", "trace_joint_graph"]

_ATEN = torch.ops.aten


@dataclass(frozen=True)
class JointGraph:
    """A traced forward and backward pass, ready for ``torch.onnx``.

    Attributes:
        program: The graph. Its inputs are parameters and arguments; buffers are constants.
        input_names: One name an input: parameters as the module names them, arguments by their innermost key.
        output_names: One name an output: those of the module's outputs, then for each trained parameter, and each
            argument that requires a gradient, ``<name>_grad``, or ``<parameter>_rows_grad`` and ``<parameter>_ids`` for
            a table whose rows were looked up once: gradients of those rows, and which they were.
    """

    program: ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def trace_joint_graph(
    module: nn.Module,
    arguments: Mapping[str, Any],
    *,
    dynamic_axes: Mapping[str, Any],
    output_names: Sequence[str],
    undecomposed: Sequence[Callable[..., Any]],
    rewrite: Callable[[fx.Graph], object] = lambda _: None,
) -> JointGraph:
    """Trace a module and the gradients of its first output.

    Args:
        module: Called with ``arguments`` as keywords. Its first output is the scalar to differentiate.
        arguments: Example tensors, or mappings of them by name. Sizes on dynamic axes must be 2 or more, and differ
            where their symbolic names do. Those that require a gradient get one.
        dynamic_axes: In the same nesting, for each tensor axis → symbolic name.
        output_names: One name an output of the module.
        undecomposed: Operators that are left whole.
        rewrite: Changes the traced forward pass in place, before the backward pass is traced.

    Returns:
        The graph.

    Raises:
        ExportError: If torch cannot trace it, it holds for some sizes only, or a parameter gets no gradient.
    """
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes)
    parameters = {name: _fake(mode, value) for name, value in module.named_parameters()}
    trained = [name for name, value in parameters.items() if value.requires_grad]
    buffers = {name: _fake(mode, value) for name, value in module.named_buffers()}
    fakes = _fake_arguments(mode, arguments, dynamic_axes)
    leaves = zip(argument_names(arguments), pytree.tree_leaves(fakes), strict=True)
    trained_arguments = [name for name, value in leaves if value.requires_grad]

    def forward(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Any:
        return functional_call(module, {**parameters, **buffers}, kwargs=dict(arguments))

    def forward_and_backward(
        parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], arguments: Mapping[str, Any]
    ) -> tuple[Tensor | None, ...]:
        outputs = forward_graph(parameters, buffers, arguments)
        wanted = [parameters[name] for name in trained]
        wanted += [value for value in pytree.tree_leaves(dict(arguments)) if value.requires_grad]
        gradients = torch.autograd.grad(outputs[0], wanted, allow_unused=True)
        return (*outputs, *gradients)

    try:
        with mode, enable_python_dispatcher():
            forward_graph = make_fx(forward)(parameters, buffers, fakes)
            write_nothing_in_place(forward_graph.graph)
            rewrite(forward_graph.graph)
            forward_graph.recompile()
            graph_module = make_fx(forward_and_backward, decomposition_table=_decompositions(undecomposed))(
                parameters, buffers, fakes
            )
    except ExportError:
        raise
    except Exception as error:  # torch raises what it likes here, from AttributeError to its own kinds
        raise ExportError(
            f"torch {torch.__version__} could not trace the backward pass of {type(module).__name__}: {error}"
        ) from error
    graph = graph_module.graph
    remove_what_has_no_effect(graph)
    write_nothing_in_place(graph)
    state = {name: value.detach() for name, value in module.named_buffers()}
    state |= constants_to_inputs(graph_module, place=len(parameters) + len(state))
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    arguments_from = len(parameters) + len(state)
    _refuse_fixed_sizes(inputs[arguments_from:], dynamic_axes)
    _refuse_branches(shapes, module)
    read_sizes_off_first_inputs(graph, inputs[arguments_from:])
    names = _name_outputs(graph, [*output_names, *(f"{name}_grad" for name in trained + trained_arguments)])
    of_buffers = dict(zip(inputs[len(parameters) : arguments_from], state, strict=True))
    program = _exported_program(graph_module, inputs, of_buffers, state)
    return JointGraph(program, (*parameters, *argument_names(arguments)), names)


def _fake(mode: FakeTensorMode, tensor: Tensor, axes: Mapping[int, str] | None = None) -> Tensor:
    sizes = [DimDynamic.DUCK if axis in (axes or {}) else DimDynamic.STATIC for axis in range(tensor.dim())]
    # detached, for the gradient that a parameter may have would get symbols of its own
    fake: Tensor = mode.from_tensor(tensor.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
    return fake.requires_grad_(tensor.requires_grad)


def _fake_arguments(mode: FakeTensorMode, arguments: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _fake(mode, value, axes[name]) if isinstance(value, Tensor) else _fake_arguments(mode, value, axes[name])
        for name, value in arguments.items()
    }


def _decompositions(undecomposed: Sequence[Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    for operator in undecomposed:
        table.pop(operator, None)
    return table


def _refuse_fixed_sizes(inputs: Sequence[fx.Node], dynamic_axes: Mapping[str, Any]) -> None:
    """Refuse a graph that holds for the example's sizes alone, because the model branched on one of them."""
    for node, axes in zip(inputs, _leaves(dynamic_axes), strict=True):
        for axis, symbol in axes.items():
            if isinstance(node.meta["val"].shape[axis], int) or str(node.meta["val"].shape[axis]).isdigit():
                raise ExportError(f"the model does something else for each size of {symbol!r}, which has no ONNX form")


def _refuse_branches(shapes: ShapeEnv, module: nn.Module) -> None:
    """Refuse a graph that holds for some sizes only. That no text is longer than a table of positions may be so."""
    lengths = {str(size) for tensor in (*module.parameters(), *module.buffers()) for size in tensor.shape}
    for condition in (guard.expr for guard in shapes.guards):
        is_upper_limit = getattr(condition, "rel_op", "") == "<=" and condition.lhs.is_Symbol
        if not (is_upper_limit and str(condition.rhs) in lengths):
            raise ExportError(f"the model does something else for sizes without {condition}, which has no ONNX form")


def _leaves(axes: Mapping[str, Any]) -> Iterator[Mapping[int, str]]:
    for value in axes.values():
        if value and all(isinstance(key, str) for key in value):
            yield from _leaves(value)
        else:
            yield value


def _name_outputs(graph: fx.Graph, names: Sequence[str]) -> tuple[str, ...]:
    """Put rows and ids in the place of the gradient of a table, and return the names of all outputs."""
    output = next(node for node in graph.nodes if node.op == "output")
    missing = [name.removesuffix("_grad") for name, node in zip(names, output.args[0], strict=True) if node is None]
    if missing:
        raise ExportError(
            f"the loss does not depend on {', '.join(missing)}: these would silently never be trained. Remove them "
            "from the model, or freeze them"
        )
    all_names, nodes = [], []
    for name, node in zip(names, output.args[0], strict=True):
        if _is_lookup_gradient(node):
            table = name.removesuffix("_grad")
            all_names += [f"{table}_rows_grad", f"{table}_ids"]
            nodes += [node.args[0], node.args[1]]
        else:
            all_names.append(name)
            nodes.append(node)
    output.args = (tuple(nodes),)
    graph.eliminate_dead_code()
    return tuple(all_names)


def _is_lookup_gradient(node: fx.Node) -> bool:
    # a table that is read in two places has a sum here instead, and keeps its dense gradient
    return node.target is _ATEN.embedding_dense_backward.default and not node.args[4]


def _exported_program(
    graph_module: fx.GraphModule, inputs: Sequence[fx.Node], buffers: Mapping[fx.Node, str], state: Mapping[str, Tensor]
) -> ExportedProgram:
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    signature = ExportGraphSignature(
        [
            InputSpec(
                InputKind.BUFFER if node in buffers else InputKind.USER_INPUT,
                TensorArgument(name=node.name),
                buffers.get(node),
                persistent=True if node in buffers else None,
            )
            for node in inputs
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None) for node in output.args[0]],
    )
    in_spec = pytree.tree_structure((tuple(node.name for node in inputs if node not in buffers), {}))
    out_spec = pytree.tree_structure(tuple(node.name for node in output.args[0]))
    call = ModuleCallSignature(inputs=[], outputs=[], in_spec=in_spec, out_spec=out_spec)
    program = ExportedProgram(
        root=graph_module,
        graph=graph_module.graph,
        graph_signature=signature,
        state_dict=dict(state),
        range_constraints={},
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
    )
    program.run_decompositions = lambda *_, **__: program
    return program
