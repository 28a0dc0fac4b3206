"""Cores that a process may use, in control groups of both versions."""

import os
from pathlib import Path

import pytest

from loupe.runtime.cores import available_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def cores(root: Path, membership: str, **files: str) -> int:
    """Return the cores of a process with this membership, among groups with these files."""
    (root / "membership").write_text(membership)
    for name, text in files.items():
        file = root / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return available_cores(root / "groups", root / "membership")


def test_at_least_one_core_is_available_here() -> None:
    assert available_cores() >= 1


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "groups", tmp_path / "membership") == 8


@pytest.mark.parametrize(
    ("text", "available"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", 8),
    ],
)
def test_quota_of_a_container_counts(tmp_path: Path, text: str, available: int) -> None:
    assert cores(tmp_path, "0::/\n", **{"cpu.max": text}) == available


def test_quota_of_a_service_counts_and_so_do_those_above_it(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000", "system.slice/cpu.max": "300000 100000"}

    assert cores(tmp_path, "0::/system.slice/loupe.service\n", **files) == 3
    assert (
        cores(
            tmp_path,
            "0::/system.slice/loupe.service\n",
            **{"system.slice/loupe.service/cpu.max": "1 1"},
        )
        == 1
    )


def test_quota_of_the_first_version_counts(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n",
        "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
    }

    assert cores(tmp_path, "4:memory:/box\n3:cpu,cpuacct:/box\n2:cpuset:/\n0::/\n", **files) == 3


def test_group_mounted_as_root_in_a_container_counts(
    tmp_path: Path,
) -> None:
    files = {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}

    assert cores(tmp_path, "1:cpu:/docker/0123abc\n", **files) == 1


def test_version_1_group_without_a_quota_is_unlimited(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}

    assert cores(tmp_path, "1:cpu:/\n", **files) == 8
