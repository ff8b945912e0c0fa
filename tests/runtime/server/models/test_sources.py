"""Names and folders of models."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from q8bert.runtime.server.models.sources import parse_sources, signature_of
from q8bert.spec.errors import BundleError, ConfigError


@pytest.fixture
def bundle(small: Any, tmp_path: Path) -> Path:
    shutil.copytree(small.bundle("SST-2", "int8"), tmp_path / "one")
    return tmp_path / "one"


def test_a_folder_has_its_own_name_and_is_version_1(bundle: Path) -> None:
    (source,) = parse_sources([str(bundle)])
    assert (source.name, dict(source.versions())) == ("one", {1: bundle})


def test_a_name_may_be_given_and_a_folder_may_have_an_equals_sign(bundle: Path) -> None:
    odd = bundle.rename(bundle.with_name("a=b"))
    (source,) = parse_sources([f"name={odd}"])
    assert (source.name, source.folder) == ("name", odd)


def test_numbers_are_versions_and_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "versions"
    for name in ("1", "12", "0", "01", "v3", "1.5"):
        shutil.copytree(bundle, root / name)
    (root / "4").write_text("no folder")
    (source,) = parse_sources([str(root)])
    assert dict(source.versions()) == {1: root / "1", 12: root / "12"}


def test_two_models_of_one_name_are_refused(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="2 models are called 'one'"):
        parse_sources([str(bundle), f"one={bundle}"])


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match=r"neither a bundle .* nor holds any in folders called 1, 2"):
            parse_sources([str(folder)])


def test_a_signature_changes_with_any_file_and_not_with_what_is_unfinished(bundle: Path) -> None:
    before = signature_of(bundle)
    assert len(before) == len(list(bundle.iterdir()))
    (bundle / "model.onnx.0123456789abcdef.partial").write_bytes(b"half")
    assert signature_of(bundle) == before
    os.utime(bundle / "README.md", (1, 1))
    changed = signature_of(bundle)
    assert changed != before
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").write_bytes(content[:-1] + b"x")
    assert signature_of(bundle) != changed
    assert signature_of(bundle / "missing") == ()
