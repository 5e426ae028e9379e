"""python -m benchmarks.verify [--pairs FILE] [--rounds N] [--rows N]: the checker of mathematics beside its peers.

Labelled pairs of a ground truth and an answer (a generated set, or a JSONL file of gold, answer, equal and kind) go
through our checker; through math-verify, parse and verify with its own time-outs; and through verl 0.9's best rule,
`math_verify`, which runs the same library in a pool of processes as verl does in training. Best by agreement: of verl's
others, `math_dapo` compares strings and is printed beside for its figures; `prime_math` calls eval on the answer, and
is not run. Each contestant has a process of its own, all on the same core, and they take turns round by round in random
order, so that noise hits them all. A ratio is the median over rounds of their seconds for a regular pair by ours. What
our checker remembers of earlier rounds is dropped before each. A second figure of memory and time comes from the
checker process as it serves, after 10,000 rows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import psutil

from actors.messages import Problem
from actors.verifier import ProcessWorker
from benchmarks.math_pairs import Pair, pairs, read

REGULAR, ADVERSARIAL = 306, 75  # generated pairs
SLICE_S = 1.0  # a contestant's turn in a round is one pass over the regular pairs, or as many as fill this time
HANG_S = 60.0  # nobody's own time-out is as long
OURS = "checker"

Judge = Callable[[Pair], bool]


def problem_of(pair: Pair) -> Problem:
    question = ({"role": "user", "content": ""},)
    return Problem("pair", question, "math", "math", json.dumps(pair.gold))


# --- contestants: each returns (judge, what forgets earlier rounds), and imports in its own process only -------------


def checker() -> tuple[Judge, Callable[[], None]]:
    from actors import checkers
    from actors.checkers import expression

    def judge(pair: Pair) -> bool:
        return checkers.check(problem_of(pair), pair.text).status == "correct"

    return judge, expression.parse.cache_clear


def math_verify() -> tuple[Judge, Callable[[], None]]:
    from math_verify import parse, verify

    def judge(pair: Pair) -> bool:
        gold, said = parse(f"\\boxed{{{pair.gold}}}"), parse(pair.text)
        return bool(gold and said and verify(gold, said))

    return judge, _nothing


def verl_math_verify() -> tuple[Judge, Callable[[], None]]:
    from verl.utils.reward_score.math_verify import compute_score

    # the pool's process loads torch with verl: with the function's own 30 seconds the first rows could be lost to that
    compute_score("\\boxed{1}", "1", timeout=600.0)
    return lambda pair: compute_score(pair.text, pair.gold) > 0.5, _nothing


def verl_math_dapo() -> tuple[Judge, Callable[[], None]]:
    from verl.utils.reward_score.math_dapo import compute_score

    return lambda pair: bool(compute_score(pair.text, pair.gold)["acc"]), _nothing


def _nothing() -> None:
    """For those who remember nothing."""


CONTESTANTS = {
    OURS: checker,
    "math-verify": math_verify,
    "verl math_verify": verl_math_verify,
    "verl math_dapo": verl_math_dapo,
}


def serve(name: str, core: int, descriptor: int) -> None:
    """In a contestant's process: (verdict, seconds) of each of the pairs that come in, until there are no more."""
    connection = Connection(descriptor)
    os.sched_setaffinity(0, {core})
    try:
        judge, forget = CONTESTANTS[name]()
    except ImportError as missing:
        connection.send(str(missing))
        return
    connection.send(None)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        forget()
        connection.send([_timed(judge, pair) for pair in work])


def _timed(judge: Judge, pair: Pair) -> tuple[bool, float]:
    started = time.perf_counter()
    try:
        right = judge(pair)
    except Exception:  # whatever a peer trips over is no agreement
        right = False
    return right, time.perf_counter() - started


class Contestant:
    """The benchmark's end of a contestant's process."""

    def __init__(self, name: str, core: int) -> None:
        self.name, self.core = name, core
        self.worst_s = 0.0
        self.absent = self._start()

    def _start(self) -> str | None:
        """Start the process; returns why it cannot take part, or None."""
        self.connection, theirs = Pipe()
        program = f"from benchmarks.verify import serve; serve({self.name!r}, {self.core}, {theirs.fileno()})"
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)  # libraries report each time-out
        self.process = subprocess.Popen([sys.executable, "-c", program], pass_fds=(theirs.fileno(),), **silent)
        theirs.close()
        return self.connection.recv()

    def judge(self, work: Sequence[Pair]) -> list[bool]:
        """Verdicts on pairs, one by one; a pair that kills the process, or keeps it for HANG_S, is not equal."""
        return [self._one(pair) for pair in work]

    def _one(self, pair: Pair) -> bool:
        self.connection.send([pair])
        try:
            if self.connection.poll(HANG_S):
                return self._received()[0][0]
        except EOFError:
            print(f"{self.name} died of {pair.answer[:60]!r}")
        self.worst_s = max(self.worst_s, HANG_S)
        for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            process.kill()
        self.close()
        self._start()
        return False

    def turn(self, work: Sequence[Pair]) -> float:
        """Seconds for a pair: one pass over `work`, or as many as fill the slice."""
        passes = seconds = 0.0
        while not passes or seconds < SLICE_S:
            self.connection.send(work)
            seconds += sum(spent for _, spent in self._received())
            passes += 1
        return seconds / passes / len(work)

    def _received(self) -> list[tuple[bool, float]]:
        answer = self.connection.recv()
        self.worst_s = max(self.worst_s, *(seconds for _, seconds in answer))
        return answer

    def close(self) -> None:
        """Let the process end, which has verl's pool end before."""
        self.connection.close()
        self.process.wait()


