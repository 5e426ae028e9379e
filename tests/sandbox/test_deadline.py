"""When a run's time is over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from actors.sandbox.channels import Channels
from actors.sandbox.deadline import MOST, NOTABLE, Deadline, stolen_s, waited_s


class Machine:
    """A clock, and what the machine keeps from the run."""

    def __init__(self) -> None:
        self.now, self.stolen, self.waited = 100.0, 7.0, 0.0

    def deadline(self, limit_s: float) -> Deadline:
        return Deadline(limit_s, lambda: self.now, lambda: self.stolen, lambda fd: self.waited)


def test_a_run_that_was_not_kept_waiting_has_its_limit():
    machine = Machine()
    deadline = machine.deadline(2.0)
    assert deadline.remaining(0) == 2.0
    machine.now += 1.5
    assert (deadline.remaining(0), deadline.seconds) == (0.5, 1.5)
    machine.now += 0.5
    machine.waited = NOTABLE * 2.0 - 0.01
    assert deadline.remaining(0) == 0.0


@pytest.mark.parametrize("kept", ["stolen", "waited"])
def test_what_the_machine_kept_is_given_back(kept: str):
    machine = Machine()
    deadline = machine.deadline(2.0)
    machine.now += 2.0
    setattr(machine, kept, getattr(machine, kept) + 1.2)
    assert deadline.remaining(0) == pytest.approx(1.2)
    machine.now += 1.2
    assert deadline.remaining(0) == 0.0


def test_stolen_and_waited_are_the_same_seconds():
    machine = Machine()
    deadline = machine.deadline(2.0)
    machine.now, machine.stolen, machine.waited = machine.now + 2.0, machine.stolen + 1.0, 1.0
    assert deadline.remaining(0) == pytest.approx(1.0)


def test_a_starved_run_ends_all_the_same():
    machine = Machine()
    deadline = machine.deadline(2.0)
    for _ in range(100):
        machine.now += 1.0
        machine.waited += 1.0
    assert deadline.remaining(0) == 0.0
    machine.now = 100.0 + MOST * 2.0 - 0.5
    assert deadline.remaining(0) == 0.5


def test_what_ended_while_the_host_had_to_wait_counts():
    """The host is the one that was kept from the CPU: it finds the time over, and the run's end in its pipe."""
    channels = Channels(b"", b"", 100)
    process = subprocess.Popen(["true"])
    exit_fd = os.pidfd_open(process.pid)
    os.write(channels.child["stdout"], b"in time")
    channels.handed_over()
    process.wait()
    machine = Machine()
    late = machine.deadline(1.0)
    machine.now += 5.0
    assert channels.serve(exit_fd, late) == "ok"
    assert channels.output["stdout"] == b"in time"
    channels.close()
    os.close(exit_fd)


def test_the_machine_is_read():
    assert stolen_s() >= 0.0
    process = subprocess.Popen(["sleep", "60"])
    exit_fd = os.pidfd_open(process.pid)
    assert waited_s(exit_fd) > 0.0
    process.kill()
    process.wait()
    assert waited_s(exit_fd) == 0.0
    os.close(exit_fd)


def proc_of(folder: Path, children: dict[int, list[int]], threads: dict[int, int]) -> Path:
    """What Linux would show of processes that have each waited for a second; 1 is the one of the pidfd 9."""
    (folder / "self/fdinfo").mkdir(parents=True)
    (folder / "self/fdinfo/9").write_text("pos:\t0\nPid:\t1\n")
    for pid, its in children.items():
        for thread in range(threads.get(pid, 1)):
            (folder / str(pid) / "task" / str(pid + 100 * thread)).mkdir(parents=True)
        (folder / f"{pid}/task/{pid}/children").write_text(" ".join(map(str, its)))
        (folder / f"{pid}/schedstat").write_text("5 1000000000 7")
    return folder


def test_a_run_of_one_process_gets_back_its_wait(tmp_path: Path):
    assert waited_s(9, proc_of(tmp_path, {1: [2], 2: []}, {})) == 2.0


@pytest.mark.parametrize(
    ("children", "threads"),
    [({1: [2], 2: [3], 3: []}, {}), ({1: [2, 3], 2: [], 3: []}, {}), ({1: [2], 2: []}, {2: 9})],
    ids=["child", "orphan", "thread"],
)
def test_a_run_that_crowds_the_machine_itself_gets_nothing_back(tmp_path: Path, children, threads):
    assert waited_s(9, proc_of(tmp_path, children, threads)) == 0.0


def test_only_cpus_of_their_own_are_read(tmp_path):
    file = tmp_path / "stat"
    file.write_text("cpu  1 0 1 9 0 0 0 900 0 0\ncpu0 1 0 1 9 0 0 0 500 0 0\ncpu1 1 0 1 9 0 0 0 400 0 0\nintr 5 0\n")
    assert stolen_s(str(file)) == 500 / os.sysconf("SC_CLK_TCK")
    file.write_text("cpu 1 2\ncpu0 1 2\n")
    assert stolen_s(str(file)) == 0.0
