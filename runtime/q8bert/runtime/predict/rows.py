"""Rows as a caller gives them → columns of texts that fit the task."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from q8bert.data.examples import is_unicode
from q8bert.spec.errors import InputError
from q8bert.tasks.task import Task

__all__ = ["Columns", "Row", "Texts", "refuse_unordered", "text_columns"]

Row = str | tuple[str, str] | list[str]
Texts = Iterable[str] | Iterable[tuple[str, str]] | Iterable[list[str]] | Iterable[Row]
Columns = tuple[list[str], list[str] | None]


def text_columns(task: Task, texts: Texts, text_pairs: Iterable[str] | None) -> Columns:
    """Split rows into columns and check every text.

    Args:
        task: Says whether rows are single texts or pairs.
        texts: First or only texts; or pairs, as tuples or as lists, which JSON has instead. An iterator is used up.
        text_pairs: Second texts, or None.

    Returns:
        First texts, and second texts or None; of equal length.

    Raises:
        InputError: If rows do not fit the task, or a text is no text or no valid Unicode.
    """
    refuse_unordered(texts)
    if text_pairs is not None:
        refuse_unordered(text_pairs)
    first: list[str] = []
    second: list[str] = list(text_pairs) if text_pairs is not None else []
    for number, row in enumerate(texts):
        if isinstance(row, str):
            first.append(row)
        elif text_pairs is None and isinstance(row, tuple | list) and len(row) == 2:
            first.append(row[0])
            second.append(row[1])
        else:
            raise InputError(f"row {number} must be a text or a pair of texts, got {row!r:.80}")
    has_pairs = bool(second) or (text_pairs is not None)
    if first and has_pairs != task.data.has_pairs:
        wanted = "pairs of texts" if task.data.has_pairs else "single texts"
        raise InputError(f"task {task.name} takes {wanted}")
    if has_pairs and len(first) != len(second):
        raise InputError(f"{len(first)} texts and {len(second)} second texts do not pair up")
    _check_texts((*first, *second))
    return first, second if has_pairs else None


def refuse_unordered(given: object) -> None:
    """Refuse what is no collection of rows, or has no order of its own.

    Args:
        given: What a caller gave as rows.

    Raises:
        InputError: If it is a single text, a mapping, a set, or nothing that can be gone through.
    """
    if isinstance(given, str | bytes):
        raise InputError("give a list of texts, not a single text")
    if isinstance(given, Mapping | AbstractSet):
        raise InputError(f"give texts in an order, such as a list, not in a {type(given).__name__}")
    try:
        iter(given)  # type: ignore[call-overload]
    except TypeError as error:
        raise InputError(f"give a list of texts, got {given!r:.80}") from error


def _check_texts(texts: Sequence[object]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"every text must be a str, got {text!r:.80}")
        if not is_unicode(text):
            raise InputError(f"a text holds half a surrogate pair and is not valid Unicode: {text[:80]!r}")
