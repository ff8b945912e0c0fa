"""The Open Inference Protocol, version 2, over REST: what requests and answers mean for a classifier of texts.

Inputs are ``text`` and, for a task on pairs, ``text_pair``: BYTES ``[rows, 1]``. Outputs are ``label`` (BYTES) and
``probabilities`` (FP32, one a label in the order of the bundle), or ``score`` (FP32), and ``truncated`` (BOOL).
https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from q8bert.runtime.predict.rows import Row
from q8bert.runtime.server.protocol.tensors import Output, Texts, read_texts, split_body
from q8bert.spec.errors import InputError
from q8bert.tasks.head import Prediction
from q8bert.tasks.task import Task

__all__ = ["JSON_LENGTH", "InferRequest", "answer_body", "model_metadata", "parse_infer"]

JSON_LENGTH = "Inference-Header-Content-Length"

_MICROSECONDS = 1e6
_N_SHOWN = 60
_LONGEST_ID = 1024
# what would change the answer, and is not done here
_NOT_OFFERED = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request as it was understood.

    Attributes:
        id: The caller's name for it; None where it gave none.
        rows: Texts, or pairs of texts.
        outputs: Outputs that are wanted, and whether as bytes.
        timeout_s: Deadline that the caller asks for, in seconds from the request; None for none.
    """

    id: str | None
    rows: Sequence[Row]
    outputs: Mapping[str, bool]
    timeout_s: float | None


def input_names(task: Task) -> tuple[str, ...]:
    """Return the names of a task's inputs."""
    return ("text", "text_pair") if task.data.has_pairs else ("text",)


def output_kinds(task: Task) -> Mapping[str, tuple[str, int]]:
    """Return a task's outputs: name → datatype and values a row."""
    if task.head.is_regression:
        return {"score": ("FP32", 1), "truncated": ("BOOL", 1)}
    return {"label": ("BYTES", 1), "probabilities": ("FP32", task.head.n_outputs), "truncated": ("BOOL", 1)}


def model_metadata(
    task: Task, *, name: str, versions: Sequence[str], parameters: Mapping[str, object]
) -> dict[str, Any]:
    """Return what the protocol says of a model.

    Args:
        task: What it does.
        name: What it is called.
        versions: Its versions that are served.
        parameters: What else is to be known of it; no part of the protocol.

    Returns:
        A JSON object.
    """
    return {
        "name": name,
        "versions": list(versions),
        "platform": "onnx_q8bert",
        "inputs": [{"name": one, "datatype": "BYTES", "shape": [-1, 1]} for one in input_names(task)],
        "outputs": [
            {"name": one, "datatype": datatype, "shape": [-1, width]}
            for one, (datatype, width) in output_kinds(task).items()
        ],
        "parameters": dict(parameters),
    }


def parse_infer(body: bytes, json_length: str | None, *, task: Task, max_rows: int) -> InferRequest:
    """Read a request for inference.

    Args:
        body: Its body.
        json_length: Its header :data:`JSON_LENGTH`; None where the body is JSON alone.
        task: What the model does.
        max_rows: Most rows.

    Returns:
        The request.

    Raises:
        InputError: If it is malformed, or does not fit the task.
    """
    content, data = split_body(body, json_length)
    parameters = _object(content.get("parameters"), "parameters")
    if offered := [name for name in _NOT_OFFERED if name in parameters]:
        raise InputError(f"{offered[0]} is for models with a state, and classifiers have none")
    name = content.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= _LONGEST_ID):
        raise InputError(f"id must be a text of at most {_LONGEST_ID} characters, got {repr(name)[:_N_SHOWN]}")
    tensors = _tensors(content.get("inputs"), data, max_rows=max_rows)
    return InferRequest(
        id=name,
        rows=_rows(tensors, task),
        outputs=_outputs(content.get("outputs"), task, as_bytes=parameters.get("binary_data_output") is True),
        timeout_s=_timeout(parameters.get("timeout")),
    )


