"""What is in flight: sends problems to the rollout engines and their completions to the verifiers, group by group.

A wave is one call to each engine, so that the requests of a wave enter an engine together: with the wave's seed the
tokens are then the same in every run (exact resume). Verification starts as each group arrives, while the engines
still generate.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.engine import Sampling
from actors.fleet_pool import Pool, is_death
from actors.messages import Problem, RolloutGroup
from actors.planned import Planning, with_credit
from rl.ledger import Ledger
from rl.source import Source


class ServiceFailure(RuntimeError):
    """An actor died, did not answer in time, or verifiers failed too often: the run cannot go on."""


class ActorsLost(ServiceFailure):
    """Named actors died or did not answer in time; the run can go on once they are brought up again."""

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = tuple(names)


@dataclass
class Wave:
    """Where the seconds of a wave went: `generate` until the last completion, `verify` until the last verdict."""

    generate: float = 0.0
    verify: float = 0.0


@dataclass
class Collected:
    """A step's groups in the order of their ids; `seen` are all that were generated, filtered ones included."""

    groups: list[RolloutGroup]
    seen: list[RolloutGroup] = field(default_factory=list)
    generate_s: float = 0.0
    verify_s: float = 0.0
    rounds: int = 0
    waited_s: float = 0.0  # in which there was nothing to learn from (rl.staleness > 0)


def wave_seed(*parts: int) -> int:
    """A 63-bit seed from run seed, step, round and engine, unrelated for neighbours."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


async def run_wave(
    rollouts: Sequence[Any],
    verifiers: Sequence[Any],
    problems: Sequence[tuple[int, Problem]],
    n: int,
    sampling: Sampling,
    seed: tuple[int, ...],
    timeout_s: float,
    wave: Wave,
    keepers: Keepers | None = None,
    planning: Planning | None = None,
) -> AsyncIterator[RolloutGroup]:
    """Yield each group once it is verified. Raises ServiceFailure naming the actor that died or did not answer.

    With `keepers` a death costs time only: the share of an engine that died is asked of it again once it is back, with
    the same seed, which gives the same groups (those that had come already are left out); a verifier's is another's.
    """
    asked = (n, sampling, *([planning] if planning else []))
    running, started = _Running(rollouts, verifiers, asked, seed, keepers), time.perf_counter()
    shares = [problems[i :: len(rollouts)] for i in range(len(rollouts))]
    waiting = {group_id for group_id, _ in problems}
    try:
        running.begin(shares)
        while waiting:
            item = await asyncio.wait_for(running.verdicts.get(), timeout_s)
            if isinstance(item, Exception):
                raise service_failure(item) from item
            if item.group_id in waiting:
                waiting.discard(item.group_id)
                yield item
        wave.generate = running.generated_at - started
        wave.verify = time.perf_counter() - started - wave.generate
    except TimeoutError:
        late = f"no group came back within engine.timeout_s={timeout_s} s: a rollout or verifier hangs"
        raise ServiceFailure(late) from None
    finally:
        running.stop()


class _Running:
    """A wave on its way: each engine's share in one call, and each group to a verifier as it comes."""

    def __init__(self, rollouts: Sequence[Any], verifiers: Sequence[Any], asked: tuple[Any, ...],
                 seed: tuple[int, ...], keepers: Keepers | None):
        self._rollouts, self._next_verifier = rollouts, itertools.cycle(verifiers)
        self._asked, self._seed, self._keepers = asked, seed, keepers
        self.verdicts: asyncio.Queue[RolloutGroup | Exception] = asyncio.Queue()
        self.generated_at = time.perf_counter()  # when the last engine came to its end, so far
        self._tasks: list[asyncio.Task] = []

    def begin(self, shares: Sequence[Sequence[tuple[int, Problem]]]) -> None:
        self._tasks += [asyncio.create_task(self._drive(i, share)) for i, share in enumerate(shares) if share]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _judge(self, group: Any) -> None:
        try:
            ask = self._keepers.judge if self._keepers else next(self._next_verifier).verify_group.remote
            await self.verdicts.put(await ask(group))
        except Exception as error:
            await self.verdicts.put(error)

    async def _drive(self, index: int, share: Sequence[tuple[int, Problem]]) -> None:
        keepers, again = self._keepers, True
        n, sampling, *planning = self._asked
        while again:
            again, life = False, keepers.life(index) if keepers else 0
            arguments = [share, n, sampling, wave_seed(*self._seed, index), *planning]
            stream = self._rollouts[index].generate.options(num_returns="streaming").remote(*arguments)
            try:
                async for item in stream:  # that of an engine that dies does not raise: its last reference does
                    self._tasks.append(asyncio.create_task(self._judge(await item if keepers else item)))
            except Exception as error:
                again = keepers is not None and await keepers.revived(index, error, life)
                if not again:
                    await self.verdicts.put(error)
        self.generated_at = time.perf_counter()


