"""What callers of a bundle's ensemble send and get, and what passes between its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from q8bert.spec.bundle.bundle import Manifest
from q8bert.tasks.task import Task

__all__ = [
    "LABEL", "LOGITS", "MASK", "PROBABILITIES", "SCORE", "TEXT", "TEXT_PAIR", "TRUNCATED", "Interface", "Tensor",
]  # fmt: skip

TEXT, TEXT_PAIR = "text", "text_pair"
LABEL, PROBABILITIES, SCORE, TRUNCATED = "label", "probabilities", "score", "truncated"
# as the exported graph calls them
LOGITS, MASK = "logits", "attention_mask"


@dataclass(frozen=True)
class Tensor:
    """A tensor as Triton's configuration describes it, with the rows left out of its shape.

    Attributes:
        name: Its name.
        data_type: Triton's name of its type.
        dims: Its shape behind the rows; −1 for any length.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """All that versions of one model have to share, because Triton configures a model once for all its versions.

    Attributes:
        has_pairs: Whether a row is a pair of texts.
        labels: Labels in id order; empty for a score.
        input_names: Inputs of the graph.
    """

    has_pairs: bool
    labels: tuple[str, ...]
    input_names: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest, task: Task) -> "Interface":
        """Return what a bundle shows of itself."""
        return cls(task.data.has_pairs, task.head.labels, manifest.input_names)

    @property
    def texts(self) -> tuple[Tensor, ...]:
        """What callers send."""
        names = (TEXT, TEXT_PAIR) if self.has_pairs else (TEXT,)
        return tuple(Tensor(name, "TYPE_STRING", (1,)) for name in names)

    @property
    def answers(self) -> tuple[Tensor, ...]:
        """What callers get, besides :attr:`truncated`."""
        if not self.labels:
            return (Tensor(SCORE, "TYPE_FP32", (1,)),)
        return (
            Tensor(LABEL, "TYPE_STRING", (1,)),
            Tensor(PROBABILITIES, "TYPE_FP32", (len(self.labels),)),
        )

    @property
    def truncated(self) -> Tensor:
        """Whether a row was longer than the model takes."""
        return Tensor(TRUNCATED, "TYPE_BOOL", (1,))

    @property
    def logits(self) -> Tensor:
        """What the graph gives."""
        return Tensor(LOGITS, "TYPE_FP32", (len(self.labels) or 1,))

    def ids(self, *, always: Sequence[str] = ()) -> tuple[Tensor, ...]:
        """Return what the tokenizer gives to the model.

        Args:
            always: Inputs that are wanted whether the graph takes them or not.

        Returns:
            One tensor an input, of any length.
        """
        names = dict.fromkeys((*self.input_names, *always))
        return tuple(Tensor(name, "TYPE_INT64", (-1,)) for name in names)

    def differences(self, other: "Interface") -> list[str]:
        """Say in words what is not alike here and there; empty where everything is."""
        found = []
        if self.has_pairs != other.has_pairs:
            found.append("two texts a row, not one" if self.has_pairs else "one text a row, not two")
        for what, here, there in (
            ("labels", self.labels, other.labels),
            ("inputs of the graph", self.input_names, other.input_names),
        ):
            if here != there:
                found.append(f"{what} {', '.join(here) or 'none'}, not {', '.join(there) or 'none'}")
        return found
