"""The bundle's README: what the model is, how to use it, what it scored."""

from q8bert.export.parity import ParityReport
from q8bert.spec.bundle import EXTERNAL_DATA_FILE, MODEL_FILE, Manifest

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
    size = sum(manifest.files[name].size_bytes for name in (MODEL_FILE, EXTERNAL_DATA_FILE) if name in manifest.files)
    kind = "INT8 (QDQ, weights and embeddings int8)" if manifest.precision == "int8" else "float32"
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
        f"- Output: {', '.join(named) or 'a score'}",
    ]
    if manifest.quantization:
        granularity = str(manifest.quantization.get("weight_granularity")).replace("_", " ")
        lines.append(
            f"- Quantization: symmetric int8, weights {granularity}, embeddings per tensor, activations with learned "
            "ranges; attention products, softmax, GELU, LayerNorm, biases and residuals float32"
        )
        float_layers = manifest.quantization.get("float_layers")
        if isinstance(float_layers, list) and float_layers:
            lines.append(f"- Layers left in float32 on request: {', '.join(float_layers)}")
    lines += ["", "## Use", "", "```python", "from q8bert.runtime import Classifier", ""]
    lines += ['classifier = Classifier.load("path/of/this/folder")', f"print(classifier({call}))", "```"]
    lines += ["", "## Scores on the dev split", ""]
    lines += ["The dev split also picked this checkpoint, so the scores flatter it a little.", ""]
    lines += ["| metric | simulation in training |", "|---|---|"]
    lines += [f"| {name} | {100 * value:.2f} |" for name, value in manifest.metrics.items()]
    if parity is not None:
        lines += [
            "", "## Exported model against simulation", "",
            f"{parity.n_rows} rows: largest difference of a logit {parity.max_abs_diff:.4f}, "
            f"mean {parity.mean_abs_diff:.5f}, "
            f"equal predictions {parity.equal_predictions:.2%}; {parity.main_metric} "
            f"{100 * parity.exported[parity.main_metric]:.2f} against "
            f"{100 * parity.simulated[parity.main_metric]:.2f}.",
        ]  # fmt: skip
    lines += [
        "",
        "## Made with",
        "",
        ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    ]
    return "\n".join(lines) + "\n"
