"""Files and folders are there whole, or not at all."""

import json
import math
import os
from pathlib import Path

import pytest

from q8bert.spec.files import new_folder, read_json, write_json


def test_a_failed_folder_leaves_the_old_one_untouched(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(RuntimeError, match="crash"), new_folder(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError("crash")
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("a", "b"):
        with new_folder(target) as folder:
            (folder / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_new_folder_touches_nothing_of_a_like_name_and_comes_back_when_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = tmp_path / "folder", tmp_path / "folder.partial"
    other.mkdir()
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    rename = Path.rename

    def fail(path: Path, new: Path) -> Path:
        if new == target and ".old." not in path.name:
            raise PermissionError("no")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError), new_folder(target) as folder:
        (folder / "a").write_text("new")
    assert (target / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "folder.partial"]


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "folder"
    with new_folder(target) as first:
        (first / "a").write_text("first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with new_folder(target) as second:
                (second / "a").write_text("second")
        assert (target / "a").read_text() == "second"
    assert (target / "a").read_text() == "first"


def test_json_with_nan_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == {"a": 1}
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="expected a JSON object"):
        read_json(path)
