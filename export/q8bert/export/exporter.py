"""A run's best checkpoint → a bundle, checked against the simulation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from q8bert.export.bundle_writer import write_bundle
from q8bert.export.graph import OPSET, build_graph
from q8bert.export.parity import ParityReport, compare
from q8bert.glue.readers import read_split
from q8bert.glue.tokenizer import TextTokenizer
from q8bert.runtime.session import Session
from q8bert.spec.bundle import Bundle, Manifest
from q8bert.spec.errors import ExportError, InputError
from q8bert.training.batches import TokenizedSplit, tokenize_split
from q8bert.training.checkpoint import TOKENIZER_FILE, Checkpoint, copy_weights
from q8bert.training.config import TrainConfig
from q8bert.training.fake_quantize import scale_from_amax, weight_scale
from q8bert.training.model_source import SourceModel, count_parameters, load_source_model
from q8bert.training.run_folder import best_checkpoint, library_versions, read_run
from q8bert.training.sites import matching_layers
from q8bert.training.torch_engine import TorchEngine
from q8bert.training.weights import TrainableWeights, prepare_weights, quantized_parameters

__all__ = ["ExportReport", "export"]


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        bundle: The bundle's folder.
        precision: ``int8`` or ``float32``.
        model_size_bytes: Bytes of the ONNX model.
        checkpoint_step: Step of the checkpoint it came from.
        float_layers: Linear and Embedding layers left in float on request.
        float_layers_bytes: What the model would be smaller by if they were INT8 too.
        metrics: Dev scores of that checkpoint in training, as fractions.
        parity: Comparison with the simulation; None where it was left out.
    """

    bundle: str
    precision: str
    model_size_bytes: int
    checkpoint_step: int
    float_layers: tuple[str, ...]
    float_layers_bytes: int
    metrics: Mapping[str, float]
    parity: ParityReport | None


def export(
    run: Path | str,
    output_dir: Path | str,
    *,
    data_dir: str | None = None,
    check_parity: bool = True,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Bundle, ExportReport]:
    """Export the best checkpoint of a run as a bundle.

    Args:
        run: Folder of the run.
        output_dir: The bundle's folder; an existing bundle there is replaced.
        data_dir: Folder whose dev split the parity is measured on; default the run's own.
        check_parity: False leaves the comparison with the simulation out.
        report: Called with a sentence at every stage.

    Returns:
        The bundle, and what was measured.

    Raises:
        CheckpointError: If the run has no whole checkpoint.
        ExportError: If the graph cannot be made, or ``output_dir`` holds something else.
        ParityError: If the exported model is further from the simulation than rounding ties explain.
    """
    config = read_run(Path(run))
    checkpoint = best_checkpoint(Path(run))
    source = _load(config, checkpoint)
    float_layers = matching_layers(source.model, config.keep_float)
    per_channel = config.granularity == "per_channel"
    quantized = (
        quantized_parameters(source.model, per_channel=per_channel, keep_float=float_layers) if config.quantize else {}
    )
    weights = prepare_weights(source.model, quantized)
    amax = checkpoint.ranges.amax() if checkpoint.sites else None
    report("building the ONNX graph (some ten seconds)")
    graph = build_graph(
        source.model,
        checkpoint.sites,
        torch.zeros(0) if amax is None else amax,
        quantized,
        input_names=checkpoint.input_names,
    )
    parity = None
    if check_parity:
        session = Session(graph.SerializeToString(), threads=config.threads)
        rows = _dev_rows(config, checkpoint, data_dir or config.data_dir)
        report(f"comparing the exported model with the simulation on {len(rows)} dev rows")
        engine = TorchEngine(source.model, checkpoint.sites, weights)
        float_engine = TorchEngine(source.model, (), prepare_weights(source.model, {}))
        parity = compare(
            engine, float_engine, amax, session, split=rows, task=config.task, batch_size=config.eval_batch_size
        )
    bundle = write_bundle(
        Path(output_dir),
        graph=graph,
        tokenizer=_tokenizer(checkpoint),
        manifest=_manifest(config, checkpoint, source, weights, amax),
        parity=parity,
    )
    return bundle, ExportReport(
        bundle=str(bundle.path),
        precision=bundle.manifest.precision,
        model_size_bytes=bundle.model_size_bytes,
        checkpoint_step=checkpoint.progress.step,
        float_layers=float_layers,
        float_layers_bytes=_bytes_of_float(weights, float_layers),
        metrics=checkpoint.progress.metrics,
        parity=parity,
    )


def _load(config: TrainConfig, checkpoint: Checkpoint) -> SourceModel:
    task = config.task
    source = load_source_model(
        str(checkpoint.path),
        n_outputs=task.n_outputs,
        labels=task.labels,
        max_length=config.max_length,
        dropout=None,
    )
    copy_weights(source.model, checkpoint)
    return source


def _bytes_of_float(weights: TrainableWeights, float_layers: Sequence[str]) -> int:
    # four bytes a weight instead of one
    return sum(3 * weights.masters[f"{name}.weight"].numel() for name in float_layers)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint.path / TOKENIZER_FILE))


def _dev_rows(config: TrainConfig, checkpoint: Checkpoint, data_dir: str) -> TokenizedSplit:
    try:
        split = read_split(config.task, data_dir, "dev", skip_malformed=config.skip_malformed)
    except InputError as error:
        raise ExportError(
            f"the dev split to compare the exported model on cannot be read: {error}. Give its folder with --data-dir, "
            "or leave the comparison out with --no-parity"
        ) from error
    return tokenize_split(
        split,
        config.task,
        TextTokenizer(_tokenizer(checkpoint), max_length=config.max_length),
        input_names=checkpoint.input_names,
        pad_token_id=checkpoint.pad_token_id,
    )


def _manifest(
    config: TrainConfig,
    checkpoint: Checkpoint,
    source: SourceModel,
    weights: TrainableWeights,
    amax: Tensor | None,
) -> Manifest:
    return Manifest(
        precision="float32" if amax is None else "int8",
        task=config.task.to_json(),
        max_length=config.max_length,
        pad_token_id=checkpoint.pad_token_id,
        input_names=checkpoint.input_names,
        files={},
        quantization={} if amax is None else _quantization(config, checkpoint, source, weights, amax),
        metrics=checkpoint.progress.metrics,
        versions=library_versions() | {"opset": str(OPSET)},
        model={
            "source": config.model,
            "architecture": type(source.model).__name__,
            "family": source.model.config.model_type,
            "n_parameters": count_parameters(source.model),
            "seed": config.seed,
            "checkpoint_step": checkpoint.progress.step,
        },
    )


def _quantization(
    config: TrainConfig, checkpoint: Checkpoint, source: SourceModel, weights: TrainableWeights, amax: Tensor
) -> dict[str, object]:
    scales = scale_from_amax(amax).tolist()
    return {
        "num_bits": 8,
        "weight_granularity": config.granularity,
        "float_layers": list(matching_layers(source.model, config.keep_float)),
        "activation_scales": {site.name: scale for site, scale in zip(checkpoint.sites, scales, strict=True)},
        "weight_scales": {
            name: weight_scale(weights.masters[name], per_channel=per_channel).flatten().tolist()
            for name, per_channel in weights.quantized.items()
        },
    }
