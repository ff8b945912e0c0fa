"""What a bundle is made of, whether it was trained or only quantized: one value for both."""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer
from torch import Tensor

from q8bert.data.encoding import encode_examples
from q8bert.data.examples import Split
from q8bert.export.encoded_rows import EncodedRows
from q8bert.tasks.task import Task
from q8bert.text.tokenizer import TextTokenizer
from q8bert.training.models.source import SourceModel
from q8bert.training.objectives.target_scale import TargetScale
from q8bert.training.quantization.sites import Site
from q8bert.training.quantization.weights import TrainableWeights

__all__ = ["ModelToExport", "Origin"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a model came to be what it is, as its manifest says it.

    Attributes:
        model: Name of the source, and what else is known: seed and step of training.
        quantization: When and from what its ranges came; empty for a float model.
        metrics: Scores of the simulation on the dev split in training, as fractions; empty where nobody measured any.
        data: Rows that it was trained on, and what of them was lost; empty where that is not known.
    """

    model: Mapping[str, object]
    quantization: Mapping[str, object]
    metrics: Mapping[str, float]
    data: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class ModelToExport:
    """A classifier with its grids.

    Attributes:
        source: The float classifier, its tokenizer and the names of its inputs.
        task: What its outputs mean, and which columns its rows have.
        max_length: Longest row in tokens.
        obey_special_tokens: Whether special tokens that a text spells out are what they say.
        target_scale: Between scores and what the classifier computes.
        sites: Where activations are quantized, and how they are smoothed; empty for a float model.
        amax: Ranges, float32 ``(n_sites,)``; None for a float model.
        weights: The weights, quantized on grids without saturation.
        granularity: ``per_channel`` or ``per_tensor``, of the scales of Linear weights.
        table_granularity: ``per_column`` or ``per_tensor``, of the scales of embedding tables.
        float_layers: Layers left in float on request.
        origin: How it came to be.
    """

    source: SourceModel
    task: Task
    max_length: int
    obey_special_tokens: bool
    target_scale: TargetScale
    sites: tuple[Site, ...]
    amax: Tensor | None
    weights: TrainableWeights
    granularity: str
    table_granularity: str
    float_layers: tuple[str, ...]
    origin: Origin

    @property
    def float_layers_bytes(self) -> int:
        """What the exported model would be smaller by if the layers left in float were INT8 too."""
        # four bytes a weight instead of one
        return sum(3 * self.weights.masters[f"{name}.weight"].numel() for name in self.float_layers)

    def tokenizer(self) -> Tokenizer:
        """Return a copy of the tokenizer, for the one who takes it to set its truncation."""
        return Tokenizer.from_str(self.source.tokenizer.to_str())

    def encode(self, split: Split, *, labelled: bool) -> EncodedRows:
        """Tokenize rows, or take their token ids.

        Args:
            split: The rows.
            labelled: Whether their labels are wanted.

        Returns:
            The rows, ready to be batched.

        Raises:
            InputError: If labels are wanted and a row has none, or rows came as token ids that are not the tokenizer's.
        """
        tokenizer = TextTokenizer(
            self.tokenizer(),
            max_length=self.max_length,
            obey_special_tokens=self.obey_special_tokens,
            pad_token_id=self.source.pad_token_id,
        )
        return EncodedRows(
            encoded=encode_examples(split.examples, tokenizer, source=split.source),
            labels=tuple(split.labels()) if labelled else None,
            input_names=self.source.input_names,
            pad_token_id=self.source.pad_token_id,
            target_scale=self.target_scale,
        )
