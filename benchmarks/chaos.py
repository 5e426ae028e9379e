"""python -m benchmarks.chaos [--kills 12] [--nodes 3 [--cut]] [--compare] [key=value ...]: actors die during training.

kill -9 of rollout, verifier and learner in turn, with rl.train_planner=true also of the rollout that writes plans just
then; a random one of those alive, each a random while after its share of the steps, whatever of the others is still
down. With --nodes a Ray cluster of so many nodes, of which one is lost half-way, the one with the most learners: its
raylet and all its workers are killed, or, with --cut, each node has a network namespace and this one's link is set
down. --back S: after S seconds it, or another in its place, joins again (0: never). --compare: without kills first.

A run that ends before all was done to it ends with code 1. The run is the starter's with rl.staleness=1 unless keys say
otherwise. Printed: each death and its recovery, groups trained (as many as without kills), the ledger's books,
held-out pass@1. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.fleet import Member, State
from benchmarks.nodes import Namespaces, Nodes, Processes, enter
from conf.load import load
from conf.schema import Config
from rl.evaluation.compare import compared, read_outcomes
from rl.session import FLEET_FILE, Session, run_training

KINDS = ("rollout", "verifier", "learner")
DEFAULTS = ["rl.staleness=1", "engine.update=inflight", "rl.refill_rounds=1", "run.save_every=5", "ray.dashboard=false"]
POLL_S = 0.02
UNNOTICED_S, BACK_UNNOTICED_S = 120.0, 30.0  # whoever was not missed by then, was back before anybody asked


@dataclass
class Killed:
    """`names` of the actors that a kill took; `at` in seconds since the epoch."""

    kind: str
    names: list[str]
    step: int
    at: float = field(default_factory=time.time)


def plan(kills: int, steps: int, kinds: Sequence[str], lose_node: bool) -> list[tuple[int, str]]:
    """(completed steps, whom): the kinds in turn, spread over the run, with the node in the middle of them."""
    order = [kinds[number % len(kinds)] for number in range(kills)]
    if lose_node:
        order.insert(len(order) // 2, "node")
    return [(1 + number * (steps - 2) // max(len(order), 1), kind) for number, kind in enumerate(order)]


class Chaos(Session):
    """A session with a killer beside its training."""

    plan: list[tuple[int, str]] = []
    seed, back_s = 0, 0.0
    nodes: Nodes | None = None
    done: list[Killed] = []

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
        rng = random.Random(self.seed)
        async with asyncio.TaskGroup() as group:
            for after, kind in self.plan:
                while self.trainer.completed < after or (kind != "node" and not self._alive(kind)):
                    await asyncio.sleep(POLL_S)
                await asyncio.sleep(rng.uniform(0, 1))
                if kind == "node":
                    await self._lose_node(rng, group)
                elif kind == "planner":
                    await self._kill_planner(rng)
                else:
                    await self._kill(kind, rng)

    async def _kill(self, kind: str, rng: random.Random) -> None:
        name = rng.choice(self._alive(kind))
        pid = await self._pid(name)
        with self._noting(kind, [name]) as before:
            os.kill(pid, signal.SIGKILL)
        await self._noticed(before)

    async def _kill_planner(self, rng: random.Random) -> None:
        """A rollout, while it writes plans: it looks and dies in one go, as another process would be too late."""
        from ray.exceptions import RayActorError

        while True:
            for name in rng.sample(alive := self._alive("rollout"), len(alive)):
                before, asked = {name: self._members()[name].deaths[-1:]}, time.time()
                try:
                    await self.cluster.rollouts[int(name.rpartition("-")[2])].apply.remote(_die_planning)
                except RayActorError:
                    self.done.append(Killed("planner", [name], self.trainer.completed, asked))
                    return await self._noticed(before)
            await asyncio.sleep(POLL_S)

    async def _lose_node(self, rng: random.Random, group: asyncio.TaskGroup) -> None:
        """Raises RuntimeError where no node can be lost: one that holds no actor of ours would be no loss."""
        places = await asyncio.to_thread(self._places)
        if not places:
            raise RuntimeError("all actors are on the first node, which cannot be lost")
        most = max(_weight(names) for _, names in places)
        node, names = rng.choice([place for place in places if _weight(place[1]) == most])
        self.progress.note(f"node {node['NodeID'][:8]} is {self.nodes.how}: {', '.join(names)}")
        with self._noting("node", names) as before:
            await asyncio.to_thread(self.nodes.lose, node)
        if self.back_s:
            group.create_task(self._bring_back())
        await self._noticed(before, self.back_s + BACK_UNNOTICED_S if self.back_s else UNNOTICED_S)

    async def _bring_back(self) -> None:
        await asyncio.sleep(self.back_s)
        await asyncio.to_thread(self.nodes.bring_back)
        self.progress.note("a node has joined the cluster again")

    def _places(self) -> list[tuple[dict[str, Any], list[str]]]:
        """The nodes that may be lost, with the names of our actors on each that has any."""
        import ray
        from ray._private.state import actors

        at: dict[str, list[str]] = {}
        handles = self.cluster.rollouts + self.cluster.verifiers + self.cluster.learners
        for actor in handles:
            told = actors(actor._actor_id.hex())
            at.setdefault(told["Address"]["NodeID"], []).append(told["Name"])
        here = ray.get_runtime_context().get_node_id()
        nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
        first = "node:__internal_head__"
        return [(node, at[node["NodeID"]]) for node in nodes if first not in node["Resources"] and node["NodeID"] in at]

    @contextlib.contextmanager
    def _noting(self, kind: str, names: list[str]) -> Iterator[dict[str, list[float]]]:
        """Writes down a kill; gives the last deaths that were known before it."""
        before = {name: self._members()[name].deaths[-1:] for name in names}
        self.done.append(Killed(kind, names, self.trainer.completed))
        yield before

    async def _noticed(self, before: dict[str, list[float]], timeout_s: float = UNNOTICED_S) -> None:
        """Until each is known to have died, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(self._members()[name].deaths[-1:] == deaths for name, deaths in before.items()):
                    await asyncio.sleep(POLL_S)

    def _members(self) -> dict[str, Member]:
        crew = self.trainer.crew
        return crew.engines.fleet.members | crew.verifiers.fleet.members | crew.learners.members

    def _alive(self, kind: str) -> list[str]:
        up, kind = (State.HEALTHY, State.STALE), "rollout" if kind == "planner" else kind
        return [name for name, member in self._members().items() if name.startswith(kind) and member.state in up]

    async def _pid(self, name: str) -> int:
        kind, _, number = name.partition("-")
        if kind == "learner":
            return (await self.cluster.learners[int(number)].status.remote())["pid"]
        actor = (self.cluster.rollouts if kind == "rollout" else self.cluster.verifiers)[int(number)]
        return await actor.apply.remote(_own_pid)


