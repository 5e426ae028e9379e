"""Equal Ray actors that may die: asks those that the Fleet allows, restarts the dead, gives the stale their weights.

One keeper a member does whatever its state asks for (restart, load), so that a publication and a recovery are one
path. Requests are plain awaited calls of the caller's; probes and the loading of weights go through RLlib's
FaultTolerantActorManager, which `Broadcaster` wraps.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from actors.fleet import Fleet, State

PROBE_S, POLL_S, RETRY_S = 2.0, 0.004, 0.5


class Lost(Exception):
    """The actor died with the request: it may be given to another."""


class AllLost(Exception):
    """All members are retired."""


class NotStarted(RuntimeError):
    """The actor is a new process that nobody has started yet: the one that was asked is gone."""


class Managed:
    """What RLlib's manager asks of an actor; mixed into the async actor classes where they are made remote."""

    async def ping(self) -> dict[str, Any]:
        return await self.status()

    async def apply(self, func: Callable, *arguments: Any, **named: Any) -> Any:
        result = func(self, *arguments, **named)
        return await result if hasattr(result, "__await__") else result


def is_death(error: BaseException) -> bool:
    """Whether an error says that the actor, its node or its engine is gone, and not that a request was wrong.

    A result may be lost with its node although the actor had answered: the request is to be done again then as well.
    """
    from ray.exceptions import ObjectLostError, RayTaskError

    lost = isinstance(error, ObjectLostError) and not isinstance(error, RayTaskError)
    return lost or is_gone(error) or _cause(error) == "EngineClosed"


def is_gone(error: BaseException) -> bool:
    """Whether the process is gone already, so that it need not be killed to be restarted.

    A task's error that wraps an actor's is none: what the task was given came of another actor, and that one died.
    """
    from ray.exceptions import RayActorError, RayTaskError

    gone = isinstance(error, RayActorError) and not isinstance(error, RayTaskError)
    return gone or _cause(error) == "NotStarted"


def _cause(error: BaseException) -> str:
    """The name of the class that was raised, here or in an actor."""
    return type(getattr(error, "cause", None) or error).__name__


def managed(actor_class: type) -> type:
    """The class with what RLlib's manager asks of it."""
    return type(actor_class.__name__, (Managed, actor_class), {"__module__": actor_class.__module__})


class Caller(Protocol):
    async def call(self, name: str, method: str, timeout_s: float, **named: Any) -> Any:
        """The method's result. Raises what it raises, or TimeoutError."""

    def renew(self, name: str) -> None:
        """The member was restarted: forget what was known of it."""


class Broadcaster:
    """RLlib's FaultTolerantActorManager behind `await`. Each call has a tag of its own, by which its result is known
    (the manager drops calls above a cap per tag, and forgets what a dead actor ran)."""

    def __init__(self, handles: Mapping[str, Any]):
        from ray.rllib.utils.actor_manager import FaultTolerantActorManager

        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)  # the fleet tells of deaths
        self._ids = {name: i for i, name in enumerate(handles)}
        self._manager = FaultTolerantActorManager(list(handles.values()), 1)
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[int, asyncio.Future[Any]]] = {}
        self._poller: asyncio.Task | None = None

    async def call(self, name: str, method: str, timeout_s: float, **named: Any) -> Any:
        tag, future = str(next(self._numbers)), asyncio.get_running_loop().create_future()
        self._waiting[tag] = (self._ids[name], future)
        try:
            self._manager.foreach_actor_async(
                method, tag, kwargs=named, healthy_only=False, remote_actor_ids=[self._ids[name]]
            )
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll())
            async with asyncio.timeout(timeout_s):  # wait_for may swallow a cancellation (Python 3.11)
                return await future
        finally:
            self._waiting.pop(tag, None)

    def renew(self, name: str) -> None:
        self._manager.set_actor_state(self._ids[name], True)

    async def _poll(self) -> None:
        """While anything is waited for: the manager's results to their futures. It has no event to wait on."""
        while self._waiting:
            try:
                results = self._manager.fetch_ready_async_reqs(timeout_seconds=0.0)
            except Exception as error:  # no answer of an actor, and so everybody's
                for _, future in self._waiting.values():
                    future.done() or future.set_exception(error)
                raise
            for result in results:
                _, future = self._waiting.get(result.tag, (None, None))
                if future is not None and not future.done():
                    future.set_result(result.get()) if result.ok else future.set_exception(result.get())
                if not result.ok:
                    self._fail_others(result.actor_id, result.get())
            await asyncio.sleep(POLL_S)

    def _fail_others(self, actor: int, error: Exception) -> None:
        for other, future in self._waiting.values():
            if other == actor and not future.done() and is_gone(error):
                future.set_exception(error)


