"""python -m benchmarks.chaos [--kills 12] [--seed 0] [key=value ...]: kill -9 of actors during one real training run.

Rollout, verifier and learner in turn, a random one of those alive, each a random while after its share of the steps,
whatever of the others is still down; a run that ends before all kills were done ends with code 1. The run is the
starter's with rl.staleness=1 unless keys say otherwise. Printed: each death and its recovery, groups trained (as many
as without kills), the ledger's books, held-out pass@1. Last line: JSON. To compare with, without kills: `--kills 0`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.fleet import Member, State
from conf.load import load
from rl.session import FLEET_FILE, Session, run_training

KINDS = ("rollout", "verifier", "learner")
DEFAULTS = ["rl.staleness=1", "engine.update=inflight", "rl.refill_rounds=1", "run.save_every=5", "ray.dashboard=false"]


class Chaos(Session):
    """A session with a killer beside its training."""

    kills, seed = 12, 0
    done: list[dict[str, Any]] = []

    async def _train(self) -> None:
        killer = asyncio.create_task(self._kill_in_turn())
        try:
            await super()._train()
        finally:
            killer.cancel()
            ended = await asyncio.gather(killer, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]

    async def _kill_in_turn(self) -> None:
        """The k-th kill comes some time after the run has first completed its share of the steps."""
        rng, steps = random.Random(self.seed), self.cfg.rl.steps
        for number in range(self.kills):
            after = 1 + number * (steps - 2) // max(self.kills, 1)
            while self.trainer.completed < after or not (alive := self._alive(KINDS[number % len(KINDS)])):
                await asyncio.sleep(0.02)
            await asyncio.sleep(rng.uniform(0, 1))
            name = rng.choice(alive)
            pid, member = await self._pid(name), self._members()[name]
            before = member.deaths[-1:]
            self.done.append({"name": name, "step": self.trainer.completed, "at": time.time()})
            os.kill(pid, signal.SIGKILL)
            while member.deaths[-1:] == before:  # until it is noticed
                await asyncio.sleep(0.02)

    def _members(self) -> dict[str, Member]:
        crew = self.trainer.crew
        return crew.engines.fleet.members | crew.verifiers.fleet.members | crew.learners.members

    def _alive(self, kind: str) -> list[str]:
        up = (State.HEALTHY, State.STALE)
        return [name for name, member in self._members().items() if name.startswith(kind) and member.state in up]

    async def _pid(self, name: str) -> int:
        kind, _, number = name.partition("-")
        if kind == "learner":
            return (await self.cluster.learners[int(number)].status.remote())["pid"]
        actor = (self.cluster.rollouts if kind == "rollout" else self.cluster.verifiers)[int(number)]
        return await actor.apply.remote(_own_pid)


def _own_pid(actor: Any) -> int:
    return os.getpid()


def outcome(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it."""
    saved = (folder / "checkpoints").glob("step_*")
    last = max(saved, key=lambda path: int(path.name.removeprefix("step_")), default=None)
    if last is None:
        return {"steps": 0, "recoveries_s": []}
    ledger = json.loads((last / "trainer.json").read_text())["ledger"]
    summary = json.loads((folder / "summary.json").read_text())
    path = folder / FLEET_FILE
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    recoveries = [(e["name"], round(e["recovery_s"], 1)) for e in events if e["recovery_s"] is not None]
    held = len(ledger["running"]) + len(ledger["ready"]) + sum(ledger["counts"].values())
    return {
        "steps": summary["steps"],
        "trained_groups": ledger["counts"]["trained"],
        "books_balance": held == ledger["next_id"],
        "counts": ledger["counts"],
        "deaths": [e["name"] for e in events if e["after"] == State.DEAD],
        "recoveries_s": recoveries,
        "heldout_before": _pass(summary, "eval_before"),
        "heldout_after": _pass(summary, "eval_after"),
        "wall_s": round(summary["wall_s"], 1),
    }


def _pass(summary: dict[str, Any], when: str) -> float | None:
    return summary.get(when, {}).get("overall", {}).get("pass@1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("keys", nargs="*", help="as for main.py")
    given = parser.parse_args()
    Chaos.kills, Chaos.seed = given.kills, given.seed
    with tempfile.TemporaryDirectory() as root:
        cfg = load([*DEFAULTS, f"run.dir={root}", "run.name=chaos", *given.keys])
        code = run_training(cfg, Chaos)
        result = outcome(Path(cfg.run.dir) / cfg.run.name)
    result |= {"exit": code, "kills": len(Chaos.done), "killed": [kill["name"] for kill in Chaos.done]}
    result["expected_groups"] = cfg.rl.steps * cfg.rl.groups
    for name, seconds in result["recoveries_s"]:
        print(f"{name} was back after {seconds} s")
    print(json.dumps(result))
    return code or int(result["kills"] < given.kills)


if __name__ == "__main__":
    raise SystemExit(main())
