"""What a one-shot quantization came to."""

from dataclasses import dataclass

from q8bert.export.proofs.float_comparison import FloatComparison
from q8bert.export.proofs.fusion import FusionReport
from q8bert.export.proofs.parity_report import ParityReport
from q8bert.export.proofs.saturation import SaturationReport
from q8bert.export.sensitivity.proposal import Proposal

__all__ = ["Limits", "QuantizationReport", "failures"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a quantized model may lose.

    Attributes:
        max_relative_loss: Largest relative loss of the main metric, on labelled rows.
        max_logit_error: Largest relative error of the logits; None for any.
        min_agreement: Smallest share of rows with the label of the float model; None for any.
    """

    max_relative_loss: float
    max_logit_error: float | None
    min_agreement: float | None


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was quantized, and what was measured of it.

    Attributes:
        bundle: The bundle's folder.
        source: The float model.
        task: Name of the task.
        labels: What the outputs are called; none for a score.
        max_length: Longest row in tokens.
        model_size_bytes: Bytes of the ONNX model.
        float_size_bytes: Bytes of the float model's weights in float32.
        size_ratio: The latter over the former.
        calibration_source: Where the rows for the ranges came from.
        n_calibration_rows: How many.
        calibration_sha256: Fingerprint of their texts; the texts themselves are kept nowhere.
        float_layers: Linear and Embedding layers left in float on request.
        float_layers_bytes: What the model would be smaller by if they were INT8 too.
        fusion: Which products ONNX Runtime runs in integers.
        saturation: Pairs of weights that could overflow, before and after.
        parity: The exported model against its simulation; None where it was left out.
        comparison: The exported model against the float one.
        limits: What it may lose.
        passed: Whether it loses no more.
        failures: What it loses more, in words; empty when it passed.
        suggestion: Where it did not pass, the least layers whose keeping in float halves the error of the logits, or
            brings it to its limit, on held-out rows; None where it passed, or none suffice.
        skipped: Malformed rows that were left out, one line each.
    """

    bundle: str
    source: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    model_size_bytes: int
    float_size_bytes: int
    size_ratio: float
    calibration_source: str
    n_calibration_rows: int
    calibration_sha256: str
    float_layers: tuple[str, ...]
    float_layers_bytes: int
    fusion: FusionReport
    saturation: SaturationReport
    parity: ParityReport | None
    comparison: FloatComparison
    limits: Limits
    passed: bool
    failures: tuple[str, ...]
    suggestion: Proposal | None
    skipped: tuple[str, ...]


def failures(found: FloatComparison, limits: Limits) -> tuple[str, ...]:
    """Say what a quantized model loses more than it may.

    Args:
        found: What it loses.
        limits: What it may.

    Returns:
        A clause a limit that is passed; none where all hold.
    """
    told = []
    loss, agreement = found.relative_loss, found.agreement
    if loss is not None and not loss <= limits.max_relative_loss:
        told.append(f"relative loss {loss:.2%} of {found.main_metric} is above {limits.max_relative_loss:.2%}")
    if limits.max_logit_error is not None and not found.relative_error <= limits.max_logit_error:
        told.append(f"relative error {found.relative_error:.2g} of the logits is above {limits.max_logit_error:g}")
    if limits.min_agreement is not None and agreement is not None and not agreement >= limits.min_agreement:
        told.append(f"{agreement:.2%} of the rows have the float model's label, below {limits.min_agreement:.2%}")
    return tuple(told)
