"""The head that a fine-tuned model comes with, as its config.json describes it."""

from pathlib import Path
from typing import Any

from q8bert.spec.errors import ModelError
from q8bert.tasks.head import Head
from q8bert.training.models.border import library_border
from q8bert.training.models.configuration import output_names
from q8bert.training.models.model_files import read_object

__all__ = ["read_own_head"]

# what transformers takes where config.json names neither labels nor their number
_DEFAULT_N_OUTPUTS = 2


def read_own_head(folder: Path) -> Head:
    """Read what the outputs of a fine-tuned model mean.

    Args:
        folder: The model's folder.

    Returns:
        A score for one output, otherwise one of several labels, by the names in ``id2label``; ``LABEL_0`` and so on
        where the model names none.

    Raises:
        ModelError: If config.json is damaged, contradicts itself, or describes a head of another kind.
    """
    path = folder / "config.json"
    content = read_object(path)
    names = output_names(content, path)
    kind, n_outputs = content.get("problem_type"), len(names) or _n_outputs(content, path)
    if kind == "multi_label_classification" or (kind == "regression" and n_outputs > 1):
        raise ModelError(
            f"{path}: problem_type is {kind} with {n_outputs} outputs; supported are one of several labels, by "
            "softmax, and one score. Give another model"
        )
    if n_outputs == 1:
        return Head.of_labels(())
    head = Head.of_labels(names or tuple(f"LABEL_{index}" for index in range(n_outputs)))
    if faults := head.faults():
        raise ModelError(f"{path}: {'; '.join(faults)}. Correct id2label")
    return head


def _n_outputs(content: dict[str, Any], path: Path) -> int:
    listed = content.get("id2label") or content.get("label2id")
    with library_border(f"{path} does not say how many outputs the model has", "Correct id2label or num_labels"):
        return len(listed) if listed else int(content.get("num_labels", _DEFAULT_N_OUTPUTS))