@dataclass
class Keepers:
    """Who brings dead engines and verifiers back."""

    engines: Pool
    verifiers: Pool

    planning: Planning | None = None  # then groups may come with solutions as their parts

    async def judge(self, group: RolloutGroup) -> RolloutGroup:
        """The group, verified by whoever lives."""
        if not group.parts:
            return await self.verifiers.ask_any("verify_group", group)
        checks = (self.verifiers.ask_any("verify_group", part) for part in group.parts)
        return with_credit(group, await asyncio.gather(*checks))

    def life(self, index: int) -> int:
        """Of the engine: a death that is told late must not be taken for one of its next life's."""
        return self.engines.birth(list(self.engines.handles)[index])

    async def revived(self, index: int, error: Exception, life: int) -> bool:
        """Whether the engine that failed so, in that life, is there again, with the current weights."""
        if not is_death(error):
            return False
        name = list(self.engines.handles)[index]
        self.engines.died(name, error, life)
        return await self.engines.back(name)


def service_failure(error: Exception) -> Exception:
    from ray.exceptions import RayActorError, RayTaskError

    cause = getattr(error, "cause", None) or error
    if isinstance(error, RayActorError):
        return ServiceFailure(f"an actor died: {' '.join(str(error).split())[:300]}")
    if isinstance(error, RayTaskError) and type(cause).__name__ == "PromptTooLong":
        from conf.errors import UserError

        return UserError(str(cause))
    return ServiceFailure(f"generation or verification failed: {cause!r}"[:500])


class Dispatcher:
    """Collects the groups of one training step, refilling those that carry no signal."""

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        rollouts: Sequence[Any],
        verifiers: Sequence[Any],
        *,
        group_size: int,
        sampling: Sampling,
        refill_rounds: int,
        seed: int,
        timeout_s: float,
        keep: Callable[[RolloutGroup], str],
        keepers: Keepers | None = None,
    ):
        """`keep(group)` is "" for a group worth training on, else the reason why it is filtered."""
        self._source, self._ledger = source, ledger
        self._rollouts, self._verifiers = rollouts, verifiers
        self._group_size, self._sampling = group_size, sampling
        self._rounds, self._seed, self._timeout_s = 1 + refill_rounds, seed, timeout_s
        self._keep, self._keepers = keep, keepers

    async def collect(self, step: int, version: int, progress: Callable[[int, int], None]) -> Collected:
        """Dispatch within the ledger's capacity, round by round, and return what `version` may be trained on.

        A cancelled or failed call leaves no group running in the ledger: what did not come back is failed.
        """
        result, started = Collected([]), time.perf_counter()
        for round_number in range(self._rounds):
            wanted = self._ledger.capacity(step)
            if not wanted:
                break
            problems = [(self._ledger.dispatch(version), p) for p in self._source.take(wanted)]
            result.rounds += 1
            wave = Wave()
            try:
                await self._round(problems, (self._seed, step, round_number), wave, result, progress)
            finally:
                for group_id in list(self._ledger.running):
                    self._ledger.drop(group_id, "failed", "did not come back")
            result.generate_s += wave.generate
            result.verify_s += wave.verify
        result.groups = self._ledger.consume(version)
        self._ledger.close_step(step)
        self._ledger.check()
        result.seen.sort(key=lambda g: g.group_id)
        result.verify_s = min(result.verify_s, time.perf_counter() - started)
        return result

    async def _round(self, problems, seed, wave, result: Collected, progress) -> None:
        waves = run_wave(
            self._rollouts, self._verifiers, problems, self._group_size, self._sampling, seed, self._timeout_s, wave,
            self._keepers, self._keepers.planning if self._keepers else None,
        )
        done = 0
        async for group in waves:
            result.seen.append(group)
            reason = self._keep(group)
            if reason:
                self._ledger.drop(group.group_id, "filtered", reason)
            else:
                self._ledger.accept(group)
            done += 1
            progress(done, len(problems))
