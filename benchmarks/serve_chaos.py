"""python -m benchmarks.serve_chaos [--kills N] [--clients N]: replicas die under load; what do clients notice?

`main.py mode=serve` with the embedded policy; clients of OpenAI's own SDK, with its own retries, ask one question after
the other: greedy ones at effort low, whose text is known from before (an engine that answers with half of its weights
would say something else), and medium ones, streamed and not. Meanwhile one replica after the other is killed: engine,
planner, verifier, gateway, and again; the next one once the service is whole. Counted: requests that failed for good,
that took longer than their deadline, that said something else. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import openai
import psutil

from benchmarks.servers import Server, service
from conf.load import load
from rl.source import heldout

VICTIMS = ("solver-engine", "planner", "verifier", "gateway")
DEADLINE_S, GRACE_S = 120.0, 15.0  # of a request on the server; what the way there and back may add to it
RETRIES = 5  # of the SDK, which waits up to 8 s between them
SETTLE_S, RECOVERY_S, POLL_S = 3.0, 240.0, 0.2
QUESTIONS = 16


@dataclass
class Seen:
    """What the clients saw: seconds of the answered requests, retries of the SDK, failures by kind."""

    seconds: list[float] = field(default_factory=list)
    retried: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    hung: int = 0
    wrong: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return len(self.seconds) + sum(self.failures.values())


class Crowd:
    """Clients that ask until `stopping`. `known`: the greedy answer to each question."""

    def __init__(self, server: Server, questions: Sequence[str], max_tokens: int):
        self.questions, self.max_tokens, self.seen = questions, max_tokens, Seen()
        self.known: dict[str, str] = {}
        self.stopping = False
        self._clients = [
            openai.AsyncOpenAI(
                base_url=f"{server.url}/v1", api_key=key, max_retries=RETRIES, timeout=DEADLINE_S + GRACE_S
            )
            for key in server.keys
        ]

    async def learn(self) -> None:
        """What a healthy service says."""
        for question in self.questions:
            self.known[question] = (await self._greedy(self._clients[0], question))[0]

    async def client(self, number: int) -> None:
        for turn in itertools.count(number):
            if self.stopping:
                return
            question, client = self.questions[turn % len(self.questions)], self._clients[number % len(self._clients)]
            ask = (self._greedy, self._medium, self._streamed)[turn % 3]
            started = time.monotonic()
            try:
                text, retried = await ask(client, question)
            except openai.APIError as error:
                self.seen.failures[f"{type(error).__name__}: {error}"[:160]] += 1
            else:
                self.seen.retried += retried
                self.seen.seconds.append(time.monotonic() - started)
                self.seen.wrong += ask == self._greedy and text != self.known[question]
            self.seen.hung += time.monotonic() - started > DEADLINE_S + GRACE_S

    async def probe(self) -> None:
        """One question through all of the graph."""
        await self._medium(self._clients[-1], self.questions[0])

    async def _greedy(self, client: openai.AsyncOpenAI, question: str) -> tuple[str, int]:
        return await self._whole(client, question, "low", temperature=0.0)

    async def _medium(self, client: openai.AsyncOpenAI, question: str) -> tuple[str, int]:
        return await self._whole(client, question, "medium", temperature=1.0)

    async def _whole(self, client: openai.AsyncOpenAI, question: str, effort: str, **options: float) -> tuple[str, int]:
        raw = await client.chat.completions.with_raw_response.create(
            model="raythink", messages=[{"role": "user", "content": question}], max_tokens=self.max_tokens,
            reasoning_effort=effort, **options,
        )  # fmt: skip
        message = raw.parse().choices[0].message
        return f"{message.model_extra.get('reasoning_content')}\n{message.content}", raw.retries_taken

    async def _streamed(self, client: openai.AsyncOpenAI, question: str) -> tuple[str, int]:
        """Again from the start where the stream breaks: the SDK repeats only what had not begun."""
        for attempt in range(RETRIES + 1):
            try:
                stream = await client.chat.completions.create(
                    model="raythink", messages=[{"role": "user", "content": question}], max_tokens=self.max_tokens,
                    reasoning_effort="medium", stream=True,
                )  # fmt: skip
                return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]), attempt
            except openai.APIError:
                if attempt == RETRIES:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)
        raise AssertionError("not reached")


def replica(server: Server, name: str) -> psutil.Process | None:
    """The process of a deployment's replica, None while there is none."""
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if f"raythink:{name}" in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue  # it has just ended
    return None


async def kill(server: Server, crowd: Crowd, name: str) -> float:
    """Kill a replica and wait until another has its place. Seconds. Raises TimeoutError."""
    victim = replica(server, name)
    if victim is None:
        raise RuntimeError(f"there is no replica of {name}")
    victim.kill()
    started = time.monotonic()
    async with asyncio.timeout(RECOVERY_S):
        while (other := replica(server, name)) is None or other.pid == victim.pid:
            await asyncio.sleep(POLL_S)
        while not await asyncio.to_thread(server.healthy):
            await asyncio.sleep(POLL_S)
        await crowd.probe()
    return time.monotonic() - started


async def measure(server: Server, crowd: Crowd, clients: int, kills: int) -> None:
    """All clients, and meanwhile all kills; then every client ends what it has begun."""
    await crowd.learn()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(crowd.client(number))
        for name in itertools.islice(itertools.cycle(VICTIMS), kills):
            await asyncio.sleep(SETTLE_S)
            seconds = await kill(server, crowd, name)
            crowd.seen.recoveries.setdefault(name, []).append(seconds)
            print(f"killed {name}: whole after {seconds:.1f} s; {crowd.seen.requests} requests so far", flush=True)
        await asyncio.sleep(SETTLE_S)
        crowd.stopping = True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clients", type=int, default=20)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="raythink-bench-") as empty:
        words = ["mode=serve", "model.device=cpu", f"run.dir={empty}", "serve.requests_per_minute=0",
                 f"serve.deadline_s={DEADLINE_S}"]
        cfg = load(words)
        questions = [problem.question for problem in heldout(cfg, QUESTIONS, cfg.eval.seed)]
        with service(words) as server:
            crowd = Crowd(server, questions, cfg.sampling.max_tokens)
            asyncio.run(measure(server, crowd, options.clients, options.kills))
    seen = crowd.seen
    for failure, count in seen.failures.items():
        print(f"{count} x {failure}")
    print(json.dumps({
        "kills": options.kills,
        "requests": seen.requests,
        "failed": sum(seen.failures.values()),
        "hung": seen.hung,
        "wrong": seen.wrong,
        "retried": seen.retried,
        "median_s": round(statistics.median(seen.seconds), 3),
        "slowest_s": round(max(seen.seconds), 3),
        "recovery_s": {name: round(max(times), 1) for name, times in seen.recoveries.items()},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
