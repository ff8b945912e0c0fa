"""Run → bundle: ``export(run, output_dir)``.

Names are loaded when first asked for, so that the command line can list its commands without importing torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from q8bert.machine.builds import require

if TYPE_CHECKING:
    from q8bert.export.exporter import ExportReport, export
    from q8bert.export.proofs.parity_report import ParityReport

__all__ = ["ExportReport", "ParityReport", "export"]

_HOMES = {
    "ExportReport": "q8bert.export.exporter",
    "ParityReport": "q8bert.export.proofs.parity_report",
    "export": "q8bert.export.exporter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", "transformers", "onnx", "onnxscript", extra="train", purpose="export")
    return getattr(importlib.import_module(_HOMES[name]), name)
