"""The verifier pool: deadlines, deaths, retries, and files of answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from actors import verify_files
from actors.messages import Completion, Problem, RolloutGroup, Verdict
from actors.verifier import ProcessWorker, Verifier, VerifierPool, WorkerDied
from conf.errors import UserError
from conf.schema import VerifierConfig

pytestmark = pytest.mark.process

RIGHT = Verdict("correct", 1.0)


def problem(data_source: str = "math", truth: Any = "7", name: str = "p") -> Problem:
    return Problem(name, ({"role": "user", "content": "?"},), data_source, "math", json.dumps(truth))


@dataclass
class FakeWorker:
    """Answers with the next of its scripted outcomes: a verdict, an exception, or "hang"."""

    outcomes: list[Any]
    big: bool = False
    killed: bool = False
    log: list[str] = field(default_factory=list)

    async def ask(self, problem: Problem, text: str, timeout_s: float) -> Verdict:
        self.log.append(text)
        outcome = self.outcomes.pop(0) if self.outcomes else RIGHT
        if outcome == "hang":
            await asyncio.sleep(60)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def oversized(self) -> bool:
        return self.big

    async def kill(self) -> None:
        self.killed = True


def spawner(*workers: FakeWorker) -> Callable[[], Awaitable[FakeWorker]]:
    waiting = list(workers)

    async def spawn() -> FakeWorker:
        return waiting.pop(0)

    return spawn


def pool_of(*workers: FakeWorker, count: int = 1, timeout_s: float = 0.05, retries: int = 1) -> VerifierPool:
    return VerifierPool(count, timeout_s, retries, spawn=spawner(*workers))


@pytest.mark.parametrize("failure", [WorkerDied("gone"), "hang", Verdict("error", 0.0, reason="checker failed")])
def test_a_failed_check_is_tried_again(failure: Any) -> None:
    first, second = FakeWorker([failure]), FakeWorker([RIGHT])
    pool = pool_of(first, second)
    assert asyncio.run(pool.verify(problem(), "7")).status == "correct"
    is_process_failure = not isinstance(failure, Verdict)  # a worker that answers `error` is itself in good health
    assert first.killed is is_process_failure
    assert pool.restarts == int(is_process_failure)


def test_a_check_that_always_hangs_is_an_error_in_bounded_time() -> None:
    workers = [FakeWorker(["hang"]) for _ in range(3)]
    pool = pool_of(*workers, retries=2)
    started = time.monotonic()
    verdict = asyncio.run(pool.verify(problem(), "7"))
    assert verdict.status == "error" and verdict.score == 0.0 and "no verdict within" in verdict.reason
    assert time.monotonic() - started < 2
    assert all(worker.killed for worker in workers)


def test_an_oversized_worker_is_replaced_after_its_verdict() -> None:
    first, second = FakeWorker([RIGHT], big=True), FakeWorker([RIGHT])
    pool = pool_of(first, second)

    async def scenario() -> None:
        assert (await pool.verify(problem(), "a")).status == "correct"
        assert first.killed
        assert (await pool.verify(problem(), "b")).status == "correct"
        assert second.log == ["b"]

    asyncio.run(scenario())


def test_verdicts_are_remembered_but_errors_are_not() -> None:
    worker = FakeWorker([Verdict("error", 0.0), RIGHT])
    pool = pool_of(worker, retries=0)

    async def scenario() -> list[str]:
        return [(await pool.verify(problem(), "7")).status for _ in range(3)]

    assert asyncio.run(scenario()) == ["error", "correct", "correct"]
    assert pool.cache_hits == 1 and len(worker.log) == 2
    assert pool.status()["checks"] == 3


def test_the_memory_of_verdicts_is_bounded() -> None:
    pool = VerifierPool(1, 1, 0, spawn=spawner(FakeWorker([])), cache_size=2)

    async def scenario() -> None:
        for text in ("a", "b", "c", "a"):
            await pool.verify(problem(), text)

    asyncio.run(scenario())
    assert pool.cache_hits == 0


def test_a_domain_has_its_limit_and_the_others_do_not_wait_for_it() -> None:
    at_once: dict[str, list[int]] = {"code": [0, 0], "math": [0, 0]}

    class Counting(FakeWorker):
        async def ask(self, problem: Problem, text: str, timeout_s: float) -> Verdict:
            now = at_once[problem.domain]
            now[0] += 1
            now[1] = max(now)
            await asyncio.sleep(0)
            now[0] -= 1
            return RIGHT

    pool = VerifierPool(6, 5, 0, spawn=spawner(*(Counting([]) for _ in range(6))), limits={"code": 2})

    async def scenario() -> None:
        domains = ("code", "math")
        await asyncio.gather(*(pool.verify(replace(problem(name=str(n)), domain=domains[n % 2]), "7")
                               for n in range(24)))  # fmt: skip

    asyncio.run(scenario())
    assert at_once["code"] == [0, 2] and at_once["math"][1] > 2


def test_a_cancelled_check_leaves_no_half_used_worker() -> None:
    first, second = FakeWorker(["hang"]), FakeWorker([RIGHT])
    pool = pool_of(first, second, timeout_s=5)

    async def scenario() -> None:
        task = asyncio.create_task(pool.verify(problem(), "x"))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert first.killed
        assert (await pool.verify(problem(), "y")).status == "correct"

    asyncio.run(scenario())
    assert pool.busy == pool.queued == 0


def test_workers_run_side_by_side() -> None:
    class Slow(FakeWorker):
        async def ask(self, problem: Problem, text: str, timeout_s: float) -> Verdict:
            await asyncio.sleep(0.05)
            return RIGHT

    pool = pool_of(*[Slow([]) for _ in range(4)], count=4, timeout_s=2)

    async def scenario() -> float:
        started = time.monotonic()
        await asyncio.gather(*(pool.verify(problem(), str(i)) for i in range(8)))
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 0.3


SLEEPER = "```python\nimport time\ntime.sleep(1)\nprint(7)\n```"


async def _descendants(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def test_kill_9_in_the_middle_of_a_check_gives_the_right_verdict() -> None:
    started: list[ProcessWorker] = []

    async def spawn() -> ProcessWorker:
        started.append(await ProcessWorker.spawn())
        return started[-1]

    async def scenario() -> Verdict:
        pool = VerifierPool(1, 8, 1, spawn=spawn)
        asked = problem("codegen__starter", json.dumps({"inputs": [""], "outputs": ["7"]}))
        check = asyncio.create_task(pool.verify(asked, SLEEPER))
        while not started or not await _descendants(started[0].process.pid):
            await asyncio.sleep(0.02)
        os.kill(started[0].process.pid, signal.SIGKILL)
        verdict = await check
        assert pool.restarts == 1
        await pool.close()
        return verdict

    assert asyncio.run(scenario()).status == "correct"


def test_the_deadline_kills_the_worker_and_what_it_runs() -> None:
    """A hang of the checker itself: the sandbox's limit is above the deadline here."""
    command = [sys.executable, "-c", (
        "import subprocess, sys, time\n"
        "from actors.checkers import wire\n"
        "out = sys.stdout.buffer\n"
        "out.write(wire.pack({'ready': 1})); out.flush()\n"
        "wire.read(sys.stdin.buffer)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'], start_new_session=True)\n"
        "time.sleep(30)\n"
    )]  # fmt: skip

    async def scenario() -> None:
        worker = await ProcessWorker.spawn(command)

        async def spawn() -> ProcessWorker:
            return worker

        pool = VerifierPool(1, 0.5, 0, spawn=spawn)
        check = asyncio.create_task(pool.verify(problem(), "7"))
        children: set[int] = set()
        while not children and not check.done():
            children = await _descendants(worker.process.pid)
            await asyncio.sleep(0.02)
        started = time.monotonic()
        assert (await check).status == "error"
        assert time.monotonic() - started < 2
        assert worker.process.returncode == -signal.SIGKILL
        assert children and not any(psutil.pid_exists(pid) and _alive(pid) for pid in children)

    asyncio.run(scenario())


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_is_no_checker_is_an_error() -> None:
    async def scenario() -> Verdict:
        async def spawn() -> ProcessWorker:
            return await ProcessWorker.spawn([sys.executable, "-c", "print('hello, this is no frame')"])

        return await VerifierPool(1, 1, 1, spawn=spawn).verify(problem(), "7")

    assert asyncio.run(scenario()).status == "error"


