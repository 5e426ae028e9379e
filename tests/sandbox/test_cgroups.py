"""Control groups of both versions, on a folder that looks like the kernel's; and the sweep of the dead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.sandbox.cgroups import EXTRA_BYTES, PREFIX, Cgroup, sweep

NOBODY = 2**22 + 1  # beyond the largest process id


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    for controller in ("memory", "pids", "cpu"):
        (tmp_path / controller).mkdir()
    return tmp_path


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    return tmp_path


def test_version_1_has_a_group_a_controller(version_1: Path) -> None:
    group = Cgroup(64, version_1)
    assert not group.missing and set(group.folders) == {"memory", "pids", "cpu"}
    assert (group.folders["pids"] / "pids.max").read_text() == "68"
    assert (group.folders["cpu"] / "cpu.cfs_quota_us").read_text() == "100000"
    group.allow_memory(256)
    assert int((group.folders["memory"] / "memory.limit_in_bytes").read_text()) == (256 << 20) + EXTRA_BYTES
    with group.unthrottled():
        assert (group.folders["cpu"] / "cpu.cfs_quota_us").read_text() == "-1"
    assert (group.folders["cpu"] / "cpu.cfs_quota_us").read_text() == "100000"
    group.join(77)
    assert [(folder / "cgroup.procs").read_text() for folder in group.folders.values()] == ["77"] * 3


def test_version_2_has_one_group(version_2: Path) -> None:
    group = Cgroup(64, version_2)
    assert not group.missing and len(set(group.folders.values())) == 1
    group.allow_memory(100)
    folder = group.folders["memory"]
    with group.unthrottled():
        assert (folder / "cpu.max").read_text() == "max 100000"
    assert int((folder / "memory.max").read_text()) == (100 << 20) + EXTRA_BYTES
    assert (folder / "cpu.max").read_text() == "100000 100000" and (folder / "pids.max").read_text() == "68"


def test_what_the_machine_does_not_grant_is_named(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    group = Cgroup(64, tmp_path)
    assert set(group.missing) == {"cgroup pids", "cgroup cpu"} and list(group.folders) == ["memory"]
    assert set(Cgroup(64, tmp_path / "nowhere").missing) == {"cgroup memory", "cgroup pids", "cgroup cpu"}


def test_the_sweep_takes_the_groups_of_dead_hosts_only(version_1: Path) -> None:
    dead, alive, other = (
        version_1 / "memory" / name for name in (f"{PREFIX}{NOBODY}-1", f"{PREFIX}{os.getpid()}-1", "system.slice")
    )
    for folder in (dead, alive, other):
        folder.mkdir()
    sweep(version_1)
    assert not dead.exists() and alive.exists() and other.exists()