def answer_body(
    request: InferRequest, predictions: Sequence[Prediction], *, task: Task, model_name: str, model_version: str
) -> tuple[bytes, int | None]:
    """Write an answer.

    Args:
        request: What was asked.
        predictions: One a row.
        task: What the model does.
        model_name: What it is called.
        model_version: Which version answered.

    Returns:
        The body, and how much of it is JSON; None where all of it is.
    """
    kinds, n_rows = output_kinds(task), len(predictions)
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_bytes in request.outputs.items():
        datatype, width = kinds[name]
        output = Output(name, datatype, (n_rows, width), _VALUES[name](predictions))
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [n_rows, width]}
        if as_bytes:
            binary.append(output.to_bytes())
            one["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            one["data"] = list(output.values)
        described.append(one)
    content: dict[str, Any] = {"model_name": model_name, "model_version": model_version, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    text = json.dumps(content, allow_nan=False).encode()
    return b"".join([text, *binary]), len(text) if binary else None


_VALUES: Mapping[str, Callable[[Sequence[Prediction]], list[Any]]] = {
    "label": lambda rows: [row.label for row in rows],
    "probabilities": lambda rows: [share for row in rows for share in (row.probabilities or {}).values()],
    "score": lambda rows: [row.score for row in rows],
    "truncated": lambda rows: [row.truncated for row in rows],
}


def _object(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be an object, got {repr(value)[:_N_SHOWN]}")
    return value


def _tensors(inputs: object, data: memoryview, *, max_rows: int) -> list[Texts]:
    if not isinstance(inputs, list):
        raise InputError(f"inputs must be a list, got {repr(inputs)[:_N_SHOWN]}")
    tensors, at = [], 0
    for one in inputs[:3]:  # more than there can be is refused below
        texts, size = read_texts(one, data[at:], max_rows=max_rows)
        tensors.append(texts)
        at += size
    if len(inputs) == len(tensors) and at != len(data):
        raise InputError(f"{len(data) - at} bytes follow the JSON that belong to no input")
    return tensors


def _rows(tensors: Sequence[Texts], task: Task) -> Sequence[Row]:
    wanted = input_names(task)
    given = [texts.name for texts in tensors]
    if sorted(given) != sorted(wanted):
        raise InputError(
            f"task {task.name} takes the inputs {' and '.join(wanted)}, got {', '.join(given)[:_N_SHOWN] or 'none'}"
        )
    columns = {texts.name: texts.values for texts in tensors}
    if len(wanted) == 1:
        return columns["text"]
    first, second = columns["text"], columns["text_pair"]
    if len(first) != len(second):
        raise InputError(f"text has {len(first)} rows and text_pair {len(second)}; they do not pair up")
    return list(zip(first, second, strict=True))


def _outputs(outputs: object, task: Task, *, as_bytes: bool) -> Mapping[str, bool]:
    kinds = output_kinds(task)
    if outputs is None or outputs == []:
        return dict.fromkeys(kinds, as_bytes)
    if not isinstance(outputs, list):
        raise InputError(f"outputs must be a list, got {repr(outputs)[:_N_SHOWN]}")
    wanted: dict[str, bool] = {}
    for output in outputs[: len(kinds) + 1]:
        name = output.get("name") if isinstance(output, Mapping) else None
        if not isinstance(name, str) or name not in kinds:
            raise InputError(
                f"the outputs are {', '.join(kinds)}; one of another name was asked for: {repr(output)[:80]}"
            )
        if name in wanted:
            raise InputError(f"output {name} was asked for twice")
        parameters = _object(output.get("parameters"), f"parameters of output {name}")
        refused = next((key for key in parameters if key == "classification" or key.startswith("shared_memory")), None)
        if refused is not None:
            raise InputError(f"{refused} of output {name} is not offered here; ask for {', '.join(kinds)} as they are")
        binary = parameters.get("binary_data")
        wanted[name] = as_bytes if binary is None else binary is True
    return wanted


def _timeout(value: object) -> float | None:
    """Return the seconds that Triton's parameter asks for, which is in microseconds; 0 stands for none."""
    if value is None or value == 0:
        return None
    try:
        microseconds = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # a whole number beyond all floats
        microseconds = math.inf
    if not 0 <= microseconds < math.inf:
        raise InputError(f"the parameter timeout must be a number of microseconds, got {repr(value)[:_N_SHOWN]}")
    return microseconds / _MICROSECONDS
