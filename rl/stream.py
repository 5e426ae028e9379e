"""What is in flight with rl.staleness > 0: groups stream through the engines while the learner learns.

Whenever an engine has room and the ledger capacity, the next group goes to the least loaded engine that holds the
current weights; each group is verified as it arrives. `collect` returns once the ledger lets the step be taken. The
ledger alone compares versions, the fleet alone says who may be asked; here is only who is next (`Slots`).

A group whose engine died keeps its id and is begun again on another. A filtered group gives its capacity back (unless
rl.refill_rounds=0), so that every batch is full of groups that teach something, without rounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.engine import Sampling
from actors.fleet_pool import Lost, Pool
from actors.messages import Problem, RolloutGroup
from actors.planned import Planning
from rl.dispatcher import Collected, ServiceFailure, service_failure, wave_seed
from rl.ledger import Ledger
from rl.source import Source


class Slots:
    """How many groups each engine holds, and who is given the next. Pure.

    An engine decodes `sequences` at a time and should never have fewer, so it is given groups until that many
    completions are unfinished and an eighth more wait. How many are unfinished it tells now and then (`observe`): most
    of a group's are done long before its longest. In between, each group begun counts as `group_size`, each ended one
    as what the engine's groups had left in the mean. An engine whose KV cache is full before its sequences are lets
    some wait: what it runs then is all that it can.
    """

    def __init__(self, names: Sequence[str], sequences: int, group_size: int):
        self.sequences, self.group_size = sequences, group_size
        self.waiting = max(group_size, sequences // 8)
        self.able = dict.fromkeys(names, sequences)
        self.load: dict[str, float] = dict.fromkeys(names, 0.0)  # completions unfinished, as far as known
        self.held: dict[str, set[int]] = {name: set() for name in names}

    def free(self, usable: Sequence[str]) -> str | None:
        """The usable engine with the most room, if any has room."""
        room = {name: self.able[name] + self.waiting - self.load[name] for name in usable}
        best = max(room, key=room.__getitem__, default=None)
        return best if best is not None and room[best] >= self.group_size else None

    def give(self, name: str, group_id: int) -> None:
        self.held[name].add(group_id)
        self.load[name] += self.group_size

    def end(self, name: str, group_id: int) -> None:
        """The engine is done with a group, or has lost it."""
        if group_id in self.held[name]:
            self.load[name] -= self.load[name] / len(self.held[name])
            self.held[name].discard(group_id)

    def observe(self, name: str, running: int, waiting: int) -> None:
        """Completions of the engine that run and that wait, as it told a moment ago."""
        if self.held[name]:
            self.able[name] = max(running, self.group_size) if waiting and running < self.sequences else self.sequences
            self.load[name] = running + waiting


class BusyTime:
    """Seconds in which anything was going on, of any number of things at the same time."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._running, self._since, self._sum = clock, 0, 0.0, 0.0

    def __enter__(self) -> None:
        self._since = self._since if self._running else self._clock()
        self._running += 1

    def __exit__(self, *exc: object) -> None:
        self._running -= 1
        if not self._running:
            self._sum += self._clock() - self._since

    def take(self) -> float:
        """The seconds since the last call."""
        now = self._clock()
        seconds = self._sum + (now - self._since if self._running else 0.0)
        self._sum, self._since = 0.0, now
        return seconds


