"""Fixtures of the runtime's tests: loaded classifiers, altered bundles, and the command line in this process."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from q8bert.data.readers import read_split
from q8bert.runtime import Classifier
from q8bert.runtime.cli import build_app
from q8bert.tasks.glue import glue_task


@pytest.fixture(scope="session")
def sentiment(small: Any) -> Classifier:
    return Classifier.load(small.bundle("SST-2", "int8"), threads=1)


@pytest.fixture(scope="session")
def similarity(small: Any) -> Classifier:
    """The float bundle: its scores spread over several rows' distances, so a mix-up of rows shows."""
    return Classifier.load(small.bundle("STS-B", "float32"), threads=1)


@pytest.fixture(scope="session")
def texts(small: Any) -> list[str]:
    return [example.text for example in read_split(glue_task("SST-2"), small.data("SST-2"), "dev").examples]


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """Copy a bundle with other files and another manifest, its sizes and checksums made to fit again."""

    def alter(
        source: Path,
        *,
        files: Mapping[str, bytes] | None = None,
        change: Callable[[dict[str, Any]], object] = lambda manifest: None,
    ) -> Path:
        target = tmp_path / "altered"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
        for name, content in (files or {}).items():
            (target / name).write_bytes(content)
            manifest["files"][name] = {
                "size_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        change(manifest)
        (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return target

    return alter


@pytest.fixture
def edit_weights() -> Callable[..., bytes]:
    """Return an ONNX model with every tensor of ``n_bytes`` replaced, without the onnx package."""

    def edit(model: bytes, n_bytes: int, change: Callable[[bytes], bytes]) -> bytes:
        content = bytearray(model)
        # TensorProto.raw_data: protobuf field 9, wire type 2, and the length as a varint of two digits to base 128
        mark = bytes([9 << 3 | 2, n_bytes & 0x7F | 0x80, n_bytes >> 7])
        at, n_found = content.find(mark), 0
        while at >= 0:
            start = at + len(mark)
            content[start : start + n_bytes] = change(bytes(content[start : start + n_bytes]))
            n_found += 1
            at = content.find(mark, start + n_bytes)
        assert n_found >= 2, "each of the two layers has such a weight"
        return bytes(content)

    return edit


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """Run the command line in this process, streams apart."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])

    return run
