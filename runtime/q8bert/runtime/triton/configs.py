"""The ``config.pbtxt`` of an ensemble and of its three steps.

https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from collections.abc import Mapping, Sequence

from q8bert.runtime.triton.interface import MASK, PROBABILITIES, Interface, Tensor
from q8bert.runtime.triton.options import GPU, PYTHON_BACKEND, TritonOptions
from q8bert.runtime.triton.steps.choice import LABELS, MODEL, STEP, STEPS, TOKENIZER
from q8bert.runtime.triton.text_format import Field, Fields, Word, to_text

__all__ = [
    "CONFIG_FILE", "LABELS_FILE", "WARMUP_TOKENS", "ensemble_config", "ids_of", "model_names", "step_config",
    "step_name", "warmup_file",
]  # fmt: skip

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
# of the row that the model is warmed up with: what a text of some length has, and no more than any bundle takes
WARMUP_TOKENS = 32
_ENOUGH_WARMUPS = 2


def step_name(name: str, step: str) -> str:
    """Return what a step of an ensemble is called."""
    return f"{name}-{step}"


def model_names(name: str) -> tuple[str, ...]:
    """Return the models of Triton that a bundle becomes: the ensemble that callers name, and its steps."""
    return (name, *(step_name(name, step) for step in STEPS))


def warmup_file(input_name: str) -> str:
    """Return the name of the file, in Triton's folder ``warmup``, that holds an input of the model's warm-up."""
    return f"{input_name}.int64"


def ids_of(interface: Interface, options: TritonOptions) -> tuple[Tensor, ...]:
    """Return what the tokenizer gives to the model; our runtime is told lengths by the mask, wanted or not."""
    return interface.ids(always=(MASK,) if options.backend == PYTHON_BACKEND else ())


def ensemble_config(name: str, interface: Interface, options: TritonOptions, *, version: int) -> str:
    """Write the configuration of an ensemble, which serves one version, made of the same version of each step.

    Triton has one configuration for all versions of an ensemble. Pinned to one, a version never mixes the tokenizer of
    one bundle with the model of another, not even while a new one is being written.

    Args:
        name: The ensemble's name.
        interface: What it takes and gives.
        options: How it is run.
        version: The version.

    Returns:
        The text of ``config.pbtxt``.
    """
    ids, outputs = ids_of(interface, options), (*interface.answers, interface.truncated)
    tensors = {
        TOKENIZER: (interface.texts, (*ids, interface.truncated)),
        MODEL: (ids, (interface.logits,)),
        LABELS: ((interface.logits,), interface.answers),
    }
    steps: list[Field] = [
        (
            "step",
            [
                ("model_name", step_name(name, step)),
                ("model_version", version),
                *(("input_map", [("key", tensor.name), ("value", tensor.name)]) for tensor in tensors[step][0]),
                *(("output_map", [("key", tensor.name), ("value", tensor.name)]) for tensor in tensors[step][1]),
            ],
        )
        for step in STEPS
    ]
    return to_text([
        ("name", name),
        ("platform", "ensemble"),
        ("max_batch_size", options.max_batch_size),
        ("version_policy", [("specific", [("versions", version)])]),
        *_tensors("input", interface.texts),
        *_tensors("output", outputs),
        ("ensemble_scheduling", steps),
    ])  # fmt: skip


def step_config(
    name: str, step: str, interface: Interface, options: TritonOptions, *, warmup_tokens: int, graph_file: str
) -> str:
    """Write the configuration of a step.

    Args:
        name: The ensemble's name.
        step: The step.
        interface: What the ensemble takes and gives.
        options: How it is run.
        warmup_tokens: Tokens of the row in the files that the model is warmed up with.
        graph_file: Name of the file that Triton's own backend loads.

    Returns:
        The text of ``config.pbtxt``.
    """
    fields = {
        TOKENIZER: _tokenizer(name, interface, options),
        MODEL: _model(interface, options, warmup_tokens, graph_file),
        LABELS: _labels(interface),
    }[step]
    return to_text([
        ("name", step_name(name, step)),
        ("max_batch_size", options.max_batch_size),
        ("version_policy", [("latest", [("num_versions", options.keep)])]),
        *fields,
    ])  # fmt: skip


def _tokenizer(name: str, interface: Interface, options: TritonOptions) -> Fields:
    parameters = {
        STEP: TOKENIZER,
        "model": step_name(name, MODEL),
        "backend": options.backend,
        "on_long": options.on_long,
        "max_characters": str(options.max_characters),
    }
    empty: dict[str, Field] = {tensor.name: ("zero_data", True) for tensor in interface.texts}
    return [
        ("backend", PYTHON_BACKEND),
        *_tensors("input", interface.texts),
        *_tensors("output", (*ids_of(interface, options), interface.truncated)),
        _instances("KIND_CPU", options.tokenizers),
        _batching(options, max_delay_us=0),
        *_warmups(interface.texts, empty, batch_sizes=(1,)),
        *_parameters(parameters),
    ]


def _model(interface: Interface, options: TritonOptions, warmup_tokens: int, graph_file: str) -> Fields:
    ids = ids_of(interface, options)
    is_python = options.backend == PYTHON_BACKEND
    parameters = {
        STEP: MODEL,
        "threads": str(options.threads),
        "max_batch_size": str(options.max_batch_size),
    } if is_python else {"intra_op_thread_count": str(options.threads)}  # fmt: skip
    sample = [Tensor(tensor.name, tensor.data_type, (warmup_tokens,)) for tensor in ids]
    files: dict[str, Field] = {tensor.name: ("input_data_file", warmup_file(tensor.name)) for tensor in ids}
    sizes = sorted({1, options.max_batch_size})
    return [
        ("backend", options.backend),
        *([] if is_python else [("default_model_filename", graph_file)]),
        # our runtime sorts rows of all lengths itself; Triton's batcher, alone, puts together those of one length
        *_tensors("input", ids, is_ragged=is_python),
        *_tensors("output", (interface.logits,)),
        _instances("KIND_GPU" if options.device == GPU else "KIND_CPU", options.instances),
        _batching(options, max_delay_us=options.max_delay_us),
        *_warmups(sample, files, batch_sizes=sizes),
        *_parameters(parameters),
    ]


def _labels(interface: Interface) -> Fields:
    return [
        ("backend", PYTHON_BACKEND),
        *_tensors("input", (interface.logits,)),
        *_tensors("output", interface.answers),
        _instances("KIND_CPU", 1),
        # what the model has computed is not refused any more
        ("dynamic_batching", []),
        *_parameters({STEP: LABELS}),
    ]


def _tensors(field: str, tensors: Sequence[Tensor], *, is_ragged: bool = False) -> Fields:
    return [
        (
            field,
            [
                ("name", tensor.name),
                *_type_and_dims(tensor),
                *([("allow_ragged_batch", True)] if is_ragged else []),
                *([("label_filename", LABELS_FILE)] if tensor.name == PROBABILITIES and field == "output" else []),
            ],
        )
        for tensor in tensors
    ]


def _instances(kind: str, count: int) -> Field:
    return ("instance_group", [("kind", Word(kind)), ("count", count)])


def _batching(options: TritonOptions, *, max_delay_us: int) -> Field:
    policy: Fields = [
        ("timeout_action", Word("REJECT")),
        ("default_timeout_microseconds", 1000 * options.timeout_ms),
        ("allow_timeout_override", True),
        ("max_queue_size", options.max_queue),
    ]
    return (
        "dynamic_batching",
        [("max_queue_delay_microseconds", max_delay_us), ("default_queue_policy", policy)],
    )


def _warmups(tensors: Sequence[Tensor], contents: Mapping[str, Field], *, batch_sizes: Sequence[int]) -> Fields:
    inputs: list[Field] = [
        ("inputs", [("key", tensor.name), ("value", [*_type_and_dims(tensor), contents[tensor.name]])])
        for tensor in tensors
    ]
    return [
        (
            "model_warmup",
            [
                ("name", f"{size} row{'s' if size > 1 else ''}"),
                ("batch_size", size),
                ("count", _ENOUGH_WARMUPS),
                *inputs,
            ],
        )
        for size in batch_sizes
    ]


def _type_and_dims(tensor: Tensor) -> Fields:
    return [("data_type", Word(tensor.data_type)), *(("dims", size) for size in tensor.dims)]


def _parameters(values: Mapping[str, str]) -> Fields:
    return [("parameters", [("key", key), ("value", [("string_value", value)])]) for key, value in values.items()]
