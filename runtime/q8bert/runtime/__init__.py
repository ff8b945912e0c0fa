"""INT8 inference without torch: ``Classifier.load(bundle)(texts)``.

Names are loaded when first asked for, so that the command line can list its commands quickly.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from q8bert.runtime.bench.benchmark import benchmark
    from q8bert.runtime.bench.report import BenchmarkReport
    from q8bert.runtime.engines.options import RuntimeOptions
    from q8bert.runtime.gate.evaluation import EvaluationReport, evaluate
    from q8bert.runtime.gate.verification import VerificationReport, verify
    from q8bert.runtime.predict.classifier import Classifier
    from q8bert.runtime.predict.submission import SubmissionReport, submit
    from q8bert.runtime.scoring.scoring import ScoreProgress, ScoreReport, score_files
    from q8bert.runtime.service.async_classifier import AsyncClassifier
    from q8bert.runtime.service.service_counters import Histogram, ServiceSnapshot
    from q8bert.tasks.head import Prediction

__all__ = [
    "AsyncClassifier",
    "BenchmarkReport",
    "Classifier",
    "EvaluationReport",
    "Histogram",
    "Prediction",
    "RuntimeOptions",
    "ScoreProgress",
    "ScoreReport",
    "ServiceSnapshot",
    "SubmissionReport",
    "VerificationReport",
    "benchmark",
    "evaluate",
    "score_files",
    "submit",
    "verify",
]

_HOMES = {
    "AsyncClassifier": "q8bert.runtime.service.async_classifier",
    "BenchmarkReport": "q8bert.runtime.bench.report",
    "Classifier": "q8bert.runtime.predict.classifier",
    "EvaluationReport": "q8bert.runtime.gate.evaluation",
    "Histogram": "q8bert.runtime.service.service_counters",
    "Prediction": "q8bert.tasks.head",
    "RuntimeOptions": "q8bert.runtime.engines.options",
    "ScoreProgress": "q8bert.runtime.scoring.scoring",
    "ScoreReport": "q8bert.runtime.scoring.scoring",
    "ServiceSnapshot": "q8bert.runtime.service.service_counters",
    "SubmissionReport": "q8bert.runtime.predict.submission",
    "VerificationReport": "q8bert.runtime.gate.verification",
    "benchmark": "q8bert.runtime.bench.benchmark",
    "evaluate": "q8bert.runtime.gate.evaluation",
    "score_files": "q8bert.runtime.scoring.scoring",
    "submit": "q8bert.runtime.predict.submission",
    "verify": "q8bert.runtime.gate.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
