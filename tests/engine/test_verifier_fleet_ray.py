"""Verifier actors killed while they judge: each row gets its right verdict once, from whichever of them lives.

RAYTHINK_FAULTS=2000 judges that many.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from typing import Any

import psutil

from actors.messages import Problem
from actors.verifier import Verifier
from actors.verifier_fleet import VerifierFleet, over_actors

COUNT = int(os.environ.get("RAYTHINK_FAULTS", "120"))
KILLS = max(4, COUNT // 30)
AT_ONCE = 16
TIMEOUT_S, RETRIES = 60.0, 4


def row(number: int, right: bool) -> tuple[Problem, str, str]:
    """(problem, text, expected status): one in eight is a program."""
    question = ({"role": "user", "content": f"number {number}"},)
    if number % 8:
        truth = json.dumps(str(number if right else number + 1))
        asked = Problem(f"row-{number}", question, "math__starter", "math", truth)
        return asked, rf"\boxed{{\frac{{{2 * number}}}{{2}}}}", "correct" if right else "incorrect"
    tests = json.dumps({"inputs": ["1"], "outputs": [str(number + (1 if right else 2))]})
    asked = Problem(f"row-{number}", question, "codegen__starter", "code", json.dumps(tests))
    return asked, f"```python\nprint(int(input()) + {number})\n```", "correct" if right else "incorrect"


async def judge_all(fleet: VerifierFleet, work: list[tuple[Problem, str, str]]) -> list[Any]:
    import ray

    rng, done = random.Random(1), 0
    moments = {round(COUNT * (k + 0.5) / KILLS) for k in range(KILLS)}
    places = asyncio.Semaphore(AT_ONCE)

    async def one(problem: Problem, text: str) -> Any:
        nonlocal done
        async with places:
            verdict = await fleet.verify(problem, text)
        done += 1
        if done in moments:
            alive = [member.handle for member in fleet.members if member.handle is not None]
            ray.kill(rng.choice(alive), no_restart=False)
        return verdict

    verdicts = await asyncio.gather(*(one(problem, text) for problem, text, _ in work))
    status = await fleet.status()
    await fleet.close()
    return [verdicts, status]


def checkers() -> set[int]:
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if "actors.checkers.worker" in (process.info["cmdline"] or ()):
            found.add(process.pid)
    return found


def test_kills_change_no_verdict(live) -> None:
    import ray

    rng, before = random.Random(0), checkers()
    work = [row(number, rng.random() < 0.5) for number in range(COUNT)]
    remote = ray.remote(Verifier).options(num_cpus=0, max_concurrency=1000, max_restarts=-1)
    actors = [remote.remote(f"v{i}", 1, TIMEOUT_S, RETRIES, True, limits={"code": 4}) for i in range(2)]
    fleet = over_actors(actors)
    began = time.monotonic()
    verdicts, status = asyncio.run(judge_all(fleet, work))
    print(f"{COUNT} rows, {KILLS} kills, {status['restarts']} restarts, {status['retried']} asked again, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip
    others = [(problem.id, status, verdict) for (problem, _, status), verdict in zip(work, verdicts, strict=True)
              if verdict.status != status]  # fmt: skip
    assert others == []
    assert len(verdicts) == COUNT and status["restarts"] >= KILLS // 2 and status["retried"] > 0
    assert Counter(member.in_flight for member in fleet.members) == {0: 2}
    for actor in actors:
        ray.kill(actor)
    deadline = time.monotonic() + 20
    while checkers() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert checkers() - before == set()
