"""Weight publication: from the learners to every rollout engine, with a deadline and the names of who did not answer.

Today through Ray's object store (shared memory on one host, a copy to each node otherwise).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from actors.fleet_pool import is_gone
from rl.dispatcher import ActorsLost, ServiceFailure

DEATH_S = 5.0  # Ray tells of a death later than its peers notice the broken connection


async def publish(learners: Sequence[Any], rollouts: Sequence[Any], version: int, timeout_s: float) -> float:
    """Load the learners' weights as policy `version` into every engine; returns seconds.

    Exporting is a collective, so every learner is asked; rank 0 holds the result. Raises ServiceFailure, naming the
    actors that failed or did not answer in time: an engine that missed an update must not generate.
    """
    started = time.perf_counter()
    weights = await export(learners, timeout_s)
    loads = [rollout.load.remote(weights, version) for rollout in rollouts]
    await within(loads, [f"rollout-{i}" for i in range(len(loads))], timeout_s, "load weights")
    return time.perf_counter() - started


async def export(learners: Sequence[Any], timeout_s: float) -> Any:
    """A reference to the learners' weights, which whoever loads them copies through the object store."""
    exports = [learner.weights.remote() for learner in learners]
    await within(exports, [f"learner-{i}" for i in range(len(exports))], timeout_s, "export weights")
    return exports[0]


async def within(references: Sequence[Any], names: Sequence[str], timeout_s: float, what: str) -> list[Any]:
    """The results of remote calls. Raises ServiceFailure naming those that failed, ActorsLost those that died or were
    late, which the run survives where they can be brought up again."""

    async def wait(reference: Any) -> Any:
        return await reference

    tasks = [asyncio.create_task(wait(r)) for r in references]
    if tasks:  # the first failure is the cause: those that then hang in a collective are its victims
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        await _heed_deaths(tasks)
    failed = [(n, e) for t, n in zip(tasks, names, strict=True) if (e := _failure(t)) is not None]
    failed.sort(key=lambda found: not is_gone(found[1]))
    late = [name for task, name in zip(tasks, names, strict=True) if not task.done()]
    for task in tasks:
        task.cancel()
    if failed:
        name, error = failed[0]
        message = f"{name} failed to {what}: {' '.join(str(error).split())[-300:]}"
        raise (ActorsLost(message, [name]) if is_gone(error) else ServiceFailure(message)) from error
    if late:
        raise ActorsLost(f"{', '.join(late)} did not {what} within {timeout_s} s", late)
    return [task.result() for task in tasks]


async def _heed_deaths(tasks: Sequence[asyncio.Task]) -> None:
    """Where one has failed, wait a little for the news that another's death was why."""
    deadline = asyncio.get_running_loop().time() + DEATH_S
    while (failures := [e for t in tasks if (e := _failure(t)) is not None]) and not any(map(is_gone, failures)):
        pending, left = [t for t in tasks if not t.done()], deadline - asyncio.get_running_loop().time()
        if not pending or left <= 0:
            return
        await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)


def _failure(task: asyncio.Task) -> BaseException | None:
    return task.exception() if task.done() else None
