"""Lines of a file as text, one after the other, whatever bytes they hold.

A byte that is no UTF-8 is carried along as half a surrogate pair, which no UTF-8 gives, until the row and the column
that it stands in are known.
"""

import re
from collections.abc import Iterable, Iterator

from q8bert.data.examples import CellError

__all__ = ["broken_text", "shown_text", "text_lines"]

_BOM = b"\xef\xbb\xbf"
_BROKEN_BYTE = re.compile("[\udc80-\udcff]")


def text_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Decode the lines of a file.

    Args:
        lines: As a file opened for bytes gives them: split at line feeds alone.

    Yields:
        Each line with its end; a byte order mark before the first one is left out.
    """
    for number, line in enumerate(lines):
        content = line.removeprefix(_BOM) if number == 0 else line
        yield content.decode("utf-8", "surrogateescape")


def broken_text(column: str, text: str) -> CellError | None:
    """Return the fault of a text that was no UTF-8; None where it was."""
    if text.isascii() or (broken := _BROKEN_BYTE.search(text)) is None:
        return None
    at = len(text[: broken.start()].encode("utf-8"))
    return CellError(column, text.encode("utf-8", "surrogateescape"), f"not UTF-8 at byte {at} of the cell")


def shown_text(text: str, *, limit: int = 200) -> str:
    """Return a text as a message can hold it."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
