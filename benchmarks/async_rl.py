"""python -m benchmarks.async_rl [--skip-real] [--steps N]: what rl.staleness buys, in virtual time and on two cores.

Simulated: the real dispatchers, ledger and fleet drive timed stand-ins (benchmarks.timed) through hours of virtual
time. 8 engines of 64 slots decode 40 tokens/s a sequence; a step is 64 groups of 8; lengths are lognormal (median
5,800 tokens, sigma 0.8, half of the variance between problems), capped at 32,768, mean about 7,900: an assumption,
with the shape of long-chain-of-thought RL, in which a few answers at the limit set a synchronous step's time. The
learner takes 120 s a step and exports weights in 5 s; an engine loads them in 3 s and computes the KV of what runs
again at 40,000 tokens/s. Both schedules have the same engines and the same learner, which synchronous training leaves
idle in turn; it could give all of them to each phase where they share GPUs, which is not modelled.

The schedule's bound is the largest of three times, for the same lengths: the learner's alone; the engines' with no slot
ever empty; and what the rules of admission and consumption (rl.ledger) allow on one engine with all the slots, whose
updates, verdicts and dispatch take no time (`Ideal`, which shares no code with what is measured).

Real: recipe=starter (S=0), then starter_async (S=1, the same training on one engine and one learner): groups a second
over the training steps, groups used, held-out pass@1 of each. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import heapq
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine import Sampling
from actors.fleet import Fleet
from actors.fleet_pool import Pool
from benchmarks.timed import Handle, Lengths, Numbered, TimedCaller, TimedEngine, TimedVerifier
from benchmarks.virtual_time import VirtualLoop
from rl.dispatcher import Dispatcher
from rl.ledger import Ledger
from rl.stream import Stream

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class World:
    """Sizes and seconds of the simulation; see the module's docstring."""

    steps: int = 40
    groups: int = 64
    group_size: int = 8
    engines: int = 8
    slots: int = 64
    tokens_per_s: float = 40.0
    median: float = 5800.0
    sigma: float = 0.8
    cap: int = 32768
    learn_s: float = 120.0
    export_s: float = 5.0
    load_s: float = 3.0
    prefill_per_s: float = 40_000.0
    verify_s: float = 0.5
    seed: int = 1

    def lengths(self) -> Lengths:
        return Lengths(self.median, self.sigma, self.cap, self.group_size, self.seed)


@dataclass
class Outcome:
    seconds: float  # a step, in the mean over the run
    ages: list[int]
    counts: dict[str, int]
    tokens: int


async def simulate(world: World, staleness: int, drain: bool = False, wait: bool = True) -> Outcome:
    """A whole run on stand-ins."""
    loop, lengths = asyncio.get_running_loop(), world.lengths()
    engines = {
        f"rollout-{i}": TimedEngine(f"rollout-{i}", world.slots, world.tokens_per_s, lengths, world.load_s,
                                    world.prefill_per_s)
        for i in range(world.engines)
    }
    verifier, ledger, source = TimedVerifier(world.verify_s), Ledger(world.groups, staleness), Numbered()
    handles = {name: Handle(engine) for name, engine in engines.items()}
    pool = Pool(Fleet(engines, loop.time), handles, TimedCaller(engines), None, timeout_s=1e6, drain=drain, probe_s=5.0)
    pool.open()
    common: dict[str, Any] = {"group_size": world.group_size, "sampling": Sampling(), "seed": 0, "timeout_s": 1e6,
                              "keep": lambda group: ""}
    if staleness:
        collector = Stream(source, ledger, pool, verifier.verify_group, **common, wait=wait,
                           sequences=world.slots, total_steps=world.steps, clock=loop.time)
    else:
        collector = Dispatcher(source, ledger, list(handles.values()), [Handle(verifier)], **common, refill_rounds=0)
    ages: list[int] = []
    for step in range(1, world.steps + 1):
        collected = await collector.collect(step, step - 1, lambda done, total: None)
        ages += [step - 1 - group.start_version for group in collected.groups]
        await asyncio.sleep(world.learn_s + world.export_s)
        pool.publish(step, "weights")
        if not staleness:
            await pool.settle(1e6)
    seconds = loop.time() / world.steps
    await pool.close()
    return Outcome(seconds, ages, ledger.counts, sum(engine.done_tokens for engine in engines.values()))


