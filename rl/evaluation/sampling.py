"""Who answers an evaluation's questions: the rollout actors, or any chat engine; both give rows of verified samples.

A sample depends on (eval.seed, suite, problem, sample) alone, never on what was asked before it in the same process:

- Our own engines take a seed for all the requests that enter together, so they work in waves of fixed membership:
  `eval.wave` problems with all their samples. A wave that was not stored as a whole is sampled again as a whole.
- A remote engine takes a seed with each request, so every reply stands for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from actors.engine import Sampling
from actors.engine.chat import BadRequest, ChatEngine, ChatRequest, EngineError, Reply, complete
from actors.messages import Comparison, Completion, Problem, RolloutGroup, Verdict
from rl.dispatcher import ServiceFailure, Wave, run_wave, wave_seed
from rl.evaluation.store import Key, Row

ATTEMPTS = 3  # of a reply that broke off in its middle, which the engine itself does not repeat


@dataclass(frozen=True)
class Batch:
    """Problems to be asked `samples` times each. `judged` False: nobody verifies the answers (plans)."""

    name: str
    problems: tuple[Problem, ...]
    samples: int
    judged: bool = True

    @property
    def keys(self) -> list[Key]:
        return [(self.name, problem.id, sample) for problem in self.problems for sample in range(self.samples)]


class Sampler(Protocol):
    """`sample` gives rows that belong together: a batch for the store. What is in `done` is not asked again."""

    def sample(self, batch: Batch, done: Container[Key]) -> AsyncIterator[list[Row]]: ...

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison: ...


def seed_of(*parts: Any) -> int:
    """31 bits from any parts, which is what servers take as a seed."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 33


class Waves:
    """The rollout and verifier actors of a cluster. Raises ServiceFailure as run_wave does."""

    def __init__(self, rollouts: Sequence[Any], verifiers: Sequence[Any], sampling: Sampling, *, seed: int,
                 problems: int, timeout_s: float) -> None:
        self._rollouts, self._verifiers, self._sampling = rollouts, verifiers, sampling
        self._seed, self._problems, self._timeout_s = seed, problems, timeout_s
        self._next = 0

    async def sample(self, batch: Batch, done: Container[Key]) -> AsyncIterator[list[Row]]:
        verifiers = self._verifiers if batch.judged else [UNJUDGED]
        for number, start in enumerate(range(0, len(batch.problems), self._problems)):
            members = batch.problems[start : start + self._problems]
            if all((batch.name, p.id, s) in done for p in members for s in range(batch.samples)):
                continue
            seed = (self._seed, wave_seed(batch.name), number)
            waves = run_wave(self._rollouts, verifiers, list(enumerate(members)), batch.samples, self._sampling,
                             seed, self._timeout_s, Wave())
            groups = [group async for group in waves]
            yield [row for group in sorted(groups, key=lambda g: g.group_id) for row in rows_of(batch.name, group)]

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        self._next += 1
        return await self._verifiers[self._next % len(self._verifiers)].compare.remote(question, list(texts))


async def _as_it_is(reference: Any) -> RolloutGroup:
    from dataclasses import replace

    group = await reference
    return replace(group, verdicts=tuple(Verdict("error", 0.0, reason="not judged") for _ in group.completions))


UNJUDGED = SimpleNamespace(verify_group=SimpleNamespace(remote=_as_it_is))


def rows_of(suite: str, group: RolloutGroup) -> list[Row]:
    return [_row(suite, group.problem, number, completion.text, verdict, tokens=len(completion.token_ids),
                 finish_reason=completion.finish_reason, version=completion.start_version,
                 confidence=_confidence(completion))
            for number, (completion, verdict) in enumerate(zip(group.completions, group.verdicts, strict=True))]


def _confidence(completion: Completion) -> float | None:
    return float(completion.logprobs.mean()) if len(completion.logprobs) else None


