"""The bundle's README: what the model is, how to use it, what it scored."""

from collections.abc import Mapping
from typing import Any

from q8bert.export.proofs.parity_report import ParityReport
from q8bert.spec.bundle.bundle import MODEL_FILE, PARITY_FILE, Manifest
from q8bert.training.objectives.config import TWIN

__all__ = ["model_card"]


def model_card(manifest: Manifest, parity: ParityReport | None) -> str:
    """Return the card in Markdown.

    Args:
        manifest: The bundle's manifest, sizes of model and tokenizer included.
        parity: Comparison with the simulation, if there was one.

    Returns:
        Markdown text.
    """
    task = manifest.task
    labels = task.get("labels")
    size = manifest.files[MODEL_FILE].size_bytes
    kind = "INT8" if manifest.precision == "int8" else "float32"
    pairs = task.get("text_pair_column")
    call = '[("a first text", "a second text")]' if pairs else '["a text"]'
    named = [str(label) for label in labels] if isinstance(labels, list | tuple) else []
    lines = [
        f"# {task['name']} {'classifier' if named else 'regressor'}, {kind}",
        "",
        f"- Source model: {manifest.model.get('source')} ({manifest.model.get('architecture')}, "
        f"{manifest.model.get('n_parameters'):,} parameters)",
        f"- Size of the ONNX model: {size / 1e6:.1f} MB",
        f"- Input: {'pairs of texts' if pairs else 'single texts'}, at most {manifest.max_length} tokens; "
        "longer ones are cut",
        f"- Output: {', '.join(named) or 'a score, in the units of the float model'}",
    ]
    lines += [
        f"- Also for {target}: `{form.file}`, {manifest.files[form.file].size_bytes / 1e6:.1f} MB; logits by "
        f"{form.max_abs_diff:.2g} at most from those of `{MODEL_FILE}`, on the CPU and {form.n_rows} random rows"
        for target, form in manifest.targets.items()
    ]
    lines += _data_lines(manifest.data)
    lines += _teacher_lines(manifest.model)
    lines += _quantization_lines(manifest.quantization)
    lines += ["", "## Use", "", "```python", "from q8bert.runtime import Classifier", ""]
    lines += ['classifier = Classifier.load("path/of/this/folder")', f"print(classifier({call}))", "```"]
    lines += _score_lines(manifest)
    if parity is not None:
        lines += _parity_lines(parity)
    lines += [
        "",
        "## Made with",
        "",
        ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    ]
    return "\n".join(lines) + "\n"


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, split in (("Training rows", data.get("train")), ("Dev rows", data.get("dev"))):
        if split is not None:
            cut = f", {split['n_truncated']:,} of them longer than {split['max_length']} tokens and cut"
            left_out = f", {split['n_skipped']:,} malformed ones left out" if split["n_skipped"] else ""
            lines.append(f"- {name}: {split['n_rows']:,}{cut if split['n_truncated'] else ''}{left_out}")
    return lines


def _teacher_lines(model: Mapping[str, Any]) -> list[str]:
    teacher = model.get("teacher")
    if not isinstance(teacher, Mapping):
        return []
    name = "its own float model" if teacher["model"] == TWIN else teacher["model"]
    return [f"- Learned from a teacher too, {name}, with {100 * teacher['weight']:g} % of the loss"]


def _score_lines(manifest: Manifest) -> list[str]:
    comparison = manifest.quantization.get("comparison")
    if isinstance(comparison, Mapping):
        return _comparison_lines(comparison)
    lines = ["", "## Scores on the dev split", ""]
    if not manifest.metrics:
        return [*lines, "Not measured: the model was quantized after training. `q8bert evaluate` measures it."]
    return [
        *lines, "The dev split also picked this checkpoint, so the scores flatter it a little.", "",
        "| metric | simulation in training |", "|---|---|",
        *(f"| {name} | {100 * value:.2f} |" for name, value in manifest.metrics.items()),
    ]  # fmt: skip


