"""A problem that is planned before it is solved: P plans, n solutions of each, one tree with two levels of comparison.

Solutions are compared within one plan: they had the same prompt. Plans are compared across the plans of one problem,
each by the mean score of its solutions: what a plan is worth is what solvers make of it. A plan whose solutions could
not be judged has no score and takes no part. Solutions under different plans are never compared with each other: a
good solver under a bad plan would be punished for the plan. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from actors.messages import Problem, RolloutGroup, Verdict
from actors.planner import clean
from actors.prompts import parse_plan, plan_request, with_plan


@dataclass(frozen=True)
class Planning:
    """Which groups are planned before they are solved: a share of them, `plans` plans each.

    The others are asked as they are. A policy that only ever learns under plans forgets how to go without, and the
    other way round: what is served asks it both ways.
    """

    plans: int
    share: float = 1.0

    def of(self, group_id: int) -> int:
        """Plans of a group: the id alone says so, spread evenly, so that a group begun anew is of the same kind."""
        return self.plans if int((group_id + 1) * self.share) > int(group_id * self.share) else 0

    def prompts(self) -> float:
        """Prompts that are solved for a group, in the mean."""
        return 1 + (self.plans - 1) * self.share


def plan_problem(problem: Problem) -> Problem:
    """The same conversation, but for its last question, which asks for a plan."""
    return _asking(problem, plan_request(problem.question))


def solve_problem(problem: Problem, reply: str) -> Problem:
    """The problem with the plan of a planner's reply, without what states an answer; as it is where there is none."""
    plan = clean(parse_plan(reply))
    return _asking(problem, with_plan(problem.question, plan.text)) if plan.text else problem


def with_credit(group: RolloutGroup, parts: Sequence[RolloutGroup]) -> RolloutGroup:
    """The plans' group with its verified `parts`, one a plan, and a verdict on each plan: its solutions' mean score."""
    return replace(group, parts=tuple(parts), verdicts=tuple(_worth(part) for part in parts))


def _worth(part: RolloutGroup) -> Verdict:
    scores = [verdict.score for verdict in part.verdicts if verdict.status != "error"]
    if not scores:
        return Verdict("error", 0.0, reason="no solution under this plan could be judged")
    mean = sum(scores) / len(scores)
    return Verdict("correct" if mean >= 0.5 else "incorrect", mean, reason=f"mean of {len(scores)} solutions")


def _asking(problem: Problem, text: str) -> Problem:
    messages = list(problem.messages)
    last = max(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[last] = {**messages[last], "content": text}
    return replace(problem, messages=tuple(messages))