def _row(suite: str, problem: Problem, sample: int, text: str, verdict: Verdict, *, tokens: int, finish_reason: str,
         version: int, confidence: float | None = None) -> Row:
    return {
        "suite": suite,
        "problem_id": problem.id,
        "domain": problem.domain,
        "sample": sample,
        "completion": text,
        "status": verdict.status,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "tokens": tokens,
        "finish_reason": finish_reason,
        "policy_version": version,
        "confidence": confidence,
    }


# --- any chat engine ------------------------------------------------------------------------------------------------


class Replies:
    """A chat engine and a verifier (`verify`, `compare`), `concurrency` replies at a time.

    A request that the server refuses, or that is late, is a row with status `error`. Raises ServiceFailure once the
    server itself fails in spite of the engine's retries: what was stored is not lost.
    """

    def __init__(self, engine: ChatEngine, verifier: Any, sampling: Sampling, *, seed: int, concurrency: int,
                 timeout_s: float) -> None:
        self._engine, self._verifier, self._sampling = engine, verifier, sampling
        self._seed, self._concurrency, self._timeout_s = seed, concurrency, timeout_s

    async def sample(self, batch: Batch, done: Container[Key]) -> AsyncIterator[list[Row]]:
        wanted = iter([(p, s) for p in batch.problems for s in range(batch.samples)
                       if (batch.name, p.id, s) not in done])
        finished: asyncio.Queue[list[Row] | BaseException | None] = asyncio.Queue()

        async def work() -> None:
            try:
                for problem, number in wanted:  # one iterator: each worker takes the next when it is free
                    await finished.put([await self._answer(batch, problem, number)])
            except Exception as failure:
                await finished.put(failure)
            await finished.put(None)

        workers = [asyncio.create_task(work()) for _ in range(self._concurrency)]
        left = len(workers)
        try:
            while left:
                item = await finished.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item is None
                if item is not None:
                    yield item
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        return await self._verifier.compare(question, texts)

    async def _answer(self, batch: Batch, problem: Problem, number: int) -> Row:
        try:
            reply = await self._reply(self._request(batch, problem, number))
        except (BadRequest, TimeoutError) as failure:
            verdict = Verdict("error", 0.0, reason=f"no reply: {failure}"[:500])
            return _row(batch.name, problem, number, "", verdict, tokens=0, finish_reason="error", version=-1)
        text = with_stop(reply.text, reply.finish_reason, self._sampling.stop)
        verdict = Verdict("error", 0.0, reason="not judged")
        if batch.judged:
            verdict = await self._verifier.verify(problem, text)
        return _row(batch.name, problem, number, text, verdict, tokens=reply.usage.completion_tokens,
                    finish_reason=reply.finish_reason, version=reply.version)

    def _request(self, batch: Batch, problem: Problem, number: int) -> ChatRequest:
        s = self._sampling
        return ChatRequest(
            messages=tuple(problem.messages),
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            stop=s.stop,
            seed=seed_of(self._seed, batch.name, problem.id, number),
            timeout_s=self._timeout_s,
        )

    async def _reply(self, request: ChatRequest) -> Reply:
        for attempt in range(ATTEMPTS):
            try:
                return await complete(self._engine, request)
            except EngineError as failure:
                if attempt == ATTEMPTS - 1:
                    raise ServiceFailure(f"{self._engine.name} does not answer: {failure}") from failure
        raise AssertionError("unreachable: the last attempt returns or raises")


def with_stop(text: str, finish_reason: str, stop: Sequence[str]) -> str:
    """The text with the closing tag at which a server stopped: servers leave it out, and without it there is no answer.

    Only where the tag is open, so that a reply that ended by itself stays as it is.
    """
    for marker in stop if finish_reason == "stop" else ():
        opening = marker.replace("</", "<", 1)
        if opening != marker and text.rfind(opening) > text.rfind(marker):
            return text + marker
    return text


async def collect(sampler: Sampler, batch: Batch, store: Any, advance: Callable[[int, int], None]) -> None:
    """Sample what the store lacks of a batch, and store it as it comes."""
    keys = batch.keys
    advance(sum(key in store.done for key in keys), len(keys))
    async for rows in sampler.sample(batch, store.done):
        store.append(rows)
        advance(sum(key in store.done for key in keys), len(keys))