def _comparison_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["", "## INT8 against the float model", "", f"On {found['n_rows']:,} {found['split']} rows:", ""]
    if found["metrics"]:
        lines += ["| metric | float | INT8 |", "|---|---|---|"]
        lines += [
            f"| {name} | {100 * found['float_metrics'][name]:.2f} | {100 * value:.2f} |"
            for name, value in found["metrics"].items()
        ]
        lines += [""]
    else:
        lines += ["The rows have no labels: no score was measured. `q8bert evaluate` measures one.", ""]
    if found["agreement"] is not None:
        lines += [f"- Rows with the same label: {100 * found['agreement']:.2f} %"]
    else:
        lines += [f"- Rank correlation of the scores (Spearman): {found['rank_correlation']:.4f}"]
    return [
        *lines,
        f"- Difference of a logit: {found['mean_abs_diff']:.2g} on average, {found['max_abs_diff']:.2g} at most",
        f"- Squared error of the logits relative to their variance: {found['relative_error']:.2g}",
    ]


_RANGES = {
    "ema": "ranges averaged while it was trained",
    "learned": "ranges learned with the weights",
    "percentile": "ranges of a percentile of the calibration's values",
}


def _quantization_lines(quantization: Mapping[str, Any]) -> list[str]:
    if not quantization:
        return []
    products = quantization["products"]
    fused = (
        f"- Products with weights: {products['n_integer']} in integers, {products['n_float']} in float "
        f"(ONNX Runtime {products['onnxruntime']}, CPU)"
    )
    method = quantization["method"]
    if method in {"dynamic", "static"}:
        return [
            f"- Quantization: after training, by ONNX Runtime's own tools, {method}", fused,
            "- Not free of saturation: results may differ on CPUs without VNNI",
        ]  # fmt: skip
    weights, tables = (str(quantization[key]).replace("_", " ") for key in ("weight_granularity", "table_granularity"))
    if calibration := quantization.get("calibration"):
        how = "after training, in one shot, without labels"
        of = "a percentile of the values of " if quantization.get("ranges") == "percentile" else ""
        ranges = f"ranges of {of}{calibration['n_rows']:,} rows"
    else:
        how, ranges = "quantization-aware training", _RANGES[quantization.get("ranges", "ema")]
    lines = [
        f"- Quantization: {how}; int8 QDQ, weights {weights}, embeddings {tables}, activations with {ranges}; "
        "attention products, softmax, GELU, LayerNorm, biases and residuals float32",
        "- Free of saturation: none of {n_pairs:,} pairs of weights can overflow, on CPUs without VNNI either "
        "({n_unsafe_before:,} could have)".format_map(quantization["saturation"]),
        fused,
    ]
    if shifted := quantization.get("activation_zero_points"):
        texts = ", ".join(f"{name} {zero_point}" for name, zero_point in shifted.items())
        form = "; as additions, the graph's own are all 0" if quantization.get("symmetric") else ""
        lines.append(f"- Zero points of activations, all others 0{form}: {texts}")
    if smoothed := quantization.get("smoothed_activations"):
        lines.append(f"- Outlier channels scaled down before quantization, and their weights up: {', '.join(smoothed)}")
    if float_layers := quantization["float_layers"]:
        lines.append(f"- Layers left in float32 on request: {', '.join(float_layers)}")
    return lines


def _parity_lines(parity: ParityReport) -> list[str]:
    main = parity.main_metric
    exported = f"; {main} of the exported model {_points(parity.exported[main])}" if parity.exported else ""
    rows = (("by itself", parity.free), ("with the same side taken at rounding ties", parity.resolved))
    return [
        "", "## Exported model against simulation", "",
        f"{parity.n_rows} of {parity.n_rows_in_split} {parity.split} rows{exported}.", "",
        f"| simulation | {main} | rows with another prediction | largest, mean difference of a logit |",
        "|---|---|---|---|",
        *(
            f"| {name} | {_points(found.metrics.get(main))} | {found.n_rows_differing} | "
            f"{found.max_abs_diff:.2g}, {found.mean_abs_diff:.2g} |"
            for name, found in rows
        ),
        "",
        f"Ties: {parity.n_ties:,} of {parity.n_codes:,} activation codes, none farther than "
        f"{parity.max_tie_distance:.2g} codes from the border. `{PARITY_FILE}` lists the rows that differ, "
        "and where the first tie of each is.",
    ]  # fmt: skip


def _points(value: float | None) -> str:
    return "no labels" if value is None else f"{100 * value:.2f}"
