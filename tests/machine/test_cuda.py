"""CUDA libraries are found in wheels and in the system."""

import sys
from pathlib import Path

import pytest

from q8bert.machine import cuda
from q8bert.machine.cuda import preload_cuda_libraries


@pytest.mark.skipif(sys.platform != "linux", reason="looks for shared libraries by their names on Linux")
def test_libraries_are_taken_from_the_wheels_folder_or_the_system_or_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "nvidia" / "thing" / "lib"
    folder.mkdir(parents=True)
    here = Path("/proc/self/maps").read_text().split()
    real = next(word for word in here if "/libm.so" in word or "/libm-" in word)
    (folder / "libthing.so.1").symlink_to(real)
    (folder / "libbroken.so.1").write_text("no library")
    names = ("libthing.so.1", "libc.so.6", "libbroken.so.1", "libnowhere.so.7")
    monkeypatch.setattr(cuda.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(cuda, "CUDA_LIBRARIES", {"a-build": names})
    assert preload_cuda_libraries("a-build") == {
        "libthing.so.1": str(folder / "libthing.so.1"), "libc.so.6": "libc.so.6", "libbroken.so.1": None,
        "libnowhere.so.7": None,
    }  # fmt: skip
    assert preload_cuda_libraries("onnxruntime") == {}
