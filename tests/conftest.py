"""Fixtures. Pure tests need none of them; `engine` ones share a Ray with one vLLM engine and three learners."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "assets" / "starter"


class Live:
    """The session's Ray, started at the first test that needs it and stopped before tests that start their own."""

    def __init__(self) -> None:
        self.cluster = None
        self.pair: list = []
        self.single: list = []

    def start(self):
        if self.cluster is None:
            from conf.load import load
            from rl.cluster import create_learners, create_rollouts, create_verifiers, start_actors, start_ray

            cfg = load(["ray.dashboard=false", "engine.count=1", "learner.world_size=1"])
            self.cluster = start_ray(cfg)
            create_rollouts(cfg, self.cluster, str(STARTER))
            create_verifiers(cfg, self.cluster)
            create_learners(cfg, self.cluster, str(STARTER), 100)
            asyncio.run(start_actors(cfg, self.cluster))
            self.cfg = cfg
        return self

    def learner_pair(self):
        """Two learner ranks at the starter's weights."""
        self.pair = self.pair or self._learners(2)
        return self.pair

    def fresh_learner(self):
        """One learner at the starter's weights (the cluster's own is trained by other tests)."""
        self.single = self.single or self._learners(1)
        return self.single[0]

    def _learners(self, world_size: int) -> list:
        import ray

        from actors.learner import Learner
        from actors.verl_engine import EngineSettings

        settings = EngineSettings(str(STARTER), lr=self.cfg.learner.lr, total_steps=100)
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
        learners = [
            ray.remote(Learner).options(**options).remote(f"test-{r}", r, world_size, settings, 1)
            for r in range(world_size)
        ]
        address, port = ray.get(learners[0].rendezvous.remote())
        ray.get([learner.start.remote(address, port) for learner in learners], timeout=180)
        return learners

    def stop(self) -> None:
        if self.cluster is not None:
            import ray

            for learner in self.pair + self.single:
                ray.kill(learner)
            self.cluster.stop()
            self.cluster, self.pair, self.single = None, [], []


_LIVE = Live()


@pytest.fixture(scope="session")
def live():
    """The running cluster (see Live)."""
    _LIVE.start()
    yield _LIVE
    _LIVE.stop()


@pytest.fixture
def alone():
    """For tests that start raythink themselves: no other engine may run meanwhile."""
    _LIVE.stop()


@pytest.fixture
def starter_copy(tmp_path):
    """A copy of the embedded policy's folder, to be broken."""
    return Path(shutil.copytree(STARTER, tmp_path / "model"))


# Files of otherwise pure folders whose tests need a browser, a served port or torch, which takes seconds to import.
NOT_PURE = {
    "test_page.py", "test_page_renderers.py", "test_openai_client.py", "test_foreign_tools.py",
    "test_layout.py", "test_block_attention.py", "test_cpu_layers.py", "test_benchmarks_gpu_train.py",
}  # fmt: skip


def pytest_collection_modifyitems(items):
    """Pure tests first, then those that start processes, share the engine, or want the machine for themselves."""
    folders = {"sandbox": pytest.mark.process, "servers": pytest.mark.process,
               "engine": pytest.mark.engine, "chaos": pytest.mark.engine}
    for item in items:
        if (folder := Path(item.fspath).parent.name) in folders:
            item.add_marker(folders[folder])
        elif Path(item.fspath).name in NOT_PURE:
            item.add_marker(pytest.mark.process)
    order = ["process", "engine"]
    items.sort(key=lambda item: max([order.index(m.name) + 1 for m in item.iter_markers() if m.name in order] or [0]))
    items.sort(key=lambda item: Path(item.fspath).parent.name == "chaos")
