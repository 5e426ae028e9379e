"""What may be trained on: where every group is, and how old it may be. Pure; no other file compares versions.

Invariants (checked by `check`, which the trainer calls every step):
- conservation: each dispatched group is in exactly one of running, ready, trained, filtered, stale, failed;
- admission: accepted + running <= (S + step) * B (the capacity rule of AReaL, arXiv 2505.24298, section 5). A filtered,
  stale or failed group gives its capacity back; what a step could not fill in its rounds is forfeited when it closes;
- consumption: `consume` takes the oldest first, and sweeps what became too old all the same (a restored run).

Together they bound staleness without throwing work away: `due` lets a step be taken only if the groups that it leaves
behind can still be trained on in time, which is so if, for each k <= S, at most k * B of them have a last chance within
k further steps (each takes B, the oldest first). What runs too long is waited for; and as admission leaves at most
S * B behind, most steps wait for nothing. So long answers are not selected against, as they are where stale groups are
thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    def expired(self, version: int) -> list[int]:
        """The running groups that are too old to be trained on by policy `version` or any later one."""
        return [group_id for group_id, begun in self.running.items() if version - begun > self.staleness]

    def due(self, step: int, version: int, wait: bool = True) -> bool:
        """Whether policy `version` may take `step` now; with `wait`, only if that lets no running group grow stale."""
        wanted = self.wanted(step)
        if len(self.ready) < wanted:
            return False
        return not wait or not self._hurried(version, wanted)

    def _hurried(self, version: int, taken: int) -> bool:
        """Whether, once the `taken` oldest ready groups are gone, more are left than the next steps can take in time,
        one that still runs among them."""
        left = [(begun, True) for begun in self.running.values()]
        left += [(self.ready[group_id].start_version, False) for group_id in self._oldest()[taken:]]
        for k in range(self.staleness + 1):
            last = [runs for begun, runs in left if begun + self.staleness <= version + k]
            if len(last) > k * self.batch and any(last):
                return True
        return False

    def _oldest(self) -> list[int]:
        """Ready groups, those that grow stale first before the others."""
        return sorted(self.ready, key=lambda group_id: (self.ready[group_id].start_version, group_id))

    def wanted(self, step: int) -> int:
        """How many groups `step` may still take."""
        return max(0, step * self.batch - self.counts["trained"] - self.forfeited)

    def dispatch(self, version: int) -> int:
        """Take a new group's id and count it as running under policy `version`."""
        group_id, self.next_id = self.next_id, self.next_id + 1
        self.running[group_id] = version
        return group_id

    def again(self, group_id: int, version: int) -> None:
        """A running group whose engine died is begun anew, under `version`; it stays the same group."""
        if group_id not in self.running:
            raise ConservationError(f"group {group_id} does not run, so it cannot be begun again")
        self.running[group_id] = version

    def accept(self, group: RolloutGroup) -> None:
        """A verified group that may be trained on."""
        self._leave_running(group.group_id)
        self.ready[group.group_id] = group

    def drop(self, group_id: int, outcome: str, reason: str, refill: bool = True) -> None:
        """A running group ends as filtered, stale or failed, for a reason that is counted.

        Unless `refill`, its place in the batch stays empty.
        """
        if outcome not in ("filtered", "stale", "failed"):
            raise ValueError(f"a group cannot be dropped as {outcome!r}")
        self._leave_running(group_id)
        self._count(outcome, reason)
        self.forfeited += not refill

    def consume(self, version: int, most: int | None = None) -> list[RolloutGroup]:
        """Up to `most` (B) ready groups, the oldest, to be trained on by policy `version`, in the order of their ids.

        Too old ones become stale.
        """
        for group_id in [g for g, group in self.ready.items() if version - group.start_version > self.staleness]:
            del self.ready[group_id]
            self._count("stale", "too old when its turn came")
        most = self.batch if most is None else most
        taken = [self.ready.pop(group_id) for group_id in sorted(self._oldest()[:most])]
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
        """Counters for a checkpoint, and which groups are in flight: what they hold is the dispatcher's to keep."""
        if self.staleness == 0 and (self.running or self.ready):
            raise ConservationError("with staleness 0 a checkpoint is taken between steps, when no group is in flight")
        return {
            "next_id": self.next_id,
            "forfeited": self.forfeited,
            "counts": dict(self.counts),
            "reasons": dict(self.reasons),
            "running": sorted(self.running),
            "ready": sorted(self.ready),
        }

    def load_state_dict(self, state: dict[str, Any], ready: Sequence[RolloutGroup] = (), version: int = 0) -> None:
        """Go on from `state_dict`. `ready` are the groups that it names so; those that ran are begun again.

        Raises ConservationError where other groups are given.
        """
        if sorted(g.group_id for g in ready) != state.get("ready", []):
            raise ConservationError("a checkpoint's ready groups are not those that its ledger names")
        self.next_id, self.forfeited = state["next_id"], state["forfeited"]
        self.counts, self.reasons = dict(state["counts"]), dict(state["reasons"])
        self.running = dict.fromkeys(state.get("running", []), version)
        self.ready = {group.group_id: group for group in ready}
        self.check()

    def _leave_running(self, group_id: int) -> None:
        if group_id not in self.running:
            raise ConservationError(f"group {group_id} ended twice, or was never dispatched")
        del self.running[group_id]

    def _count(self, outcome: str, reason: str) -> None:
        self.counts[outcome] += 1
        self.reasons[f"{outcome}: {reason}"] = self.reasons.get(f"{outcome}: {reason}", 0) + 1
