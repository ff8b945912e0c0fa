"""Part `gradients` of `gpu_check.py`: both engines on the device compute what torch computes on the CPU.

Losses are compared relative to the loss; each gradient relative to the largest element of its tensor, key biases
absolutely, since softmax does not change when every key moves alike and so their true gradient is zero. In half
precision all gradients are taken as one vector, and its error relative to its length.
"""

import itertools
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_checks.cases import Case, Outcome
from gpu_checks.findings import Findings
from gpu_checks.placement import nodes_by_provider, operators_of
from gpu_checks.setting import Setting, is_not_offered
from torch import Tensor

__all__ = ["check_gradients", "difference", "vector_error"]

# Float32 sums of some hundred terms in another order give 1e-6, a code that rounds to its other side 1e-3 and more.
_TOLERANCE = 1e-4
# Unit roundoff is 2**-11 and 2**-8. A float model adds it up through two layers and back; a quantized one rounds some
# codes to their other side besides, each worth a step of 1/127 of its range: from one random model to the next, either
# engine's gradients in float16 were off by 0.07 to 0.4. Whole runs tell more; a wrong graph is off by 1 and more.
_HALF_TOLERANCE = {
    ("float", "float16"): 0.02, ("float", "bfloat16"): 0.15,
    ("quantized", "float16"): 0.6, ("quantized", "bfloat16"): 0.6,
}  # fmt: skip
_HALF = ("float16", "bfloat16")
_SECONDS = 8.0  # of a program that has to be built first
_KEY_BIAS = "key.bias"
_TINY = 1e-12  # in the place of zero, where something is divided by it
_CPU = torch.device("cpu")


def check_gradients(setting: Setting, findings: Findings) -> None:
    """Compare loss, logits, observations and gradients, in float32 and half precision; and rounded weights."""
    torch.backends.cuda.matmul.allow_tf32 = False  # sessions take it over when they are made
    if setting.without_ort:
        findings.note(f"torch alone is compared; ONNX Runtime cannot run here: {setting.without_ort}")
    kinds = [(False, True)] if setting.quick else [(False, True), (True, True), (False, False), (True, False)]
    cases = [Case(regression=regression, quantize=quantize) for regression, quantize in kinds]
    for case in cases:
        _float32(case, setting, findings)
    for case in cases[:1] if setting.quick else (cases[0], cases[2]):
        reference = case.outcome("torch", _CPU)
        for precision, engine in itertools.product(_HALF, _engines(setting)):
            _half(case, reference, setting, findings, engine=engine, precision=precision)
    findings.attempt("requantizing", {"case": cases[0].name}, partial(_requantized, cases[0], setting, findings))
    if setting.is_cuda and not setting.without_ort:
        for precision in ("float32", *_HALF):
            _placement(cases[0], precision, setting, findings)


def difference(ours: Outcome, theirs: Outcome) -> dict[str, Any]:
    """Return the largest differences of two outcomes.

    Args:
        ours: One of them.
        theirs: What it is relative to.

    Returns:
        Values by column; ``parameter`` names the tensor whose gradient differs most.
    """
    names = [name for name in theirs.gradients if not name.endswith(_KEY_BIAS)]
    distances = {name: _largest(ours.gradients[name] - expected) for name, expected in theirs.gradients.items()}
    relative = [distances[name] / max(_largest(theirs.gradients[name]), _TINY) for name in names]
    worst = int(np.argmax(relative))  # of numbers that are none, the first
    return {
        "loss": abs(ours.loss - theirs.loss) / abs(theirs.loss),
        "logits": _worst([_largest(ours.logits - theirs.logits), _largest(ours.evaluated - theirs.evaluated)]),
        "observations": _largest((ours.observations - theirs.observations) / theirs.observations.clamp(min=_TINY)),
        "gradient": relative[worst],
        "parameter": names[worst],
        "key_biases": _worst([distances[name] for name in distances.keys() - set(names)]),
    }


