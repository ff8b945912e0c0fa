"""Cores are those that this process may use, not those of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from q8bert.machine.cores import available_cores, cpu_quota


def grown(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        # the smallest of the groups that lie in one another
        (
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/pod/box/cpu.max": "200000 100000\n",
            },
            0.5,
        ),
        # version 1, and the host's path where a container sees its own group as the mount
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/1234\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_quota_is_that_of_the_control_groups(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(grown(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (2.7, 2), (0.3, 1), (64.0, 4)])
def test_cores_are_the_smaller_of_mask_and_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5, 9}, raising=False)
    monkeypatch.setattr("q8bert.machine.cores.cpu_quota", lambda: quota)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("mask", "quota", "processes", "cores"),
    [
        (16, None, 2, 8),  # unbound processes share all
        (8, None, 2, 8),  # each is bound to its socket
        (4, None, 2, 4),
        (12, None, 2, 6),  # both are bound to the same
        (16, 6.0, 2, 3),
        (8, 6.0, 2, 3),
        (16, None, 32, 1),
    ],
)
def test_processes_that_share_a_machine_have_their_part(
    monkeypatch: pytest.MonkeyPatch, mask: int, quota: float | None, processes: int, cores: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(mask)), raising=False)
    monkeypatch.setattr("q8bert.machine.cores.cpu_quota", lambda: quota)
    assert available_cores(processes) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_a_mask_of_one_core_is_one_core() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from q8bert.machine.cores import available_cores; print(available_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
