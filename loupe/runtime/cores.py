"""Cores that this process may use: those of its CPU affinity, and no more than the quotas of its control groups pay for."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path(
    "/proc/self/cgroup"
)  # a line for each hierarchy: number, controllers, path of the group


def available_cores(groups: Path = CONTROL_GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Cores this process may use, at least one; of a quota of one and a half, two.

    Args:
        groups: Where the control groups are mounted, of version 1 or 2.
        membership: The file that says which of them this process is in.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(groups, membership))]))


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """The quotas of this process's groups and of all above them, in cores."""
    lines = membership.read_text().splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers
        group = root / path.lstrip("/")
        # In a container the path is often the host's, and the group itself is mounted as the root.
        for folder in {
            group,
            *(above for above in group.parents if above.is_relative_to(root)),
            root,
        }:
            quota = _quota_1(folder) if controllers else _quota_2(folder)
            if quota is not None:
                yield quota


def _quota_2(group: Path) -> float | None:
    """Source: Linux, "Control Group v2", `cpu.max`: `$MAX $PERIOD`, where `max` is no limit."""
    quota, period = _words(group / "cpu.max") or ("max", "")
    return None if quota == "max" else int(quota) / int(period)


def _quota_1(group: Path) -> float | None:
    """Source: Linux, "CFS Bandwidth Control", `cpu.cfs_quota_us` and `cpu.cfs_period_us`; -1 is no limit."""
    quota, period = (
        _words(group / "cpu.cfs_quota_us") or ["-1"],
        _words(group / "cpu.cfs_period_us"),
    )
    return int(quota[0]) / int(period[0]) if int(quota[0]) > 0 and period else None


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
