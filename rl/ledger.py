"""What may be trained on: where every group is, and how old it may be. Pure; no other file compares versions.

Invariants (checked by `check`, which the trainer calls every step):
- conservation: each dispatched group is in exactly one of running, ready, trained, filtered, stale, failed;
- admission: accepted + running <= (S + step) * B, so that a group cannot be more than S versions old when its turn
  comes (the capacity rule of AReaL, arXiv 2505.24298, section 5). A filtered, stale or failed group gives its
  capacity back; what a step could not fill in its rounds is forfeited when the step closes;
- consumption: `consume` sweeps what became too old all the same (a slow engine, a restored run).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.messages import RolloutGroup

OUTCOMES = ("trained", "filtered", "stale", "failed")


class ConservationError(AssertionError):
    """A group was lost or counted twice: a bug, never a condition to go on from."""


@dataclass
class Ledger:
    """`batch` groups are wanted a step (B), each at most `staleness` versions old (S). Steps count from 1."""

    batch: int
    staleness: int = 0
    next_id: int = 0
    forfeited: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    running: dict[int, int] = field(default_factory=dict)  # group id -> version at dispatch
    ready: dict[int, RolloutGroup] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Groups that hold capacity for good: trained or waiting to be, and what closed steps left unfilled."""
        return self.counts["trained"] + len(self.ready) + self.forfeited

    def capacity(self, step: int) -> int:
        """How many groups may be dispatched now, in `step`."""
        return max(0, (self.staleness + step) * self.batch - self.accepted - len(self.running))

    def dispatch(self, version: int) -> int:
        """Take a new group's id and count it as running under policy `version`."""
        group_id, self.next_id = self.next_id, self.next_id + 1
        self.running[group_id] = version
        return group_id

    def accept(self, group: RolloutGroup) -> None:
        """A verified group that may be trained on."""
        self._leave_running(group.group_id)
        self.ready[group.group_id] = group

    def drop(self, group_id: int, outcome: str, reason: str) -> None:
        """A running group ends as filtered, stale or failed, for a reason that is counted."""
        if outcome not in ("filtered", "stale", "failed"):
            raise ValueError(f"a group cannot be dropped as {outcome!r}")
        self._leave_running(group_id)
        self._count(outcome, reason)

    def consume(self, version: int) -> list[RolloutGroup]:
        """Up to B ready groups, oldest id first, to be trained on by policy `version`; too old ones become stale."""
        for group_id in [g for g, group in self.ready.items() if version - group.start_version > self.staleness]:
            del self.ready[group_id]
            self._count("stale", "too old when its turn came")
        taken = [self.ready.pop(group_id) for group_id in sorted(self.ready)[: self.batch]]
        self.counts["trained"] += len(taken)
        return taken

    def close_step(self, step: int) -> None:
        """Forfeit the capacity that `step` did not use, or the next step would be allowed a larger batch."""
        self.forfeited += max(0, step * self.batch - self.accepted)

    def check(self) -> None:
        """Raise ConservationError unless the books balance."""
        held = len(self.running) + len(self.ready) + sum(self.counts.values())
        if held != self.next_id:
            raise ConservationError(f"{self.next_id} groups were dispatched, {held} are accounted for: {self.counts}")

    def state_dict(self) -> dict[str, Any]:
        """Counters for a checkpoint. Groups in flight are not kept: with S=0 a closed step has none."""
        if self.running or self.ready:
            raise ConservationError("a checkpoint is taken between steps, when no group is in flight")
        counts, reasons = dict(self.counts), dict(self.reasons)
        return {"next_id": self.next_id, "forfeited": self.forfeited, "counts": counts, "reasons": reasons}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_id, self.forfeited = state["next_id"], state["forfeited"]
        self.counts, self.reasons = dict(state["counts"]), dict(state["reasons"])
        self.running, self.ready = {}, {}

    def _leave_running(self, group_id: int) -> None:
        if group_id not in self.running:
            raise ConservationError(f"group {group_id} ended twice, or was never dispatched")
        del self.running[group_id]

    def _count(self, outcome: str, reason: str) -> None:
        self.counts[outcome] += 1
        self.reasons[f"{outcome}: {reason}"] = self.reasons.get(f"{outcome}: {reason}", 0) + 1