def test_verify_group_attaches_a_verdict_to_each_completion() -> None:
    nothing = np.zeros(0, np.int32)
    texts = ["<answer>7</answer>", "<answer>8</answer>", "<think>7"]
    completions = tuple(Completion(text, nothing, nothing.astype(np.float32), "stop", 0, 0) for text in texts)
    group = RolloutGroup(1, problem("math__starter"), nothing, completions)

    async def scenario() -> tuple[RolloutGroup, dict]:
        verifier = Verifier("verifier-0", workers=1, timeout_s=5, retries=1)
        assert repr(verifier) == "verifier-0"
        judged, status = await verifier.verify_group(group), await verifier.status()
        await verifier.close()
        return judged, status

    judged, status = asyncio.run(scenario())
    assert [verdict.status for verdict in judged.verdicts] == ["correct", "incorrect", "incorrect"]
    assert judged.completions == completions and group.verdicts == ()
    assert (status["name"], status["checks"], status["correct"], status["error"]) == ("verifier-0", 3, 1, 0)
    assert status["busy"] == status["queue"] == 0 and status["p50_ms"] >= 0


def test_the_module_loads_without_ray_or_torch() -> None:
    code = (
        "import sys, actors.verifier, actors.checkers\nassert not {'ray', 'torch', 'sympy', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# --- files ----------------------------------------------------------------------------------------------------------


def config(source: Path, target: Path) -> Any:
    return SimpleNamespace(
        verify=SimpleNamespace(input=str(source), output=str(target), workers=1),
        verifier=VerifierConfig(timeout_s=5, retries=1),
        sandbox=SimpleNamespace(allow_weaker=False),
    )


ROWS = [
    {"gold": "7", "answer": "x=7", "equal": True},
    {"gold": "7", "answer": "\\boxed{7", "kind": "response", "equal": False},
    {
        "data_source": "logic__starter",
        "response": "<answer>b, a</answer>",
        "ground_truth": ["a", "b"],
        "extra_info": None,
    },
    {"data_source": "stem__starter", "response": "<answer>42 m</answer>", "ground_truth": "42 m"},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_is_verified_and_resumed(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROWS if kind == "jsonl" else ROWS[3:] * 4
    source, target = tmp_path / f"in.{kind}", tmp_path / "new" / "out.jsonl"
    if kind == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    assert verify_files.run(config(source, target)) == 0
    written = sorted((json.loads(line) for line in target.read_text().splitlines()), key=lambda row: row["row"])
    expected = ["correct", "incorrect", "incorrect", "correct"] if kind == "jsonl" else ["correct"] * 4
    assert [row["status"] for row in written] == expected
    assert all(row.keys() >= {"score", "extracted", "reason", "seconds"} for row in written)

    lines = target.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[:2]) + lines[2][:10])  # a run killed in the middle of a line
    assert verify_files.run(config(source, target)) == 0
    again = [json.loads(line) for line in target.read_text().splitlines()]
    assert sorted(row["row"] for row in again) == [0, 1, 2, 3]
    assert "2 were there already" in capsys.readouterr().out


def test_a_file_is_scored_by_the_profile(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"data_source": "math__patch_1", "response": "\\boxed{5000}", "ground_truth": "50"}))
    cfg = config(source, target)
    cfg.verifier.profile = "guru"
    assert verify_files.run(cfg) == 0
    assert json.loads(target.read_text())["status"] == "correct"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data_source": "math", "response": "7"}\n', "row 0: no column 'ground_truth'"),
        ("{broken\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is no JSON object"),
        ('{"gold": "1", "answer": "\udcff"}\n', "line 1 is not JSON in UTF-8"),
        ('{"gold": null, "answer": "1"}\n', "row 0: no gold"),
        ('{"gold": "1"}\n', "row 0: no answer"),
        ('{"data_source": "math", "response": "1", "reward_model": "rule"}\n', "no column 'ground_truth'"),
        ('{"data_source": "math", "response": "", "ground_truth": "1", "extra_info": "{"}\n', "extra_info is no"),
    ],
    ids=range(8),
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=message):
        verify_files.run(config(source, tmp_path / "out.jsonl"))


def test_mistakes_in_the_configuration_are_named(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="no such file"):
        verify_files.run(config(source, target))
    source.write_text("")
    with pytest.raises(UserError, match="is the input file"):
        verify_files.run(config(source, source))
    with pytest.raises(UserError, match="written as JSONL"):
        verify_files.run(config(source, tmp_path / "out.parquet"))
    with pytest.raises(UserError, match="cannot be written"):
        verify_files.run(config(source, source / "folder" / "out.jsonl"))
    target.write_text("something else\n")
    with pytest.raises(UserError, match="not the output of an earlier run"):
        verify_files.run(config(source, target))
    with pytest.raises(UserError, match="needs two files"):
        verify_files.run(SimpleNamespace(verify=SimpleNamespace(input="", output="", workers=0)))
