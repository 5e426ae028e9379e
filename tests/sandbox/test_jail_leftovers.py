"""Thousands of runs in one jail leave nothing: no process, mount, file, descriptor, cgroup, and no growing zygote.

The programs are the kinds that could leave something: forks that outlive them, sessions of their own, files, floods,
memory, broken streams, time limits. A few hundred runs in the suite; RAYTHINK_JAIL_RUNS=5000 makes that many.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.sandbox import cgroups
from actors.sandbox.jail import Jail, WeakerSandbox
from actors.sandbox.result import RunResult

RUNS = int(os.environ.get("RAYTHINK_JAIL_RUNS", "200"))
LOOK_EVERY = 50  # runs
ZYGOTE_GROWTH = 8 << 20  # bytes of resident memory, beyond what the first runs made its own
PLACES = ("/tmp", "/var/tmp", "/dev/shm")

FORKS = "import os, time\nfor i in range(3):\n    if os.fork() == 0:\n        {child}\n        time.sleep(60)\nprint(1)"
# (weight, what `Jail.run` is given, the statuses it may end with)
KINDS: list[tuple[int, dict[str, Any], tuple[str, ...]]] = [
    (6, {"code": "print(sum(map(int, input().split())))", "stdin": "1 2 3"}, ("ok",)),
    (3, {"code": "def f(x):\n    return [x] * 3", "function": "f", "args": [[1], [2]]}, ("ok",)),
    (3, {"code": "def f(x):\n    return x", "tests": "__record__(0, f(1))"}, ("ok",)),
    (3, {"code": "raise ValueError('no')"}, ("error",)),
    (2, {"code": "import os\nos._exit(3)"}, ("error",)),
    (2, {"code": "import os\nos.kill(os.getpid(), 9)"}, ("error",)),
    (3, {"code": FORKS.format(child="pass")}, ("ok",)),
    (3, {"code": FORKS.format(child="os.setsid(); os.fork(); open(f'/tmp/{os.getpid()}', 'w').write('x')")}, ("ok",)),
    (2, {"code": "for i in range(50):\n    open(f'/tmp/{i}', 'w').write('x' * 9999)"}, ("ok",)),
    (2, {"code": "import tempfile\nkept = [tempfile.mkdtemp() for _ in range(20)]"}, ("ok",)),
    (2, {"code": "while True:\n    print('x' * 9999)", "output_limit": 1 << 16}, ("output_limit", "error")),
    (2, {"code": "x = bytearray(1 << 30)"}, ("error",)),
    (2, {"code": "import threading as t, time\nt.Thread(target=time.sleep, args=(60,), daemon=True).start()"}, ("ok",)),
    (2, {"code": "import os\nfor fd in range(64):\n    try:\n        os.close(fd)\n    except OSError:\n        pass"},
     ("ok", "error")),
    (1, {"code": "while True:\n    pass", "timeout_s": 0.1}, ("timeout",)),
    (1, {"code": FORKS.format(child="pass") + "\ntime.sleep(60)", "timeout_s": 0.1}, ("timeout",)),
]  # fmt: skip


def groups() -> set[Path]:
    """The control groups of this process's jails."""
    return set(Path("/sys/fs/cgroup").glob(f"**/{cgroups.PREFIX}{os.getpid()}-*/"))


@pytest.fixture
def others() -> set[Path]:
    """Groups of jails that were there before."""
    return groups()


@pytest.fixture
def jail(others: set[Path]) -> Iterator[Jail]:
    try:
        jail = Jail()
    except WeakerSandbox as refusal:
        pytest.skip(str(refusal))
    with jail:
        yield jail


def run(jail: Jail, rng: random.Random) -> tuple[RunResult, tuple[str, ...]]:
    _, given, statuses = rng.choices(KINDS, [weight for weight, _, _ in KINDS])[0]
    return jail.run(**{"timeout_s": 20.0, "memory_mb": 256, **given}), statuses


class Traces:
    """What a zygote and its runs have on the machine."""

    def __init__(self, zygote: int) -> None:
        self.zygote = psutil.Process(zygote)
        self.uid = self.zygote.uids().effective

    def while_it_lives(self) -> dict[str, Any]:
        """Between two runs, the same every time."""
        return {
            "descendants": [child.pid for child in self.zygote.children(recursive=True)],
            "mounts of the zygote": Path(f"/proc/{self.zygote.pid}/mountinfo").read_text(),
            "descriptors of the zygote": self.zygote.num_fds(),
            "descriptors of the host": psutil.Process().num_fds(),
            "processes of the groups": {group.read_text() for group in self.files_of_groups("cgroup.procs")},
            **self.afterwards(but=self.zygote.pid),
        }

    def afterwards(self, but: int | None = None) -> dict[str, Any]:
        """Of the machine: its mounts as this process sees them, and what belongs to the zygote's user, a no one."""
        return {
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "files": [entry.path for place in PLACES for entry in self._entries(place)],
            "processes": [pid for pid in self._processes() if pid != but],
        }

    def files_of_groups(self, name: str) -> list[Path]:
        return list(Path("/sys/fs/cgroup").glob(f"**/{cgroups.PREFIX}{os.getpid()}-*/{name}"))

    def _entries(self, place: str) -> Iterator[os.DirEntry[str]]:
        for entry in os.scandir(place) if os.path.isdir(place) and os.geteuid() != self.uid else ():
            try:
                if entry.stat(follow_symlinks=False).st_uid == self.uid:
                    yield entry
            except FileNotFoundError:  # somebody else's, gone meanwhile
                continue

    def _processes(self) -> list[int]:
        if os.geteuid() == self.uid:  # not root: the user is not the zygote's own
            return []
        return [p.pid for p in psutil.process_iter(["uids"]) if p.info["uids"] and p.info["uids"].effective == self.uid]


def eventually(read: Callable[[], Any], wanted: Any) -> Any:
    """What `read` gives once it is `wanted`, or after two seconds: the kernel ends processes in its own time."""
    deadline = time.monotonic() + 2
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_runs_leave_nothing_behind(
    jail: Jail, others: set[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rng, ended = random.Random(0), Counter[str]()
    for _ in range(len(KINDS)):  # what is loaded or opened at the first use of a thing is not a leftover
        run(jail, rng)
    zygote = jail._zygote.process
    traces = Traces(zygote.pid)
    before, resident = traces.while_it_lives(), traces.zygote.memory_info().rss
    began = time.monotonic()
    for number in range(RUNS):
        result, statuses = run(jail, rng)
        assert result.status in statuses, result
        ended[result.status] += 1
        if number % LOOK_EVERY == LOOK_EVERY - 1:
            assert eventually(traces.while_it_lives, before) == before
    assert jail._zygote.process is zygote and traces.zygote.memory_info().rss < resident + ZYGOTE_GROWTH
    print(f"{RUNS} runs in {time.monotonic() - began:.0f} s: {dict(ended)}")

    jail.close()
    after = {name: before[name] for name in ("mounts", "files", "processes")}  # others may live on
    assert eventually(traces.afterwards, after) == after
    assert groups() <= others and os.listdir(tmp_path) == []
    assert zygote.poll() is not None
