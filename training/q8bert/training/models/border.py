"""Where libraries are handed files that others wrote: whatever they raise there is said as one of our errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from q8bert.spec.errors import ModelError, Q8BertError

__all__ = ["library_border", "quiet_transformers"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_CAUSE = 300


@contextmanager
def library_border(what: str, remedy: str) -> Iterator[None]:
    """Turn every exception of a library into an error for the user.

    Which exceptions a library raises for a damaged file is not documented and changes with its releases, so none is
    listed here. What is no fault of the file passes: our own errors, a lack of memory, an interrupt.

    Args:
        what: What went wrong, as a clause: ``model.safetensors cannot be read``.
        remedy: What to do, as a sentence without its full stop.

    Yields:
        Nothing; the library is called inside.

    Raises:
        ModelError: If it raised anything.
        Q8BertError: Passed through.
        MemoryError: Passed through.
    """
    try:
        yield
    except (Q8BertError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {_cause(error)}. {remedy}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from telling what is told in our words, or is of no concern here, and from drawing bars."""
    verbosity, had_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _cause(error: Exception) -> str:
    """Return the first two lines of a message, without colours and the last full stop; its kind where it has none."""
    lines = [line.strip().rstrip(".:") for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    text = ". ".join(lines[:2]) or type(error).__name__
    return text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]}…"
