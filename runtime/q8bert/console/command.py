"""How every command talks: one JSON object on stdout or words on stderr, and exit codes that mean something.

===  ==============================================================================================
0    done
1    a gate failed
2    wrong use, bad input or a file that cannot be read or written, with a message that says what to do
3    an unexpected failure, with its traceback
===  ==============================================================================================
"""

import dataclasses
import json
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from q8bert.spec.errors import ConfigError, ParityError, Q8BertError

__all__ = ["Speaker", "exit_codes", "line", "progress_bar"]

GATE_FAILED, BAD_INPUT, UNEXPECTED = 1, 2, 3


class Speaker:
    """Says what a command does; people read stderr and tables, scripts read the JSON on stdout.

    Args:
        as_json: Whether stdout carries the one JSON object instead of words.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Write a line to stderr."""
        line(self.console, text)

    def next_command(self, *words: object) -> None:
        """Write to stderr the command that one gives next, ready to be copied into a shell."""
        self.say(f"next: {shlex.join(['q8bert', *(str(word) for word in words)])}")

    def result(self, report: Any, render: Callable[[Console], None]) -> None:
        """Give the command's result.

        Args:
            report: A dataclass; its JSON goes to stdout with ``--json``.
            render: Otherwise called with a console on stdout, to print it for people.
        """
        if self.as_json:
            content = dataclasses.asdict(report)
            sys.stdout.write(json.dumps(content, default=str, allow_nan=False) + "\n")
        else:
            render(Console(highlight=False))


def line(console: Console, text: str) -> None:
    """Print a text as it is: no markup, and left to the terminal to wrap, so that paths can be copied."""
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into messages and exit codes.

    Yields:
        Nothing; the command runs inside.

    Raises:
        Exit: With the code of the table above.
        Abort: Passed through.
        KeyboardInterrupt: Passed through.
    """
    try:
        yield
    except ParityError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(GATE_FAILED) from error
    except Q8BertError as error:
        lines = error.faults if isinstance(error, ConfigError) else (str(error),)
        for line in lines:
            sys.stderr.write(f"error: {line}\n")
        raise typer.Exit(BAD_INPUT) from error
    except (typer.Exit, typer.Abort, KeyboardInterrupt):
        raise
    except OSError as error:  # no permission, no space, no such folder: the machine's, not a defect
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}\n")
        raise typer.Exit(BAD_INPUT) from error
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(f"error: unexpected {type(error).__name__}; this is a defect of q8bert, please report it\n")
        raise typer.Exit(UNEXPECTED) from error


@contextmanager
def progress_bar(speaker: Speaker, label: str) -> Iterator[Callable[..., None]]:
    """Show a bar while something long runs, where stderr is a terminal.

    Args:
        speaker: Owner of stderr.
        label: What is running.

    Yields:
        A function of steps done, steps in all and, optionally, the current loss.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # where stderr is no terminal a bar would leave an empty line
    with Progress(
        *columns, console=speaker.console, transient=True, disable=not speaker.console.is_terminal
    ) as progress:
        row = progress.add_task(label, total=None, note="")

        def show(done: int, total: int, loss: float | None = None) -> None:
            progress.update(row, completed=done, total=total, note="" if loss is None else f"loss {loss:.4f}")

        yield show
