"""Who wins among candidates, and when that is decided: pure, from what is known of each candidate so far.

The order of precedence: the question's own examples passed, votes (answers of one cluster vote together), the judge,
confidence. Only candidates that finished take part: one that failed, was cut off by the deadline or was cancelled never
wins, and one good candidate is an answer.

When to stop is one rule. Let the leader have a votes more than nobody, the runner-up b, and let r candidates still run.
With a uniform prior on the share p of the two that goes to the leader, p is Beta(a+1, b+1) after these votes, and of
the next r votes the leader gets k with the beta-binomial probability. The chance that the leader is still ahead in the
end, if all other votes went to the runner-up, is the sum over the k with a + k > b + r - k. At `stop_at` = 1 nothing
but certainty stops (a - b > r); below, this is the Beta criterion of adaptive consistency (Aggarwal et al., "Let's
Sample Step by Step", EMNLP 2023) for a finite number of samples: its P(p > 1/2) is the limit for large r.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Literal

State = Literal["running", "finished", "failed", "late", "cancelled"]

MAX_JUDGED = 4  # answers that a tie is judged between: 12 comparisons with both orders


@dataclass(frozen=True)
class Candidate:
    """What is known of one candidate. `running` includes those that have not started.

    `cluster` numbers equal answers (-1: no answer that could be compared), `passed` is the result on the question's own
    examples (None: there are none), `confidence` the mean logprob of its tokens, `complete` whether it ended by itself
    with a text that is not empty.
    """

    index: int
    state: State = "running"
    cluster: int = -1
    passed: bool | None = None
    confidence: float | None = None
    complete: bool = True

    @property
    def tier(self) -> int:
        """What votes count within: 4 passed, 3 an answer, 2 failed the examples, 1 only text, 0 cut off or empty."""
        if self.cluster >= 0:
            return {True: 4, None: 3, False: 2}[self.passed]
        return int(self.complete)


@dataclass(frozen=True)
class Decision:
    """The state of the vote. `leader` is the candidate that wins if nothing more happens (None: nobody finished).

    `decided`: what still runs is not worth waiting for. `tied` are the candidates, one for each answer, between which
    only confidence decided; a judge may. `votes` are those of the leader's answer, `voters` of all in its tier.
    """

    leader: int | None
    decided: bool
    tied: tuple[int, ...]
    votes: int
    voters: int
    why: str


def decide(
    candidates: Iterable[Candidate], *, stop_at: float = 1.0, points: Mapping[int, float] | None = None
) -> Decision:
    """The vote among the candidates, in any order. `points` are a judge's, by candidate (see `tournament`).

    `stop_at` in (0.5, 1] is the probability of staying ahead at which the leader has won.
    """
    if not 0.5 < stop_at <= 1.0:
        raise ValueError(f"stop_at is a probability above 0.5, not {stop_at}")
    candidates = sorted(candidates, key=lambda candidate: candidate.index)
    remaining = sum(candidate.state == "running" for candidate in candidates)
    finished = [candidate for candidate in candidates if candidate.state == "finished"]
    if not finished:
        return Decision(None, not remaining, (), 0, 0, "no candidate finished")
    tier = max(candidate.tier for candidate in finished)
    voters = [candidate for candidate in finished if candidate.tier == tier]
    ranked = _ranked(voters, points or {})
    first = ranked[0]
    second = len(ranked[1]) if len(ranked) > 1 else 0
    tied = _tied(ranked, points or {}) if tier else ()  # nothing to choose among what was cut off
    decided = not remaining or (
        _could_not_be_outranked(tier, finished) and p_stays_ahead(len(first), second, remaining) >= stop_at
    )
    stopped = any(candidate.state == "cancelled" for candidate in candidates)
    why = _why(tier, first, voters, finished, tied, points or {}, stopped)
    return Decision(_best(first).index, decided, tied, len(first), len(voters), why)


def p_stays_ahead(leader: int, runner_up: int, remaining: int) -> Fraction:
    """The probability that the leader's votes exceed the runner-up's in the end (formula in the module docstring).

    Exact: 1 if and only if no remaining votes could change it.
    """
    a, b, r = leader + 1, runner_up + 1, remaining
    # beta-binomial with integer parameters: C(k+a-1, k) C(r-k+b-1, r-k) / C(r+a+b-1, r)
    ahead = (k for k in range(r + 1) if leader + k > runner_up + r - k)
    ways = sum(comb(k + a - 1, k) * comb(r - k + b - 1, r - k) for k in ahead)
    return Fraction(ways, comb(r + a + b - 1, r))


def _could_not_be_outranked(tier: int, finished: Sequence[Candidate]) -> bool:
    """Whether no running candidate can come into a higher tier: the question has no examples, or they were passed."""
    tested = any(candidate.passed is not None for candidate in finished)
    return tier == 4 or (tier == 3 and not tested)


def _ranked(voters: Sequence[Candidate], points: Mapping[int, float]) -> list[list[Candidate]]:
    """The voters by answer, the best answer first: votes, the judge's points, confidence, the first to be asked."""
    answers: defaultdict[tuple[int, int], list[Candidate]] = defaultdict(list)
    for voter in voters:
        key = (voter.cluster, -1) if voter.cluster >= 0 else (-1, voter.index)  # without an answer each stands alone
        answers[key].append(voter)
    return sorted(
        answers.values(),
        key=lambda group: (-len(group), -_points(group, points), -_confidence(group), group[0].index),
    )