def vector_error(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the length of the difference of all gradients relative to theirs, and the cosine between both."""
    vector, expected = (torch.cat([found[name].flatten() for name in theirs]) for found in (ours, theirs))
    return float((vector - expected).norm() / expected.norm()), float(torch.cosine_similarity(vector, expected, dim=0))


def _float32(case: Case, setting: Setting, findings: Findings) -> None:
    on_cpu = case.outcome("torch", _CPU)
    outcomes: dict[str, Outcome] = {}

    def measure(engine: str) -> dict[str, Any]:
        outcomes[engine] = case.outcome(engine, setting.device)
        found = difference(outcomes[engine], on_cpu)
        numbers = {what: value for what, value in found.items() if isinstance(value, float)}
        wrong = [f"{what} {value:.1e}" for what, value in numbers.items() if not value <= _TOLERANCE]
        findings.check(f"{case.name}, {engine} differs from torch on the CPU: {', '.join(wrong)}", holds=not wrong)
        return found

    for engine in _engines(setting):
        row = {"case": case.name, "ours": f"{engine} {setting.device}", "against": f"torch {_CPU}"}
        findings.attempt("float32", row, partial(measure, engine))
    if setting.is_cuda and len(outcomes) > 1:
        row = {"case": case.name, "ours": f"ort {setting.device}", "against": f"torch {setting.device}"}
        findings.attempt("float32", row, lambda: difference(outcomes["ort"], outcomes["torch"]))


def _half(case: Case, reference: Outcome, setting: Setting, findings: Findings, *, engine: str, precision: str) -> None:
    allowed = _HALF_TOLERANCE["quantized" if case.sites else "float", precision]

    def measure() -> dict[str, Any]:
        ours = case.outcome(engine, setting.device, precision=precision)
        error, cosine = vector_error(ours.gradients, reference.gradients)
        loss = abs(ours.loss - reference.loss) / abs(reference.loss)
        is_finite = all(bool(torch.isfinite(gradient).all()) for gradient in ours.gradients.values())
        name = f"{case.name}, {engine} in {precision}"
        findings.check(f"{name}: a gradient is not finite", holds=is_finite)
        findings.check(f"{name}: gradients are off by {error:.2g}, {allowed} is allowed", holds=error <= allowed)
        findings.check(f"{name}: the loss is off by {loss:.2g}, {allowed} is allowed", holds=loss <= allowed)
        return {"loss": loss, "logits": _largest(ours.logits - reference.logits), "gradients": error, "cosine": cosine}

    row = {"case": case.name, "ours": f"{engine} {setting.device}", "precision": precision}
    findings.attempt(
        "half precision", row, measure, is_unsupported=partial(is_not_offered, precision=precision), seconds=_SECONDS
    )


def _requantized(case: Case, setting: Setting, findings: Findings) -> dict[str, Any]:
    ours, plain = case.requantized(setting.device)
    wrong = [name for name, expected in plain.items() if not torch.equal(ours[name], expected)]
    findings.check(f"requantizing as training does it gives other weights: {', '.join(wrong)}", holds=not wrong)
    return {"weights": len(plain), "bit_equal": len(plain) - len(wrong)}


def _placement(case: Case, precision: str, setting: Setting, findings: Findings) -> None:
    def measure() -> dict[str, Any]:
        providers = [("CUDAExecutionProvider", {"device_id": str(setting.device.index)}), "CPUExecutionProvider"]
        found = nodes_by_provider(case.programs(precision).training, providers)
        if found is None:
            return {"nodes_on_cpu": "this release does not tell"}
        on_cpu = found.pop("CPUExecutionProvider", Counter())
        return {
            "nodes_on_gpu": sum(sum(counts.values()) for counts in found.values()),
            "nodes_on_cpu": sum(on_cpu.values()),
            "which": operators_of(on_cpu),
        }

    findings.attempt(
        "where nodes run",
        {"program": f"{case.name}, {precision}"},
        measure,
        is_unsupported=partial(is_not_offered, precision=precision),
        seconds=_SECONDS,
    )


def _engines(setting: Setting) -> tuple[str, ...]:
    return ("torch",) if setting.without_ort else ("torch", "ort")


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _worst(values: list[float]) -> float:
    return float(np.max(values))  # unlike max(), never passes over what is no number
