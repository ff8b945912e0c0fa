"""A bundle taken apart is checked as a whole one is."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.bundle.parts import open_parts, whole_bundle
from q8bert.spec.errors import BundleError


@pytest.fixture
def copy(small: Any, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    shutil.copytree(small.bundle("SST-2", "int8"), target)
    return target


def test_all_that_a_bundle_is_made_of_is_returned(copy: Path) -> None:
    bundle, contents = whole_bundle(copy)
    assert contents == {path.name: path.read_bytes() for path in copy.iterdir()}
    assert bundle.path == copy


def test_a_bundle_without_a_model_card_is_whole(copy: Path) -> None:
    (copy / "README.md").unlink()
    assert set(whole_bundle(copy)[1]) == {path.name for path in copy.iterdir()}


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json", "parity.json"])
def test_every_file_that_the_manifest_names_is_checked(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=name):
        whole_bundle(copy)


def test_parts_are_read_where_the_rest_is_not(copy: Path) -> None:
    wanted = (copy / "tokenizer.json").read_bytes()
    for path in copy.iterdir():
        if path.name not in {"manifest.json", "tokenizer.json"}:
            path.unlink()
    bundle, contents = open_parts(copy, ["tokenizer.json"])
    assert contents == {"tokenizer.json": wanted}
    assert bundle.manifest.max_length == 32


def test_parts_are_checked(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        open_parts(copy, ["tokenizer.json"])
    assert open_parts(copy, [])[1] == {}
    with pytest.raises(BundleError, match=r"does not name other\.txt"):
        open_parts(copy, ["other.txt"])
