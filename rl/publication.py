"""Weight publication: from the learners to every rollout engine, with a deadline and the names of who did not answer.

Today through Ray's object store (shared memory on one host, a copy to each node otherwise).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from actors.fleet_pool import is_death
from rl.dispatcher import ActorsLost, ServiceFailure

NOTICE_S = 90.0  # Ray calls a silent node dead after a minute or so, unless its settings say otherwise


async def publish(learners: Sequence[Any], rollouts: Sequence[Any], version: int, timeout_s: float) -> float:
    """Load the learners' weights as policy `version` into every engine; returns seconds.

    Exporting is a collective, so every learner is asked; rank 0 holds the result. Raises ServiceFailure, naming the
    actors that failed or did not answer in time: an engine that missed an update must not generate.
    """
    started = time.perf_counter()
    weights, _ = await export(learners, timeout_s)
    loads = [rollout.load.remote(weights, version) for rollout in rollouts]
    await within(loads, [f"rollout-{i}" for i in range(len(loads))], timeout_s, "load weights")
    return time.perf_counter() - started


async def export(learners: Sequence[Any], timeout_s: float) -> tuple[Any, Any]:
    """A reference to the learners' weights, which whoever loads them copies through the object store, and a view of
    the copy on this node: while it is held, the weights outlive the learner's node."""
    exports = [learner.weights.remote() for learner in learners]
    names = [f"learner-{i}" for i in range(len(exports))]
    return exports[0], (await within(exports, names, timeout_s, "export weights"))[0]


async def within(references: Sequence[Any], names: Sequence[str], timeout_s: float, what: str) -> list[Any]:
    """The results of remote calls. Raises ServiceFailure naming those that failed, ActorsLost those that died or were
    late, which the run survives where they can be brought up again.

    The first failure need not be the cause: the peers of a learner that dies see their connection end at once, while
    Ray may take a while to find that its node is gone. So the others are waited for, too, up to NOTICE_S, unless
    what failed cannot have come of that.
    """

    async def wait(reference: Any) -> Any:
        return await reference

    tasks = [asyncio.create_task(wait(r)) for r in references]
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        await _heed_deaths(tasks)
    failed = [(n, e) for t, n in zip(tasks, names, strict=True) if (e := _failure(t)) is not None]
    late = [name for task, name in zip(tasks, names, strict=True) if not task.done()]
    for task in tasks:
        task.cancel()
    if failed:
        name, error = next((one for one in failed if is_death(one[1])), failed[0])
        message = f"{name} failed to {what}: {' '.join(str(error).split())[-300:]}"
        raise (ActorsLost(message, [name]) if is_death(error) else ServiceFailure(message)) from error
    if late:
        raise ActorsLost(f"{', '.join(late)} did not {what} within {timeout_s} s", late)
    return [task.result() for task in tasks]


async def _heed_deaths(tasks: Sequence[asyncio.Task]) -> None:
    """Where a connection may have broken, wait for the news that another's death was why: its peers notice first."""
    deadline = asyncio.get_running_loop().time() + NOTICE_S
    while _only_victims([e for t in tasks if (e := _failure(t)) is not None]):
        pending, left = [t for t in tasks if not t.done()], deadline - asyncio.get_running_loop().time()
        if not pending or left <= 0:
            return
        await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)


def _only_victims(failures: Sequence[BaseException]) -> bool:
    """Whether all that failed may have failed for another's death: collectives raise RuntimeErrors then."""
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    return bool(causes) and all(isinstance(c, RuntimeError) for c in causes) and not any(map(is_death, failures))


def _failure(task: asyncio.Task) -> BaseException | None:
    return task.exception() if task.done() else None
