"""A run's actors and their care: engines and verifiers that may die and come back, learners that are put back together.

Engines and verifiers are kept by pools (actors.fleet_pool) without anybody's asking. Learners hold the one state that
cannot be had elsewhere: when one is lost all are restarted, and the run goes back to its last checkpoint (rl.session).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from actors.fleet import Event, Fleet, State
from actors.fleet_pool import Broadcaster, Pool
from actors.planned import Planning
from conf.schema import Config
from rl.cluster import Cluster, restart_learners, restart_rollout, restart_verifier
from rl.dispatcher import ActorsLost, Keepers, ServiceFailure
from rl.publication import export


class Crew:
    """`listen` is told what happens to each actor."""

    def __init__(self, cfg: Config, cluster: Cluster, listen: Callable[[Event], None] = lambda event: None):
        self._timeout_s, self._cluster = cfg.engine.timeout_s, cluster
        self._held: Any = None  # the published weights here: engines are given them though the learners' node be gone
        self.listen = listen

        def tell(event: Event) -> None:
            self.listen(event)

        def pool(kind: str, actors: list[Any], restart: Any, **options: Any) -> Pool:
            handles = {f"{kind}-{i}": actor for i, actor in enumerate(actors)}
            fleet = Fleet(handles, time.monotonic, weights=kind == "rollout", listen=tell)

            async def again(name: str, kill: bool) -> None:
                await restart(handles[name], kill)

            return Pool(fleet, handles, Broadcaster(handles), again, timeout_s=self._timeout_s, **options)

        drain = cfg.engine.update == "drain"
        self.engines = pool("rollout", cluster.rollouts, restart_rollout, drain=drain)
        self.verifiers = pool("verifier", cluster.verifiers, restart_verifier)
        names = [f"learner-{i}" for i in range(len(cluster.learners))]
        self.learners = Fleet(names, time.monotonic, weights=False, listen=tell)
        planning = Planning(cfg.rl.plans, cfg.rl.planned_share) if cfg.rl.train_planner else None
        self.keepers = Keepers(self.engines, self.verifiers, planning)

    def open(self) -> None:
        """Begin to look after them. Idempotent; needs a running event loop."""
        self.engines.open()
        self.verifiers.open()

    async def close(self) -> None:
        await self.engines.close()
        await self.verifiers.close()

    async def publish(self, version: int, anew: bool = False) -> None:
        """Give the learners' weights to all engines, as policy `version`; none is asked before it holds them.

        Raises ActorsLost where a learner does not export them.
        """
        weights, self._held = await export(self._cluster.learners, self._timeout_s)
        self.engines.publish(version, weights, anew)

    async def settle(self) -> None:
        """Until every engine that is not given up holds the current weights. Raises ServiceFailure, naming others."""
        try:
            await self.engines.settle(2 * self._timeout_s)
        except TimeoutError:
            members = self.engines.fleet.members.items()
            late = ", ".join(f"{name} is {m.state}" for name, m in members if m.state != State.HEALTHY)
            raise ServiceFailure(f"engines did not come back within {2 * self._timeout_s} s: {late}") from None
        if self.engines.fleet.lost():
            raise ServiceFailure("all rollout engines died too often: see the notes above")

    async def look(self) -> None:
        """Find out now who lives, and wait for those who do not."""
        for pool in (self.engines, self.verifiers):
            for name in pool.handles:
                await pool.probe(name)
        await self.settle()

    async def restart_learners(self, lost: ActorsLost) -> None:
        """Put the learners back together, at the first weights. Raises `lost` where they died too often for that."""
        from ray.exceptions import RayError

        for name in self.learners.members:
            cause = "died or hangs" if name in lost.names else f"is restarted with {', '.join(lost.names)}"
            self.learners.died(name, cause)
            if self.learners.state(name) == State.RETIRED:
                raise lost
            self.learners.restarting(name)
        try:
            await restart_learners(self._cluster.learners, 2 * self._timeout_s)
        except TimeoutError:
            raise ServiceFailure("the learners did not come back: see Ray's logs") from lost
        except RayError as error:
            # one that dies takes along those that wait for it; one that cannot start is given up after a few deaths
            raise ActorsLost(f"died again: {' '.join(str(error).split())[-300:]}", lost.names) from lost

    def learners_are_back(self) -> None:
        """They hold their checkpoint again."""
        for name in self.learners.members:
            if self.learners.state(name) == State.RESTARTING:
                self.learners.started(name)
