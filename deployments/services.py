"""What the deployments run: engine, verifier and planner as plain classes, each in a replica of its own.

They hold the same classes that training uses. Nothing here imports Ray, so each can be tried without it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.engine.chat import ChatRequest, Chunk, EngineError
from actors.engine.vllm import VllmSettings
from actors.messages import Comparison, Problem, Verdict
from deployments.coalesce import coalesced, joined
from deployments.follow import check_same_shapes, newest, shapes
from deployments.siblings import Beside, Piece, Pruning, gathered

log = logging.getLogger("ray.serve.raythink")  # below Serve's own, whose handlers a replica has

WINDOW_S, UNREAD_WINDOW_S = 0.015, 0.1  # what an engine gives within that time travels together
FOLLOW_S = 1.0
SWITCH_S = 0.0005  # the engine's thread computes all the time: messages would wait for the interpreter, 5 ms each


@dataclass(frozen=True)
class EngineSpec:
    """Which engine to run. `kind` "vllm": `vllm` and `version`; `follow`: a run folder whose checkpoints are loaded as
    they come. "cerebras", "openai": the model `name` at `url`."""

    kind: str
    name: str
    url: str = ""
    vllm: VllmSettings | None = None
    version: int = -1
    follow: str = ""


def make_engine(spec: EngineSpec) -> Any:
    """The ChatEngine of a specification (blocks while a model loads). Raises UserError."""
    match spec.kind:
        case "vllm":
            from actors.engine.vllm_chat import VllmChat

            return VllmChat(spec.name, spec.vllm, spec.version)
        case "cerebras":
            from actors.engine.cerebras import CerebrasEngine

            return CerebrasEngine(spec.name, base_url=spec.url or None)
        case "openai":
            from actors.engine.openai import OpenAIEngine

            return OpenAIEngine(spec.name, spec.url)
    raise ValueError(f"unknown kind of engine {spec.kind!r}")


def current(spec: EngineSpec) -> EngineSpec:
    """The specification with the newest checkpoint of the run that it follows: a replica that is started later must
    not go back to an older policy, whose folder may be gone by then."""
    found = newest(Path(spec.follow)) if spec.follow else None
    if found is None:
        return spec
    return replace(spec, vllm=replace(spec.vllm, model_path=str(found.folder)), version=found.version)


class EngineService:
    """A ChatEngine in a replica. Several replicas share the load; each follows the run by itself."""

    def __init__(self, spec: EngineSpec):
        self.spec = spec
        self.engine: Any = None
        self._following: asyncio.Task | None = None

    async def start(self) -> None:
        """Load the model and answer once; a replica takes requests when this is over."""
        started = time.monotonic()
        self.spec = current(self.spec)
        log.info("starting %s (%s)", self.spec.name, self.spec.kind)
        self.engine = await asyncio.to_thread(make_engine, self.spec)
        if self.spec.kind == "vllm":
            sys.setswitchinterval(SWITCH_S)
            await self.engine.warm_up()
        if self.spec.follow:
            self._following = asyncio.create_task(self._follow())
        log.info("%s is ready after %.1f s", self.spec.name, time.monotonic() - started)

    async def stream(self, request: ChatRequest) -> AsyncIterator[Chunk]:
        """As ChatEngine.stream, in fewer chunks."""
        window_s = WINDOW_S if request.live else UNREAD_WINDOW_S
        async with aclosing(coalesced(self.engine.stream(request), window_s, at_once=request.live)) as batches:
            async for chunks in batches:
                yield joined(chunks)

    async def complete(self, request: ChatRequest) -> Chunk:
        """The whole reply, as one chunk. Raises as ChatEngine.stream, EngineError where the engine said nothing."""
        chunks = [chunk async for chunk in self.engine.stream(replace(request, whole=True))]
        if not chunks:
            raise EngineError(f"{self.spec.name} ended its reply without a finish reason")
        return joined(chunks)

    async def stream_all(
        self, requests: Mapping[int, ChatRequest], pruning: Pruning | None
    ) -> AsyncIterator[tuple[Piece, ...]]:
        """As Siblings.stream_all, several pieces at a time; the end of a reply is told at once."""
        live = any(request.live for request in requests.values())
        pieces = Beside(self.engine).stream_all(requests, pruning)
        window_s = WINDOW_S if live else UNREAD_WINDOW_S
        async with aclosing(coalesced(pieces, window_s, at_once=live, urgent=lambda piece: piece.ends)) as batches:
            async for together in batches:
                yield gathered(together)

    async def check_health(self) -> None:
        """Raises where the engine, or what follows the run, has ended: a new replica is started then."""
        if self.engine is not None and self.spec.kind == "vllm":
            await self.engine.health()
        if self._following is not None and self._following.done():
            self._following.result()

    async def health(self) -> None:
        """Raises EngineError where no request can be answered."""
        await self.engine.health()

    async def stats(self) -> dict[str, float]:
        """The engine's counters."""
        counters = self.engine.stats()
        return await counters if asyncio.iscoroutine(counters) else counters

    async def _follow(self) -> None:
        """Load each new checkpoint of the run between two engine steps: no request notices but by its version."""
        served = await asyncio.to_thread(shapes, Path(self.spec.vllm.model_path))
        loaded = Path(self.spec.vllm.model_path).resolve()
        while True:
            checkpoint = await asyncio.to_thread(newest, Path(self.spec.follow))
            if checkpoint is not None and checkpoint.folder != loaded:
                try:
                    check_same_shapes(served, await asyncio.to_thread(shapes, checkpoint.folder))
                    seconds = await self.engine.load_folder(checkpoint.folder, checkpoint.version)
                    log.info("policy version %d is served (loaded in %.2f s)", checkpoint.version, seconds)
                    loaded = checkpoint.folder
                except (EngineError, OSError) as error:  # it may be gone already: runs keep the newest few
                    log.warning("policy version %d is not served: %s", checkpoint.version, error)
            await asyncio.sleep(FOLLOW_S)


class VerifierService:
    """The Verifier of the RL loop in a replica."""

    def __init__(self, workers: int, timeout_s: float, retries: int, allow_weaker: bool, options: Mapping[str, Any]):
        from actors.verifier import Verifier

        self.verifier = Verifier("verifier", workers, timeout_s, retries, allow_weaker, **options)

    async def start(self) -> None:
        """Compare once: a checker process takes a second to begin, which no question should have to wait for."""
        try:
            await self.verifier.compare("1+1?", ("2", "2"))
        except Exception as error:  # it may be able to later; until then answers go by their spelling
            log.warning("the verifier could not compare two answers: %s", error)
        log.info("the verifier is ready")

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        return await self.verifier.compare(question, texts)

    async def verify(self, problem: Problem, text: str) -> Verdict:
        return await self.verifier.verify(problem, text)

    async def stats(self) -> dict[str, float]:
        return {k: v for k, v in (await self.verifier.status()).items() if isinstance(v, (int, float))}

    async def close(self) -> None:
        await self.verifier.close()


class PlannerService:
    """The Planner of the RL loop in a replica, with the engine that it asks."""

    def __init__(self, engine: Any):
        from actors.planner import Planner

        self.planner, self.engine = Planner(), engine
        self.plans = self.empty = 0

    async def plan(self, question: str, options: Mapping[str, Any]) -> Any:
        """actors.planner.Planned for the question."""
        planned = await self.planner.plan(question, self.engine, **options)
        self.plans += 1
        self.empty += not planned.plan.text
        return planned

    async def stats(self) -> dict[str, float]:
        return {"plans": self.plans, "empty": self.empty}
