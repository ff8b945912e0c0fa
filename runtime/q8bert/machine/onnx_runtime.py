"""ONNX Runtime, imported here and nowhere else, without its telemetry.

Releases of today start a thread at import that keeps a database in the user's cache folder and looks up its maker's
address; a process that is forked afterwards hangs when it ends. They leave it out where ``ORT_DISABLE_TELEMETRY`` is 1
at that moment, which it therefore is unless the user has set it to something else.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["ort"]
