"""How a session of ONNX Runtime is told what :class:`~q8bert.runtime.engines.options.RuntimeOptions` say."""

from q8bert.machine.onnx_runtime import ort
from q8bert.machine.spinning import spin_briefly
from q8bert.runtime.engines.options import RuntimeOptions
from q8bert.spec.errors import ConfigError

__all__ = ["session_options"]

_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def session_options(options: RuntimeOptions) -> ort.SessionOptions:
    """Return ONNX Runtime's own options; only errors are logged.

    Args:
        options: What was chosen.

    Returns:
        A new object, which the caller may change.

    Raises:
        ConfigError: If bfloat16 is asked for.
    """
    if options.bfloat16:
        raise ConfigError(["bfloat16 is an option of the engine openvino; ONNX Runtime has none. Leave it out"])
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 3
    chosen.intra_op_num_threads = options.n_threads
    chosen.enable_cpu_mem_arena = options.memory_arena
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[options.optimization])
    chosen.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
    if options.spinning:
        spin_briefly(chosen)
    return chosen
