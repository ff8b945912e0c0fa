"""What a bundle says of the run that it came from."""

from dataclasses import asdict

from q8bert.export.graph.build import OPSET
from q8bert.export.proofs.fusion import FusionReport
from q8bert.export.proofs.saturation import SaturationReport
from q8bert.export.trained_run import TrainedRun
from q8bert.spec.bundle import Manifest
from q8bert.training.models.source import count_parameters
from q8bert.training.quantization.fake_quantize import scale_from_amax, weight_scale
from q8bert.training.versions import library_versions

__all__ = ["make_manifest"]


def make_manifest(
    trained: TrainedRun,
    method: str,
    *,
    fusion: FusionReport,
    saturation: SaturationReport | None,
    symmetric: bool = False,
) -> Manifest:
    """Describe a run's export.

    Args:
        trained: The run.
        method: ``none``, ``dynamic``, ``static`` or ``qat``.
        fusion: Which products ONNX Runtime runs in integers.
        saturation: What it took to be free of it; None but for ``qat``.
        symmetric: Whether the graph has the form for runtimes without zero points.

    Returns:
        The manifest, but for ``files``.
    """
    config, checkpoint, model = trained.config, trained.checkpoint, trained.source.model
    return Manifest(
        precision="float32" if method == "none" else "int8",
        task=config.task.to_json(),
        max_length=config.max_length,
        pad_token_id=checkpoint.pad_token_id,
        input_names=checkpoint.input_names,
        files={},
        quantization=_quantization(trained, method, fusion, saturation, symmetric=symmetric),
        # what was quantized after training was not scored by it
        metrics=checkpoint.progress.metrics if method in {"none", "qat"} else {},
        data={} if trained.data is None else asdict(trained.data),
        versions=library_versions() | {"opset": str(OPSET)},
        model={
            "source": config.model,
            "architecture": type(model).__name__,
            "family": model.config.model_type,
            "n_parameters": count_parameters(model),
            "seed": config.seed,
            "checkpoint_step": checkpoint.progress.step,
        },
    )


def _quantization(
    trained: TrainedRun, method: str, fusion: FusionReport, saturation: SaturationReport | None, *, symmetric: bool
) -> dict[str, object]:
    if method == "none":
        return {}
    description: dict[str, object] = {"method": method, "num_bits": 8, "products": asdict(fusion)}
    if trained.amax is None or saturation is None:
        return description
    weights, sites = trained.weights, trained.checkpoint.sites
    scales = scale_from_amax(trained.amax).tolist()
    return description | {
        "quantize_from": trained.config.quantization.quantize_from,
        "saturation": asdict(saturation),
        "weight_granularity": trained.config.quantization.granularity,
        "table_granularity": trained.config.quantization.table_granularity,
        "float_layers": list(trained.float_layers),
        "smoothed_activations": [site.name for site in sites if site.smoothing],
        "activation_zero_points": {site.name: site.zero_point for site in sites if site.zero_point},
        "symmetric": symmetric,
        "activation_scales": {site.name: scale for site, scale in zip(sites, scales, strict=True)},
        "weight_scales": {
            name: weight_scale(weights.smoothed(name), grid).flatten().tolist()
            for name, grid in weights.quantized.items()
        },
    }
