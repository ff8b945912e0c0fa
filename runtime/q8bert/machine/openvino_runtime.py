"""OpenVINO, imported here and nowhere else, without its telemetry.

At import, the package tells its maker that it was imported, and keeps an id of the user in the home folder, by means of
the package ``openvino-telemetry``. Where that package cannot be imported it goes on without; so for the length of the
import it cannot. Who imports ``openvino`` before q8bert has chosen for himself.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

__all__ = ["IMPORTED_IN", "openvino"]

IMPORTED_IN = os.getpid()  # a process that is forked from this one has OpenVINO without its threads

_TELEMETRY = "openvino_telemetry"


@contextmanager
def _without_telemetry() -> Iterator[None]:
    was_there = _TELEMETRY in sys.modules
    if not was_there:
        sys.modules[_TELEMETRY] = cast("ModuleType", None)  # documented: to import it fails
    try:
        yield
    finally:
        if not was_there:
            del sys.modules[_TELEMETRY]


with _without_telemetry():
    import openvino
