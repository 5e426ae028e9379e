"""The real command killed and resumed: what it prints, what it leaves behind, and that the losses are the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "rl.steps=7", "rl.groups=6", "rl.group_size=4", "run.save_every=2", "sampling.max_tokens=64",
    "eval.problems=6", "eval.samples=2", "engine.count=1", "learner.world_size=1", "ray.dashboard=false",
]
START_S = 600  # a generous bound: shared machines can be ten times slower than idle ones


class Run:
    """One start of `python main.py mode=train`."""

    def __init__(self, folder: Path, *words: str):
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        self.output = self.log.open("ab")
        self.changed_before = self.changed()
        self.process = subprocess.Popen(
            [sys.executable, "main.py", "mode=train", *SMALL, f"run.dir={folder.parent}", *words],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, start_new_session=True,
        )

    def changed(self) -> int:
        path = self.folder / "metrics.jsonl"
        return path.stat().st_mtime_ns if path.exists() else 0

    def steps(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_step(self, step: int, seconds: float = START_S) -> None:
        """Until this start has itself written `step`: a row of an earlier one does not count.

        Resuming rewrites the file without the rows that are to come again, so that its last row falls below `step`.
        """
        deadline = time.monotonic() + seconds
        while self.changed() == self.changed_before or not any(m["step"] >= step for m in self.steps()):
            assert self.process.poll() is None, f"ended early:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"step {step} did not come:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def finish(self, seconds: float = START_S) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.output.close()

    def kill(self) -> None:
        """kill -9 of the driver alone; everything that it started must follow by itself."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.kill(self.process.pid, signal.SIGKILL)
        self.finish()
        _, alive = psutil.wait_procs(family, timeout=60)
        alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert not alive, f"left behind: {[' '.join(p.cmdline())[:80] for p in alive]}"


def losses(folder: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(m["step"], m.get("loss/policy"), m["policy/grad_norm"], m["reward/mean"]) for m in rows]


@pytest.mark.usefixtures("alone")
def test_a_run_killed_and_interrupted_ends_with_the_losses_of_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # side by side, as most of a start is waiting
    unbroken, run = Run(whole, "run.name=whole"), Run(broken, "run.name=broken")
    run.wait_for_step(1)
    os.kill(run.process.pid, signal.SIGINT)
    assert run.finish() == 130
    printed = run.log.read_text()
    assert "Traceback" not in printed
    assert f"run.resume={broken}" in printed.replace("\n", "")
    assert json.loads((broken / "summary.json").read_text())["interrupted"] is True
    assert unbroken.finish(900) == 0, unbroken.log.read_text()[-3000:]
    step_s = min(m["time/step"] for m in unbroken.steps())

    for moment in (0.2, 0.55, 0.9):  # early, in the middle and late in a step
        saved = max(int(p.name.removeprefix("step_")) for p in (broken / "checkpoints").glob("step_*"))
        run = Run(broken, f"recipe={broken}/config.yaml", f"run.resume={broken}")  # as the interrupted run said
        run.wait_for_step(saved + 1)
        time.sleep(moment * step_s)
        run.kill()

    run = Run(broken, "run.resume=auto", "run.name=broken")
    assert run.finish(900) == 0, run.log.read_text()[-3000:]
    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == 7

    ledger = json.loads((broken / "checkpoints/step_7/trainer.json").read_text())["ledger"]
    assert ledger["next_id"] == sum(ledger["counts"].values())
    summary = json.loads((broken / "summary.json").read_text())
    assert summary["eval_before"] == json.loads((whole / "summary.json").read_text())["eval_before"]
    assert not list((broken / "checkpoints").glob(".*")), "a torn checkpoint was left"
    assert re.search(r"report:\s+\S+report.html", run.log.read_text())
