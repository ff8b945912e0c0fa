"""What a library raises is ours; what is nobody's fault passes."""

import pytest

from q8bert.spec.errors import InputError, ModelError
from q8bert.training.models.border import library_border


class _AnyError(Exception):
    """Of a kind that nobody has heard of."""


def test_any_exception_of_a_library_becomes_ours_with_its_first_lines_and_the_remedy() -> None:
    cause = _AnyError("\x1b[31m\n  it broke.\x1b[0m\n\nbecause of:\nthis\n")
    with pytest.raises(ModelError) as raised, library_border("x cannot be read", "Copy it again"):
        raise cause
    assert str(raised.value) == "x cannot be read: it broke. because of. Copy it again"
    assert raised.value.__cause__ is cause


def test_an_exception_without_words_is_named() -> None:
    with pytest.raises(ModelError, match=r"^x: EOFError\. y$"), library_border("x", "y"):
        raise EOFError


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(), InputError("ours")])
def test_what_is_no_fault_of_the_file_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, library_border("x", "y"):
        raise error
    assert raised.value is error