def agreement(work: Sequence[Pair], said: Sequence[bool]) -> str:
    right = sum(pair.equal == equal for pair, equal in zip(work, said, strict=True))
    false_positives = sum(equal and not pair.equal for pair, equal in zip(work, said, strict=True))
    return f"{right:4} of {len(work)} right, {false_positives:2} false positives"


def race(contestants: dict[str, Contestant], regular: Sequence[Pair], rounds: int) -> dict[str, list[float]]:
    """Seconds for a regular pair, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name in random.sample(list(contestants), len(contestants)):
            seconds[name].append(contestants[name].turn(regular))
    return seconds


async def served(rows: Sequence[Pair]) -> tuple[float, float, float]:
    """(MB resident, median milliseconds, longest seconds) of one checker process as the verifier runs it."""
    worker = await ProcessWorker.spawn()
    try:
        durations = []
        for pair in rows:
            started = time.perf_counter()
            await worker.ask(problem_of(pair), pair.text, 30.0)
            durations.append(time.perf_counter() - started)
        resident = psutil.Process(worker.process.pid).memory_info().rss / 2**20
    finally:
        await worker.kill()
    return resident, 1e3 * statistics.median(durations), max(durations)


def rows_of(known: Sequence[Pair], count: int) -> list[Pair]:
    """`count` rows for the checker process: the pairs in question, and as many others that it has never seen."""
    fresh = [*pairs(1, count // 4), *pairs(1, count // 4, adversarial=True)]
    return random.Random(0).sample([*islice(cycle(known), count - len(fresh)), *fresh], count)


def enter(core: int) -> dict[str, Contestant]:
    """The contestants whose packages are installed, started one after the other."""
    entered = {}
    for name in CONTESTANTS:
        contestant = Contestant(name, core)
        if contestant.absent:
            print(f"{name} is left out: {contestant.absent}")
            contestant.close()
        else:
            entered[name] = contestant
    return entered


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="JSONL file of labelled pairs; without it, a generated set")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000, help="that the checker process judges before it is weighed")
    options = parser.parse_args()
    known = read(options.pairs) if options.pairs else [*pairs(0, REGULAR), *pairs(0, ADVERSARIAL, adversarial=True)]
    regular = [pair for pair in known if not pair.adversarial]
    adversarial = [pair for pair in known if pair.adversarial]
    core = min(os.sched_getaffinity(0))
    contestants = enter(core)
    try:
        lines = {}
        for name, contestant in contestants.items():
            lines[name] = [agreement(work, contestant.judge(work)) for work in (regular, adversarial) if work]
        seconds = race(contestants, regular, options.rounds)
    finally:
        for contestant in contestants.values():
            contestant.close()
    for name, contestant in contestants.items():
        spent = 1e3 * statistics.median(seconds[name])
        figures = f"{spent:8.3f} ms a pair   worst {contestant.worst_s:6.3f} s"
        print(f"{name:17} {figures}   {'   adversarial: '.join(lines[name])}")
    resident, median_ms, worst_s = asyncio.run(served(rows_of(known, options.rows)))
    cost = f"{median_ms:.3f} ms a row, worst {worst_s:.3f} s"
    print(f"a checker process after {options.rows} rows: {resident:.0f} MB, {cost}")
    print(json.dumps(summary(seconds, max(worst_s, contestants[OURS].worst_s), resident)))


def summary(seconds: dict[str, list[float]], worst_s: float, resident: float) -> dict[str, Any]:
    """The figures of the last line; a ratio is null where the peer was left out."""

    def ratio(name: str) -> float | None:
        if name not in seconds:
            return None
        return round(statistics.median(a / b for a, b in zip(seconds[name], seconds[OURS], strict=True)), 1)

    return {
        "math_verify_ratio": ratio("math-verify"),
        "verl_ratio": ratio("verl math_verify"),
        "worst_s": round(worst_s, 3),
        "rss_mb": round(resident),
    }


if __name__ == "__main__":
    sys.exit(main())
