"""The pool on real Ray actors, small ones: one is killed, its requests go elsewhere, it comes back with its weights."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from actors.fleet import Fleet
from actors.fleet_pool import Broadcaster, Managed, NotStarted, Pool
from rl.cluster import restart_rollout


def small() -> type:
    """Made here, so that it travels whole: workers cannot import this file."""

    class Small(Managed):
        """Answers with its process and the version that it holds."""

        def __init__(self):
            self.started, self.version = False, -1

        async def start(self):
            self.started, self.version = True, 0

        async def status(self):
            return {"pid": os.getpid()}

        async def ping(self):
            if not self.started:
                raise NotStarted("nobody started me")
            return await self.status()

        async def work(self, number, seconds=0.05):
            if not self.started:
                raise NotStarted("nobody started me")
            await asyncio.sleep(seconds)
            return number, os.getpid(), self.version

        async def load(self, weights, version):
            assert list(weights) == [1, 2, 3]
            self.version = version

    return Small


@pytest.mark.usefixtures("live")
def test_requests_survive_the_death_of_an_actor_and_it_comes_back_with_the_weights():
    import ray

    def make():
        return ray.remote(small()).options(num_cpus=0, max_restarts=-1, max_concurrency=100).remote()

    async def scenario():
        handles = {f"small-{i}": make() for i in range(2)}
        await asyncio.gather(*(restart_rollout(handle, False) for handle in handles.values()))
        fleet = Fleet(handles, time.monotonic)
        pool = Pool(fleet, handles, Broadcaster(handles), lambda name, kill: restart_rollout(handles[name], kill),
                    timeout_s=120, probe_s=0.2)
        pool.open()
        try:
            pool.publish(7, ray.put([1, 2, 3]))
            await pool.settle(60)
            _, victim, _ = await pool.ask("small-0", "work", -1)
            answers = [asyncio.create_task(pool.ask_any("work", i, 1.0)) for i in range(30)]
            await asyncio.sleep(0.3)
            os.kill(victim, signal.SIGKILL)
            done = await asyncio.gather(*answers)
            assert sorted(number for number, _, _ in done) == list(range(30))
            assert all(version == 7 for _, _, version in done)
            await pool.settle(120)
            assert fleet.usable() == ["small-0", "small-1"]
            number, pid, version = await pool.ask("small-0", "work", 5)
            assert (number, version) == (5, 7) and pid != victim
            assert len(fleet.members["small-0"].deaths) == 1 and not fleet.members["small-1"].deaths
        finally:
            await pool.close()
            for handle in handles.values():
                ray.kill(handle)

    asyncio.run(scenario())
