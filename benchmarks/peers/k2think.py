"""The K2-Think flow as a client of a plain model endpoint: what it asks for, in which order, and what it waits for.

Of LLM360's K2-Think-Inference (main.py, best_of_n with n=3): each of three samples makes its own two planner calls,
is the problem hard and which topics does it touch, then the plan, and solves with that plan; all three are waited for;
then a judge compares the best so far with the next, one pair after the other. That is 8 planner calls and 3 solver
calls a question. The original's planner is another model; here, as in the service beside it, one model does both.

What differs makes it cheaper here, never dearer. The prompts are the starter's own, a few words instead of pages. Its
two planning calls give a plan each instead of JSON, which a model of this size fills with white space up to the limit.
A verdict is as short as one with a one-line explanation can be. What would end the original (a verdict that cannot be
read) counts for the answer that is ahead.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from actors.prompts import parse_plan, plan_request, with_plan
from benchmarks.client import Client, Reply

SAMPLES = 3
PLAN_TEMPERATURE, SOLVE_TEMPERATURE, JUDGE_TEMPERATURE = 0.7, 1.0, 0.0
JUDGE_TOKENS = 20  # {"index": 0, "explanation": "..."} with one short sentence
SHOWN = 2000  # characters of an answer whose thinking never ends
_VERDICT_OPENING = '{"index": '


@dataclass(frozen=True)
class Flow:
    """The flow's answer as the model wrote it, its calls, and the tokens of all of them."""

    text: str
    planner_calls: int
    solver_calls: int
    prompt_tokens: int
    completion_tokens: int


class K2Think:
    """Answers questions through `client`. `prompt_of` puts a user's text into the model's chat template."""

    def __init__(self, client: Client, prompt_of: Callable[[str], str], max_tokens: int):
        self._client, self._prompt_of, self._max_tokens = client, prompt_of, max_tokens

    async def answer(self, question: str, seed: int) -> Flow:
        """One question. Raises what the client does."""
        planning: list[Reply] = []
        solving = await asyncio.gather(*(self._sample(question, seed + i, planning) for i in range(SAMPLES)))
        best = solving[0].texts[0]
        for reply in solving[1:]:
            best = await self._better(question, best, reply.texts[0], planning)
        replies = [*planning, *solving]
        return Flow(
            best,
            len(planning),
            len(solving),
            sum(reply.prompt_tokens for reply in replies),
            sum(reply.completion_tokens for reply in replies),
        )

    async def _sample(self, question: str, seed: int, planning: list[Reply]) -> Reply:
        """Two planner calls, one after the other, and the solver's."""
        request = self._prompt_of(plan_request(question))
        for offset in (0, SAMPLES):
            options = {"max_tokens": self._max_tokens, "temperature": PLAN_TEMPERATURE, "seed": seed + offset}
            planning.append(await self._client.complete(request, **options))
        plan = parse_plan(planning[-1].texts[0]).text
        return await self._client.complete(
            self._prompt_of(with_plan(question, plan)), max_tokens=self._max_tokens, temperature=SOLVE_TEMPERATURE,
            seed=seed,
        )  # fmt: skip

    async def _better(self, question: str, first: str, second: str, planning: list[Reply]) -> str:
        """Which of two replies the judge prefers."""
        content = f"{question}\n0: {_shown(first)}\n1: {_shown(second)}\nWhich answer is better?"
        verdict = await self._client.complete(
            self._prompt_of(content) + _VERDICT_OPENING, max_tokens=JUDGE_TOKENS, temperature=JUDGE_TEMPERATURE
        )
        planning.append(verdict)
        found = re.search(r"[01]", verdict.texts[0])
        return second if found and found.group() == "1" else first


def _shown(text: str) -> str:
    """What follows the thinking, or the end of what has no end."""
    return text.rpartition("</think>")[2] if "</think>" in text else text[-SHOWN:]