def run_virtually(work: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class Ideal:
    """What the rules of admission and consumption allow on one engine with all the slots, where updates, verdicts and
    dispatch take no time, and a group is begun just when a slot would else be empty.

    Ends of sequences are events; a step is taken once enough groups are there and those left can be taken in time.
    """

    def __init__(self, world: World, staleness: int):
        self.world, self.staleness, self.lengths = world, staleness, world.lengths()
        self.problems = Numbered().take(world.groups * world.steps)
        self.free = world.engines * world.slots
        self.ends: list[tuple[float, int]] = []  # of sequences: time, group
        self.waiting: list[tuple[int, float]] = []  # sequences without a slot: group, seconds
        self.running: dict[int, list[int]] = {}  # group: [version, sequences left]
        self.ready: list[tuple[int, int]] = []  # version, group; sorted
        self.begun = 0

    def seconds(self) -> float:
        """Of a step, in the mean over the run."""
        now, world = 0.0, self.world
        for version in range(world.steps):
            most = min(len(self.problems), (self.staleness + version + 1) * world.groups)
            self.fill(now, version, most)
            while len(self.ready) < world.groups or self.too_many(version):
                now = max(now, self.end(version, most))
            del self.ready[: world.groups]
            now += world.learn_s + world.export_s
            while self.ends and self.ends[0][0] <= now:  # the engines go on while the learner learns
                self.end(version, most)
        return now / world.steps

    def fill(self, now: float, version: int, most: int) -> None:
        while self.free and (self.waiting or self.begun < most):
            if not self.waiting:
                lengths = self.lengths(self.problems[self.begun])
                self.waiting = [(self.begun, length / self.world.tokens_per_s) for length in lengths]
                self.running[self.begun] = [version, len(lengths)]
                self.begun += 1
            group, seconds = self.waiting.pop(0)
            heapq.heappush(self.ends, (now + seconds, group))
            self.free -= 1

    def end(self, version: int, most: int) -> float:
        """The next sequence's end; returns its time."""
        at, group = heapq.heappop(self.ends)
        self.free += 1
        self.running[group][1] -= 1
        if not self.running[group][1]:
            bisect.insort(self.ready, (self.running.pop(group)[0], group))
        self.fill(at, version, most)
        return at

    def too_many(self, version: int) -> bool:
        """Whether groups that run would grow too old if this step were taken now."""
        for k in range(self.staleness + 1):
            runs = sum(begun + self.staleness <= version + k for begun, _ in self.running.values())
            left = sum(begun + self.staleness <= version + k for begun, _ in self.ready[self.world.groups :])
            if runs and runs + left > k * self.world.groups:
                return True
        return False


def bound(world: World, staleness: int) -> dict[str, float]:
    """Seconds of a step by each of the three limits."""
    lengths = world.lengths()
    tokens = sum(sum(lengths(p)) for p in Numbered().take(world.groups * world.steps))
    engines = tokens / (world.engines * world.slots * world.tokens_per_s) / world.steps
    return {"learner": world.learn_s + world.export_s, "engines": engines, "rules": Ideal(world, staleness).seconds()}


def simulated(world: World) -> dict[str, Any]:
    """Speedups over synchronous training, the distance from the bound, violations of the staleness bound."""
    base = run_virtually(simulate(world, 0))
    print(f"synchronous: {base.seconds:.0f} s a step", flush=True)
    result: dict[str, Any] = {"staleness_violations": 0, "sim_over_bound": 0.0}
    for staleness in (1, 3):
        for drain in (True, False):
            outcome = run_virtually(simulate(world, staleness, drain))
            limits = bound(world, staleness)
            over = outcome.seconds / max(limits.values()) - 1
            speedup = base.seconds / outcome.seconds
            shown = ", ".join(f"{name} {seconds:.0f}" for name, seconds in limits.items())
            print(f"S={staleness} {'drain   ' if drain else 'inflight'}: {outcome.seconds:.0f} s a step, "
                  f"{speedup:.2f}x, {over:+.1%} over the bound ({shown}); {outcome.counts}", flush=True)
            result["staleness_violations"] += sum(age > staleness for age in outcome.ages)
            if not drain:
                result[f"sim_speedup_s{staleness}"] = round(speedup, 3)
                result["sim_over_bound"] = round(max(result["sim_over_bound"], over), 4)
    return result


def real(steps: int, keys: list[str]) -> dict[str, Any]:
    """The starter with S=0 and S=1: seconds a sample, samples used, held-out pass@1 at the end."""
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for name, recipe in (("s0", "starter"), ("s1", "starter_async")):
            command = [sys.executable, "main.py", "mode=train", f"recipe={recipe}", f"rl.steps={steps}",
                       f"run.dir={root}", f"run.name={name}", "ray.dashboard=false", *keys]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            folder = Path(root) / name
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            samples = sum(row["groups/trained"] + row["groups/filtered"] for row in rows)
            summary = json.loads((folder / "summary.json").read_text())
            found[name] = {
                "seconds": round(sum(row["time/step"] for row in rows), 1),
                "groups": samples,
                "pass@1": round(summary["eval_after"]["overall"]["pass@1"], 4),
                "staleness": max(row["staleness/max"] for row in rows),
            }
            print(f"{name}: {found[name]}", flush=True)
    rate = {name: run["groups"] / run["seconds"] for name, run in found.items()}
    return {"real_speedup_s1": round(rate["s1"] / rate["s0"], 3), "real": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="simulated steps")
    parser.add_argument("--skip-real", action="store_true", help="leave the starter out")
    parser.add_argument("--real-steps", type=int, default=140, help="steps of the starter")
    parser.add_argument("keys", nargs="*", help="keys of the starter's two runs, as for main.py")
    arguments = parser.parse_args()
    result = simulated(World(steps=arguments.steps))
    if not arguments.skip_real:
        result |= real(arguments.real_steps, arguments.keys)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
