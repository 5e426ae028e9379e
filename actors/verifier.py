"""Verifier: verdicts on completions, from checker processes that may hang, die or grow without anyone else noticing.

A check runs in one of N worker processes. Its deadline is enforced from here by killing the worker with everything it
started, so nothing depends on signals or threads in the worker. A check whose worker died, timed out or failed is tried
again on a fresh worker, and ends as an `error` verdict when the retries are spent: an infrastructure failure is never
a wrong answer, and never a hang.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

import psutil

from actors.checkers import wire
from actors.checkers.judge_client import KEY_VARIABLE
from actors.checkers.tools import check_profile
from actors.checkers.worker import ALLOW_WEAKER, JUDGE_MODEL, JUDGE_URL, PROFILE
from actors.messages import Comparison, Completion, Problem, RolloutGroup, Verdict
from actors.sandbox import cgroups
from conf.errors import UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

START_TIMEOUT_S = 60.0
MAX_RSS = 600 << 20
CACHE_SIZE = 4096
COMMAND = (sys.executable, "-m", "actors.checkers.worker")


class WorkerDied(Exception):
    """The worker's process ended, or answered with something else than a verdict."""


class Unanswered(Exception):
    """No worker gave an answer; `seconds` is how long the last attempt took. It says nothing about what was asked."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Worker(Protocol):
    """What the pool needs of a worker; tests have others than processes."""

    async def ask(self, problem: Problem, text: str, timeout_s: float) -> Verdict: ...

    async def compare(self, question: str, texts: Sequence[str], timeout_s: float) -> Comparison: ...

    def oversized(self) -> bool: ...

    async def kill(self) -> None: ...


class ProcessWorker:
    """One checker process, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process, folder: str) -> None:
        self.process = process
        self.folder = folder  # its TMPDIR: a killed worker cannot remove what it made

    @classmethod
    async def spawn(cls, command: Sequence[str] = COMMAND, variables: Sequence[str] = ()) -> ProcessWorker:
        """Start a process and wait until it is ready. Raises WorkerDied.

        Of this process's environment it gets only what it needs, and `variables`.
        """
        root = str(Path(__file__).resolve().parents[1])
        passed = ("PATH", "HOME", "LANG", "LC_ALL", *variables)
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        folder = tempfile.mkdtemp(prefix="raythink-checker-")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            cwd=root,
            env=environment
            | {"TMPDIR": folder, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        worker = cls(process, folder)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await worker._receive()
        except BaseException as failure:
            await worker.kill()
            if isinstance(failure, TimeoutError):
                raise WorkerDied(f"a checker process was not ready after {START_TIMEOUT_S:.0f} s") from failure
            raise
        return worker

    async def ask(self, problem: Problem, text: str, timeout_s: float) -> Verdict:
        """The worker's verdict. Raises WorkerDied; sets no deadline."""
        return await self._exchange(wire.request(problem, text, timeout_s), wire.verdict_of)

    async def compare(self, question: str, texts: Sequence[str], timeout_s: float) -> Comparison:
        """The worker's comparison. Raises WorkerDied; sets no deadline."""
        return await self._exchange(wire.compare_request(question, texts, timeout_s), wire.comparison_of)

    async def _exchange(self, message: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        try:
            self.process.stdin.write(wire.pack(message))
            await self.process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as failure:
            raise WorkerDied("checker process closed its input") from failure
        try:
            return read(await self._receive())
        except (TypeError, ValueError) as failure:
            raise WorkerDied(f"checker process answered with no verdict: {failure}") from failure

    async def _receive(self) -> dict[str, Any]:
        try:
            header = await self.process.stdout.readexactly(wire.HEADER.size)
            return json.loads(await self.process.stdout.readexactly(wire.length(header)))
        except (asyncio.IncompleteReadError, ConnectionResetError, wire.BadFrame, ValueError) as failure:
            raise WorkerDied("checker process died") from failure

    def oversized(self) -> bool:
        """Whether the process has grown beyond what a check may leave behind."""
        with suppress(psutil.Error):
            return psutil.Process(self.process.pid).memory_info().rss > MAX_RSS
        return True

    async def kill(self) -> None:
        """SIGKILL to the process, its group, and what it runs in sandboxes (those are sessions of their own)."""
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            process.suspend()  # so that it starts nothing new between the listing and the end
            for child in process.children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class VerifierPool:
    """N workers behind `verify`. `spawn` and `clock` are there for tests.

    `limits` bounds the checks at a time of a domain (Problem.domain), so that programs that run for seconds do not keep
    the short checks waiting, and a judge is not asked more than it can answer; a domain without a limit has none.
    """

    def __init__(
        self,
        workers: int,
        timeout_s: float,
        retries: int,
        *,
        spawn: Callable[[], Awaitable[Worker]] = ProcessWorker.spawn,
        clock: Callable[[], float] = time.perf_counter,
        cache_size: int = CACHE_SIZE,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or retries < 0:
            raise ValueError(
                f"a pool needs workers >= 1, timeout_s > 0, retries >= 0: {workers}, {timeout_s}, {retries}"
            )
        self.workers, self.timeout_s, self.retries = workers, timeout_s, retries
        self._spawn, self._clock, self._cache_size = spawn, clock, cache_size
        self._slots: asyncio.Queue[Worker | None] = asyncio.Queue()  # None: a worker is started when it is needed
        for _ in range(workers):
            self._slots.put_nowait(None)
        self._limits = {domain: asyncio.Semaphore(most) for domain, most in (limits or {}).items()}
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._latencies: deque[float] = deque(maxlen=1000)
        self.statuses: Counter[str] = Counter()
        self.restarts = self.cache_hits = self.busy = self.queued = 0
        self._closed = False

    async def verify(self, problem: Problem, text: str) -> Verdict:
        """Judge a completion's text. Never raises for what a check does, and ends within (retries + 1) deadlines."""
        key = _cache_key(problem, text)
        if key in self._cache:
            self._cache.move_to_end(key)
            self.cache_hits += 1
            verdict = self._cache[key]
        else:
            async with self._limits.get(problem.domain) or nullcontext():
                verdict = await self._with_retries(problem, text)
            if verdict.status != "error" and self._cache_size:
                self._cache[key] = verdict
                if len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        self.statuses[verdict.status] += 1
        self._latencies.append(verdict.seconds)
        return verdict

    async def _with_retries(self, problem: Problem, text: str) -> Verdict:
        verdict = Verdict("error", 0.0, reason="not checked")
        for _ in range(self.retries + 1):
            verdict = await self._once(problem, text)
            if verdict.status != "error":
                break
        return verdict

    async def _once(self, problem: Problem, text: str) -> Verdict:
        try:
            return await self._attempt(lambda worker: worker.ask(problem, text, self.timeout_s))
        except Unanswered as failure:
            return Verdict("error", 0.0, reason=str(failure), seconds=failure.seconds)

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        """Which texts answer the question alike (see checkers/compare.py). Raises Unanswered once retries are spent."""

        async def ask(worker: Worker) -> Comparison:
            return await worker.compare(question, texts, self.timeout_s)

        for _ in range(self.retries):
            with suppress(Unanswered):
                return await self._attempt(ask)
        return await self._attempt(ask)

    async def _attempt(self, ask: Callable[[Worker], Awaitable[T]]) -> T:
        """One attempt on the next free worker; it goes back to its slot, or a vacancy does. Raises Unanswered."""
        if self._closed:
            raise Unanswered("the verifier is closed")
        self.queued += 1
        try:
            worker = await self._slots.get()
        finally:
            self.queued -= 1
        self.busy += 1
        started = self._clock()
        healthy = False
        try:
            worker = worker or await self._spawn()
            started = self._clock()
            async with asyncio.timeout(self.timeout_s):
                answer = await ask(worker)
            healthy = not worker.oversized()
            return answer
        except TimeoutError:
            raise self._unanswered(f"no verdict within {self.timeout_s:g} s", started) from None
        except (WorkerDied, OSError) as failure:
            raise self._unanswered(str(failure) or type(failure).__name__, started) from failure
        finally:  # also when the caller gave up: the worker is in the middle of a check that nobody waits for
            self.busy -= 1
            if not healthy and worker is not None:
                self.restarts += 1
                await asyncio.shield(worker.kill())
            self._slots.put_nowait(worker if healthy else None)

    def _unanswered(self, reason: str, started: float) -> Unanswered:
        log.warning("verifier: %s", reason)
        return Unanswered(reason, self._clock() - started)

    def status(self) -> dict[str, Any]:
        """Counters since the start; `p50_ms` is the median over the last 1000 checks."""
        return {
            "checks": sum(self.statuses.values()),
            **{status: self.statuses[status] for status in ("correct", "incorrect", "error")},
            "restarts": self.restarts,
            "cache_hits": self.cache_hits,
            "busy": self.busy,
            "queue": self.queued,
            "p50_ms": 1000 * median(self._latencies) if self._latencies else 0.0,
        }

    async def close(self) -> None:
        """Kill the idle workers; a check that is running ends first."""
        self._closed = True
        for _ in range(self.workers):
            worker = await self._slots.get()
            if worker is not None:
                await worker.kill()
        cgroups.sweep()  # a killed zygote cannot remove its own
        for _ in range(self.workers):
            self._slots.put_nowait(None)


def spawner(
    allow_weaker_sandbox: bool, *, profile: str = "strict", judge_url: str = "", judge_model: str = ""
) -> Callable[[], Awaitable[Worker]]:
    """What starts a checker process that scores by `profile`, for VerifierPool. Raises UserError.

    `judge_model` at `judge_url` judges free-form answers; without a URL they end as errors.
    """
    if judge_url and not judge_model:
        raise UserError(f"verifier.judge={judge_url} names no model: write verifier.judge=URL#MODEL")
    command = [*COMMAND, PROFILE, check_profile(profile)]
    if allow_weaker_sandbox:
        command.append(ALLOW_WEAKER)
    if not judge_url:
        return partial(ProcessWorker.spawn, command)
    command += [JUDGE_URL, judge_url, JUDGE_MODEL, judge_model]
    return partial(ProcessWorker.spawn, command, (KEY_VARIABLE,))


def _cache_key(problem: Problem, text: str) -> bytes:
    parts = (problem.id, problem.data_source, problem.ground_truth, text)
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


class Verifier:
    """The pool as an actor: a plain async class, made remote by whoever creates it."""

    def __init__(
        self,
        name: str,
        workers: int,
        timeout_s: float,
        retries: int,
        allow_weaker_sandbox: bool = False,
        *,
        profile: str = "strict",
        judge_url: str = "",
        judge_model: str = "",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        spawn = spawner(allow_weaker_sandbox, profile=profile, judge_url=judge_url, judge_model=judge_model)
        self._pool = VerifierPool(workers, timeout_s, retries, spawn=spawn, limits=limits)

    async def verify(self, problem: Problem, completion: Completion | str) -> Verdict:
        """The verdict on one completion."""
        return await self._pool.verify(problem, completion if isinstance(completion, str) else completion.text)

    async def compare(self, question: str, texts: Sequence[str]) -> Comparison:
        """Which of several texts answer a question alike, without a ground truth. Raises Unanswered."""
        return await self._pool.compare(question, texts)

    async def verify_group(self, group: RolloutGroup) -> RolloutGroup:
        """The group with a verdict for each of its completions, checked side by side."""
        verdicts = await asyncio.gather(*(self.verify(group.problem, completion) for completion in group.completions))
        return replace(group, verdicts=tuple(verdicts))

    async def status(self) -> dict[str, Any]:
        """The name and the pool's counters."""
        return {"name": self.name, **self._pool.status()}

    async def close(self) -> None:
        """End the checker processes."""
        await self._pool.close()

    def __repr__(self) -> str:
        return self.name
