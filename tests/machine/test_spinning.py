"""ONNX Runtime's threads are told to sleep soon, where it can be told so."""

from typing import Any

from q8bert.machine.onnx_runtime import ort
from q8bert.machine.spinning import spin_briefly


def test_threads_spin_for_some_microseconds_and_a_session_takes_the_option(small: Any) -> None:
    options = ort.SessionOptions()
    spin_briefly(options)
    assert 0 < int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 100
    session = ort.InferenceSession(str(small.bundle("SST-2", "int8") / "model.onnx"), options)
    assert session.get_session_options().get_session_config_entry("session.intra_op.spin_duration_us") == "20"