def _points(group: Sequence[Candidate], points: Mapping[int, float]) -> float:
    return max(points.get(candidate.index, 0.0) for candidate in group)


def _confidence(group: Sequence[Candidate]) -> float:
    """The mean confidence of those that have one; none is below all."""
    known = [candidate.confidence for candidate in group if candidate.confidence is not None]
    return sum(known) / len(known) if known else float("-inf")


def _best(group: Sequence[Candidate]) -> Candidate:
    """Of equal answers, the complete and most confident one."""
    return min(group, key=lambda candidate: (not candidate.complete, -_confidence([candidate]), candidate.index))


def _tied(ranked: Sequence[Sequence[Candidate]], points: Mapping[int, float]) -> tuple[int, ...]:
    """The best candidate of each answer with as many votes and points as the first; empty if there is no other."""
    first = ranked[0]
    level = [g for g in ranked if len(g) == len(first) and _points(g, points) == _points(first, points)]
    return tuple(_best(group).index for group in level[:MAX_JUDGED]) if len(level) > 1 else ()


def _why(
    tier: int,
    first: Sequence[Candidate],
    voters: Sequence[Candidate],
    finished: Sequence[Candidate],
    tied: Sequence[int],
    points: Mapping[int, float],
    stopped: bool,
) -> str:
    """The reason for people, in one line."""
    if len(finished) == 1:
        reason = "by far the surest, the others were stopped" if stopped else "the only candidate that finished"
    elif len(voters) == 1:
        only = {4: "passed the question's examples", 3: "states an answer"}
        reason = f"the only one that {only.get(tier, 'is left')}"
    elif tied:
        reason = f"{len(tied)} answers are level, this is the most confident one"
    elif points and _points(first, points) > 0:
        reason = "the judge preferred it among level answers"
    else:
        reason = f"{len(first)} of {len(voters)} agree"
    also = {4: "; passed the question's examples", 2: "; none passed the question's examples", 0: "; cut off"}
    return reason + ("" if len(voters) == 1 and tier == 4 else also.get(tier, ""))


# --- judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opinion:
    """A judge's choice between two candidates shown in this order; `preferred` None: it had none, or failed."""

    first: int
    second: int
    preferred: int | None


def pairs(tied: Sequence[int]) -> list[tuple[int, int]]:
    """Every pair in both orders."""
    return [order for a, b in combinations(tied, 2) for order in ((a, b), (b, a))]


def tournament(opinions: Iterable[Opinion]) -> dict[int, float]:
    """Points of each candidate: of a pair, one point for whom every opinion prefers, half a point each otherwise.

    A judge that goes by the order in which it is shown two answers contradicts itself when that is swapped, and so
    decides nothing; a judge without an opinion in one order counts by the other.
    """
    preferred: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for opinion in opinions:
        pair = min(opinion.first, opinion.second), max(opinion.first, opinion.second)
        preferred[pair].update([opinion.preferred] if opinion.preferred is not None else [])
    points: dict[int, float] = defaultdict(float)
    for pair, choices in preferred.items():
        for candidate in pair:
            points[candidate] += 0.5 if len(choices) != 1 else float(candidate in choices)
    return dict(points)