class Pool:
    """`handles` by name, as `fleet` allows. `restart(name, kill)` brings a member up again, ready but for its weights.

    `drain`: weights are loaded only once nothing runs on the member; else between two steps of its engine. `changed`
    is called after every transition. `timeout_s` bounds each restart, load, and the silence of a member at work.
    """

    def __init__(
        self,
        fleet: Fleet,
        handles: Mapping[str, Any],
        caller: Caller,
        restart: Callable[[str, bool], Awaitable[None]],
        *,
        timeout_s: float,
        drain: bool = False,
        probe_s: float = PROBE_S,
    ):
        self.fleet, self.handles = fleet, handles
        self._caller, self._restart, self._timeout_s = caller, restart, timeout_s
        self._drain, self._probe_s = drain, probe_s
        self._weights: Any = None
        self._kill: set[str] = set()
        self._turn = -1
        self._births: dict[str, int] = dict.fromkeys(handles, 0)  # how often each was brought up again
        self.running: dict[str, int] = dict.fromkeys(handles, 0)
        self.stats: dict[str, dict[str, Any]] = {name: {} for name in handles}
        self.changed: list[Callable[[], None]] = []
        self._moved = asyncio.Event()  # set, and replaced by a new one, whenever something changed
        self._tasks: list[asyncio.Task] = []
        self._failure: BaseException | None = None

    # --- requests ---

    async def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """The result of a request to `name`. Raises Lost where the actor died, else what the method raises."""
        self.running[name] += 1
        birth = self._births[name]
        try:
            return await getattr(self.handles[name], method).remote(*arguments)
        except Exception as error:
            if not is_death(error):
                raise
            self.died(name, error, birth)
            raise Lost(name) from error
        finally:
            self.running[name] -= 1
            self._stir()

    async def ask_any(self, method: str, *arguments: Any) -> Any:
        """The result of a request to whoever may be asked, in turn; given to the next one where it dies.

        Raises AllLost where nobody is left, TimeoutError where nobody could be asked in time, else what it raises.
        """
        while True:
            async with asyncio.timeout(self._timeout_s):
                while not (usable := self.fleet.usable()):
                    if self.fleet.lost():
                        raise AllLost(f"{', '.join(self.handles)} died too often")
                    await self._moved.wait()
            self._turn += 1
            try:
                return await self.ask(usable[self._turn % len(usable)], method, *arguments)
            except Lost:
                continue

    def birth(self, name: str) -> int:
        """Which of its lives the member is in: what a request that fails later died with (see `died`)."""
        return self._births[name]

    async def back(self, name: str) -> bool:
        """Wait until a member that died may be asked again; False where it is retired, or does not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._timeout_s):
                while self.fleet.state(name) not in (State.HEALTHY, State.RETIRED):
                    self.check()
                    await self._moved.wait()
        return self.fleet.state(name) == State.HEALTHY

    def tell(self, name: str, method: str, *arguments: Any) -> None:
        """A request without an answer; one that cannot be delivered is no loss."""
        getattr(self.handles[name], method).remote(*arguments)

    def died(self, name: str, error: BaseException, birth: int | None = None) -> None:
        """A caller saw it die; `birth`: which of its lives that was, where it may be over and the next one begun."""
        if birth is not None and (birth != self._births[name] or self.fleet.state(name) == State.RESTARTING):
            return
        if not is_gone(error):
            self._kill.add(name)
        self.fleet.died(name, " ".join(f"{type(error).__name__}: {error}".split())[:160])
        self._stir()

    # --- weights ---

    def publish(self, version: int, weights: Any, anew: bool = False) -> None:
        """From now on only members that hold `version` are asked; all are given `weights`, each when it can be.

        `anew`: what they hold under whatever number is none of the weights to come (a run that went back).
        """
        self._weights = weights
        if anew:
            self.fleet.forget()
        self.fleet.publish(version)
        self._stir()

    async def settle(self, timeout_s: float) -> None:
        """Until all members that are not retired may be asked. Raises TimeoutError, or what ended a keeper."""
        async with asyncio.timeout(timeout_s):
            while not self.fleet.settled():
                self.check()
                await self._moved.wait()
        self.check()

    def check(self) -> None:
        """Raise what ended one of the pool's tasks: never a silent death."""
        if self._failure is not None:
            raise self._failure

    # --- keepers ---

    def open(self) -> None:
        """Start keeping and probing. Idempotent."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._guard(self._keep(name))) for name in self.handles]
            self._tasks += [asyncio.create_task(self._guard(self._watch(name))) for name in self.handles]

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._failure = error
            self._stir()

    async def _keep(self, name: str) -> None:
        """Do what the member's state asks for, for ever."""
        fleet = self.fleet
        while fleet.state(name) != State.RETIRED:
            state = fleet.state(name)
            if state == State.DEAD:
                await self._bring_up(name)
            elif state == State.STALE and not (self._drain and self.running[name]):
                await self._load(name)
            else:
                await self._moved.wait()
                continue
            self._stir()

    async def _bring_up(self, name: str) -> None:
        kill, _ = name in self._kill, self._kill.discard(name)
        self.fleet.restarting(name)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._restart(name, kill)
            self._caller.renew(name)
            self._births[name] += 1
            self.fleet.started(name)
        except Exception as error:
            await asyncio.sleep(RETRY_S)
            self.died(name, error)

    async def _load(self, name: str) -> None:
        version, weights = self.fleet.current, self._weights
        try:
            if weights is not None:
                await self._caller.call(name, "load", self._timeout_s, weights=weights, version=version)
        except Exception as error:  # what it holds now is unknown, so it is as good as dead
            self.died(name, error)
        else:
            self.fleet.holds(name, version)

    async def _watch(self, name: str) -> None:
        while self.fleet.state(name) != State.RETIRED:
            await asyncio.sleep(self._probe_s)
            await self.probe(name)

    async def probe(self, name: str) -> None:
        """Ping it; one that runs requests and makes no step in the meantime is late as well."""
        down, birth = (State.DEAD, State.RESTARTING, State.RETIRED), self._births[name]
        if self.fleet.state(name) in down:
            return
        try:
            stats = await self._caller.call(name, "ping", self.fleet.silent_s / 2)
        except TimeoutError:
            self.fleet.late(name, "no answer to a ping")
            self._kill |= {name} if self.fleet.state(name) == State.DEAD else set()
        except Exception as error:
            if self.fleet.state(name) not in down:
                self.died(name, error, birth)
        else:
            if self.fleet.state(name) not in down:
                self._judge_stats(name, stats)
        self._stir()

    def _judge_stats(self, name: str, stats: dict[str, Any]) -> None:
        before, self.stats[name] = self.stats[name], stats
        if stats.get("running") and stats.get("steps") is not None and stats["steps"] == before.get("steps"):
            self.fleet.late(name, f"runs {stats['running']} requests and makes no step")
        else:
            self.fleet.heard(name)
        self._kill |= {name} if self.fleet.state(name) == State.DEAD else set()

    def _stir(self) -> None:
        """Wake the keepers and those who wait, and tell the subscribers."""
        self._moved.set()
        self._moved = asyncio.Event()
        for tell in self.changed:
            tell()
