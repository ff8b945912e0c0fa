"""Where a bundle may be written, and how it gets there: whole, into volumes too, and over nobody's files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tokenizers import Tokenizer

from q8bert.export import exporter
from q8bert.export.bundle.writer import check_target, write_bundle
from q8bert.spec.bundle.bundle import Bundle, open_bundle
from q8bert.spec.errors import BundleError, ExportError, OutputError
from q8bert.spec.files import read_json


@pytest.fixture
def write(small: Any) -> Callable[[Path], Bundle]:
    """Write a bundle that is there already, anew."""
    there = open_bundle(small.bundle("SST-2", "int8"))

    def do(target: Path) -> Bundle:
        return write_bundle(
            target,
            graph=onnx.load(there.model_path),
            tokenizer=Tokenizer.from_file(str(there.tokenizer_path)),
            configuration=read_json(there.path / "config.json"),
            manifest=there.manifest,
            parity=None,
        )

    return do


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


BUNDLE = [
    "README.md", "config.json", "manifest.json", "model.onnx", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json",
]  # fmt: skip


@pytest.fixture
def volume(tmp_path: Path, mount: Callable[..., None]) -> Path:
    """A fresh volume, mounted where the bundle is to stand."""
    path = tmp_path / "volume"
    path.mkdir()
    mount(path, "-t", "tmpfs", "tmpfs")
    (path / "lost+found").mkdir()
    return path


def test_a_volume_is_filled_and_filled_again(volume: Path, write: Callable[[Path], Bundle]) -> None:
    first = write(volume)
    assert names(volume) == sorted([*BUNDLE, "lost+found"])
    (volume / "parity.json").write_text("{}")  # of an older bundle, which had one
    second = write(volume)
    assert second.manifest == first.manifest
    assert names(volume) == sorted([*BUNDLE, "lost+found"])


def test_what_a_crash_leaves_of_a_volume_is_no_bundle_and_is_filled_again(
    volume: Path, write: Callable[[Path], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace
    n_calls, crash_at = 0, 0

    class Crash(BaseException):
        """As a kill, nothing that could be handled."""

    def crashing(self: Path, target: Path) -> Path:
        nonlocal n_calls
        if target.parent == volume:
            n_calls += 1
            if n_calls == crash_at:
                raise Crash
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crashing)
    for number in range(1, len(BUNDLE) + 1):
        for path in volume.iterdir():
            if path.name in BUNDLE:
                path.unlink()
        n_calls, crash_at = 0, number
        with pytest.raises(Crash):
            write(volume)
        with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
            open_bundle(volume)
        crash_at = 0
        write(volume)
        open_bundle(volume)


def test_foreign_files_are_refused_in_a_volume_and_left_alone(volume: Path, write: Callable[[Path], Bundle]) -> None:
    (volume / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        write(volume)
    (volume / "notes.txt").unlink()
    write(volume)
    (volume / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"a bundle that also holds notes\.txt, which would be lost"):
        write(volume)
    assert (volume / "notes.txt").read_text() == "mine"


def test_a_model_of_somebody_else_with_files_of_the_same_names_is_no_bundle(tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json", "README.md"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ExportError, match="is no bundle; it is not overwritten"):
        check_target(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    small: Any, tmp_path: Path, mount: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mount(volume, "-t", "tmpfs", "-o", "ro", "tmpfs")

    def fail(*_: object) -> None:
        pytest.fail("the work has begun")

    monkeypatch.setattr(exporter, "load_trained_run", fail)
    for target in (volume, volume / "bundle"):
        with pytest.raises(OutputError, match=r"Read-only file system.*Give a place that this user may write to"):
            exporter.export(small.run("SST-2", "int8"), target)


def test_a_full_disk_leaves_the_old_bundle(
    tmp_path: Path, mount: Callable[..., None], write: Callable[[Path], Bundle]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=400k", "tmpfs")
    first = write(disk / "bundle")
    (disk / "ballast").write_bytes(b"x" * (400 * 1024 - sum(path.stat().st_size for path in disk.rglob("*")) - 70_000))
    with pytest.raises(OutputError, match=r"disk/bundle/\w+\.\w+ cannot be written \(No space left.*Make room"):
        write(disk / "bundle")
    assert open_bundle(disk / "bundle").manifest == first.manifest
    assert names(disk) == ["ballast", "bundle"]
