"""What is loaded unseen lies where nobody else can write."""

import os
from pathlib import Path
from typing import Any

import pytest

from q8bert.spec.errors import ConfigError
from q8bert.spec.private_folders import make_private, prune, refuse_shared

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such bits")


@posix
def test_a_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "above" / "cache", option="cache_dir")
    finally:
        os.umask(before)
    assert (tmp_path / "above" / "cache").stat().st_mode & 0o777 == 0o700


@posix
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500, 0o777, 0o720, 0o702])
def test_only_its_owner_may_write(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    if mode & 0o022:
        with pytest.raises(ConfigError, match=f"can be written by others .mode {mode:o}.*`chmod go-w"):
            make_private(tmp_path, option="cache_dir")
    else:
        make_private(tmp_path, option="cache_dir")
    tmp_path.chmod(0o700)


@posix
def test_a_folder_or_a_link_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, link = tmp_path / "cache", tmp_path / "link"
    cache.mkdir(mode=0o700)
    link.symlink_to(cache)
    refuse_shared(link, option="cache_dir")
    if os.geteuid() == 0:
        os.chown(link, 12345, -1, follow_symlinks=False)
        with pytest.raises(ConfigError, match=r"cache_dir .*link belongs to user 12345"):
            refuse_shared(link, option="cache_dir")
        os.chown(cache, 12345, -1)
    else:
        mine = os.geteuid()
        monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match=r"cache_dir .*cache belongs to user"):
        refuse_shared(cache, option="cache_dir")


def test_what_is_not_there_is_nobody_elses(tmp_path: Path) -> None:
    refuse_shared(tmp_path / "nowhere", option="cache_dir")


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cache_dir .*file cannot be written"):
        make_private(tmp_path / "file", option="cache_dir")


def test_what_is_old_is_deleted(tmp_path: Path) -> None:
    made: list[Any] = [tmp_path / name for name in ("new", "old", "folder")]
    made[0].write_text("")
    made[1].write_text("")
    made[2].mkdir()
    (made[2] / "inner").write_text("")
    for path in made[1:]:
        os.utime(path, (path.stat().st_mtime - 3 * 24 * 60 * 60,) * 2)
    prune([*made, tmp_path / "nowhere"], days=2)
    assert list(tmp_path.iterdir()) == [made[0]]
