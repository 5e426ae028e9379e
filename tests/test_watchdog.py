"""A driver that is killed takes what it started with it, whatever sessions and groups that is in."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from actors import watchdog

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[1]
DRIVER = """
import os, subprocess, sys
from actors import watchdog
folder = watchdog.start()
assert watchdog.start() == folder
open(os.path.join(folder, "left"), "w").close()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env={})
print(child.pid, folder, flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_takes_its_processes_and_files_along():
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child, folder = driver.stdout.readline().decode().split()
    victim, dogs = psutil.Process(int(child)), psutil.Process(driver.pid).children()
    assert Path(folder, "left").exists()
    assert len(dogs) == 2, "the child and one watchdog"
    assert not psutil.wait_procs([victim, *dogs], timeout=2 * watchdog.LOOK_S)[0], "nothing ends while the driver lives"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs([victim, *dogs], timeout=60)
    assert not alive
    assert not Path(folder).exists()


def test_only_what_has_the_mark_is_found(tmp_path):
    for pid, content in ((10, b"A=1\0RAYTHINK_SCRATCH=/tmp/a\0"), (11, b"RAYTHINK_SCRATCH=/tmp/ab\0"), (12, b"")):
        process(tmp_path, pid, 1, content)
    (tmp_path / "uptime").write_text("1")
    assert watchdog.marked("/tmp/a", tmp_path) == {(10, "510")}


def test_what_is_below_a_process_is_found_by_its_parents(tmp_path):
    for pid, parent in ((20, 1), (21, 20), (22, 21), (23, 1), (24, 22)):
        process(tmp_path, pid, parent)
    assert watchdog.descendants(20, tmp_path) == {(21, "521"), (22, "522"), (24, "524")}


def process(proc: Path, pid: int, parent: int, environ: bytes = b"") -> None:
    """As /proc tells of it; the name holds what a careless reader trips over."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "environ").write_bytes(environ)
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} " + "0 " * 17 + f"{500 + pid} 0 0")
