"""What a bundle says of the model that it came from."""

from dataclasses import asdict

from q8bert.export.graph.build import OPSET
from q8bert.export.model_to_export import ModelToExport
from q8bert.export.proofs.float_comparison import FloatComparison
from q8bert.export.proofs.fusion import FusionReport
from q8bert.export.proofs.saturation import SaturationReport
from q8bert.spec.bundle.bundle import Manifest
from q8bert.training.models.source import count_parameters
from q8bert.training.quantization.fake_quantize import scale_from_amax
from q8bert.training.versions import library_versions

__all__ = ["make_manifest"]


def make_manifest(
    model: ModelToExport,
    method: str,
    *,
    fusion: FusionReport,
    saturation: SaturationReport | None,
    comparison: FloatComparison | None = None,
    symmetric: bool = False,
) -> Manifest:
    """Describe an export.

    Args:
        model: What was exported.
        method: ``none``, ``dynamic``, ``static``, ``ptq`` or ``qat``.
        fusion: Which products ONNX Runtime runs in integers.
        saturation: What it took to be free of it; None but for ``ptq`` and ``qat``.
        comparison: What quantization changed, where that was measured on the exported model.
        symmetric: Whether the graph has the form for runtimes without zero points.

    Returns:
        The manifest, but for ``files``.
    """
    source, origin = model.source, model.origin
    return Manifest(
        precision="float32" if method == "none" else "int8",
        task=model.task.to_json(),
        max_length=model.max_length,
        pad_token_id=source.pad_token_id,
        input_names=source.input_names,
        files={},
        quantization=_quantization(model, method, fusion, saturation, symmetric=symmetric)
        | ({} if comparison is None else {"comparison": asdict(comparison)}),
        # what was quantized after training was not scored by it
        metrics=origin.metrics if method in {"none", "qat"} else {},
        data=origin.data,
        obey_special_tokens=model.obey_special_tokens,
        versions=library_versions() | {"opset": str(OPSET)},
        model={
            "source": origin.model["source"],
            "architecture": type(source.model).__name__,
            "family": source.model.config.model_type,
            "n_parameters": count_parameters(source.model),
            **origin.model,
        },
    )


def _quantization(
    model: ModelToExport, method: str, fusion: FusionReport, saturation: SaturationReport | None, *, symmetric: bool
) -> dict[str, object]:
    if method == "none":
        return {}
    description: dict[str, object] = {"method": method, "num_bits": 8, "products": asdict(fusion)}
    if model.amax is None or saturation is None:
        return description
    sites = model.sites
    scales = scale_from_amax(model.amax).tolist()
    return description | {
        **model.origin.quantization,
        "saturation": asdict(saturation),
        "weight_granularity": model.granularity,
        "table_granularity": model.table_granularity,
        "float_layers": list(model.float_layers),
        "smoothed_activations": [site.name for site in sites if site.smoothing],
        "activation_zero_points": {site.name: site.zero_point for site in sites if site.zero_point},
        "symmetric": symmetric,
        "activation_scales": {site.name: scale for site, scale in zip(sites, scales, strict=True)},
    }
