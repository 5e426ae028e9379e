"""One real training run in which a rollout, a verifier and a learner are killed in turn: it ends as if nothing was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [  # the last three steps need nothing new: whoever dies by then may not be missed any more
    "rl.steps=24", "rl.groups=6", "rl.group_size=4", "run.save_every=4", "sampling.max_tokens=64", "rl.staleness=2",
    "eval.problems=6", "eval.samples=2", "engine.count=1", "learner.world_size=1", "ray.dashboard=false",
]


@pytest.mark.usefixtures("alone")
def test_a_run_survives_the_death_of_one_actor_of_each_kind(tmp_path):
    command = [sys.executable, "-m", "benchmarks.chaos", "--kills", "3", f"run.dir={tmp_path}", *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["killed"] == ["rollout-0", "verifier-0", "learner-0"]
    assert sorted(set(result["deaths"])) == ["learner-0", "rollout-0", "verifier-0"]
    assert {name for name, _ in result["recoveries_s"]} == {"rollout-0", "verifier-0", "learner-0"}
    assert result["steps"] == 24 and result["trained_groups"] == result["expected_groups"] == 144
    assert result["books_balance"] and result["heldout_after"] is not None
    assert "Traceback" not in done.stdout
