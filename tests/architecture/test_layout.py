"""Rules of the house that no tool checks."""

import importlib
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"training": ["training"], "export": ["export"], "runtime": ["runtime", "glue", "spec"]}
SOURCES = sorted(path for part in PARTS for path in (ROOT / part / "q8bert").rglob("*.py"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_no_part_claims_the_namespace() -> None:
    assert not [path for part in PARTS for path in (ROOT / part).glob("q8bert/__init__.py")]


def test_every_package_is_typed() -> None:
    assert all(
        (ROOT / part / "q8bert" / name / "py.typed").is_file() for part, names in PARTS.items() for name in names
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=lambda path: path.stem)
def test_public_names_exist(path: Path) -> None:
    relative = path.relative_to(ROOT / path.relative_to(ROOT).parts[0]).with_suffix("")
    module = importlib.import_module(".".join(relative.parts))
    assert module.__doc__
    assert all(hasattr(module, name) for name in module.__all__)


def test_lazy_names_lead_to_their_homes() -> None:
    for package in ("q8bert.training", "q8bert.export", "q8bert.runtime"):
        module = importlib.import_module(package)
        assert all(callable(getattr(module, name)) for name in module.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_commands_are_found_by_entry_point() -> None:
    found = {entry.name for entry in entry_points(group="q8bert.commands") if callable(entry.load())}
    assert found >= {"train", "export", "serve"}


def test_one_build_of_onnx_runtime_to_an_extra_and_no_packaged_model() -> None:
    for name in ("runtime", "runtime-gpu", "train", "train-gpu"):
        builds = [requirement for requirement in EXTRAS[name] if requirement.startswith("onnxruntime")]
        assert len(builds) == 1, name
    assert not [line for lines in EXTRAS.values() for line in lines if "minilm" in line]


def test_no_text_names_a_machine_or_a_registry() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = ["/" + name + "/" for name in ("work", "root", "home")] + ["pypi" + ".org", "files.python" + "hosted"]
    for name in listed:
        if name in {".gitignore", "LICENSE"}:
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], name