def _weight(names: Sequence[str]) -> tuple[int, int]:
    """What a node is worth to a killer: learners hold what cannot be had elsewhere."""
    return sum(name.startswith("learner") for name in names), len(names)


def _own_pid(actor: Any) -> int:
    return os.getpid()


def _die_planning(actor: Any) -> None:
    if actor.state() == "planning":
        os.kill(os.getpid(), signal.SIGKILL)


def outcome(folder: Path, done: Sequence[Killed] = ()) -> dict[str, Any]:
    """What a run's folder says of it."""
    saved = (folder / "checkpoints").glob("step_*")
    last = max(saved, key=lambda path: int(path.name.removeprefix("step_")), default=None)
    if last is None:
        return {"steps": 0, "recoveries_s": [], "outages": []}
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
        "outages": [outage(kill, name, events) for kill in done for name in kill.names],
        "heldout_before": _pass(summary, "eval_before"),
        "heldout_after": _pass(summary, "eval_after"),
        "wall_s": round(summary["wall_s"], 1),
    }


def outage(kill: Killed, name: str, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds from a kill until it was noticed, and until the actor worked again; None where that did not come."""
    later = [event for event in events if event["name"] == name and event["time"] >= kill.at]
    dead = next((e["time"] for e in later if e["after"] in (State.DEAD, State.RETIRED)), None)
    well = next((e["time"] for e in later if dead and e["time"] > dead and e["recovery_s"] is not None), None)
    seconds = (None if moment is None else round(moment - kill.at, 1) for moment in (dead, well))
    return {"kind": kill.kind, "name": name, "step": kill.step} | dict(zip(("noticed_s", "back_s"), seconds))


def _pass(summary: dict[str, Any], when: str) -> float | None:
    return summary.get(when, {}).get("overall", {}).get("pass@1")


def train(given: argparse.Namespace, root: str, name: str, calm: bool = False) -> tuple[Config, int]:
    """One run in root/name, a calm one without kills; its configuration and exit code."""
    nodes = None
    if given.nodes > 1:
        nodes = Namespaces(given.nodes) if given.cut else Processes(given.nodes)
    address = [f"ray.address={nodes.address}"] if nodes else []
    try:
        cfg = load([*DEFAULTS, f"run.dir={root}", *given.keys, f"run.name={name}", *address])
        kinds = (*KINDS, "planner") if cfg.rl.train_planner else KINDS
        Chaos.plan = [] if calm else plan(given.kills, cfg.rl.steps, kinds, nodes is not None)
        Chaos.seed, Chaos.back_s, Chaos.nodes, Chaos.done = given.seed, given.back, nodes, []
        return cfg, run_training(cfg, Chaos)
    finally:
        if nodes:
            nodes.stop()


def measure(given: argparse.Namespace, root: str) -> dict[str, Any]:
    """The run with kills, beside one without where that is asked for."""
    result: dict[str, Any] = {}
    if given.compare:
        cfg, code = train(given, root, "calm", calm=True)
        calm = Path(cfg.run.dir) / cfg.run.name
        result["without_kills"] = outcome(calm) | {"exit": code}
    cfg, code = train(given, root, "chaos")
    folder = Path(cfg.run.dir) / cfg.run.name
    result |= outcome(folder, Chaos.done)
    result |= {"exit": code, "nodes": given.nodes, "cut": given.cut, "expected_groups": cfg.rl.steps * cfg.rl.groups}
    result |= {"kills": len(Chaos.done), "planned_kills": len(Chaos.plan)}
    result["killed"] = ["+".join(kill.names) if kill.kind == "node" else kill.names[0] for kill in Chaos.done]
    if given.compare and not code and not result["without_kills"]["exit"]:
        result["kills_change"] = compared(read_outcomes(calm), read_outcomes(folder))["heldout"]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=12, help="of processes; a node that is lost comes on top")
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the Ray cluster")
    parser.add_argument("--cut", action="store_true", help="network namespaces: a node is cut off, not killed (root)")
    parser.add_argument("--back", type=float, default=60.0, help="seconds until a lost node is replaced (0: never)")
    parser.add_argument("--compare", action="store_true", help="the same run without kills first, and the difference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("keys", nargs="*", help="as for main.py")
    given = parser.parse_args()
    if given.cut and given.nodes < 2:
        parser.error("--cut needs --nodes 2 or more")
    if given.cut and (lacking := enter()):
        print(lacking, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as root:
        result = measure(given, root)
    for one in result["outages"]:
        noticed, back = (f"{s} s" if s is not None else "never" for s in (one["noticed_s"], one["back_s"]))
        print(f"{one['kind']}: {one['name']} after step {one['step']}: noticed after {noticed}, back after {back}")
    print(json.dumps(result))
    return result["exit"] or int(result["kills"] < result["planned_kills"])


if __name__ == "__main__":
    raise SystemExit(main())
