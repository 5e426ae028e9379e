"""Engines, verifiers and problems for the evaluation's tests, without Ray."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from actors.checkers.compare import by_spelling
from actors.messages import Completion, Problem, RolloutGroup, Verdict


def problem(name: str, domain: str = "math", truth: str = "1", text: str | None = None) -> Problem:
    messages = ({"role": "user", "content": text or f"How much is it in the case of {name}?"},)
    return Problem(name, messages, f"{domain}__test", domain, f'"{truth}"')


class Judge:
    """A verifier: right is what ends with the truth. `failing` texts get an error."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.failing = False

    async def verify(self, problem: Problem, text: str) -> Verdict:
        self.seen.append((problem.id, text))
        if self.failing:
            return Verdict("error", 0.0, reason="the judge failed: connection refused")
        right = text.endswith(f"<answer>{problem.truth}</answer>")
        answer = text.rpartition("<answer>")[2].removesuffix("</answer>")
        return Verdict("correct" if right else "incorrect", float(right), extracted=answer)

    async def compare(self, question: str, texts: Sequence[str]):
        return by_spelling(texts)


class Rollout:
    """A rollout actor whose completions follow from the call's seed alone, as the real engine's do.

    `calls` counts the waves that it was asked for; at wave `fail_at` it fails.
    """

    def __init__(self, fail_at: int = -1) -> None:
        self.calls: list[int] = []
        self.fail_at = fail_at
        self.generate = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._generate))

    async def _generate(self, share, n, sampling, seed):
        self.calls.append(len(share))
        rng = random.Random(seed)
        order = [(group_id, p, [rng.randint(1, 3) for _ in range(n)]) for group_id, p in share]
        rng.shuffle(order)
        for place, (group_id, p, said) in enumerate(order):
            if len(self.calls) == self.fail_at and place == len(order) // 2:
                raise RuntimeError("killed in the middle of a wave")
            ids = np.arange(4, dtype=np.int32)
            completions = tuple(Completion(f"<answer>{number}</answer>", ids, -np.ones(4, np.float32), "stop", 0, 0)
                                for number in said)
            yield _referred(RolloutGroup(group_id, p, ids, completions))


async def _value(value: Any) -> Any:
    return value


def _referred(value: Any) -> Any:
    """As an object reference: awaited once."""
    return _value(value)


class Verifiers:
    """A verifier actor around a Judge."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.verify_group = SimpleNamespace(remote=self._verify_group)
        self.compare = SimpleNamespace(remote=judge.compare)

    async def _verify_group(self, reference: Any) -> RolloutGroup:
        from dataclasses import replace

        group = await reference
        verdicts = [await self.judge.verify(group.problem, c.text) for c in group.completions]
        return replace(group, verdicts=tuple(verdicts))
