"""Rollout: the actor that turns prompts into groups of completions with the policy's current weights.

A thin shell around one `VllmEngine`: tokenises with the chat template, streams finished groups, replaces weights in
place. The class is plain; whoever creates it decorates it with `ray.remote` and names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.engine import Request, Sampling
from actors.engine.vllm import EngineClosed, VllmEngine, VllmSettings
from actors.fleet_pool import Managed, NotStarted
from actors.messages import Problem, RolloutGroup
from actors.planned import Planning, plan_problem, solve_problem


class PromptTooLong(ValueError):
    """A prompt leaves no room for a completion in the engine's context."""


class Rollout(Managed):
    def __init__(self, name: str, settings: VllmSettings):
        self.name, self.settings = name, settings
        self._engine: VllmEngine | None = None
        self._started = time.monotonic()
        self._groups = 0
        self._calls: dict[int, asyncio.Task] = {}  # of `group`, by group id
        self._state = "starting"
        self._busy: Counter[str] = Counter()  # calls by what they do: "planning", "generating"

    def __repr__(self) -> str:
        return f"Rollout({self.name})"

    async def start(self, warm_up: Sequence[int] = ()) -> dict[str, Any]:
        """Load the model and answer one request, since the first pays for lazy initialisation. Returns `status()`."""
        started = time.perf_counter()
        self._engine = await asyncio.to_thread(VllmEngine, self.settings)
        prompt = np.asarray(warm_up or [0] * 8, np.int32)
        async for _ in self._engine.generate([Request("warm-up", prompt, 2)], Sampling(max_tokens=4)):
            self._state = "ready"
        return {**await self.status(), "seconds": time.perf_counter() - started}

    async def generate(
        self, problems: Sequence[tuple[int, Problem]], n: int, sampling: Sampling, seed: int | None = None,
        planning: Planning | None = None,
    ) -> AsyncIterator[RolloutGroup]:
        """Yield an unverified RolloutGroup of `n` completions for each (group id, problem), as each finishes.

        With `planning`, the groups that it says are of plans, with `n` solutions of every plan as parts; a wave's
        groups then come once all are there. A plan that leaves no room for an answer is not followed.
        Raises PromptTooLong, naming the problem, before anything is generated.
        """
        if planning:
            async for group in self._planned(problems, n, sampling, seed, planning):
                yield group
            return
        engine, prompts = self._ready(), {}
        for group_id, problem in problems:
            prompts[str(group_id)] = (group_id, problem, self._encode(problem, sampling))
        requests = [Request(key, prompt, n, problem.max_tokens) for key, (_, problem, prompt) in prompts.items()]
        with self._doing("generating"):
            async for key, completions in engine.generate(requests, sampling, seed):
                group_id, problem, prompt = prompts[key]
                self._groups += 1
                yield RolloutGroup(group_id, problem, prompt, completions)

    async def group(
        self, group_id: int, problem: Problem, n: int, sampling: Sampling, seed: int | None = None,
        planning: Planning | None = None,
    ) -> RolloutGroup | None:
        """One unverified group, beside whatever else runs; None where `cancel` ended it. Raises PromptTooLong."""
        self._ready()
        call = self._calls[group_id] = asyncio.create_task(self._one(group_id, problem, n, sampling, seed, planning))
        try:
            await asyncio.wait([call])
            return None if call.cancelled() else call.result()
        finally:
            call.cancel()
            self._calls.pop(group_id, None)

    async def cancel(self, group_id: int) -> None:
        """Stop generating a group, if it runs here."""
        if group_id in self._calls:
            self._calls[group_id].cancel()

    async def _one(self, group_id: int, problem: Problem, *arguments: Any) -> RolloutGroup:
        async for group in self.generate([(group_id, problem)], *arguments):
            return group
        raise EngineClosed(f"{self.name} ended without a group")

    async def _planned(
        self, problems: Sequence[tuple[int, Problem]], n: int, sampling: Sampling, seed: int | None, planning: Planning
    ) -> AsyncIterator[RolloutGroup]:
        """All plans first, then all solutions, so that each wave is a function of its seed."""
        asked = [(group_id, plan_problem(problem)) for group_id, problem in problems if planning.of(group_id)]
        with self._doing("planning"):
            planned = {g.group_id: g async for g in self.generate(asked, planning.plans, sampling, seed)}
        tasks: list[Problem] = []
        places: dict[int, range] = {}  # of each group's tasks
        for group_id, problem in problems:
            plans = planned[group_id].completions if group_id in planned else ()
            own = [self._solving(problem, plan.text, sampling) for plan in plans] or [problem]
            places[group_id] = range(len(tasks), len(tasks) + len(own))
            tasks += own
        following = None if seed is None else seed ^ 1
        solved = {g.group_id: g async for g in self.generate(list(enumerate(tasks)), n, sampling, following)}
        for group_id, problem in problems:
            parts = tuple(replace(solved[place], group_id=group_id) for place in places[group_id])
            yield replace(planned[group_id], problem=problem, parts=parts) if group_id in planned else parts[0]

    def _solving(self, problem: Problem, reply: str, sampling: Sampling) -> Problem:
        """The problem with the plan of a reply; as it is where that would not fit into the engine's context."""
        planned = solve_problem(problem, reply)
        try:
            self._encode(planned, sampling)
        except PromptTooLong:
            return problem
        return planned

    async def ping(self) -> dict[str, Any]:
        """Counters, as a sign of life. Raises NotStarted after a restart, EngineClosed where vLLM has failed."""
        failure = self._ready().failure
        if failure is not None:
            raise EngineClosed(f"the vLLM engine of {self.name} stopped: {failure!r}")
        return await self.status()

    async def load(self, weights: Mapping[str, np.ndarray], version: int) -> float:
        """Replace the weights in place; completions begun from now on are stamped with `version`. Returns seconds."""
        engine, self._state = self._ready(), "loading weights"
        try:
            return await engine.load(weights, version)
        finally:
            self._state = "ready"

    async def version(self) -> int:
        return self._ready().version

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        self._busy[what] += 1
        try:
            yield
        finally:
            self._busy[what] -= 1

    def state(self) -> str:
        """"starting", "loading weights", "planning" while any call writes plans, "generating", or "ready"."""
        if self._state != "ready":
            return self._state
        return next((what for what in ("planning", "generating") if self._busy[what]), "ready")

    async def status(self) -> dict[str, Any]:
        stats = self._engine.stats() if self._engine else {}
        return {
            "name": self.name,
            "kind": "rollout",
            "state": self.state(),
            "model": self.settings.model_path,
            "groups": self._groups,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "pid": os.getpid(),
            **stats,
        }

    async def close(self) -> None:
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    def _ready(self) -> VllmEngine:
        if self._engine is None:
            raise NotStarted(f"{self.name} was not started: call start() first")
        return self._engine

    def _encode(self, problem: Problem, sampling: Sampling) -> np.ndarray:
        tokenizer = self._ready().tokenizer
        text = tokenizer.apply_chat_template(list(problem.messages), tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        room = self.settings.max_model_len - len(ids)
        if room < sampling.max_tokens:
            raise PromptTooLong(
                f"problem {problem.id} has a prompt of {len(ids)} tokens, which leaves {room} of "
                f"engine.max_model_len={self.settings.max_model_len} where sampling.max_tokens={sampling.max_tokens} "
                "are asked for: raise engine.max_model_len or lower sampling.max_tokens"
            )
        return np.asarray(ids, np.int32)