class Stream:
    """Collects the groups of each training step out of a flow that does not stop between steps.

    `judge(group)` gives the verified group; `keep(group)` is "" for one worth training on, else why it is filtered.
    `sequences` is what an engine decodes at a time; `total_steps` is the last step that groups are asked for. With
    `wait`, a step waits for groups that would else grow stale; without, they are cancelled.
    """

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        engines: Pool,
        judge: Callable[[RolloutGroup], Any],
        *,
        group_size: int,
        sampling: Sampling,
        seed: int,
        timeout_s: float,
        keep: Callable[[RolloutGroup], str],
        sequences: int,
        total_steps: int,
        refill: bool = True,
        wait: bool = True,
        planning: Planning | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._source, self._ledger, self._engines, self._judge = source, ledger, engines, judge
        self._group_size, self._sampling, self._seed, self._timeout_s = group_size, sampling, seed, timeout_s
        self._planning = [planning] if planning else []
        self._keep, self._total_steps, self._refill, self._wait = keep, total_steps, refill, wait
        solutions = round(group_size * planning.prompts()) if planning else group_size
        self.slots = Slots(list(engines.handles), sequences, solutions)
        self._step = 0  # until the first collect nothing is asked for
        self._problems: dict[int, Problem] = {}  # of the running groups
        self._orphans: list[int] = []  # running groups that no engine has
        self._tasks: dict[int, asyncio.Task] = {}
        self._seen: list[RolloutGroup] = []
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._attempts = 0
        self._observed: dict[str, Any] = {}  # the last stats of each engine that `slots` was told
        self._clock, self._generating, self._verifying = clock, BusyTime(clock), BusyTime(clock)
        engines.changed.append(self._fill)

    # --- a step ---

    async def collect(self, step: int, version: int, progress: Callable[[int, int], None]) -> Collected:
        """The groups that `version` is trained on in `step`. Raises ServiceFailure where nothing comes any more."""
        self._step, started = step, self._clock()
        self._expire(version)
        self._fill()
        while not self._ledger.due(step, version, self._wait):
            self._moved.clear()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._moved.wait()
            except TimeoutError:
                raise ServiceFailure(self._silence()) from None
            self._check()
            progress(len(self._ledger.ready), self._ledger.wanted(step))
        groups = self._ledger.consume(version, self._ledger.wanted(step))
        self._expire(version + 1)  # before the engines are given the next weights
        self._fill()
        self._ledger.check()
        seen, self._seen = sorted(self._seen, key=lambda g: g.group_id), []
        times = self._generating.take(), self._verifying.take()
        return Collected(groups, seen, *times, rounds=1, waited_s=self._clock() - started)

    def _check(self) -> None:
        self._engines.check()
        if self._failure is not None:
            raise service_failure(self._failure) from self._failure
        if self._engines.fleet.lost():
            raise ServiceFailure("all rollout engines died too often: see the notes above")

    def _silence(self) -> str:
        states = ", ".join(f"{name} is {m.state}" for name, m in self._engines.fleet.members.items())
        return f"no group came back within engine.timeout_s={self._timeout_s} s ({states})"

    def _expire(self, version: int) -> None:
        """Cancel what is too old for `version`, on the engines as well: nobody waits for it."""
        for group_id in self._ledger.expired(version):
            self._ledger.drop(group_id, "stale", "too old before its turn came")
            self._forget(group_id)

    # --- the flow ---

    def _fill(self) -> None:
        """Give engines what they have room for: first the groups that lost theirs, then new ones."""
        fleet = self._engines.fleet
        for name, stats in self._engines.stats.items():
            if "sequences" in stats and stats is not self._observed.get(name):
                self._observed[name] = stats
                self.slots.observe(name, *stats["sequences"])
        while (name := self.slots.free(fleet.usable())) is not None:
            if self._orphans:
                group_id = self._orphans.pop(0)
                self._ledger.again(group_id, fleet.current)
            elif self._step and self._room():
                group_id = self._ledger.dispatch(fleet.current)
                (self._problems[group_id],) = self._source.take(1)
            else:
                return
            self.slots.give(name, group_id)
            self._tasks[group_id] = asyncio.create_task(self._run(name, group_id))

    def _room(self) -> int:
        """Groups that may be begun: the ledger's capacity, and no more than the run still needs."""
        ledger = self._ledger
        needed = self._total_steps * ledger.batch - ledger.accepted - len(ledger.running)
        return min(ledger.capacity(self._step), needed)

    async def _run(self, name: str, group_id: int) -> None:
        try:
            group = await self._generate(name, group_id)
            if group is not None:
                with self._verifying:
                    self._settle(await self._judge(group))
        except Lost:
            self._orphans.append(group_id)
        except Exception as error:
            self._failure = error
        finally:
            if self._tasks.get(group_id) is asyncio.current_task():
                del self._tasks[group_id]
            self._moved.set()
        self._fill()

    async def _generate(self, name: str, group_id: int) -> RolloutGroup | None:
        self._attempts += 1
        seed = wave_seed(self._seed, group_id, self._attempts)
        arguments = (group_id, self._problems[group_id], self._group_size, self._sampling, seed)
        arguments += tuple(self._planning)
        try:
            with self._generating:
                return await self._engines.ask(name, "group", *arguments)
        finally:
            self.slots.end(name, group_id)
            self._fill()

    def _settle(self, group: RolloutGroup) -> None:
        group_id = group.group_id
        if group_id not in self._ledger.running:  # cancelled while it was verified
            return
        self._seen.append(group)
        del self._problems[group_id]
        reason = self._keep(group)
        if reason:
            self._ledger.drop(group_id, "filtered", reason, self._refill)
        else:
            self._ledger.accept(group)

    def _forget(self, group_id: int) -> None:
        """Stop working on a group, wherever it is."""
        self._problems.pop(group_id, None)
        if group_id in self._orphans:
            self._orphans.remove(group_id)
        task = self._tasks.pop(group_id, None)
        if task is not None:
            task.cancel()
        for name, held in self.slots.held.items():
            if group_id in held:
                self.slots.end(name, group_id)
                self._engines.tell(name, "cancel", group_id)

    # --- checkpoints and recovery ---

    def in_flight(self) -> dict[str, Any]:
        """What a checkpoint keeps of the groups that are not at an end: finished ones whole, others as problems."""
        return {"ready": list(self._ledger.ready.values()), "running": dict(self._problems)}

    def restore(self, running: Mapping[int, Problem]) -> None:
        """Begin saved groups again, under their ids (the ledger has them running)."""
        self._problems, self._orphans, self._step = dict(running), sorted(running), 0

    async def reset(self) -> None:
        """Stop all work, here and on the engines. The ledger is left to be loaded anew."""
        tasks = list(self._tasks.values())
        for group_id in list(self._problems):
            self._forget(group_id)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._orphans, self._seen, self._failure, self._step = [], [], None, 0
