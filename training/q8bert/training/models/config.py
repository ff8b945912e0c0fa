"""What of a model is set otherwise than its configuration says: dropouts, sizes, and whether it keeps its weights."""

from dataclasses import dataclass
from typing import Annotated

from q8bert.spec.checked import fit_fields
from q8bert.spec.kinds import above, at_least, share
from q8bert.training.options import option

__all__ = ["ArchitectureConfig"]

# what makes weights of other shapes
_SIZES = ("heads", "hidden_size", "intermediate_size", "max_positions")


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """Options of the model itself; each field says what it means, and None is what its configuration says.

    Raises:
        ConfigError: If values do not fit; it names every fault.
    """

    hidden_dropout: Annotated[float, share()] | None = option(
        default=None,
        help="Dropout of all but attention probabilities. Default: that of --dropout.",
        panel="Optimization",
    )
    attention_dropout: Annotated[float, share()] | None = option(
        default=None, help="Dropout of attention probabilities. Default: that of --dropout.", panel="Optimization"
    )
    initializer_range: Annotated[float, above(0)] | None = option(
        default=None,
        help="Standard deviation of weights that are drawn at random: those of a new head, or all with --from-scratch.",
    )
    from_scratch: bool = option(
        default=False,
        help="Draw all weights at random and take only configuration and tokenizer of --model, whose folder then needs "
        "no weights. Nothing pretrained is used, so much is to be learned.",
        only_on=True,
    )
    layers: Annotated[int, at_least(1)] | None = option(
        default=None, help="Layers; of a model that keeps its weights the first ones, so no more than it has."
    )
    heads: Annotated[int, at_least(1)] | None = option(
        default=None, help="Attention heads of each layer; with --from-scratch, as are all other sizes."
    )
    hidden_size: Annotated[int, at_least(1)] | None = option(
        default=None, help="Width of each token's vector, a multiple of --heads."
    )
    intermediate_size: Annotated[int, at_least(1)] | None = option(
        default=None, help="Width of the feed-forward layers between their two products."
    )
    max_positions: Annotated[int, at_least(8)] | None = option(
        default=None, help="Rows of the position table (max_position_embeddings); --max-length may be that long."
    )

    def __post_init__(self) -> None:
        """Check every option."""
        fit_fields(self, self._conflicts)

    def _conflicts(self) -> list[str]:
        if self.from_scratch:
            return []
        return [
            f"{name} ({getattr(self, name)}) makes weights of other shapes than the model has; give --from-scratch "
            "too, or leave it out"
            for name in _SIZES
            if getattr(self, name) is not None
        ]
