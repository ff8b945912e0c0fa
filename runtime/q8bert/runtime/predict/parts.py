"""What a classifier has besides its model: a task and a tokenizer, held to what the bundle says of them."""

from q8bert.machine.cores import available_cores
from q8bert.spec.bundle.bundle import Bundle
from q8bert.spec.errors import BundleError, ConfigError, InputError
from q8bert.tasks.task import Task, task_from_json
from q8bert.text.encoded import Encoded, longest_row
from q8bert.text.tokenizer import TextTokenizer, parse_tokenizer

__all__ = ["extreme_rows", "task_and_tokenizer"]


def task_and_tokenizer(bundle: Bundle, tokenizer: str, *, threads: int) -> tuple[Task, TextTokenizer]:
    """Make a bundle's task and tokenizer.

    Args:
        bundle: The bundle.
        tokenizer: Content of its ``tokenizer.json``.
        threads: How many texts are tokenized at once.

    Returns:
        Both.

    Raises:
        BundleError: If one of them cannot be, or the tokenizer lacks the padding token.
    """
    manifest = bundle.manifest
    try:
        task = task_from_json(manifest.task, source=str(bundle.path))
        made = TextTokenizer(
            parse_tokenizer(tokenizer, source=bundle.tokenizer_path),
            max_length=manifest.max_length,
            obey_special_tokens=manifest.obey_special_tokens,
            pad_token_id=manifest.pad_token_id,
            threads=None if threads >= available_cores() else threads,
        )
    except (ConfigError, InputError) as error:
        raise BundleError(f"{error}. Export the bundle again") from error
    if manifest.pad_token_id >= made.vocabulary_size:
        raise BundleError(
            f"{bundle.path}: pad_token_id is {manifest.pad_token_id}, but the tokenizer has {made.vocabulary_size} "
            "tokens. Export the bundle again"
        )
    return task, made


def extreme_rows(bundle: Bundle, task: Task, tokenizer: TextTokenizer, *, longest: bool) -> Encoded:
    """Return the rows that a model which can run them can run whatever else the tokenizer makes.

    Args:
        bundle: Says the maximum length.
        task: Says whether rows are pairs.
        tokenizer: Makes the shortest row, of empty texts.
        longest: Whether a row of the maximum length is wanted too, of the largest token id.

    Returns:
        One row or two.

    Raises:
        BundleError: If the maximum length leaves no room for any text.
    """
    empty = [""]
    try:
        shortest = tokenizer.encode(empty, empty if task.data.has_pairs else None)
    except InputError as error:
        raise BundleError(f"{bundle.path}: {error}. Export the bundle again") from error
    if not longest:
        return shortest
    return Encoded.joined([shortest, longest_row(shortest, bundle.manifest.max_length, fill=tokenizer.largest_id)])
