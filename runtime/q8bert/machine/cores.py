"""How many cores this process may use: those of its affinity mask, and no more than its control group's quota allows.

A container sees every core of its host, and so does whoever counts them; the kernel then stops all threads together
whenever they have used up the quota of a period. Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html
(``cpu.max``) and https://docs.kernel.org/scheduler/sched-bwc.html (``cpu.cfs_quota_us``).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["available_cores", "cpu_quota"]

_ROOT = Path("/")


def available_cores(n_processes: int = 1) -> int:
    """Return how many cores this process may keep busy.

    Args:
        n_processes: How many processes of this job share the machine evenly. An affinity mask that is no wider than an
            even part of the machine is taken for this process's own, a quota for that of all.

    Returns:
        At least 1, and whole ones.
    """
    of_machine = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # Linux and FreeBSD have it
    allowed = len(affinity(0)) if affinity is not None else of_machine
    own = allowed if allowed <= of_machine // n_processes else allowed // n_processes
    quota = cpu_quota()
    return max(1, own if quota is None else min(own, int(quota / n_processes)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return how many cores' time the control groups of this process grant it.

    Args:
        root: Where ``proc`` and ``sys`` are found.

    Returns:
        The smallest quota of the group and of those that it lies in, in cores; None where there is none.
    """
    quotas = []
    for group in _groups(root):
        with suppress(OSError, ValueError):  # a group without such a file, or without a limit ("max", -1)
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            quotas.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
            quotas.append(int(quota) / int(period))
    return min((quota for quota in quotas if quota > 0), default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [root / "sys/fs/cgroup" / name for name in ({controllers, "cpu"} if controllers else {""})]
        for mount in mounts:
            inner = mount / place.lstrip("/")
            # inside a container the path may be the host's: then the mount is the group itself
            yield from (group for group in (inner, *inner.parents) if group == mount or mount in group.parents)
