"""The rows of a fine-tuned head, taken by the names of their outputs.

A head's last Linear has one row an output. Two models of one task may number its labels differently: a head of MNLI
that says contradiction, neutral, entailment answers nonsense where 0 means entailment. So rows are put where their
names are wanted, and where that cannot be, the layer is drawn anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from q8bert.spec.errors import ModelError
from q8bert.training.models.configuration import Configuration

__all__ = ["HeadRows", "choose_rows", "last_linear", "take_rows"]

# heads of other tasks whose weights have the names of a sequence classifier's
_OTHER_CLASSIFIERS = ("ForTokenClassification", "ForMultipleChoice")


@dataclass(frozen=True)
class HeadRows:
    """Which rows of a source's last layer become the rows of the head.

    Attributes:
        rows: Row of the source for each output; None where the layer is drawn anew.
        account: What is done and why, in a few words.
        is_of_another_task: Whether all that the source has in the head's place is that of another task.
    """

    rows: tuple[int, ...] | None
    account: str
    is_of_another_task: bool = False


def last_linear(model: nn.Module, *, base: str) -> str:
    """Return the name of the Linear layer that gives the logits.

    Args:
        model: Hugging Face sequence classifier.
        base: Name of its encoder, which is not looked into.

    Returns:
        The last Linear layer outside of the encoder: in every family layers stand in the order in which they run.
    """
    names: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if not name.startswith(f"{base}.")][-1]


def choose_rows(
    weights: dict[str, Tensor], layer: str, source: Configuration, *, n_outputs: int, labels: tuple[str, ...]
) -> HeadRows:
    """Decide what becomes of a source's last layer.

    Args:
        weights: Weights of the source by name.
        layer: Name of the last layer.
        source: What its config.json says.
        n_outputs: Width of the logits that are wanted.
        labels: Their names in order; empty for regression.

    Returns:
        The decision.

    Raises:
        ModelError: If weight and bias of the layer do not belong together.
    """
    if source.architecture.endswith(_OTHER_CLASSIFIERS):
        return HeadRows(None, f"new, the model's own is that of {source.architecture}", is_of_another_task=True)
    if f"{layer}.weight" not in weights or f"{layer}.bias" not in weights:
        return HeadRows(None, "new, the model comes without one")
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise ModelError(
            f"{layer}.weight and {layer}.bias of the model have the shapes {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}, which are not those of one layer. Give a model that is whole"
        )
    there = len(weight)
    if there != n_outputs:
        return HeadRows(None, f"new, the model's own has {there} output{'s' * (there > 1)}, the task {n_outputs}")
    return _rows_by_name(source.names, labels) if labels else HeadRows(tuple(range(n_outputs)), "kept")


def take_rows(weights: dict[str, Tensor], layer: str, head: HeadRows) -> dict[str, Tensor]:
    """Return weights with the last layer as it was decided.

    Args:
        weights: Weights of the source by name.
        layer: Name of the last layer.
        head: The decision.

    Returns:
        The weights; without the layer, and what else has its place, where it is to be drawn anew.
    """
    if head.rows is None:
        place = layer.partition(".")[0] if head.is_of_another_task else layer
        return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{place}.")}
    own = (f"{layer}.weight", f"{layer}.bias")
    return weights | {name: weights[name][list(head.rows)] for name in own}


def _rows_by_name(names: Sequence[str], labels: Sequence[str]) -> HeadRows:
    """Choose rows by names as written or, where that is unambiguous, with case and separators aside."""
    in_order, wanted = tuple(range(len(labels))), ", ".join(labels)
    if not names:
        return HeadRows(in_order, f"kept, its outputs have no names and are taken for {wanted}, in this order")
    rows = _matching(names, labels) or _matching([_fold(name) for name in names], [_fold(label) for label in labels])
    if rows is None:
        return HeadRows(None, f"new, the model's own is for {', '.join(names)}")
    return HeadRows(rows, "kept" if rows == in_order else f"kept, its rows put in the order {wanted}")


def _matching(there: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    if len(set(there)) < len(there) or set(there) != set(wanted):
        return None
    return tuple(there.index(name) for name in wanted)


def _fold(name: str) -> str:
    return name.strip().casefold().replace("-", "_").replace(" ", "_")
