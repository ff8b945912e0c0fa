"""A run or a fine-tuned model → a bundle: ``export(run, output_dir)`` and ``quantize(model, output_dir, …)``.

Names are loaded when first asked for, so that the command line can list its commands without importing torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from q8bert.machine.builds import require

if TYPE_CHECKING:
    from q8bert.export.exporter import ExportReport, export
    from q8bert.export.one_shot.quantizer import quantize
    from q8bert.export.one_shot.report import QuantizationReport
    from q8bert.export.proofs.parity_report import ParityReport
    from q8bert.export.sensitivity.examiner import examine_sensitivity
    from q8bert.export.sensitivity.report import SensitivityReport

__all__ = [
    "ExportReport", "ParityReport", "QuantizationReport", "SensitivityReport", "examine_sensitivity", "export",
    "quantize",
]  # fmt: skip

_HOMES = {
    "ExportReport": "q8bert.export.exporter",
    "ParityReport": "q8bert.export.proofs.parity_report",
    "QuantizationReport": "q8bert.export.one_shot.report",
    "SensitivityReport": "q8bert.export.sensitivity.report",
    "examine_sensitivity": "q8bert.export.sensitivity.examiner",
    "export": "q8bert.export.exporter",
    "quantize": "q8bert.export.one_shot.quantizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("torch", "transformers", "onnx", "onnxscript", extra="train", purpose="export")
    return getattr(importlib.import_module(_HOMES[name]), name)
