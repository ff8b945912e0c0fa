"""The Dockerfile, which is built nowhere here: its linter has no objection, and what it names is there."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from q8bert.runtime.commands.serve import serve_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text() -> str:
    if not (path := ROOT / "Dockerfile").is_file():
        pytest.skip("the Dockerfile is not beside the tests")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", text)
    lines = [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_linter_has_no_objection(text: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([program, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_runs_as_nobody_and_listens_where_it_says(instructions: list[tuple[str, str]]) -> None:
    last = dict(instructions)  # of an instruction that comes twice, the one of the last stage
    assert last["USER"].isdigit()
    assert int(last["USER"]) > 0
    command = json.loads(last["ENTRYPOINT"])
    assert command[:2] == ["q8bert", "serve"]
    assert command[command.index("--port") + 1] == last["EXPOSE"]
    assert f":{last['EXPOSE']}/v2/health/ready" in last["HEALTHCHECK"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    app = typer.Typer()
    app.command()(serve_command)
    known = {option for one in typer.main.get_command(app).params for option in one.opts}
    assert {word for word in command if word.startswith("--")} <= known


def test_what_it_copies_is_what_the_package_is_built_of(instructions: list[tuple[str, str]]) -> None:
    copied = {
        word
        for name, words in instructions
        if name == "COPY" and not words.startswith("--from")
        for word in words.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = {path.split("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    wanted = parts | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert copied == wanted
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert copied == allowed
    installs = next(words for name, words in instructions if name == "RUN" and "pip install" in words)
    extra = re.search(r"\[(\w+)\]", installs)
    assert extra
    assert extra[1] in project["project"]["optional-dependencies"]
