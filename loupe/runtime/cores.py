"""Cores that this process may use, by its CPU affinity and the quotas of its control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")  # one line per hierarchy: number, controllers, group's path


def available_cores(groups: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return how many cores this process may use, at least 1; a quota of 1.5 counts as 2.

    Args:
        groups: Where control groups, version 1 or 2, are mounted.
        membership: The file that lists the groups of this process.
    """
    affinity = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(groups, membership))]))


def core_share(processes: int) -> int:
    """Return how many cores each of some processes may use, at least 1."""
    return max(1, available_cores() // processes)


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's groups and of all groups above them."""
    lines = membership.read_text().splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers
        group = root / path.lstrip("/")
        # In a container the path is often the host's, and the group itself is mounted as the root.
        above = [parent for parent in group.parents if parent.is_relative_to(root)]
        for folder in {group, *above, root}:
            quota = _quota_1(folder) if controllers else _quota_2(folder)
            if quota is not None:
                yield quota


def _quota_2(group: Path) -> float | None:
    """Read `cpu.max`: `$MAX $PERIOD`, where `max` means no limit.

    Source: Linux, "Control Group v2".
    """
    quota, period = _words(group / "cpu.max") or ("max", "")
    return None if quota == "max" else int(quota) / int(period)


def _quota_1(group: Path) -> float | None:
    """Read `cpu.cfs_quota_us`, where -1 means no limit, and `cpu.cfs_period_us`.

    Source: Linux, "CFS Bandwidth Control".
    """
    quota = int((_words(group / "cpu.cfs_quota_us") or ["-1"])[0])
    period = _words(group / "cpu.cfs_period_us")
    return quota / int(period[0]) if quota > 0 and period else None


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
