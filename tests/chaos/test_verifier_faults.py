"""Checker processes and the zygotes of jails killed while they judge: no verdict is lost, doubled, or turned around.

Two checker processes judge a stream of answers, right and wrong ones, programs among them. At seeded points of it a
process is killed with SIGKILL: a checker, or the zygote that runs its programs. A few hundred answers in the suite;
RAYTHINK_FAULTS=2000 judges that many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from actors.messages import Problem, Verdict
from actors.sandbox import cgroups
from actors.sandbox.jail import Jail, WeakerSandbox
from actors.verifier import ProcessWorker, VerifierPool

COUNT = int(os.environ.get("RAYTHINK_FAULTS", "200"))
KILLS = COUNT // 10
RETRIES = 8  # more than the kills that can meet one answer by chance; how few suffice is not the question here
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Row:
    """An answer that is like no other one, so that a verdict meant for another shows."""

    problem: Problem
    text: str
    extracted: str
    status: str


def rows(count: int) -> list[Row]:
    rng = random.Random(0)
    return [rng.choice((mathematics, ordering, program))(number, rng.random() < 0.5) for number in range(count)]


def problem(number: int, data_source: str, truth: object) -> Problem:
    question = ({"role": "user", "content": f"number {number}"},)
    return Problem(f"row-{number}", question, data_source, "", json.dumps(truth))


def mathematics(number: int, right: bool) -> Row:
    answer = rf"\frac{{{2 * number}}}{{2}}"
    asked = problem(number, "math__starter", str(number if right else number + 1))
    return Row(asked, rf"\boxed{{{answer}}}", answer, "correct" if right else "incorrect")


def ordering(number: int, right: bool) -> Row:
    names = [f"a{number}", f"b{number}"]
    asked = problem(number, "logic__starter", names if right else names[::-1])
    return Row(asked, f"<answer>{', '.join(names)}</answer>", ", ".join(names), "correct" if right else "incorrect")


def program(number: int, right: bool) -> Row:
    code = f"print(int(input()) + {number})"
    tests = {"inputs": ["1", "2"], "outputs": [str(number + 1), str(number + (2 if right else 3))]}
    asked = problem(number, "codegen__starter", json.dumps(tests))
    return Row(asked, f"```python\n{code}\n```", code, "correct" if right else "incorrect")


class Killer:
    """Starts the workers, and kills one, or its zygote, whenever one of the seeded numbers of verdicts is reached."""

    def __init__(self, count: int, kills: int) -> None:
        self.rng = random.Random(1)
        self.moments = set(self.rng.sample(range(count), kills))
        self.started: list[ProcessWorker] = []
        self.alive: list[ProcessWorker] = []
        self.zygotes: set[int] = set()
        self.killed: Counter[str] = Counter()
        self.verdicts = 0

    async def spawn(self) -> ProcessWorker:
        worker = await ProcessWorker.spawn()
        self.started.append(worker)
        self.alive.append(worker)
        self.zygotes |= {zygote.pid for zygote in zygotes_of(worker)}
        return worker

    async def after_a_verdict(self) -> None:
        self.verdicts += 1
        if self.verdicts in self.moments:
            await asyncio.sleep(self.rng.random() / 200)  # about as long as a program runs: to the middle of a check
            self.kill_one()

    def kill_one(self) -> None:
        self.alive = [worker for worker in self.alive if worker.process.returncode is None]
        if not self.alive:
            return
        worker = self.rng.choice(self.alive)
        zygotes = zygotes_of(worker)
        self.zygotes |= {zygote.pid for zygote in zygotes}
        if zygotes and self.rng.random() < 0.5:
            zygotes[0].kill()
            self.killed["zygote"] += 1
        else:
            self.alive.remove(worker)
            worker.process.kill()
            self.killed["checker"] += 1


def zygotes_of(worker: ProcessWorker) -> list[psutil.Process]:
    try:
        children = psutil.Process(worker.process.pid).children()
        return [child for child in children if any("zygote" in word for word in child.cmdline())]
    except psutil.NoSuchProcess:  # it has just ended
        return []


async def judged(work: list[Row], pool: VerifierPool, killer: Killer) -> list[Verdict]:
    async def one(row: Row) -> Verdict:
        verdict = await pool.verify(row.problem, row.text)
        await killer.after_a_verdict()
        return verdict

    verdicts = await asyncio.gather(*map(one, work))
    await pool.close()
    return verdicts


@pytest.fixture(scope="module")
def jailed() -> None:
    try:
        Jail().close()
    except WeakerSandbox as refusal:
        pytest.skip(str(refusal))


def test_kills_change_no_verdict(jailed: None) -> None:
    work, killer = rows(COUNT), Killer(COUNT, KILLS)
    pool = VerifierPool(2, TIMEOUT_S, RETRIES, spawn=killer.spawn)
    began = time.monotonic()
    verdicts = asyncio.run(judged(work, pool, killer))
    print(f"{COUNT} answers, killed: {dict(killer.killed)}, {pool.restarts} restarts, {time.monotonic() - began:.0f} s")

    others = [(row, verdict) for row, verdict in zip(work, verdicts, strict=True)
              if (verdict.status, verdict.extracted) != (row.status, row.extracted)]  # fmt: skip
    assert others == []
    assert pool.statuses == Counter(row.status for row in work) and pool.cache_hits == 0
    assert (pool.busy, pool.queued) == (0, 0)
    assert killer.killed["checker"] > KILLS // 5 and killer.killed["zygote"] > KILLS // 5
    assert len(killer.started) >= killer.killed["checker"] > 0
    assert_nothing_is_left(killer)


def assert_nothing_is_left(killer: Killer) -> None:
    """No process, folder or cgroup of the workers that were started: those that were killed left them to others."""
    processes = {worker.process.pid for worker in killer.started} | killer.zygotes
    deadline = time.monotonic() + 10
    while (left := {pid for pid in processes if running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()
    assert [worker.folder for worker in killer.started if os.path.exists(worker.folder)] == []
    cgroups.sweep()
    hosts = {str(worker.process.pid) for worker in killer.started}
    groups = [path for path in Path("/sys/fs/cgroup").glob(f"**/{cgroups.PREFIX}*")
              if path.name.removeprefix(cgroups.PREFIX).split("-")[0] in hosts]  # fmt: skip
    assert groups == []


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
