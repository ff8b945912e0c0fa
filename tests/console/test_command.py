"""The command line's manners."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from q8bert.console.command import Speaker, exit_codes
from q8bert.spec.errors import ConfigError, InputError


def test_errors_become_exit_codes_with_the_message_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[Exception, int, str]] = [
        (ConfigError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (InputError("bad row"), 2, "error: bad row\n"),
        (ZeroDivisionError("x"), 3, "unexpected ZeroDivisionError"),
        (typer.Exit(1), 1, ""),
    ]
    for error, code, message in cases:
        with pytest.raises(typer.Exit) as caught, exit_codes():
            raise error
        assert caught.value.exit_code == code
        output = capsys.readouterr()
        assert message in output.err
        assert output.out == ""


@dataclasses.dataclass(frozen=True)
class Report:
    path: Path
    value: float


def test_the_next_command_is_said_on_stderr_as_a_shell_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        Speaker(as_json=as_json).next_command("export", Path("a run"), "--output-dir", Path("bundles/x"))
        output = capsys.readouterr()
        assert (output.out, output.err) == ("", "next: q8bert export 'a run' --output-dir bundles/x\n")


def test_json_goes_to_stdout_and_words_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def render(console: Any) -> None:
        console.print("a table")

    speaker = Speaker(as_json=True)
    speaker.say("working")
    speaker.result(Report(Path("x"), 0.5), render)
    output = capsys.readouterr()
    assert json.loads(output.out) == {"path": "x", "value": 0.5}
    assert "working" in output.err
    Speaker(as_json=False).result(Report(Path("x"), 0.5), render)
    assert capsys.readouterr().out == "a table\n"
