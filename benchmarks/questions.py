"""Held-out questions, who judges the answers, and what our service is asked for, in one place for all measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.engine.chat import ChatRequest
from actors.messages import Problem
from actors.prompts import as_data
from actors.verifier import Verifier
from benchmarks.client import Client, Reply
from conf.schema import Config

N = 3  # candidates of effort medium
MAX_ERRORS = 0.05  # the share of failed checks at which accuracies mean nothing


def template(model: str) -> Callable[[str], str]:
    """Puts a user's text into the chat template of the model in a folder, up to where the reply begins."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def prompt_of(content: str) -> str:
        message = {"role": "user", "content": content}
        return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)

    return prompt_of


class Judge:
    """Our verifier, in this process's care. Scores of texts; never counts a failed check as a wrong answer."""

    def __init__(self, cfg: Config):
        v = cfg.verifier
        self.verifier = Verifier("benchmark", 1, v.timeout_s, v.retries, cfg.sandbox.allow_weaker, **v.options)

    async def scores(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float | None]:
        """1.0 or 0.0 for each text, None where the check failed. Raises RuntimeError where too many did."""
        verdicts = [await self.verifier.verify(*pair) for pair in zip(problems, texts, strict=True)]
        failed = [verdict.reason for verdict in verdicts if verdict.status == "error"]
        if len(failed) > MAX_ERRORS * len(verdicts):
            raise RuntimeError(f"{len(failed)} of {len(verdicts)} checks failed: {failed[0]}")
        return [None if verdict.status == "error" else float(verdict.status == "correct") for verdict in verdicts]


def accuracy(scores: Sequence[float | None]) -> float:
    """The share of right answers among those that could be judged."""
    return statistics.fmean(score for score in scores if score is not None)


@dataclass(frozen=True)
class Service:
    """What our service is asked for. `max_tokens` is for each candidate."""

    client: Client
    prompt_of: Callable[[str], str]
    max_tokens: int

    async def best_of(self, question: str, seed: int, **raythink: bool) -> Reply:
        """Effort medium: a plan, three candidates, the vote; `raythink` options besides."""
        options = {"raythink": raythink} if raythink else {}
        return await self._chat(question, seed, reasoning_effort="medium", **options)

    async def single(self, question: str, seed: int | None) -> Reply:
        """Effort low: one sample, no plan."""
        return await self._chat(question, seed, reasoning_effort="low")

    async def all_candidates(self, content: str, seed: int) -> Reply:
        """The requests of best_of's candidates (`content`: the question with its plan), each to its end."""
        return await self.client.complete(
            self.prompt_of(content), n=N, seed=seed, max_tokens=self.max_tokens, temperature=1.0, logprobs=0
        )

    def bare_request(self, question: str, seed: int) -> ChatRequest:
        """What `single` asks the engine for."""
        return ChatRequest(({"role": "user", "content": as_data(question)},), max_tokens=self.max_tokens, seed=seed)

    async def _chat(self, question: str, seed: int | None, **options: Any) -> Reply:
        return await self.client.chat(question, seed=seed, max_tokens=self.max_tokens, temperature=1.0, **options)


def answer_of(reply: Reply) -> str:
    """The answer of our service as the model wrote it: the service takes the tags off."""
    return f"<answer>{reply.texts[0]}</answer>"


def plan_of(explanation: Mapping[str, Any]) -> str:
    """The plan in the `raythink` object of a reply, empty where there was none."""
    return (explanation["plan"] or {}).get("text", "")
