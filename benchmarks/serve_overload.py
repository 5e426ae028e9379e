"""python -m benchmarks.serve_overload [--factor N] [--seconds N]: ten times more questions than the service can answer.

`main.py mode=serve` with the embedded policy at effort medium. First its capacity: answers a second while as many
clients as it lets in ask one question after the other. Then questions come `factor` times as often, whether or not any
is answered. Counted: the seconds of those that were accepted, how the others were refused (429 with Retry-After, or
otherwise), the memory of all the service's processes before, during and after, and how long after the last question
the service answers a single one as quickly as before. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import psutil

from benchmarks.client import Client
from benchmarks.questions import N
from benchmarks.servers import Server, service
from conf.load import load
from rl.source import heldout

CAPACITY = 24  # candidates at a time: eight questions of three
QUESTIONS, ALONE, CLOSED_S = 32, 10, 10.0
AS_BEFORE = 2.0  # times the median of one question alone: recovered
RECOVERY_S, POLL_S, MEMORY_S = 60.0, 0.2, 1.0


@dataclass
class Flood:
    """What became of the questions: seconds of the accepted, statuses of all, those refused without Retry-After."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0


async def alone(client: Client, questions: Sequence[str], max_tokens: int) -> list[float]:
    """Seconds of one question at a time, the first not counted."""
    asked = [await client.chat(questions[n % len(questions)], max_tokens=max_tokens) for n in range(ALONE + 1)]
    return [reply.seconds for reply in asked[1:]]


async def capacity(client: Client, questions: Sequence[str], max_tokens: int) -> float:
    """Answers a second while the service is just full."""
    ended = time.monotonic() + CLOSED_S

    async def one(number: int) -> int:
        count = 0
        while time.monotonic() < ended:
            await client.chat(questions[(number + count) % len(questions)], max_tokens=max_tokens)
            count += 1
        return count

    started = time.monotonic()
    counts = await asyncio.gather(*(one(number) for number in range(CAPACITY // N)))
    return sum(counts) / (time.monotonic() - started)


async def flood(server: Server, questions: Sequence[str], max_tokens: int, rate: float, seconds: float) -> Flood:
    """`rate` questions a second for `seconds`, each sent when its time has come; then wait for all replies."""
    found = Flood()
    connector, limit = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session, asyncio.TaskGroup() as group:

        async def ask(number: int) -> None:
            body = {
                "messages": [{"role": "user", "content": questions[number % len(questions)]}],
                "max_tokens": max_tokens,
            }
            headers = {"authorization": f"Bearer {server.keys[number % len(server.keys)]}"}
            started = time.monotonic()
            async with session.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as got:
                await got.read()
            found.statuses[got.status] += 1
            if got.status == 200:
                found.seconds.append(time.monotonic() - started)
            elif got.status == 429:
                found.silent += "retry-after" not in got.headers

        started = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            group.create_task(ask(number))
    return found


async def recovery(client: Client, questions: Sequence[str], max_tokens: int, as_before_s: float) -> float:
    """Seconds until a question is answered as quickly as before. Raises TimeoutError."""
    started = time.monotonic()
    async with asyncio.timeout(RECOVERY_S):
        while True:
            begun = time.monotonic()
            try:
                if (await client.chat(questions[0], max_tokens=max_tokens)).seconds <= as_before_s:
                    return begun - started
            except RuntimeError:
                pass  # still refused
            await asyncio.sleep(POLL_S)


def memory_mib(server: Server) -> float:
    """Resident memory of the service's processes without what they share, in MiB."""
    total = 0
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue  # it has just ended
    return total / 2**20


async def watch(server: Server, found: list[float]) -> None:
    while True:
        found.append(await asyncio.to_thread(memory_mib, server))
        await asyncio.sleep(MEMORY_S)


async def measure(server: Server, questions: Sequence[str], max_tokens: int, factor: float, seconds: float) -> dict:
    async with Client(server.url, server.keys) as client:
        before = statistics.median(await alone(client, questions, max_tokens))
        most = await capacity(client, questions, max_tokens)
        print(f"one question alone: {before:.3f} s; capacity: {most:.1f} answers a second", flush=True)
        memory: list[float] = [memory_mib(server)]
        watching = asyncio.create_task(watch(server, memory))
        started = time.monotonic()
        found = await flood(server, questions, max_tokens, factor * most, seconds)
        took = time.monotonic() - started
        recovered = await recovery(client, questions, max_tokens, AS_BEFORE * before)
        watching.cancel()
    print(f"{sum(found.statuses.values())} questions in {took:.1f} s: {dict(found.statuses)}", flush=True)
    accepted = sorted(found.seconds)
    return {
        "capacity_per_s": round(most, 2),
        "offered_per_s": round(sum(found.statuses.values()) / took, 2),
        "accepted": len(accepted),
        "accepted_p50_s": round(statistics.median(accepted), 3),
        "accepted_p99_s": round(accepted[int(0.99 * (len(accepted) - 1))], 3),
        "refused": found.statuses[429],
        "refused_without_retry_after": found.silent,
        "other": sum(found.statuses.values()) - found.statuses[429] - found.statuses[200],
        "memory_mib": [round(memory[0]), round(max(memory)), round(memory_mib(server))],
        "recovery_s": round(recovered, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_overload", description=__doc__.splitlines()[0])
    parser.add_argument("--factor", type=float, default=10.0, help="how much more is asked than can be answered")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="raythink-bench-") as empty:
        words = ["mode=serve", "model.device=cpu", f"run.dir={empty}", "serve.requests_per_minute=0",
                 "serve.concurrent=1000", f"serve.capacity={CAPACITY}"]
        cfg = load(words)
        questions = [problem.question for problem in heldout(cfg, QUESTIONS, cfg.eval.seed)]
        with service(words) as server:
            result = asyncio.run(
                measure(server, questions, cfg.sampling.max_tokens, options.factor, options.seconds)
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
