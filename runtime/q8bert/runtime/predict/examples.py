"""Rows as readers give them → ids, and what a classifier says of them, whether they came as texts or as token ids."""

from collections.abc import Sequence

from q8bert.data.encoding import encode_examples
from q8bert.data.examples import AnyExample, TokenExample, text_columns
from q8bert.runtime.predict.classifier import Classifier
from q8bert.spec.errors import BundleError, InputError
from q8bert.tasks.head import Prediction
from q8bert.text.encoded import Encoded

__all__ = ["answers_of_examples", "encoded_examples"]


def encoded_examples(classifier: Classifier, examples: Sequence[AnyExample], *, source: str) -> Encoded:
    """Turn rows into ids.

    Args:
        classifier: Its tokenizer reads texts; token ids have to be those that it gives.
        examples: The rows.
        source: Where they came from, for messages.

    Returns:
        Ids of every row, and which rows were truncated.

    Raises:
        InputError: If rows do not fit the task or the tokenizer, or are too long where long ones are refused.
    """
    if not any(isinstance(example, TokenExample) for example in examples):
        return classifier.encode(*text_columns(examples))
    encoded = encode_examples(examples, classifier.tokenizer, source=source)
    if classifier.on_long == "refuse" and encoded.truncated:
        raise classifier.too_long(f"row {min(encoded.truncated)}")
    return encoded


def answers_of_examples(
    classifier: Classifier, examples: Sequence[AnyExample], *, source: str, batch_size: int
) -> list[Prediction | InputError | BundleError]:
    """Classify rows, each of which gets a prediction or an error of its own.

    Args:
        classifier: The classifier.
        examples: The rows.
        source: Where they came from, for messages.
        batch_size: Rows a batch.

    Returns:
        One prediction or error a row.

    Raises:
        InputError: If rows do not fit the task or the tokenizer.
    """
    if not any(isinstance(example, TokenExample) for example in examples):
        return classifier.answers(*text_columns(examples), batch_size=batch_size)
    encoded = encode_examples(examples, classifier.tokenizer, source=source)
    refused = encoded.truncated if classifier.on_long == "refuse" else frozenset()
    accepted = encoded.select([row for row in range(len(encoded)) if row not in refused])
    outcomes = iter(classifier.outcomes(accepted, batch_size=batch_size))
    return [classifier.too_long("the row") if row in refused else next(outcomes) for row in range(len(encoded))]
