"""Which problems an epoch asks, in which order, and how long their answers may be. Pure.

Before training, problems are left out by published pass rates, as Guru's filter was meant to do (keep what a strong
model solves sometimes and a weak one not nearly always). Between epochs, the policy's own pass rates decide: all
problems solved sometimes stay, those always or never solved up to a share of them; DAPO's drop of solved problems is a
share of 0. Length budgets follow the lengths of solved answers. Both after branch diff_aware of LLM360/Reasoning360.

Three faults of that code are not repeated: its filter looked problems up under other names than it had filed them
under and left out none (a rate that no problem has is refused here); problems that share an index counted as one (ids
are made unique when they are read); a set that was never measured had rate 0 everywhere and would have gone (kept).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.messages import Problem, RolloutGroup
from conf.errors import UserError
from conf.schema import CurriculumConfig

WEAK, STRONG = "qwen2.5_7b_pass_rate", "qwen3_30b_pass_rate"  # the columns of Guru's files
FIRST_BUDGET = 0.75  # of the longest answer, before a problem was seen
MASTERED, SLACK = 0.9, 1.2  # ours: above this pass rate the budget is the longest solved answer and some slack


@dataclass(frozen=True)
class Record:
    """How a problem went when it was last asked: attempts with a verdict, solved ones, tokens of these."""

    tries: int
    solved: int
    longest: int
    tokens: int

    @property
    def rate(self) -> float:
        return self.solved / self.tries


def record_of(group: RolloutGroup) -> Record | None:
    """A group's record; None where no completion has a verdict, since failed checks say nothing of the problem."""
    valid = [(v, len(c.token_ids)) for answered in group.answers
             for c, v in zip(answered.completions, answered.verdicts, strict=True) if v.status != "error"]
    lengths = [length for verdict, length in valid if verdict.status == "correct"]
    return Record(len(valid), len(lengths), max(lengths, default=0), sum(lengths)) if valid else None


def by_published_rates(problems: Sequence[Problem], cfg: CurriculumConfig) -> list[Problem]:
    """The problems within `strong_above` and `weak_below`. Unknown rates are no reason to leave a problem out.

    Raises:
        UserError: a threshold is set for a rate that no problem has, or nothing is left.
    """
    kept = list(problems)
    for column, wanted, name in ((STRONG, cfg.strong_above >= 0, "strong_above"),
                                 (WEAK, cfg.weak_below > 0, "weak_below")):
        if not wanted:
            continue
        rates = _measured(problems, column)
        if not rates:
            raise UserError(f"curriculum.{name} needs the column {column}, which no problem of data.train has: "
                            f"add it, or remove curriculum.{name}")
        kept = [p for p in kept if p.id not in rates or (
            rates[p.id] > cfg.strong_above if column == STRONG else rates[p.id] < cfg.weak_below)]
    if not kept:
        raise UserError("curriculum.strong_above and curriculum.weak_below leave no problem: lower the first or "
                        "raise the second")
    return kept


def _measured(problems: Sequence[Problem], column: str) -> dict[str, float]:
    """Rates by problem, without those of sources whose every rate is 0: these were never measured."""
    rates = {p.id: float(p.extra_info[column]) for p in problems if p.extra_info.get(column) is not None}
    real = {p.data_source for p in problems if rates.get(p.id, 0.0) > 0}
    return {p.id: rates[p.id] for p in problems if p.id in rates and p.data_source in real}


def select(rates: Sequence[float | None], easy: float, hard: float, seed: str) -> list[int]:
    """Positions that an epoch asks, shuffled: all with a rate between 0 and 1 or none known, and of those at 1 and
    at 0 at most `easy` and `hard` times as many (-1: all). Everything where that leaves nothing."""
    order = list(range(len(rates)))
    random.Random(seed).shuffle(order)
    medium = sum(1 for rate in rates if rate is None or 0 < rate < 1)
    room = {1.0: easy * medium, 0.0: hard * medium}
    unlimited = {1.0: easy < 0, 0.0: hard < 0}
    kept = []
    for position in order:
        rate = rates[position]
        if rate not in room or unlimited[rate]:
            kept.append(position)
        elif room[rate] >= 1:
            room[rate] -= 1
            kept.append(position)
    return kept or order


def length_budget(record: Record | None, least: int, most: int) -> int:
    """Tokens that an answer may have, in [least, most].

    A mastered problem gets its longest solved answer and some slack, any other one the more room above its longest
    solved answer the less often it is solved.
    """
    if record is None:
        budget = FIRST_BUDGET * most
    elif record.rate > MASTERED:
        budget = SLACK * record.longest
    else:
        budget = record.longest + (most - record.longest) * (1 - record.rate)
    return int(min(most, max(least, budget)))


class Curriculum:
    """An endless stream of a finite set of problems: `next()`, and `record(groups)` for what came of them.

    The same configuration and the same records give the same stream; `state_dict` holds both and the position.
    """

    def __init__(self, problems: Sequence[Problem], cfg: CurriculumConfig, max_tokens: int, seed: int):
        self.problems = by_published_rates(problems, cfg)
        self._cfg, self._most, self._seed = cfg, max_tokens, seed
        self._published = _measured(self.problems, STRONG)
        self._known = {p.id for p in self.problems}
        self.records: dict[str, Record] = {}
        self._adapts = cfg.easy >= 0 or cfg.hard >= 0 or cfg.min_budget > 0
        self._begin(0)

    def next(self) -> Problem:
        if self._index == len(self._order):
            self._begin(self.epoch + 1)
        position, budget = self._order[self._index]
        self._index += 1
        return replace(self.problems[position], max_tokens=budget) if budget else self.problems[position]

    def record(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Remember how problems went; returns the step's metrics."""
        for group in groups:
            if group.problem.id in self._known and (record := record_of(group)) is not None:
                self.records[group.problem.id] = record
        rates = [record.rate for record in self.records.values()]
        count = max(len(rates), 1)
        return {
            "curriculum/epoch": self.epoch,
            "curriculum/problems": len(self._order),
            "curriculum/solved": sum(rate == 1 for rate in rates) / count,
            "curriculum/unsolved": sum(rate == 0 for rate in rates) / count,
        }

    def state_dict(self) -> dict[str, Any]:
        records = {i: [r.tries, r.solved, r.longest, r.tokens] for i, r in self.records.items()}
        state: dict[str, Any] = {"epoch": self.epoch, "index": self._index, "records": records}
        if self._adapts:  # else it follows from the seed
            state["order"] = " ".join(f"{position}:{budget}" for position, budget in self._order)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = {i: Record(*r) for i, r in state["records"].items()}
        self._begin(state["epoch"])
        if self._adapts:
            pairs = (entry.split(":") for entry in state["order"].split())
            self._order = [(int(position), int(budget)) for position, budget in pairs]
        self._index = state["index"]

    def _begin(self, epoch: int) -> None:
        self.epoch, self._index = epoch, 0
        chosen = select([self._rate(p) for p in self.problems], self._cfg.easy, self._cfg.hard, f"{self._seed}/{epoch}")
        self._order = [(position, self._budget(self.problems[position])) for position in chosen]
        if self._cfg.order == "short_first":
            self._order.sort(key=lambda entry: entry[1])

    def _rate(self, problem: Problem) -> float | None:
        """The policy's own, before it has one the strong model's."""
        record = self.records.get(problem.id)
        return record.rate if record else self._published.get(problem.id)

    def _budget(self, problem: Problem) -> int:
        least = self._cfg.min_budget
        return length_budget(self.records.get(problem.id), least, self._most) if least else 0
