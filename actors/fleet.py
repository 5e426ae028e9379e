"""Who of several equal actors may be asked: a pure state machine with a clock of the caller's.

What a state means for a caller:
- healthy: ask it;
- suspect: it did not answer in time; ask nothing new, wait for what it runs; it becomes healthy (or stale) when it is
  heard again, dead when it stays silent;
- dead: it is gone and so is all it ran; run that elsewhere. It cannot become healthy from here, only be restarted:
  what comes back has lost its weights;
- restarting: being brought up; ask nothing;
- stale: it lives, and does not hold the current weights: load them, ask nothing before. Every publication makes all
  engines stale, so a restarted engine and one that missed an update are the same case;
- retired: it died too often within a while; it is left alone for the rest of the run.

Actors without weights (verifiers) are never stale. actors/fleet_pool.py obeys this for Ray actors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    HEALTHY, SUSPECT, DEAD = "healthy", "suspect", "dead"
    RESTARTING, STALE, RETIRED = "restarting", "stale", "retired"


S = State
ALLOWED: dict[State, tuple[State, ...]] = {
    S.HEALTHY: (S.SUSPECT, S.DEAD, S.STALE, S.RETIRED),
    S.SUSPECT: (S.HEALTHY, S.STALE, S.DEAD, S.RETIRED),
    S.DEAD: (S.RESTARTING, S.RETIRED),
    S.RESTARTING: (S.STALE, S.HEALTHY, S.DEAD, S.RETIRED),
    S.STALE: (S.HEALTHY, S.SUSPECT, S.DEAD, S.RETIRED),
    S.RETIRED: (),
}


class ForbiddenMove(AssertionError):
    """A transition that no caller may ask for: a bug."""


@dataclass(frozen=True)
class Event:
    """One transition. `recovery_s` is set where it ends an outage: seconds since the death."""

    at: float
    name: str
    before: State
    after: State
    reason: str = ""
    recovery_s: float | None = None


@dataclass
class Member:
    state: State
    since: float
    version: int | None  # of the weights that it holds; None: unknown, or it has none
    deaths: list[float] = field(default_factory=list)
    fell_at: float | None = None  # when the outage began that has not ended


class Fleet:
    """The states of the actors `names`, all healthy (and at version `current`) to begin with.

    `silent_s`: a suspect that is not heard for so long is dead. More than `max_deaths` within `window_s` seconds
    retire a member. `listen` is told each Event.
    """

    def __init__(
        self,
        names: Iterable[str],
        clock: Callable[[], float],
        *,
        weights: bool = True,
        silent_s: float = 60.0,
        max_deaths: int = 5,
        window_s: float = 600.0,
        listen: Callable[[Event], None] = lambda event: None,
    ):
        self._clock, self._weights, self._listen = clock, weights, listen
        self.silent_s, self.max_deaths, self.window_s = silent_s, max_deaths, window_s
        self.current = 0
        self.members = {name: Member(S.HEALTHY, clock(), 0 if weights else None) for name in names}

    def state(self, name: str) -> State:
        return self.members[name].state

    def usable(self) -> list[str]:
        """Those that may be asked, in a fixed order."""
        return [name for name, member in self.members.items() if member.state == S.HEALTHY]

    def settled(self) -> bool:
        """Whether all that are not retired may be asked."""
        return all(m.state in (S.HEALTHY, S.RETIRED) for m in self.members.values())

    def lost(self) -> bool:
        """Whether all are retired: nobody will ever answer again."""
        return all(m.state == S.RETIRED for m in self.members.values())

    def heard(self, name: str) -> None:
        """It answered: a suspect is trusted again."""
        if self.state(name) == S.SUSPECT:
            self._move(name, self._awake(name), "answered again")

    def late(self, name: str, reason: str) -> None:
        """It did not answer in time: suspect, and dead once it has been so for `silent_s`."""
        member = self.members[name]
        if member.state in (S.HEALTHY, S.STALE):
            self._move(name, S.SUSPECT, reason)
        elif member.state == S.SUSPECT and self._clock() - member.since >= self.silent_s:
            self.died(name, f"silent for {self._clock() - member.since:.0f} s: {reason}")

    def died(self, name: str, reason: str) -> None:
        """It is gone. Told more than once, as by each request that it ran, it counts once."""
        member, now = self.members[name], self._clock()
        if member.state in (S.DEAD, S.RETIRED):
            return
        member.version = None
        member.deaths = [t for t in member.deaths if now - t < self.window_s] + [now]
        member.fell_at = now if member.fell_at is None else member.fell_at
        if len(member.deaths) > self.max_deaths:
            reason = f"{reason} ({len(member.deaths)} deaths within {self.window_s:.0f} s)"
            self._move(name, S.RETIRED, reason)
        else:
            self._move(name, S.DEAD, reason)

    def restarting(self, name: str) -> None:
        self._move(name, S.RESTARTING)

    def started(self, name: str) -> None:
        """It came up again: usable at once where it has no weights, else stale."""
        self._move(name, S.STALE if self._weights else S.HEALTHY)

    def publish(self, version: int) -> None:
        """`version` is the current one from now on: whoever does not hold it is stale."""
        self.current = version
        for name, member in self.members.items():
            if member.state == S.HEALTHY and member.version != version:
                self._move(name, S.STALE)

    def forget(self) -> None:
        """What the members hold is unknown from now on."""
        for member in self.members.values():
            member.version = None

    def holds(self, name: str, version: int) -> None:
        """It has loaded `version`: usable, unless a newer one is current already, or it died meanwhile."""
        member = self.members[name]
        if member.state not in (S.STALE, S.SUSPECT):
            return
        member.version = version
        if member.state == S.STALE and version == self.current:
            self._move(name, S.HEALTHY)

    def retire(self, name: str, reason: str) -> None:
        if self.state(name) != S.RETIRED:
            self._move(name, S.RETIRED, reason)

    def _awake(self, name: str) -> State:
        return S.HEALTHY if not self._weights or self.members[name].version == self.current else S.STALE

    def _move(self, name: str, after: State, reason: str = "") -> None:
        member, now = self.members[name], self._clock()
        if after not in ALLOWED[member.state]:
            raise ForbiddenMove(f"{name} cannot go from {member.state} to {after}")
        before, recovery = member.state, None
        if after == S.HEALTHY and member.fell_at is not None:
            recovery, member.fell_at = now - member.fell_at, None
        member.state, member.since = after, now
        self._listen(Event(now, name, before, after, reason, recovery))
